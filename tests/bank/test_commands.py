"""The handlers, on every backend; and the known mistakes that need a store to show."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from azure.data.tables.aio import TableClient
from tests.bank.support import Letters

from bank.commands import Bank, CreateCustomer, Deposit, OpenAccount, Withdraw
from bank.domain import (
    Account,
    AccountOfAnotherOwnerError,
    Currency,
    Customer,
    Email,
    InsufficientFundsError,
    InvalidValueError,
    Money,
)
from bank.system import RATES, BankSystem
from bank.views import account_card
from esazure import (
    AggregateNotFoundError,
    ConcurrencyError,
    CorruptStreamError,
    IEventsRepository,
)
from esazure.commands import Command
from esazure.errors import InvalidCommandError, ValueTakenError
from esazure.memory import InMemoryEventProducer, InMemoryStore
from esazure.sqlite import SqliteStore
from esazure.store import Store
from esazure.tables import TableStore

EXAMPLES = Path(__file__).parents[2] / "examples"

EUR, CAD, USD = Currency.EUR, Currency.CAD, Currency.USD


@dataclass
class World:
    """A bank on one backend, the repositories below it, and the messages it sent. Nobody reacts to them."""

    bank: Bank
    customers: IEventsRepository[Customer]
    accounts: IEventsRepository[Account]
    producer: InMemoryEventProducer

    @property
    def told(self) -> list[tuple[str, str]]:
        """Who was told what: (aggregate id, subject), in the order of sending."""
        return [(message.correlation_id, message.subject) for message in self.producer.messages]

    async def customer(self) -> UUID:
        command = create()
        await self.bank.create_customer(command)
        return command.customer_id

    async def account(self, *, holding: str | None = None) -> UUID:
        command = opening(await self.customer())
        await self.bank.open_account(command)
        if holding is not None:
            await self.bank.deposit(deposit(command.account_id, holding))
        return command.account_id


def create(email: str | None = None) -> CreateCustomer:
    address = Email(email or f"{uuid4()}@example.com")  # a table is shared by all of a run
    return CreateCustomer(
        command_id=str(uuid4()), customer_id=uuid4(), first_name="Ada", last_name="Lovelace", email=address
    )


def opening(customer_id: UUID, currency: Currency = EUR) -> OpenAccount:
    return OpenAccount(command_id=str(uuid4()), account_id=uuid4(), customer_id=customer_id, currency=currency)


def deposit(account_id: UUID, amount: str, currency: Currency = EUR) -> Deposit:
    return Deposit(command_id=str(uuid4()), account_id=account_id, money=Money.of(amount, currency))


def withdraw(account_id: UUID, amount: str, currency: Currency = EUR) -> Withdraw:
    return Withdraw(command_id=str(uuid4()), account_id=account_id, money=Money.of(amount, currency))


def world_on(store: Store) -> World:
    producer = InMemoryEventProducer()
    bank = BankSystem(store, producer, notifier=Letters()).bank
    return World(bank, store.events(Customer), store.events(Account, views=[account_card]), producer)


@pytest.fixture(params=["memory", "sqlite", pytest.param("tables", marks=pytest.mark.azurite)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[World]:
    if request.param == "memory":
        yield world_on(InMemoryStore())
    elif request.param == "sqlite":
        async with SqliteStore(tmp_path / "bank.db") as store:
            yield world_on(store)
    else:
        connection_string = request.getfixturevalue("tables")
        async with TableStore.from_connection_string(connection_string, table="bankcommands") as store:
            yield world_on(store)


class TestParsing:
    """No backend needed: a command that exists is valid."""

    @pytest.mark.parametrize(
        ("command", "data", "errors"),
        [
            (
                CreateCustomer,
                {"customer_id": str(UUID(int=1)), "first_name": " ", "last_name": "", "email": "ada"},
                {
                    ("first_name", "must not be blank"),
                    ("last_name", "must not be blank"),
                    ("email", "not an e-mail address"),
                },
            ),
            (
                OpenAccount,
                {"account_id": str(UUID(int=1)), "customer_id": str(UUID(int=2)), "currency": "XXX"},
                {("currency", "Input should be 'EUR', 'CAD' or 'USD'")},
            ),
            (
                Deposit,
                {"account_id": str(UUID(int=1)), "money": {"amount": "0", "currency": "EUR"}},
                {("money", "the amount must be more than 0")},
            ),
            (
                Withdraw,
                {"account_id": str(UUID(int=1)), "money": {"amount": "1.001", "currency": "EUR"}},
                {("money", "an amount in EUR has no fractions of 0.01")},
            ),
        ],
    )
    def test_says_everything_that_is_wrong_field_by_field(
        self, command: type[Command], data: dict[str, object], errors: set[tuple[str, str]]
    ) -> None:
        with pytest.raises(InvalidCommandError) as refusal:
            command.parse({"command_id": "c", **data})
        assert set(refusal.value.errors) == errors

    def test_refuses_fields_it_does_not_know_and_misses_those_it_needs(self) -> None:
        with pytest.raises(InvalidCommandError) as refusal:
            Withdraw.parse({"amount": 5})
        assert {field for field, _ in refusal.value.errors} == {"command_id", "account_id", "money", "amount"}

    def test_never_quotes_the_input(self) -> None:
        with pytest.raises(InvalidCommandError) as refusal:
            CreateCustomer.parse({"customer_id": 5, "first_name": [], "last_name": "x", "email": "secret at example"})
        assert "secret" not in str(refusal.value)

    def test_reads_what_people_type(self) -> None:
        money = {"amount": "5", "currency": " eur "}
        command = Deposit.parse({"command_id": "c", "account_id": str(UUID(int=1)), "money": money})
        assert command.money == Money.of("5.00", EUR)


class TestCreateCustomer:
    async def test_stores_and_tells(self, world: World) -> None:
        command = create()
        await world.bank.create_customer(command)
        customer = await world.customers.rehydrate(command.customer_id)
        assert (customer.first_name, customer.last_name, customer.email) == ("Ada", "Lovelace", str(command.email))
        assert world.told == [(str(command.customer_id), "CustomerCreated")]

    async def test_an_id_that_is_taken_is_refused_and_the_address_stays_free(self, world: World) -> None:
        customer_id, other = await world.customer(), create()
        with pytest.raises(ConcurrencyError):
            await world.bank.create_customer(other.model_copy(update={"customer_id": customer_id}))
        assert (await world.customers.rehydrate(customer_id)).version == 1
        await world.bank.create_customer(other)
        assert len(world.told) == 2

    async def test_an_address_that_is_taken_is_refused_and_stores_nothing(self, world: World) -> None:
        first = create()
        await world.bank.create_customer(first)
        second = create(str(first.email))
        with pytest.raises(ValueTakenError, match="email"):
            await world.bank.create_customer(second)
        with pytest.raises(AggregateNotFoundError):
            await world.customers.rehydrate(second.customer_id)
        assert len(world.told) == 1


class TestOpenAccount:
    async def test_opens_it_and_leaves_the_customer_to_the_reaction(self, world: World) -> None:
        customer_id = await world.customer()
        command = opening(customer_id, CAD)
        await world.bank.open_account(command)

        account = await world.accounts.rehydrate(command.account_id)
        assert (account.owner_id, account.balance) == (customer_id, Money.zero(CAD))
        assert (await world.customers.rehydrate(customer_id)).accounts == set()
        assert world.told[1:] == [(str(command.account_id), "AccountOpened")]

    async def test_for_an_unknown_customer_writes_nothing(self, world: World) -> None:
        command = opening(uuid4())
        with pytest.raises(AggregateNotFoundError, match="Customer"):
            await world.bank.open_account(command)
        with pytest.raises(AggregateNotFoundError, match="Account"):
            await world.accounts.rehydrate(command.account_id)
        assert world.told == []

    async def test_under_an_id_that_is_taken_is_refused(self, world: World) -> None:
        account_id = await world.account()
        other = opening(await world.customer()).model_copy(update={"account_id": account_id})
        with pytest.raises(ConcurrencyError):
            await world.bank.open_account(other)
        assert (await world.accounts.rehydrate(account_id)).version == 1


class TestTransactions:
    async def test_money_comes_and_goes(self, world: World) -> None:
        account_id = await world.account(holding="10")
        await world.bank.deposit(deposit(account_id, "10", USD))
        await world.bank.withdraw(withdraw(account_id, "5", USD))
        assert (await world.accounts.rehydrate(account_id)).balance == Money.of("14.60", EUR)
        assert [subject for who, subject in world.told if who == str(account_id)] == [
            "AccountOpened",
            "Deposited",
            "Deposited",
            "Withdrawn",
        ]

    async def test_on_an_unknown_account_are_refused(self, world: World) -> None:
        with pytest.raises(AggregateNotFoundError):
            await world.bank.deposit(deposit(uuid4(), "1"))
        with pytest.raises(AggregateNotFoundError):
            await world.bank.withdraw(withdraw(uuid4(), "1"))
        assert world.told == []

    @pytest.mark.parametrize(("amount", "refusal"), [("10.01", InsufficientFundsError), ("0", InvalidValueError)])
    async def test_that_are_refused_store_and_tell_nothing(
        self, world: World, amount: str, refusal: type[Exception]
    ) -> None:
        account_id = await world.account(holding="10")
        told = world.told
        unchecked = Withdraw.model_construct(command_id="c", account_id=account_id, money=Money.of(amount, EUR))
        with pytest.raises(refusal):  # as if somebody had gone around the command's own check
            await world.bank.withdraw(unchecked)
        account = await world.accounts.rehydrate(account_id)
        assert (account.balance, account.version) == (Money.of("10", EUR), 2)
        assert world.told == told

    async def test_at_the_same_moment_all_count(self, world: World) -> None:
        account_id = await world.account(holding="10")
        await asyncio.gather(*(world.bank.deposit(deposit(account_id, "1")) for _ in range(3)))
        assert (await world.accounts.rehydrate(account_id)).balance == Money.of("13", EUR)

    async def test_at_the_same_moment_never_overdraw(self, world: World) -> None:
        account_id = await world.account(holding="10")
        outcomes = await asyncio.gather(
            *(world.bank.withdraw(withdraw(account_id, "6")) for _ in range(2)), return_exceptions=True
        )
        assert [type(one) for one in outcomes if isinstance(one, Exception)] == [InsufficientFundsError]
        assert (await world.accounts.rehydrate(account_id)).balance == Money.of("4", EUR)


class TestKnownMistakes:
    async def test_events_come_back_in_order_past_the_tenth(self, world: World) -> None:
        account_id = await world.account()
        for cents in range(1, 13):
            await world.bank.deposit(deposit(account_id, str(Decimal(cents) / 100)))
        balances = [(await world.accounts.rehydrate(account_id, version=version)).balance for version in (2, 9, 11, 13)]
        assert balances == [Money.of(amount, EUR) for amount in ("0.01", "0.36", "0.55", "0.78")]

    async def test_a_customer_never_points_at_an_account_of_somebody_else(self, world: World) -> None:
        account_id, somebody_else = await world.account(), await world.customer()
        owner_id = (await world.accounts.rehydrate(account_id)).owner_id
        with pytest.raises(AccountOfAnotherOwnerError):
            await world.bank.customers.update(
                somebody_else, lambda customer: customer.add_account(account_id, owner_id=owner_id)
            )
        assert (await world.customers.rehydrate(somebody_else)).accounts == set()

    async def test_of_two_copies_of_one_aggregate_one_is_stored(self, world: World) -> None:
        account_id = await world.account(holding="10")
        one, other = await world.accounts.rehydrate(account_id), await world.accounts.rehydrate(account_id)
        one.withdraw(Money.of("6", EUR), RATES)
        other.withdraw(Money.of("7", EUR), RATES)
        await world.bank.accounts.persist(one)
        with pytest.raises(ConcurrencyError) as conflict:
            await world.bank.accounts.persist(other)
        assert (conflict.value.expected, conflict.value.actual) == (2, 3)
        assert (await world.accounts.rehydrate(account_id)).balance == Money.of("4", EUR)

    async def test_what_was_stored_and_not_told_is_told_first_by_the_next(self, world: World) -> None:
        account_id = await world.account()
        account = await world.accounts.rehydrate(account_id)
        account.deposit(Money.of("1", EUR), RATES)
        await world.accounts.append(account, publishing=True)  # and here the process dies
        await world.bank.deposit(deposit(account_id, "2"))

        bodies = [message.body for message in world.producer.messages if message.correlation_id == str(account_id)]
        assert [body.count('"1.00"') for body in bodies[1:]] == [2, 0]
        assert [body.count('"2.00"') for body in bodies[1:]] == [0, 2]


async def remove_from_sqlite(path: Path, stream: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        gone = connection.execute("DELETE FROM commits WHERE stream = ? AND first_version = 2", (stream,))
        assert gone.rowcount == 1


async def remove_from_table(connection_string: str, stream: str) -> None:
    async with TableClient.from_connection_string(connection_string, "bankcommands") as table:
        key = f"e.{stream}.{9_999_999_999 - 2:010d}"
        found = [row async for row in table.query_entities("RowKey eq @key", parameters={"key": key})]
        await table.delete_entity(found[0])


async def check_version_gap(world: World, remove: Callable[[str], Awaitable[None]]) -> None:
    account_id = await world.account(holding="10")
    await world.bank.deposit(deposit(account_id, "1"))
    await remove(f"Account.{account_id}")
    with pytest.raises(CorruptStreamError, match=f"Account.{account_id}"):
        await world.accounts.rehydrate(account_id)
    with pytest.raises(CorruptStreamError):
        await world.bank.withdraw(withdraw(account_id, "1"))


async def test_a_version_gap_is_noticed_on_sqlite(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "bank.db") as store:
        await check_version_gap(world_on(store), lambda stream: remove_from_sqlite(tmp_path / "bank.db", stream))


@pytest.mark.azurite
async def test_a_version_gap_is_noticed_on_tables(tables: str) -> None:
    async with TableStore.from_connection_string(tables, table="bankcommands") as store:
        await check_version_gap(world_on(store), lambda stream: remove_from_table(tables, stream))


WRITER = """
import asyncio, sys
from uuid import UUID, uuid4
from bank.commands import Deposit
from bank.domain import Money
from bank.notifications import LoggingNotifier
from bank.system import BankSystem
from esazure import ConcurrencyError
from esazure.sqlite import SqliteStore
from esazure.tables import TableStore

async def main(where, account):
    azure = "AccountName" in where
    async with TableStore.from_connection_string(where, table="bankcommands") if azure else SqliteStore(where) as store:
        bank = BankSystem(store, notifier=LoggingNotifier()).bank
        for _ in range(20):
            command = Deposit(command_id=str(uuid4()), account_id=UUID(account), money=Money.of(1, "EUR"))
            while True:
                try:
                    await bank.deposit(command)
                except ConcurrencyError:
                    continue
                break

asyncio.run(main(*sys.argv[1:]))
"""


async def two_processes_deposit(where: str, account_id: UUID) -> None:
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, where, str(account_id), cwd=EXAMPLES)
        for _ in range(2)
    ]
    assert [await writer.wait() for writer in writers] == [0, 0]


async def test_two_processes_write_one_account_on_sqlite(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "bank.db") as store:
        world = world_on(store)
        account_id = await world.account()
        await two_processes_deposit(str(tmp_path / "bank.db"), account_id)
        account = await world.accounts.rehydrate(account_id)
        assert (account.balance, account.version) == (Money.of("40", EUR), 41)


@pytest.mark.azurite
@pytest.mark.long
async def test_two_processes_write_one_account_on_tables(tables: str) -> None:
    async with TableStore.from_connection_string(tables, table="bankcommands") as store:
        world = world_on(store)
        account_id = await world.account()
        await two_processes_deposit(tables, account_id)
        account = await world.accounts.rehydrate(account_id)
        assert (account.balance, account.version) == (Money.of("40", EUR), 41)


DYING = """
import asyncio, os, sys
from uuid import UUID
from bank.commands import Deposit
from bank.domain import Money
from bank.notifications import LoggingNotifier
from bank.system import BankSystem
from esazure.memory import InMemoryEventProducer
from esazure.sqlite import SqliteStore

class Dying(InMemoryEventProducer):
    async def dispatch(self, commit):
        os._exit(9)

async def main(path, account):
    async with SqliteStore(path) as store:
        bank = BankSystem(store, Dying(), notifier=LoggingNotifier()).bank
        await bank.deposit(Deposit(command_id="c", account_id=UUID(account), money=Money.of(1, "EUR")))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_that_dies_before_it_tells_is_made_up_for(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    async with SqliteStore(path) as store:
        world = world_on(store)
        account_id = await world.account()
        dying = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DYING, str(path), str(account_id), cwd=EXAMPLES
        )
        assert await dying.wait() == 9
        assert (await world.accounts.rehydrate(account_id)).balance == Money.of("1", EUR)
        assert world.told[-1] == (str(account_id), "AccountOpened")

        await world.bank.deposit(deposit(account_id, "2"))
        versions = [message.properties["version"] for message in world.producer.messages[-2:]]
        assert versions == ["2", "3"]
