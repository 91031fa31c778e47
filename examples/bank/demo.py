"""`python -m bank demo`: the story of two customers, told at a terminal, and checked.

It plays with new ids each time, so it can be repeated on the same store for as long as one likes. No other worker may
work on that store: it would take messages and letters, and the demo would wait for them. `tables.py` says how things
look, `observers.py` how it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from bank import tables
from bank.backends import open_bank
from bank.commands import CreateCustomer, Deposit, OpenAccount, Withdraw
from bank.domain import Account, Currency, Email, InsufficientFundsError, Money
from bank.evidence import Stored, balance_of, check_messages, check_streams
from bank.observers import Observer, observer_of
from bank.system import RATES, BankSystem
from bank.views import account_card
from bank.worker import working
from esazure import ConcurrencyError
from esazure.errors import ValueTakenError
from esazure.rebuild import rebuild

EUR, CAD, USD = Currency.EUR, Currency.CAD, Currency.USD

PATIENCE = 60.0  # seconds for which a view is waited for


@dataclass(frozen=True)
class Cast:
    """Who plays. New ids, so a new story each time."""

    ada: UUID = field(default_factory=uuid4)
    grace: UUID = field(default_factory=uuid4)
    adas_account: UUID = field(default_factory=uuid4)
    graces_account: UUID = field(default_factory=uuid4)

    @property
    def accounts(self) -> set[str]:
        """Their streams."""
        return {f"Account.{self.adas_account}", f"Account.{self.graces_account}"}

    def email(self, name: str) -> Email:
        return Email(f"{name}.{self.ada.hex[:8]}@example.com")

    @property
    def names(self) -> dict[str, str]:
        """Streams, in order of appearance, and what to call them."""
        return {
            f"Customer.{self.ada}": "Ada",
            f"Customer.{self.grace}": "Grace",
            f"Account.{self.adas_account}": "Ada's account",
            f"Account.{self.graces_account}": "Grace's account",
        }


class Letters:
    """A notifier that keeps what it sends."""

    def __init__(self) -> None:
        self.texts: dict[UUID, str] = {}

    async def send(self, notification_id: UUID, recipient: str, text: str) -> None:
        assert "@" in recipient
        assert notification_id not in self.texts, "a letter was sent twice"
        self.texts[notification_id] = text


class Teller:
    """Tells the story."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._chapters = 0

    def chapter(self, title: str) -> None:
        self._chapters += 1
        self._console.print(f"\n[bold cyan]{self._chapters}. {title}[/]")

    def say(self, text: str) -> None:
        self._console.print(Padding(escape(text), (0, 0, 0, 3), expand=False))

    def show(self, table: Table) -> None:
        self._console.print(Padding(table, (1, 0, 0, 3), expand=False))


class Story:
    """One play on one store."""

    def __init__(self, store: str, observer: Observer) -> None:
        self.store, self.observer = store, observer
        self.teller, self.cast, self.letters = Teller(), Cast(), Letters()
        self.earlier = Stored(frozenset(), frozenset())

    @asynccontextmanager
    async def process(self) -> AsyncGenerator[BankSystem]:
        """A process from its beginning to its end, with a worker inside."""
        async with (
            open_bank(self.store, notifier=self.letters, also=self.observer.handlers) as bank,
            working(bank.work),
        ):
            yield bank.system

    async def all_is_told(self) -> bool:
        return not any(stream in self.cast.names for stream, _ in await self.observer.read_outbox())

    async def balances(self, bank: BankSystem) -> tuple[Money, Money]:
        """By the view that is stored with the events."""
        adas, graces = await bank.cards.get(self.cast.adas_account), await bank.cards.get(self.cast.graces_account)
        assert adas is not None
        assert graces is not None
        return adas.balance, graces.balance


async def demo(store: str) -> None:
    """Play, show, check.

    Raises:
        AssertionError: something is not as it should be.
        SettingsError: a store that the demo cannot look into.
    """
    async with observer_of(store) as observer:
        story = Story(store, observer)
        await meet_again(story)
        async with story.process() as bank:
            await two_customers(bank, story)
            await accounts(bank, story)
            await another_currency(bank, story)
            await overdraft(bank, story)
            await conflict(bank, story)
            await until(story.all_is_told)
        await crash(story)
        async with story.process() as bank:
            await recovery(bank, story)
            await look_at_everything(bank, story)
            await views_made_anew(bank, story)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for it, and look less often the longer it takes."""
    pause = 0.05
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 1.0)


async def meet_again(story: Story) -> None:
    say = story.teller.say
    story.teller.chapter("The bank opens")
    say(f"Its streams are kept in {story.observer.where}.")
    async with open_bank(story.store) as bank:
        earlier = story.earlier = await story.observer.read_store()
        say(f"Found {len(earlier.streams)} streams with {len(earlier.events)} events from earlier runs.")
        for stream in earlier.streams:
            kind, _, key = stream.partition(".")
            services = bank.system.bank.customers if kind == "Customer" else bank.system.bank.accounts
            version = (await services.rehydrate(UUID(key))).version
            assert version == len(earlier.of(stream)), f"{stream} is not what it was"
        if earlier.streams:
            customers = len([stream for stream in earlier.streams if stream.startswith("Customer.")])
            shown = await bank.system.views.archive.list(limit=1000)
            say("Each of them was loaded, and is what its events say.")
            say(f"The archive shows {len(shown.views)} of {customers} customers.")


async def two_customers(bank: BankSystem, story: Story) -> None:
    say, cast = story.teller.say, story.cast
    story.teller.chapter("Two customers, and one who is not")
    ada = CreateCustomer(
        command_id=str(uuid4()), customer_id=cast.ada, first_name="Ada", last_name="Lovelace", email=cast.email("ada")
    )
    first = await bank.bank.create_customer(ada)
    again = await bank.bank.create_customer(ada)
    assert again.commit_id == first.commit_id
    say(f"Ada Lovelace <{ada.email}>. Her command arrives twice; it happened once, and got the same answer.")
    # As it comes from outside: every field is checked, and what is wrong comes back as a list of (field, message).
    grace = {"first_name": " Grace ", "last_name": "Hopper", "email": f" {cast.email('GRACE')} "}
    made = await bank.bank.create_customer(
        CreateCustomer.parse({"command_id": str(uuid4()), "customer_id": str(cast.grace), **grace})
    )
    say(f"Grace Hopper <{cast.email('grace')}>.")
    augusta = {"first_name": "Augusta", "last_name": "King", "email": str(ada.email).upper()}
    try:
        await bank.bank.create_customer(
            CreateCustomer.parse({"command_id": str(uuid4()), "customer_id": str(uuid4()), **augusta})
        )
    except ValueTakenError as refusal:
        say(f"Augusta King <{augusta['email']}> is refused: {refusal.name} is taken.")
    else:
        raise AssertionError("two customers have the same e-mail address")
    item = await bank.views.archive.wait_for(cast.grace, made.token, timeout=PATIENCE)
    assert item is not None
    assert item.first_name == "Grace"


async def accounts(bank: BankSystem, story: Story) -> None:
    say, cast = story.teller.say, story.cast
    story.teller.chapter("An account each")
    for customer, account, currency in ((cast.ada, cast.adas_account, EUR), (cast.grace, cast.graces_account, CAD)):
        await bank.bank.open_account(
            OpenAccount(command_id=str(uuid4()), account_id=account, customer_id=customer, currency=currency)
        )
    say("Ada has one in euros, Grace one in Canadian dollars. They are written first, their owners learn of it.")

    async def learned() -> bool:
        ada = await bank.bank.customers.rehydrate(cast.ada)
        return ada.accounts == {cast.adas_account} and any("Ada" in text for text in story.letters.texts.values())

    await until(learned)
    say("Ada has also got a letter.")


async def another_currency(bank: BankSystem, story: Story) -> None:
    say, cast = story.teller.say, story.cast
    story.teller.chapter("Money arrives, some of it in another currency")
    for account, money in ((cast.adas_account, Money.of(100, EUR)), (cast.graces_account, Money.of("33.33", USD))):
        await bank.bank.deposit(Deposit(command_id=str(uuid4()), account_id=account, money=money))
    adas, graces = await story.balances(bank)
    assert (adas, graces) == (Money.of(100, EUR), Money.of("45.33", CAD))  # 45.3288
    say(f"Ada deposits {Money.of(100, EUR)} and holds {adas}.")
    say(f"Grace deposits {Money.of('33.33', USD)} at 1.36 and holds {graces}.")


async def overdraft(bank: BankSystem, story: Story) -> None:
    say, cast = story.teller.say, story.cast
    story.teller.chapter("Ada asks for more than she has")
    before = await bank.bank.accounts.rehydrate(cast.adas_account)
    try:
        await bank.bank.withdraw(
            Withdraw(command_id=str(uuid4()), account_id=cast.adas_account, money=Money.of(150, EUR))
        )
    except InsufficientFundsError as refusal:
        say(f"Refused: {refusal}.")
    else:
        raise AssertionError("an overdraft went through")
    after = await bank.bank.accounts.rehydrate(cast.adas_account)
    assert (after.balance, after.version) == (before.balance, before.version)
    say("Nothing was stored: her account is as it was.")


async def conflict(bank: BankSystem, story: Story) -> None:
    say, cast, services = story.teller.say, story.cast, bank.bank.accounts
    story.teller.chapter("Her card and the branch, at the same moment")
    card, branch = await services.rehydrate(cast.adas_account), await services.rehydrate(cast.adas_account)
    card.withdraw(Money.of(40, EUR), RATES)
    branch.withdraw(Money.of(25, EUR), RATES)
    await services.persist(card)
    say(f"The card is first: {Money.of(40, EUR)}.")
    try:
        await services.persist(branch)
    except ConcurrencyError as refusal:
        say(f"The branch is told: {refusal}.")
    else:
        raise AssertionError("two withdrawals were decided on one balance")
    # `update`, which the handlers use, does just that: load, decide, persist, and after a conflict once more.
    await bank.bank.withdraw(Withdraw(command_id=str(uuid4()), account_id=cast.adas_account, money=Money.of(25, EUR)))
    adas, _ = await story.balances(bank)
    assert adas == Money.of(35, EUR)
    say(f"It decides again on what is left, and {Money.of(25, EUR)} go out: she holds {adas}.")


async def crash(story: Story) -> None:
    """A process that stores, and dies before it tells anybody."""
    graces = f"Account.{story.cast.graces_account}"
    story.teller.chapter("The power fails between storing and publishing")
    async with open_bank(story.store) as bank:
        repository = bank.system.store.events(Account, views=[account_card], outbox=True)
        account = await repository.rehydrate(story.cast.graces_account)
        account.deposit(Money.of(20, CAD), RATES)
        await repository.append(account)  # the first half of a persist; then the lights go out
    waiting = {row for row in await story.observer.read_outbox() if row[0] == graces}
    assert waiting == {(graces, 3)}
    story.teller.say(f"Grace's deposit of {Money.of(20, CAD)} is stored. Nobody was told; its outbox row waits.")


async def recovery(bank: BankSystem, story: Story) -> None:
    cast = story.cast
    account = await bank.bank.deposit(
        Deposit(command_id=str(uuid4()), account_id=cast.graces_account, money=Money.of(5, EUR))
    )
    details = await bank.views.accounts.wait_for(cast.graces_account, account.token, timeout=PATIENCE)
    assert details is not None
    assert details.balance == Money.of("72.68", CAD)
    story.teller.say(
        f"The next process knows nothing of it, and finds it. With {Money.of(5, EUR)} more, both were told, in order: "
        f"she holds {details.balance}."
    )


async def look_at_everything(bank: BankSystem, story: Story) -> None:
    say, cast, show = story.teller.say, story.cast, story.teller.show
    story.teller.chapter("What is there, read without esazure")
    adas = await bank.bank.accounts.rehydrate(cast.adas_account)
    await bank.views.customers.wait_for(cast.ada, adas.token, timeout=PATIENCE)
    grace = await bank.bank.customers.rehydrate(cast.grace)
    await bank.views.customers.wait_for(cast.grace, grace.token, timeout=PATIENCE)
    letters = len([event for event in (await story.observer.read_store()).events if event.stream in cast.accounts])

    async def all_letters_are_sent() -> bool:
        return len(story.letters.texts) == letters

    await until(story.all_is_told)
    await until(all_letters_are_sent)

    stored = await story.observer.read_store()
    mine = frozenset(event for event in stored.events if event.stream in cast.names)
    messages = await story.observer.receive(mine)
    show(tables.streams(stored, cast.names))
    show(tables.messages(messages, cast.names))
    others = len([message for message in messages if message.stream not in cast.names])
    if others:
        say(f"Also received: {others} messages of earlier runs.")
    show(tables.letters(story.letters.texts, cast.names))

    table = Table("account", "by esazure", "added up from the stored JSON", title="Balances", title_justify="left")
    balances = zip((cast.adas_account, cast.graces_account), await story.balances(bank), strict=True)
    for stream, money in ((f"Account.{account}", balance) for account, balance in balances):
        added_up = balance_of(stored.of(stream))
        assert added_up == money.amount
        table.add_row(cast.names[stream], str(money), f"{added_up:,f} {money.currency}")
    show(table)

    check_streams(stored, cast.names)
    check_messages(stored, messages, cast.names)
    assert [len(stored.of(stream)) for stream in cast.names] == [2, 2, 4, 4]
    assert story.earlier.events <= stored.events, "something of earlier runs has changed"
    say("Versions have no gaps, no outbox row is left, every event was published in the order of its stream,")
    say("and every event of an account was followed by its letter, once.")
    say(f"{len(stored.streams)} streams with {len(stored.events)} events are there for the next run.")


async def views_made_anew(bank: BankSystem, story: Story) -> None:
    cast = story.cast
    story.teller.chapter("The views, made anew from the events while the bank is open")
    before = [await bank.views.customers.get(cast.ada), await bank.views.accounts.get(cast.graces_account)]
    reports = await asyncio.gather(*(rebuild(projection, bank.store) for projection in bank.projections))
    after = [await bank.views.customers.get(cast.ada), await bank.views.accounts.get(cast.graces_account)]
    assert None not in before
    assert after == before
    for customer in (cast.ada, cast.grace):
        details = await bank.views.customers.get(customer)
        assert details is not None
        story.teller.show(tables.customer(details, cast.names, details.total(EUR, bank.bank.converter)))
    story.teller.say(f"{', '.join(report.name for report in reports)}: nothing has changed by it.")
