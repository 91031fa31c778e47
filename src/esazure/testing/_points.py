"""Every call to a store or a broker as a numbered point, and what can go wrong at one.

`FaultyStore` and `FaultyProducer` wrap the real ones; `Faults` counts their calls and does what it was told to. Read
`_witness.py` next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast
from uuid import UUID

from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, TId, as_class
from esazure.errors import AppendOutcomeUnknownError, DispatchError, StoreUnavailableError
from esazure.events import Commit, CommitRecord
from esazure.ports import IEventProducer, IOutboxStore, Lease, Swept
from esazure.repository import CommitStore, EventsRepository

A = TypeVar("A", bound=AggregateRoot[Any, Any])
T = TypeVar("T")

READS = frozenset({"read", "sweep", "unpublished"})
_SLOW_TURNS = 50  # of the event loop: whatever runs beside a slow call overtakes it


class Crash(BaseException):
    """The process died here. Not an `Exception`, so that no handler survives it by accident."""


class Kind(StrEnum):
    """What can go wrong with one call."""

    CRASH_BEFORE = "crash before the call"
    """The process dies, and the call was never made."""
    CRASH_AFTER = "crash after the call"
    """The call was carried out, and the process died before it heard so."""
    REFUSED = "the call is refused"
    """StoreUnavailableError or DispatchError; nothing happened."""
    LOST_REQUEST = "the request is lost"
    """No answer (AppendOutcomeUnknownError for an insert), and nothing happened."""
    LOST_ANSWER = "the answer is lost"
    """The same error, and the call was carried out."""
    LATE = "the call arrives late"
    """The same error, and the call is carried out some points later: a zombie write."""
    SLOW = "the call is slow"
    """Whatever runs beside it overtakes it."""
    TWICE = "the call arrives twice"
    """Carried out twice in a row; the second answer is heard."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a point."""

    kind: Kind
    lands_after: int | None = None
    """For `Kind.LATE`: how many points later the call is carried out; None is at the end, in `Faults.settle`."""

    def __str__(self) -> str:
        if self.kind is not Kind.LATE:
            return str(self.kind)
        return f"{self.kind}, {'at the end' if self.lands_after is None else f'before point +{self.lands_after}'}"


@dataclass(frozen=True, slots=True)
class Point:
    """One call to the store or the producer."""

    number: int
    """Counts from 1, over crashes too."""
    method: str
    subject: str
    """The stream; of `sweep` and `write_lease` the partition."""
    version: int | None = None
    """The first version of the commit it is about, where it is about one."""

    def __str__(self) -> str:
        at = "" if self.version is None else f" at version {self.version}"
        return f"point {self.number}, {self.method} of {self.subject}{at}"


class _Life:
    """One process. What belongs to a dead one can do nothing any more, whatever it caught."""

    def __init__(self) -> None:
        self.over = False

    def check(self) -> None:
        if self.over:
            raise Crash("this process is dead")

    def end(self, point: Point) -> None:
        self.over = True
        raise Crash(f"at {point}")


class Faults:
    """Counts the calls of everything that was wrapped with it, and spoils those that are planned.

    ``Faults({2: Fault(Kind.LOST_ANSWER)})`` loses the answer of the second call. Without a plan it only counts.
    Every call gives way to other tasks before it is carried out and before its answer is heard, as real I/O does.
    """

    def __init__(self, planned: Mapping[int, Fault] | None = None) -> None:
        self.points: list[Point] = []
        """Every call so far."""
        self._planned = dict(planned or {})
        self._under_way: list[tuple[float, Callable[[], Awaitable[object]]]] = []
        self.life = _Life()

    @property
    def crashed(self) -> bool:
        """Whether the process died; every further call raises `Crash` until `restart`."""
        return self.life.over

    def restart(self) -> None:
        """End the process, if it lives, and begin another: wrap the store and the producer again for it.

        What was wrapped before stays dead. Calls that are under way stay under way.
        """
        self.life.over = True
        self.life = _Life()

    async def settle(self) -> int:
        """Carry out the calls that have not arrived yet; how many they were."""
        return await self._land(float("inf"))

    async def call(
        self, life: _Life, point: tuple[str, str, int | None], action: Callable[[], Awaitable[T]], *, silence: Exception
    ) -> T:
        """Make one call, unless something else is planned; `silence` is what its caller gets instead of an answer."""
        life.check()
        here = Point(len(self.points) + 1, *point)
        self.points.append(here)
        fault = self._planned.get(here.number)
        kind = None if fault is None else fault.kind
        await self._land(here.number)
        await asyncio.sleep(0)
        life.check()
        if fault is not None and kind is Kind.LATE:
            due = float("inf") if fault.lands_after is None else here.number + fault.lands_after
            self._under_way.append((due, action))
        if kind is Kind.CRASH_BEFORE:
            life.end(here)
        if kind is Kind.REFUSED:
            raise DispatchError("refused") if here.method == "dispatch" else StoreUnavailableError(f"{here}: refused")
        if kind in (Kind.LOST_REQUEST, Kind.LATE):
            raise silence
        if kind is Kind.SLOW:
            for _ in range(_SLOW_TURNS):
                await asyncio.sleep(0)
        if kind in (Kind.TWICE, Kind.CRASH_AFTER, Kind.LOST_ANSWER):
            with suppress(Exception):  # nobody hears this answer
                await action()
        if kind is Kind.CRASH_AFTER:
            life.end(here)
        if kind is Kind.LOST_ANSWER:
            raise silence
        answer = await action()
        await asyncio.sleep(0)
        life.check()
        return answer

    async def _land(self, number: float) -> int:
        due = [action for at, action in self._under_way if at <= number]
        self._under_way = [waiting for waiting in self._under_way if waiting[0] > number]
        for action in due:
            with suppress(Exception):  # nobody hears this answer
                await action()
        return len(due)


class _NoAnswerError(Exception):
    """A lease whose outcome nobody knows: the port has no error for that, but None."""


class FaultyStore(CommitStore, IOutboxStore):
    """A store whose every call is a point. Use it in place of the store; opening and closing stay with the store."""

    def __init__(self, store: CommitStore, faults: Faults) -> None:
        self.clock = store.clock
        self.aggregate_classes: dict[str, type[AggregateRoot[Any, Any]]] = {}
        """Those `events` was called for, by stored name: whoever sweeps has to know them."""
        self._store = store
        self._faults = faults
        self._life = faults.life

    def events(self, aggregate_class: Callable[[TId], A], *, outbox: bool = True) -> EventsRepository[A, TId]:
        """See `CommitStore.events`."""
        chosen = as_class(aggregate_class)
        self.aggregate_classes[chosen.aggregate_type] = chosen
        return super().events(aggregate_class, outbox=outbox)

    @property
    def store_id(self) -> UUID:
        """The store's."""
        return self._store.store_id

    @property
    def partitions(self) -> Sequence[str]:
        """The store's."""
        return outbox_of(self._store).partitions

    async def insert(self, record: CommitRecord, *, outbox: bool) -> None:
        """A point. See `ICommitStore.insert`."""
        await self._faults.call(
            self._life,
            ("insert", record.stream, record.first_version),
            lambda: self._store.insert(record, outbox=outbox),
            silence=AppendOutcomeUnknownError(
                record.stream, expected=record.expected_version, commit_id=record.commit_id
            ),
        )

    async def read(self, stream: str, *, to_version: int | None = None) -> Sequence[CommitRecord]:
        """A point. See `ICommitStore.read`."""
        return await self._call("read", stream, None, lambda: self._store.read(stream, to_version=to_version))

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        """A point. See `ICommitStore.unpublished`."""
        return await self._call(
            "unpublished",
            stream,
            None,
            lambda: self._store.unpublished(stream, before_version=before_version, limit=limit),
        )

    async def mark_published(self, record: CommitRecord) -> bool:
        """A point. See `ICommitStore.mark_published`."""
        return await self._call(
            "mark_published", record.stream, record.first_version, lambda: self._store.mark_published(record)
        )

    async def sweep(self, partition: str) -> Swept:
        """A point. See `IOutboxStore.sweep`."""
        return await self._call("sweep", partition, None, lambda: outbox_of(self._store).sweep(partition))

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """A point. See `IOutboxStore.write_lease`; without an answer it is None, as the port says."""
        try:
            return await self._faults.call(
                self._life,
                ("write_lease", partition, None),
                lambda: outbox_of(self._store).write_lease(partition, seen, owner=owner, epoch=epoch),
                silence=_NoAnswerError(),
            )
        except _NoAnswerError:
            return None

    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """A point. See `IOutboxStore.set_aside`."""
        await self._call(
            "set_aside", record.stream, record.first_version, lambda: outbox_of(self._store).set_aside(record, reason)
        )

    async def _call(self, method: str, subject: str, version: int | None, action: Callable[[], Awaitable[T]]) -> T:
        silence = StoreUnavailableError(f"{method} of {subject}: no answer")
        return await self._faults.call(self._life, (method, subject, version), action, silence=silence)


class FaultyProducer(IEventProducer):
    """A producer whose every dispatch is a point."""

    def __init__(self, producer: IEventProducer, faults: Faults) -> None:
        self._producer = producer
        self._faults = faults
        self._life = faults.life

    def check(self, commit: Commit[Any]) -> None:
        """The producer's own: no I/O, so no point."""
        self._producer.check(commit)

    async def dispatch(self, commit: Commit[Any]) -> None:
        """A point. See `IEventProducer.dispatch`."""
        await self._faults.call(
            self._life,
            ("dispatch", commit.stream, commit.first_version),
            lambda: self._producer.dispatch(commit),
            silence=DispatchError(f"{commit.stream}: no answer"),
        )


def has_outbox(store: CommitStore) -> bool:
    """Whether relays can work on it: a protocol cannot be asked."""
    return hasattr(store, "sweep")


def outbox_of(store: CommitStore) -> IOutboxStore:
    """The store as relays see it.

    Raises:
        TypeError: it is an `ICommitStore` and no more.
    """
    if not has_outbox(store):
        raise TypeError(f"{type(store).__name__} is no IOutboxStore: no relay can work on it")
    return cast("IOutboxStore", store)
