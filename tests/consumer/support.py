"""A small domain, messages of it, and handlers that note what they get or fail on command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from tests.support.secrets import MARKER

from esazure.aggregate import AggregateRoot
from esazure.consumer import Consumer, Lane
from esazure.documents import Document, DocumentPage, IDocumentStore
from esazure.errors import EsAzureError, HandlerFailedError, PoisonMessageError, RetryLaterError, StoreUnavailableError
from esazure.events import DomainEvent, EventEnvelope
from esazure.handlers import IEventHandler, IHandlerSet, Interests
from esazure.integration import Integration, IntegrationMessage, messages_of, whole
from esazure.keys import stream_name
from esazure.memory import InMemoryStore
from esazure.repository import CommitStore


class Opened(DomainEvent):
    owner: str = MARKER


class Deposited(DomainEvent):
    amount: int


class Noted(DomainEvent):
    text: str = MARKER


class Account(AggregateRoot[Opened | Deposited | Noted, str]):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.balance = 0

    def when(self, event: Opened | Deposited | Noted) -> None:
        if isinstance(event, Deposited):
            self.balance += event.amount


class Greeted(DomainEvent):
    account: str
    version: int


class Customer(AggregateRoot[Opened | Greeted, str]):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.greeted: list[tuple[str, int]] = []

    def when(self, event: Opened | Greeted) -> None:
        if isinstance(event, Greeted):
            self.greeted.append((event.account, event.version))


async def store_events(
    store: CommitStore, id: str, *events: DomainEvent, together: bool = False, integration: Integration = whole
) -> list[IntegrationMessage]:
    """Append them to an account, as one commit or each as its own; the messages that go out for them."""
    accounts = store.events(Account, outbox=True)
    try:
        account = await accounts.rehydrate(id)
    except EsAzureError:
        account = Account(id)
    messages: list[IntegrationMessage] = []
    for number, event in enumerate(events, start=1):
        account.record(event)
        if not together or number == len(events):
            commit = await accounts.append(account)
            assert commit is not None
            messages += messages_of(commit, integration, 16)
    return messages


async def deposits(store: CommitStore, id: str, count: int) -> list[IntegrationMessage]:
    """An account's opening and so many deposits, one commit each."""
    return await store_events(store, id, Opened(), *(Deposited(amount=number) for number in range(1, count + 1)))


def changed(message: IntegrationMessage, *, body: Any = None, **properties: Any) -> IntegrationMessage:
    """A message that lies; a property that is None is missing."""
    told: dict[str, Any] = {**message.properties, **properties}
    given = {name: value for name, value in told.items() if value is not None}
    return replace(message, properties=given, body=message.body if body is None else body)


Trouble = Callable[[EventEnvelope[Any]], BaseException | None]


class Recorder(IEventHandler, IHandlerSet):
    """Notes the place of every event, and raises what `trouble` says before (or after) it has noted it."""

    def __init__(
        self,
        name: str = "recorder",
        *,
        repeatable: bool = True,
        wants: Iterable[type[DomainEvent]] = (Opened, Deposited),
        trouble: Trouble | None = None,
        after: Trouble | None = None,
    ) -> None:
        self._name = name
        self._repeatable = repeatable
        self._interests: Interests = {Account: frozenset(wants)}
        self.trouble = trouble
        self.after = after
        self.seen: list[tuple[str, int]] = []
        """The account and the version of each event, in the order of their coming."""
        self.envelopes: list[EventEnvelope[Any]] = []
        self.calls = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def interests(self) -> Interests:
        return self._interests

    @property
    def needs_history(self) -> bool:
        return False

    @property
    def repeatable(self) -> bool:
        return self._repeatable

    def handlers(self) -> Sequence[IEventHandler]:
        return (self,)

    async def handle(self, stream: str, events: Sequence[EventEnvelope[Any]]) -> int:
        self.calls += 1
        for envelope in events:
            assert stream_name("Account", envelope.aggregate_id) == stream
            await asyncio.sleep(0)
            if self.trouble is not None and (error := self.trouble(envelope)) is not None:
                raise error
            self.seen.append((envelope.aggregate_id, envelope.version))
            self.envelopes.append(envelope)
            if self.after is not None and (error := self.after(envelope)) is not None:
                raise error
            if not self.repeatable:
                return envelope.version
        return events[-1].version

    def versions(self, id: str) -> list[int]:
        return [version for account, version in self.seen if account == id]


def fails_at(*versions: int, times: int = 10**6, error: Callable[[], BaseException] = ValueError) -> Trouble:
    """Raise at these versions, so many times in all."""
    left = [times]

    def trouble(envelope: EventEnvelope[Any]) -> BaseException | None:
        if envelope.version not in versions or left[0] == 0:
            return None
        left[0] -= 1
        return error()

    return trouble


async def outcome(lane: Lane, message: IntegrationMessage, attempt: int = 1) -> str:
    """What becomes of a message: "done", "again", "wait", or the reason of its dead letter."""
    try:
        await lane.handle(message, attempt)
    except HandlerFailedError:
        return "again"
    except (RetryLaterError, StoreUnavailableError):
        return "wait"
    except PoisonMessageError as poison:
        return poison.reason
    return "done"


async def deliver(consumer: Consumer, messages: Iterable[IntegrationMessage], *, attempts: int = 5) -> list[str]:
    """As a broker would: each message until it is done or a dead letter. Returns what became of each."""
    became: list[str] = []
    lane = consumer.lane()
    for message in messages:
        for attempt in range(1, attempts + 1):
            said = await outcome(lane, message, attempt)
            if said not in ("again", "wait"):
                break
        became.append(said)
    return became


class Documents(IDocumentStore):
    """A document store that can fail, pause or be watched at every call."""

    def __init__(self, inner: IDocumentStore | None = None) -> None:
        self.inner = inner or InMemoryStore()
        self.calls: list[str] = []
        self.before: Callable[[str, str], BaseException | None] = lambda call, collection: None
        self.after: Callable[[str, str], BaseException | None] = lambda call, collection: None

    async def _at(self, call: str, collection: str, work: Any) -> Any:
        self.calls.append(f"{call} {collection}")
        await asyncio.sleep(0)
        try:
            if (error := self.before(call, collection)) is not None:
                raise error
            answer = await work
        finally:
            work.close()
        if (error := self.after(call, collection)) is not None:
            raise error
        await asyncio.sleep(0)
        return answer

    async def read_document(self, collection: str, key: str) -> Document | None:
        return await self._at("read", collection, self.inner.read_document(collection, key))

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        work = self.inner.write_document(collection, key, text, seen=seen)
        return await self._at("write", collection, work)

    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:
        return await self._at("delete", collection, self.inner.delete_document(collection, key, seen=seen, erase=erase))

    async def list_documents(self, collection: str, *, after: str | None = None, limit: int = 100) -> DocumentPage:
        work = self.inner.list_documents(collection, after=after, limit=limit)
        return await self._at("list", collection, work)

    async def clear_documents(self, collection: str) -> None:
        await self._at("clear", collection, self.inner.clear_documents(collection))
