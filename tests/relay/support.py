"""A store with several partitions, a producer that can fail, and a way to fill the one and read the other."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from esazure.aggregate import AggregateRoot
from esazure.errors import DispatchError
from esazure.events import Commit, CommitRecord, DomainEvent
from esazure.keys import bucket_of
from esazure.memory import InMemoryStore
from esazure.ports import IEventProducer, Lease, Swept
from esazure.testing import ManualClock


class Noted(DomainEvent):
    text: str


class Diary(AggregateRoot[Noted, str]):
    def when(self, event: Noted) -> None:
        match event:
            case Noted():
                pass
            case _:
                assert_never(event)


class Letter(AggregateRoot[Noted, str]):
    def when(self, event: Noted) -> None:
        pass


class Store(InMemoryStore):
    """In memory, in as many partitions as wanted; each call can be made to fail, and is counted."""

    def __init__(self, partitions: int = 1, clock: ManualClock | None = None) -> None:
        self.manual_clock = clock or ManualClock()
        super().__init__(clock=self.manual_clock)
        self.count = partitions
        self.failures: dict[str, list[Exception | None]] = defaultdict(list)
        """By call: what the next ones raise."""
        self.calls: list[tuple[str, str]] = []
        self.lease_writes: list[Lease] = []
        self.before: Callable[[str], Awaitable[None]] | None = None

    async def _call(self, name: str, what: str) -> None:
        self.calls.append((name, what))
        if self.before is not None:
            await self.before(name)
        failure = self.failures[name].pop(0) if self.failures[name] else None
        if failure is not None:
            raise failure

    def called(self, name: str) -> list[str]:
        return [what for call, what in self.calls if call == name]

    @property
    def partitions(self) -> Sequence[str]:
        return [str(number) for number in range(self.count)]

    def partition_of(self, stream: str) -> str:
        return str(bucket_of(stream, self.count))

    async def sweep(self, partition: str, *, after: tuple[str, int] | None = None, limit: int = 1_000) -> Swept:
        await self._call("sweep", partition)
        swept = await super().sweep(partition, after=after, limit=limit)
        return replace(swept, rows=[row for row in swept.rows if self.partition_of(row.stream) == partition])

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        await self._call("unpublished", stream)
        return await super().unpublished(stream, before_version=before_version, limit=limit)

    async def mark_published(self, record: CommitRecord) -> bool:
        await self._call("mark_published", record.stream)
        return await super().mark_published(record)

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        await self._call("write_lease", partition)
        lease = await super().write_lease(partition, seen, owner=owner, epoch=epoch)
        if lease is not None:
            self.lease_writes.append(lease)
        return lease

    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        await self._call("set_aside", record.stream)
        await super().set_aside(record, reason)

    async def put(self, stream: str, *texts: str, kind: type[AggregateRoot[Any, Any]] = Diary) -> None:
        """What a process stored before it died: a commit for each text, at once."""
        aggregate: Any = kind(stream)
        for text in texts:
            aggregate.record(Noted(text=text))
            await self.events(kind, outbox=True).append(aggregate)

    def waiting(self) -> list[tuple[str, int]]:
        return [(stream, first) for stream, rows in sorted(self._outbox.items()) for first in sorted(rows)]

    def damage(self, stream: str, version: int, payload: str) -> None:
        records = self._streams[stream]
        records[version - 1] = replace(records[version - 1], payload=payload)


@dataclass
class Producer(IEventProducer):
    """Keeps what it was given; `refuse` says what is raised for which `stream/version`."""

    refuse: dict[str, Exception] = field(default_factory=dict)
    pause: float = 0.0
    published: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """Until it is set, dispatches wait: all, or those that are `held`."""
    held: frozenset[str] = frozenset()
    running: int = 0
    most: int = 0

    def check(self, commit: Commit[Any]) -> None:
        pass

    async def dispatch(self, commit: Commit[Any]) -> None:
        name = f"{commit.aggregate_id}/{commit.first_version}"
        self.tried.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.pause)
            if self.gate is not None and (not self.held or name in self.held):
                await self.gate.wait()
        finally:
            self.running -= 1
        failure = self.refuse.get(name) or self.refuse.get("*")
        if failure is not None:
            raise failure
        self.published.append(name)


def too_large() -> DispatchError:
    return DispatchError("a message is too large", unpublishable=True)


def broker_away() -> DispatchError:
    return DispatchError("the broker is away")


async def until(done: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not done():  # noqa: ASYNC110 - whatever is waited for
            await asyncio.sleep(0.002)
