"""The same account in the two libraries esazure is compared with, each in the style of its own documentation.

eventsourcing: pydantic events, `model_dump` and orjson in a mapper of one's own, as its pydantic examples do.
eventsource-py: its repository and its SQLite store; its store in memory keeps objects, so that one that keeps what the
SQLite store keeps stands here. Read `in_process.py` next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

import orjson
from eventsource import AggregateRepository, StreamId
from eventsource import AggregateRoot as PyAggregate
from eventsource import DomainEvent as PyEvent
from eventsource.adapters.serialization import json_dumps, json_loads
from eventsource.adapters.sqlite import SQLiteEventStore
from eventsource.domain.event_registry import EventRegistry
from eventsource.ports import AppendResult, EventEnvelope, ExpectedVersion, StreamReadOptions
from eventsourcing.application import Application
from eventsourcing.domain import BaseAggregate, CanInitAggregate, CanMutateAggregate, event
from eventsourcing.persistence import Mapper, StoredEvent, Transcoder
from eventsourcing.utils import get_topic, resolve_topic
from pydantic import BaseModel, ConfigDict

from bench.domain import OWNER, Payload, State


class _EsEvent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    originator_id: UUID
    originator_version: int
    timestamp: datetime


class _EsAggregate(BaseAggregate[UUID]):
    class Event(_EsEvent, CanMutateAggregate[UUID]):
        """Base of the events that the decorators make."""

    class Created(Event, CanInitAggregate[UUID]):
        """Base of the first one."""

        originator_topic: str

    @staticmethod
    def create_id(*_: Any, **__: Any) -> UUID:
        """A new id."""
        return uuid4()


class EsAccount(_EsAggregate):
    """As eventsourcing has it."""

    @event("Opened")
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.count, self.balance = 0, Decimal(0)

    @event("Deposited")
    def deposited(self, tx_id: UUID, at: datetime, amount: Decimal, currency: str, memo: str) -> None:  # noqa: ARG002 - fields
        """Record and apply."""
        self.count += 1
        self.balance += amount

    @property
    def state(self) -> State:
        """To be compared."""
        return self.count, self.balance

    @classmethod
    def open(cls) -> Self:
        """A new one."""
        return cls(OWNER)

    def deposit(self, fields: Payload) -> None:
        """Once more."""
        self.deposited(**fields)


class PydanticMapper(Mapper[UUID]):
    """Between pydantic events and bytes."""

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """To bytes."""
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=get_topic(type(domain_event)),
            state=self.transcoder.encode(domain_event.model_dump(mode="json")),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        """And back."""
        return resolve_topic(stored_event.topic)(**self.transcoder.decode(stored_event.state))


class OrjsonTranscoder(Transcoder):
    """Between dicts and bytes."""

    def encode(self, obj: Any) -> bytes:
        """To bytes."""
        return orjson.dumps(obj)

    def decode(self, data: bytes) -> Any:
        """And back."""
        return orjson.loads(data)


class Eventsourcing(Application[UUID]):
    """In memory, or in a SQLite file."""

    def __init__(self, file: Path | None = None) -> None:
        sqlite = {} if file is None else {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(file)}
        topics = {"MAPPER_TOPIC": get_topic(PydanticMapper), "TRANSCODER_TOPIC": get_topic(OrjsonTranscoder)}
        super().__init__(env={**topics, **sqlite})


class PyOpened(PyEvent):
    """`Opened`."""

    aggregate_type: str = "Account"
    owner: str


class PyDeposited(PyEvent):
    """`Deposited`."""

    aggregate_type: str = "Account"
    tx_id: UUID
    at: datetime
    amount: Decimal
    currency: str
    memo: str


class PyState(BaseModel):
    """What eventsource-py keeps apart from the aggregate."""

    owner: str = ""
    count: int = 0
    balance: Decimal = Decimal(0)


class PyAccount(PyAggregate[PyState]):
    """As eventsource-py has it; the state is changed in place, which costs it less than the copies of its examples."""

    aggregate_type = "Account"

    def __init__(self, aggregate_id: UUID) -> None:
        super().__init__(aggregate_id)
        self._current = self._state = self._get_initial_state()

    @property
    def current(self) -> State:
        """To be compared."""
        return self._current.count, self._current.balance

    @classmethod
    def open(cls) -> Self:
        """A new one."""
        account = cls(uuid4())
        account.create_event(PyOpened, owner=OWNER)
        return account

    def deposit(self, fields: Payload) -> None:
        """Once more."""
        self.create_event(PyDeposited, **fields)

    def _get_initial_state(self) -> PyState:
        return PyState()

    def _apply(self, event: PyEvent) -> None:
        match event:
            case PyDeposited():
                self._current.count += 1
                self._current.balance += event.amount
            case PyOpened():
                self._current.owner = event.owner


def _registry() -> EventRegistry:
    registry = EventRegistry()
    registry.register(PyOpened)
    registry.register(PyDeposited)
    return registry


class _TextStore:
    """Keeps in memory the text that eventsource-py's SQLite store keeps, and reads it the same way."""

    max_append_batch: int | None = None
    store_id = "text"

    def __init__(self) -> None:
        self._registry = _registry()
        self._streams: dict[StreamId, list[tuple[str, str]]] = {}

    async def append(self, stream: StreamId, events: Sequence[PyEvent], expected: ExpectedVersion) -> AppendResult:
        stored = self._streams.setdefault(stream, [])
        if expected.kind == "exact" and expected.version != len(stored):
            raise AssertionError("a conflict")
        stored += [(event.event_type, json_dumps(event.model_dump(mode="json"))) for event in events]
        return AppendResult(stream=stream, new_version=len(stored), position=None)

    async def read_stream(
        self,
        stream: StreamId,
        options: StreamReadOptions | None = None,  # noqa: ARG002 - always all
    ) -> AsyncIterator[EventEnvelope]:
        now = datetime.now(UTC)
        for version, (name, text) in enumerate(self._streams[stream], start=1):
            event = self._registry.get(name).model_validate(json_loads(text))
            yield EventEnvelope(event=event, stream_id=stream, stream_version=version, position=None, stored_at=now)

    async def get_stream_version(self, stream: StreamId) -> int:
        return len(self._streams[stream])


def eventsource_in_memory() -> AggregateRepository[PyAccount]:
    """Over text in memory."""
    return AggregateRepository(_TextStore(), PyAccount, enable_tracing=False)


def eventsource_in(file: Path) -> tuple[AggregateRepository[PyAccount], SQLiteEventStore]:
    """Over its SQLite store, which has to be closed."""
    store = SQLiteEventStore(str(file), _registry())
    return AggregateRepository(store, PyAccount, enable_tracing=False), store
