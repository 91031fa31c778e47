"""Views, reactions and letters, whatever order messages come in: repeats, permutations, rivals; and many accounts."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import permutations
from uuid import UUID, uuid4

import pytest
from tests.bank.support import Letters, assert_views_are_as_if_made_anew

from bank.commands import CreateCustomer, Deposit, OpenAccount, Withdraw
from bank.domain import Currency, Email, Money
from bank.system import BankSystem
from esazure.integration import IntegrationMessage
from esazure.memory import InMemoryEventProducer, InMemoryStore
from esazure.testing.faults import Faults, FaultyStore

EUR = Currency.EUR
ADA = UUID(int=1)


class World:
    """A bank whose messages wait until somebody hands them over."""

    def __init__(self) -> None:
        self.store = InMemoryStore()
        self.producer = InMemoryEventProducer()
        self.letters = Letters()
        self.bank = self.system().bank

    def system(self) -> BankSystem:
        """A process on this store."""
        return BankSystem(self.store, self.producer, notifier=self.letters)

    async def ada(self, accounts: int = 1) -> list[UUID]:
        await self.bank.create_customer(
            CreateCustomer(
                command_id="c", customer_id=ADA, first_name="Ada", last_name="Lovelace", email=Email("a@example.com")
            )
        )
        opened = [UUID(int=100 + number) for number in range(accounts)]
        for account in opened:
            await self.bank.open_account(OpenAccount(command_id="o", account_id=account, customer_id=ADA, currency=EUR))
        return opened

    async def deposit(self, account: UUID, amount: int = 1) -> None:
        money = Money.of(amount, EUR)
        await self.bank.deposit(Deposit(command_id=str(uuid4()), account_id=account, money=money))

    async def hand_over(self, *messages: IntegrationMessage, to: BankSystem | None = None) -> None:
        lane = (to or self.system()).consumer.lane()
        for message in messages:
            await lane.handle(message)

    async def settle(self) -> None:
        """Everything once more: what came meanwhile, and repeats."""
        handed_over = 0
        while handed_over < len(self.producer.messages):
            messages = self.producer.messages[handed_over:]
            handed_over += len(messages)
            await self.hand_over(*messages)


@pytest.fixture
async def world() -> World:
    return World()


async def test_the_same_message_twice_changes_nothing_and_sends_nothing(world: World) -> None:
    (account,) = await world.ada()
    await world.deposit(account)
    for message in list(world.producer.messages):
        await world.hand_over(message, message)
        await world.hand_over(message)  # to another process
    assert len(world.letters) == 2
    customer = await world.bank.customers.rehydrate(ADA)
    assert (customer.accounts, customer.version) == ({account}, 2)
    await world.settle()
    await assert_views_are_as_if_made_anew(world.store)
    assert len(world.letters) == 2


async def test_messages_in_any_order_end_in_the_same_views_and_letters() -> None:
    for order in permutations(range(4)):
        world = World()
        (account,) = await world.ada()
        await world.deposit(account)
        await world.deposit(account)
        messages = list(world.producer.messages)
        assert len(messages) == 4
        for number in order:
            await world.hand_over(messages[number])  # each to another process
        await world.settle()
        await assert_views_are_as_if_made_anew(world.store)
        assert len(world.letters) == len({letter.id for letter in world.letters}) == 3, order
        assert (await world.bank.customers.rehydrate(ADA)).accounts == {account}


async def test_an_older_message_never_puts_an_older_balance_over_a_newer_one(world: World) -> None:
    (account,) = await world.ada()
    for _ in range(3):
        await world.deposit(account)
    *_, second, third, fourth = world.producer.messages
    views = world.system().views
    await world.hand_over(fourth)  # the others are read from the store
    for late in (third, second):
        await world.hand_over(late)
        details = await views.accounts.get(account)
        assert details is not None
        assert details.balance == Money.of(3, EUR)


async def test_two_workers_race_on_one_view(world: World) -> None:
    accounts = await world.ada(6)
    for account in accounts:
        await world.deposit(account, 2)
    by_stream: dict[str, list[IntegrationMessage]] = {}
    for message in world.producer.messages:
        by_stream.setdefault(message.correlation_id, []).append(message)
    # Every stream is handled by two processes at once, and all of them write the view of the same customer.
    workers = [world.system(), world.system()]
    await asyncio.gather(
        *(world.hand_over(*messages, to=worker) for messages in by_stream.values() for worker in workers)
    )
    details = await workers[0].views.customers.get(ADA)
    assert details is not None
    assert details.accounts == dict.fromkeys(accounts, Money.of(2, EUR))
    await world.settle()
    await assert_views_are_as_if_made_anew(world.store)
    assert (await world.bank.customers.rehydrate(ADA)).accounts == set(accounts)
    # Two workers on one stream at the same moment may both send a letter, but then it is the same one.
    assert len({letter.id for letter in world.letters}) == len(set(world.letters)) == 12


async def test_an_account_that_comes_before_its_owner(world: World) -> None:
    (account,) = await world.ada()
    created, opened = world.producer.messages
    await world.hand_over(opened)
    views = world.system().views
    details = await views.customers.get(ADA)
    assert details is not None
    assert (details.first_name, details.accounts) == ("Ada", {account: Money.zero(EUR)})
    await world.hand_over(created)
    await world.settle()
    await assert_views_are_as_if_made_anew(world.store)


async def test_a_withdrawal_that_was_refused_leaves_no_trace(world: World) -> None:
    (account,) = await world.ada()
    before = len(world.producer.messages)
    with pytest.raises(Exception, match="does not cover"):
        await world.bank.withdraw(Withdraw(command_id="w", account_id=account, money=Money.of(1, EUR)))
    assert len(world.producer.messages) == before


class TestTwoHundredAccounts:
    async def test_are_all_shown_and_known(self, world: World) -> None:
        accounts = await world.ada(200)
        await world.settle()
        assert (await world.bank.customers.rehydrate(ADA)).accounts == set(accounts)
        details = await world.system().views.customers.get(ADA)
        assert details is not None
        assert details.accounts == dict.fromkeys(accounts, Money.zero(EUR))
        assert len(world.letters) == 200

    async def test_an_event_of_one_costs_no_more_than_if_it_were_the_only_one(self) -> None:
        calls: list[Counter[str]] = []
        for number in (1, 200):
            world = World()
            accounts = await world.ada(number)
            await world.settle()
            await world.deposit(accounts[0])
            faults = Faults()  # none: it counts
            system = BankSystem(FaultyStore(world.store, faults), world.producer, notifier=world.letters)
            await world.hand_over(world.producer.messages[-1], to=system)
            streams = {point.subject for point in faults.points if point.method in ("read", "read_view")}
            assert streams <= {f"Account.{accounts[0]}", f"Customer.{ADA}"}
            calls.append(Counter(point.method for point in faults.points))
        assert calls[0] == calls[1]
        assert calls[0]["read"] <= 2  # the account, for the view; the customer, for the letter
