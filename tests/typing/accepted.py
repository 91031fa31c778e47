"""What both checkers must accept without an ignore, and what they must infer. Checked, never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NewType, Self, assert_never, assert_type
from uuid import UUID

from typing_extensions import TypeVar

from esazure import (
    AggregateRoot,
    Commit,
    DomainEvent,
    EventEnvelope,
    EventsService,
    IEventProducer,
    IEventsRepository,
    IEventsService,
    IntegrationEvent,
)
from esazure.consumer import Consumer
from esazure.handlers import EventHandlers, Reactions
from esazure.inprocess import InProcessSubscription
from esazure.memory import InMemoryEventProducer, InMemoryEventsRepository, InMemoryStore
from esazure.repository import CommitStore
from esazure.servicebus import ServiceBus
from esazure.sqlite import SqliteStore
from esazure.tables import TableStore
from esazure.testing import given


class Opened(DomainEvent):
    owner: str


class Closed(DomainEvent):
    reason: str


AccountEvent = Opened | Closed


class Account(AggregateRoot[AccountEvent]):
    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.owner: str | None = None

    @classmethod
    def open(cls, id: UUID, owner: str) -> Self:
        account = cls(id)
        account.record(Opened(owner=owner))
        return account

    def close(self, reason: str) -> None:
        self.record(Closed(reason=reason))

    def when(self, event: AccountEvent) -> None:
        match event:
            case Opened(owner=owner):
                self.owner = owner
            case Closed():
                self.owner = None
            case _:
                assert_never(event)


Isbn = NewType("Isbn", str)


class Book(AggregateRoot[Opened, Isbn]):
    def when(self, event: Opened) -> None:
        assert_type(event, Opened)


EventT = TypeVar("EventT", bound=DomainEvent)


class Audited(AggregateRoot[EventT, str], Generic[EventT]):
    """A base of the user's own between his aggregates and ours."""


class Ledger(Audited[AccountEvent]):
    def when(self, event: AccountEvent) -> None:
        assert_type(event, Opened | Closed)


def what_an_aggregate_has(account: Account, book: Book) -> None:
    assert_type(account.id, UUID)
    assert_type(book.id, Isbn)
    assert_type(account.version, int)
    assert_type(account.pending, tuple[Opened | Closed, ...])


async def the_id_type_follows_from_the_class(isbn: Isbn, id: UUID) -> None:
    accounts = EventsService(InMemoryEventsRepository(Account), InMemoryEventProducer())
    assert_type(accounts, EventsService[Account, UUID])
    assert_type(await accounts.rehydrate(id), Account)
    assert_type(await accounts.rehydrate(id, version=3), Account)
    assert_type(await accounts.update(id, lambda account: account.close("done")), Account)
    books = EventsService(InMemoryStore().events(Book))
    assert_type(await books.rehydrate(isbn), Book)
    ledgers = InMemoryStore().events(Ledger)
    assert_type(await ledgers.rehydrate("natural key"), Ledger)


async def every_store_offers_the_same_calls(credential: str, id: UUID) -> None:
    stores: list[CommitStore] = [
        InMemoryStore(),
        SqliteStore("bank.db"),
        TableStore.from_connection_string(credential),
    ]
    for store in stores:
        async with store as opened:
            assert_type(await opened.events(Account).rehydrate(id), Account)
    async with ServiceBus.from_connection_string(credential) as bus:
        producer: IEventProducer = bus.producer(topic="accounts")
        assert_type(await EventsService(InMemoryStore().events(Account), producer).rehydrate(id), Account)


class OpenAccount:
    """A handler asks for the port, not for a backend."""

    def __init__(self, accounts: IEventsService[Account], books: IEventsService[Book, Isbn]) -> None:
        self.accounts = accounts
        self.books = books

    async def __call__(self, id: UUID) -> None:
        await self.accounts.persist(Account.open(id, "Ada"))
        assert_type(await self.books.rehydrate(Isbn("1")), Book)


def services_fit_the_ports() -> OpenAccount:
    store = InMemoryStore()
    repository: IEventsRepository[Account] = store.events(Account)
    return OpenAccount(EventsService(repository), EventsService(store.events(Book)))


def only_openings(envelope: EventEnvelope[AccountEvent], payload: str) -> IntegrationEvent | None:
    match envelope.event:
        case Opened():
            return IntegrationEvent("account-opened", payload)
        case Closed():
            return None


def own_integration_functions_fit() -> InMemoryEventProducer:
    return InMemoryEventProducer(integration=only_openings)


def commits_are_typed(commit: Commit[AccountEvent]) -> None:
    assert_type(commit.recorded, tuple[Opened | Closed, ...])
    assert_type(commit.events, tuple[EventEnvelope[Opened | Closed], ...])


def scenarios_know_the_aggregate() -> None:
    given(Account, Opened(owner="Ada")).when(lambda account: account.close("done")).then(Closed(reason="done"))
    given(Account).when(lambda account: account.close("never opened")).raises(ValueError)


def factories_infer(make: Callable[[UUID], Account] = Account) -> Account:
    return make(UUID(int=1))


def handlers_keep_their_own_type() -> None:
    handlers = EventHandlers("mail")

    @handlers.on(Account, Opened)
    async def opened(envelope: EventEnvelope[Opened]) -> str:
        return envelope.event.owner

    @handlers.on(Book, Opened)
    def plain(envelope: EventEnvelope[Opened]) -> int:
        return envelope.version

    async def calls_them(envelope: EventEnvelope[Opened]) -> None:
        assert_type(await opened(envelope), str)
        assert_type(plain(envelope), int)

    handlers.on(Ledger, Opened)(calls_them)


def one_handler_may_serve_several_events() -> None:
    handlers = EventHandlers("audit")

    @handlers.on(Account, Opened)
    @handlers.on(Account, Closed)
    async def either(envelope: EventEnvelope[AccountEvent]) -> None:
        assert_type(envelope.event, Opened | Closed)

    @handlers.on(Ledger, Opened)
    async def anything(envelope: EventEnvelope[DomainEvent]) -> None: ...

    assert either is not None
    assert anything is not None


def reactions_know_what_they_change(accounts: IEventsService[Account], books: IEventsService[Book, Isbn]) -> None:
    reactions = Reactions("library")

    @reactions.on(Book, Opened, changes=accounts, id=lambda envelope: UUID(envelope.event.owner))
    def close(account: Account, envelope: EventEnvelope[Opened]) -> None:
        account.close(envelope.event.owner)

    @reactions.on(Account, Opened, changes=books, id=lambda envelope: Isbn(envelope.event.owner))
    def note(book: Book, envelope: EventEnvelope[Opened]) -> None:
        book.record(envelope.event)

    def calls_them(account: Account, book: Book, envelope: EventEnvelope[Opened]) -> None:
        close(account, envelope)
        note(book, envelope)

    assert calls_them is not None


async def a_consumer_takes_all_of_them(store: InMemoryStore, handlers: EventHandlers, reactions: Reactions) -> None:
    consumer = Consumer("worker", [handlers, reactions], positions=store, source=store)
    subscription = InProcessSubscription(store, [Account, Book], consumer)
    assert_type(await subscription.drain(), int)
    assert_type(await consumer.resume("mail", "Account.1"), int)
