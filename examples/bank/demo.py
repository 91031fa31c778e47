"""`python -m bank demo`: the story of two customers, told at a terminal, and checked.

It plays with new ids each time, so it can be repeated on the same store for as long as one likes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID, uuid4

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from bank.backend import Backend
from bank.commands import Bank, CreateCustomer, Deposit, OpenAccount, Withdraw
from bank.domain import Currency, Email, FixedRateConverter, InsufficientFundsError, Money
from bank.evidence import Published, Stored, balance_of, check_messages, check_streams
from esazure import ConcurrencyError, EventsService

EUR, CAD, USD = Currency.EUR, Currency.CAD, Currency.USD

RATES = FixedRateConverter(
    {
        (USD, EUR): Decimal("0.92"),
        (USD, CAD): Decimal("1.36"),
        (CAD, EUR): Decimal("0.68"),
        (CAD, USD): Decimal("0.735"),
        (EUR, CAD): Decimal("1.47"),
        (EUR, USD): Decimal("1.087"),
    }
)


@dataclass(frozen=True)
class Cast:
    """Who plays. New ids, so a new story each time."""

    ada: UUID = field(default_factory=uuid4)
    grace: UUID = field(default_factory=uuid4)
    adas_account: UUID = field(default_factory=uuid4)
    graces_account: UUID = field(default_factory=uuid4)

    @property
    def names(self) -> dict[str, str]:
        """Streams, in order of appearance, and what to call them."""
        return {
            f"Customer.{self.ada}": "Ada",
            f"Customer.{self.grace}": "Grace",
            f"Account.{self.adas_account}": "Ada's account",
            f"Account.{self.graces_account}": "Grace's account",
        }


class Teller:
    """Tells the story."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._chapters = 0

    def chapter(self, title: str) -> None:
        self._chapters += 1
        self._console.print(f"\n[bold cyan]{self._chapters}. {title}[/]")

    def say(self, text: str) -> None:
        self._console.print(Padding(escape(text), (0, 0, 0, 3), expand=False))

    def show(self, table: Table) -> None:
        self._console.print(Padding(table, (1, 0, 0, 3), expand=False))


def open_bank(backend: Backend) -> Bank:
    """What a process does when it starts."""
    return Bank(
        EventsService(backend.customers, backend.producer), EventsService(backend.accounts, backend.producer), RATES
    )


async def demo(opening: AbstractAsyncContextManager[Backend]) -> None:
    """Play, show, check.

    Raises:
        AssertionError: something is not as it should be.
    """
    teller, cast = Teller(Console(highlight=False)), Cast()
    async with opening as backend:
        teller.chapter("The bank opens")
        teller.say(f"Its streams are kept in {backend.name}.")
        earlier = await backend.read_store()
        await meet_again(backend, earlier, teller)
        await two_customers(open_bank(backend), cast, teller)
        await another_currency(open_bank(backend), cast, teller)
        await overdraft(open_bank(backend), cast, teller)
        await conflict(open_bank(backend), cast, teller)
        await crash(backend, cast, teller)
        await look_at_everything(backend, earlier, cast, teller)


async def meet_again(backend: Backend, earlier: Stored, teller: Teller) -> None:
    teller.say(f"Found {len(earlier.streams)} streams with {len(earlier.events)} events from earlier runs.")
    for stream in earlier.streams:
        kind, _, key = stream.partition(".")
        if kind == "Customer":
            version = (await backend.customers.rehydrate(UUID(key))).version
        else:
            version = (await backend.accounts.rehydrate(UUID(key))).version
        assert version == len(earlier.of(stream)), f"{stream} is not what it was"
    if earlier.streams:
        teller.say("Each of them was loaded, and is what its events say.")
    if earlier.waiting:
        teller.say(f"{len(earlier.waiting)} of their commits still wait to be published: work for a relay.")


async def two_customers(bank: Bank, cast: Cast, teller: Teller) -> None:
    teller.chapter("Two customers, an account each")
    await bank.create_customer(
        CreateCustomer(customer_id=cast.ada, first_name="Ada", last_name="Lovelace", email=Email("ada@example.com"))
    )
    # As it comes from outside: every field is checked, and what is wrong comes back as a list of (field, message).
    grace = {"first_name": " Grace ", "last_name": "Hopper", "email": " Grace.Hopper@Example.COM "}
    await bank.create_customer(CreateCustomer.parse({"customer_id": str(cast.grace), **grace}))
    await bank.open_account(OpenAccount(account_id=cast.adas_account, customer_id=cast.ada, currency=EUR))
    await bank.open_account(OpenAccount(account_id=cast.graces_account, customer_id=cast.grace, currency=CAD))

    ada, hopper = await bank.customers.rehydrate(cast.ada), await bank.customers.rehydrate(cast.grace)
    assert (ada.accounts, hopper.accounts) == ({cast.adas_account}, {cast.graces_account})
    teller.say(f"{ada.first_name} {ada.last_name} <{ada.email}> has an account in euros,")
    teller.say(f"{hopper.first_name} {hopper.last_name} <{hopper.email}> one in Canadian dollars.")


async def another_currency(bank: Bank, cast: Cast, teller: Teller) -> None:
    teller.chapter("Money arrives, some of it in another currency")
    await bank.deposit(Deposit(account_id=cast.adas_account, money=Money.of(100, EUR)))
    await bank.deposit(Deposit(account_id=cast.graces_account, money=Money.of("33.33", USD)))
    adas, graces = await balances(bank, cast)
    assert (adas, graces) == (Money.of(100, EUR), Money.of("45.33", CAD))  # 45.3288
    teller.say(f"Ada deposits {Money.of(100, EUR)} and holds {adas}.")
    teller.say(f"Grace deposits {Money.of('33.33', USD)} at 1.36 and holds {graces}.")


async def overdraft(bank: Bank, cast: Cast, teller: Teller) -> None:
    teller.chapter("Ada asks for more than she has")
    before = await bank.accounts.rehydrate(cast.adas_account)
    try:
        await bank.withdraw(Withdraw(account_id=cast.adas_account, money=Money.of(150, EUR)))
    except InsufficientFundsError as refusal:
        teller.say(f"Refused: {refusal}.")
    else:
        raise AssertionError("an overdraft went through")
    after = await bank.accounts.rehydrate(cast.adas_account)
    assert (after.balance, after.version) == (before.balance, before.version)
    teller.say("Nothing was stored: her account is as it was.")


async def conflict(bank: Bank, cast: Cast, teller: Teller) -> None:
    teller.chapter("Her card and the branch, at the same moment")
    card = await bank.accounts.rehydrate(cast.adas_account)
    branch = await bank.accounts.rehydrate(cast.adas_account)
    card.withdraw(Money.of(40, EUR), RATES)
    branch.withdraw(Money.of(25, EUR), RATES)
    await bank.accounts.persist(card)
    teller.say(f"The card is first: {Money.of(40, EUR)}.")
    try:
        await bank.accounts.persist(branch)
    except ConcurrencyError as refusal:
        teller.say(f"The branch is told: {refusal}.")
    else:
        raise AssertionError("two withdrawals were decided on one balance")
    # `update`, which every handler uses, does just that: load, decide, persist, and after a conflict once more.
    await bank.withdraw(Withdraw(account_id=cast.adas_account, money=Money.of(25, EUR)))
    adas, _ = await balances(bank, cast)
    assert adas == Money.of(35, EUR)
    teller.say(f"It decides again on what is left, and {Money.of(25, EUR)} go out: she holds {adas}.")


async def crash(backend: Backend, cast: Cast, teller: Teller) -> None:
    teller.chapter("The power fails between storing and publishing")
    graces = f"Account.{cast.graces_account}"
    account = await backend.accounts.rehydrate(cast.graces_account)
    account.deposit(Money.of(20, CAD), RATES)
    await backend.accounts.append(account)  # the first half of a persist; then the lights go out
    del account
    waiting = {row for row in (await backend.read_store()).waiting if row[0] == graces}
    assert waiting == {(graces, 3)}
    teller.say(f"Grace's deposit of {Money.of(20, CAD)} is stored. Nobody was told; its outbox row waits.")

    bank = open_bank(backend)  # the next process knows nothing of it
    await bank.deposit(Deposit(account_id=cast.graces_account, money=Money.of(5, EUR)))
    assert not {row for row in (await backend.read_store()).waiting if row[0] == graces}
    _, holds = await balances(bank, cast)
    assert holds == Money.of("72.68", CAD)
    teller.say(f"The next deposit, {Money.of(5, EUR)}, published both, in order: she holds {holds}.")


async def balances(bank: Bank, cast: Cast) -> tuple[Money, Money]:
    adas, graces = await bank.accounts.rehydrate(cast.adas_account), await bank.accounts.rehydrate(cast.graces_account)
    return adas.balance, graces.balance


async def look_at_everything(backend: Backend, earlier: Stored, cast: Cast, teller: Teller) -> None:
    teller.chapter("What is there, read without esazure")
    stored = await backend.read_store()
    mine = frozenset(event for event in stored.events if event.stream in cast.names)
    messages = await backend.receive(mine)

    teller.show(streams_table(stored, cast.names))
    teller.show(messages_table(messages, cast.names))
    others = len([message for message in messages if message.stream not in cast.names])
    if others:
        teller.say(f"Also received: {others} messages of earlier runs.")

    bank = open_bank(backend)
    adas, graces = await balances(bank, cast)
    table = Table("account", "by esazure", "added up from the stored JSON", title="Balances", title_justify="left")
    for stream, money in ((f"Account.{cast.adas_account}", adas), (f"Account.{cast.graces_account}", graces)):
        added_up = balance_of(stored.of(stream))
        assert added_up == money.amount
        table.add_row(cast.names[stream], str(money), f"{added_up:,f} {money.currency}")
    teller.show(table)

    check_streams(stored, cast.names)
    check_messages(stored, messages, cast.names)
    assert [len(stored.of(stream)) for stream in cast.names] == [2, 2, 4, 4]
    assert earlier.events <= stored.events, "something of earlier runs has changed"
    teller.say("Versions have no gaps, no outbox row is left, every event was published in the order of its stream.")
    teller.say(f"{len(stored.streams)} streams with {len(stored.events)} events are there for the next run.")


def streams_table(stored: Stored, names: dict[str, str]) -> Table:
    table = Table("stream", "version", "event", "what is stored", title="Streams", title_justify="left")
    for stream, name in names.items():
        for event in stored.of(stream):
            table.add_row(name if event.version == 1 else "", str(event.version), event.type, short(event.body))
        table.add_section()
    return table


def messages_table(messages: Sequence[Published], names: dict[str, str]) -> Table:
    table = Table("about", "version", "subject", "session", title="Messages, as received", title_justify="left")
    for message in messages:
        if message.stream in names:
            table.add_row(names[message.stream], str(message.version), message.subject, message.session)
    return table


def short(body: str) -> str:
    """JSON for people: money in one word, ids by their first letters."""

    def plain(name: str, value: object) -> str:
        match value:
            case {"amount": str(amount), "currency": str(currency)}:
                return f"{amount} {currency}"
            case str() if name.endswith("_id"):
                return f"{value[:8]}..."
            case _:
                return str(value)

    return escape(", ".join(f"{name} {plain(name, value)}" for name, value in json.loads(body).items()))
