"""Every handler of the bank, broken at every call it makes to the store and the broker: a crash before it and after it,
a refusal, a lost request, a lost answer, one that arrives late or twice. Whoever called it calls it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest
from tests.bank.support import Letters, assert_views_are_as_if_made_anew

from bank.commands import CreateCustomer, Deposit, OpenAccount, Withdraw
from bank.domain import Account, Currency, Customer, Email, Money
from bank.system import BankSystem
from esazure import AggregateNotFoundError
from esazure.errors import ValueTakenError
from esazure.integration import IntegrationMessage
from esazure.testing.faults import Point, World, crash_everywhere

EUR = Currency.EUR
ADA, ACCOUNT = UUID(int=1), UUID(int=2)

CREATE = CreateCustomer(
    command_id="create", customer_id=ADA, first_name="Ada", last_name="Lovelace", email=Email("ada@example.com")
)
OPEN = OpenAccount(command_id="open", account_id=ACCOUNT, customer_id=ADA, currency=EUR)
DEPOSIT = Deposit(command_id="deposit", account_id=ACCOUNT, money=Money.of(10, EUR))
WITHDRAW = Withdraw(command_id="withdraw", account_id=ACCOUNT, money=Money.of(10, EUR))


def system(world: World, letters: Letters | None = None) -> BankSystem:
    return BankSystem(world.store, world.producer, notifier=Letters() if letters is None else letters)


async def ada(world: World) -> None:
    await system(world).bank.create_customer(CREATE)


async def adas_account(world: World) -> None:
    await ada(world)
    await system(world).bank.open_account(OPEN)


async def adas_money(world: World) -> None:
    await adas_account(world)
    await system(world).bank.deposit(DEPOSIT)


@pytest.mark.long
async def test_create_customer() -> None:
    async def create(world: World) -> None:
        commit = await system(world).bank.create_customer(CREATE)
        assert commit.last_version == 1

    async def check(world: World) -> None:
        assert (await world.events(Customer).rehydrate(ADA)).version == 1
        other = CREATE.model_copy(update={"customer_id": UUID(int=3), "command_id": "other"})
        with pytest.raises(ValueTakenError):
            await system(world).bank.create_customer(other)
        with pytest.raises(AggregateNotFoundError):
            await world.events(Customer).rehydrate(other.customer_id)

    report = await crash_everywhere(create, check=check)
    claim, give_over = ["write_document", "find_command", "write_document"], ["dispatch", "mark_published"]
    assert methods(report.points) == [*claim, "insert", *give_over, "write_document"]


async def test_open_account() -> None:
    async def open_account(world: World) -> None:
        commit = await system(world).bank.open_account(OPEN)
        assert commit.last_version == 1

    async def check(world: World) -> None:
        account = await world.events(Account).rehydrate(ACCOUNT)
        assert (account.version, account.owner_id, account.balance) == (1, ADA, Money.zero(EUR))

    report = await crash_everywhere(open_account, given=ada, check=check)
    assert methods(report.points) == ["read", "insert", "dispatch", "mark_published"]


@pytest.mark.parametrize("way", ["deposit", "withdraw"])
@pytest.mark.long
async def test_money_moves_once(way: str) -> None:
    async def move(world: World) -> None:
        bank = system(world).bank
        account = await (bank.deposit(DEPOSIT) if way == "deposit" else bank.withdraw(WITHDRAW))
        assert account.balance == after

    async def check(world: World) -> None:
        account = await world.events(Account).rehydrate(ACCOUNT)
        assert (account.balance, account.version) == (after, before + 1)
        card = await system(world).cards.get(ACCOUNT)
        assert card is not None
        assert card.balance == after

    before, after = (1, Money.of(10, EUR)) if way == "deposit" else (2, Money.zero(EUR))
    report = await crash_everywhere(move, given=adas_account if way == "deposit" else adas_money, check=check)
    assert methods(report.points) == ["read", "insert", "unpublished", "dispatch", "mark_published"]


@pytest.mark.long
async def test_everything_that_follows_from_an_event() -> None:
    """The worker: three projections, the reaction, the letters, and what is remembered of them."""
    letters = Letters()
    messages: list[IntegrationMessage] = []

    async def given(world: World) -> None:
        await adas_money(world)
        letters.clear()
        messages[:] = world.messages

    async def handle(world: World) -> None:
        lane = system(world, letters).consumer.lane()
        for message in messages:
            await lane.handle(message)

    async def check(world: World) -> None:
        customer = await world.events(Customer).rehydrate(ADA)
        assert (customer.accounts, customer.version) == ({ACCOUNT}, 2)
        lane = system(world, letters).consumer.lane()
        for message in world.messages:  # whoever is called next, again, with everything
            await lane.handle(message)
        await assert_views_are_as_if_made_anew(world.store)
        assert len({(letter.id, letter.text) for letter in letters}) == 2
        assert len(letters) <= 2 + 1  # one crash can repeat one letter

    report = await crash_everywhere(handle, given=given, check=check)
    assert len(report.points) > 20


def methods(points: Sequence[Point]) -> list[str]:
    return [point.method for point in points]
