"""What really reached a store and a broker, and whether that is as promised.

Sits below the faults, so it sees what was carried out and not what the caller heard. Read `faults.py` next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

from esazure.errors import ConcurrencyError, EsAzureError
from esazure.events import Commit, CommitRecord
from esazure.integration import IntegrationMessage
from esazure.keys import MAX_VERSION
from esazure.ports import IEventProducer, IOutboxStore, Lease, Swept
from esazure.repository import CommitStore
from esazure.testing._points import outbox_of


class Witness:
    """Notes what one store and one broker were asked and what they answered."""

    def __init__(self) -> None:
        self.streams: dict[str, None] = {}
        """Those that were written to, in order."""
        self._with_outbox: set[str] = set()
        self._acknowledged: dict[str, CommitRecord] = {}
        self._refused: dict[str, CommitRecord] = {}
        self._set_aside: set[str] = set()
        self._published: list[CommitRecord] = []
        self._seen: dict[tuple[str, int], CommitRecord] = {}
        self._changed: list[str] = []

    def inserting(self, record: CommitRecord, *, outbox: bool) -> None:
        """Somebody tries to store this."""
        self.streams[record.stream] = None
        if outbox:
            self._with_outbox.add(record.commit_id)

    def inserted(self, record: CommitRecord) -> None:
        """The store says that it is stored."""
        self._acknowledged[record.commit_id] = record

    def conflicted(self, record: CommitRecord) -> None:
        """The store says that it is not, and never will be."""
        self._refused[record.commit_id] = record

    def set_aside(self, record: CommitRecord) -> None:
        """The store says that it is in quarantine."""
        self._set_aside.add(record.commit_id)

    def published(self, record: CommitRecord) -> None:
        """The broker says that it has it."""
        self._published.append(record)

    def read(self, records: Iterable[CommitRecord]) -> None:
        """The store says that these are there."""
        for record in records:
            if self._seen.setdefault((record.stream, record.first_version), record) != record:
                self._changed.append(f"{_name(record)} is not what was read there before")

    async def violations(self, store: CommitStore, messages: Sequence[IntegrationMessage]) -> list[str]:
        """Every broken promise, once everything has settled and the outbox was swept."""
        found: list[str] = []
        for stream in self.streams:
            try:
                stored = await store.read(stream)
                waiting = await store.unpublished(stream, before_version=MAX_VERSION)
            except EsAzureError as error:
                found.append(f"{stream} cannot be read: {type(error).__name__}: {error}")
                continue
            self.read(stored)
            found += _gaps(stored)
            found += self._wrong_answers(stream, stored)
            found += self._wrong_publications(stream, stored)
            found += [f"{_name(record)} still has its outbox row after a sweep" for record in waiting]
        return [*found, *self._changed, *_wrong_messages(messages)]

    def _wrong_answers(self, stream: str, stored: Sequence[CommitRecord]) -> Iterator[str]:
        times = Counter(record.commit_id for record in stored)
        for record in self._acknowledged.values():
            if record.stream == stream and times[record.commit_id] != 1:
                yield f"{_name(record)} was acknowledged, and is stored {times[record.commit_id]} times"
        for record in self._refused.values():
            if record.stream == stream and times[record.commit_id]:
                yield f"{_name(record)} was refused with a conflict, and is stored"

    def _wrong_publications(self, stream: str, stored: Sequence[CommitRecord]) -> Iterator[str]:
        firsts = {record.commit_id: record for record in reversed(self._published) if record.stream == stream}
        in_order = [
            firsts[each] for each in dict.fromkeys(record.commit_id for record in self._published) if each in firsts
        ]
        owed = [record for record in stored if record.commit_id in self._with_outbox - self._set_aside]
        for record in owed:
            if record.commit_id not in firsts:
                yield f"{_name(record)} is stored with an outbox row, and was never published"
        last = 0
        for record in in_order:
            if record not in stored:
                yield f"{_name(record)} was published, and is not stored"
            elif record.commit_id in self._with_outbox:
                if record.first_version <= last:
                    yield f"{_name(record)} was first published after version {last}"
                last = max(last, record.last_version)


def _gaps(stored: Sequence[CommitRecord]) -> Iterator[str]:
    version = 0
    for record in stored:
        if record.first_version != version + 1:
            yield f"{record.stream}: after version {version} comes {record.first_version}"
        version = record.last_version


def _wrong_messages(messages: Sequence[IntegrationMessage]) -> Iterator[str]:
    by_event: dict[tuple[str, str, str], IntegrationMessage] = {}
    by_id: dict[str, IntegrationMessage] = {}
    for message in messages:
        properties = message.properties
        event = properties["aggregate_type"], properties["aggregate"], properties["version"]
        name = f"the message of {'.'.join(event[:2])} at version {event[2]}"
        if by_event.setdefault(event, message) != message:
            yield f"{name} was sent in two forms"
        elif by_id.setdefault(message.message_id, message) != message:
            yield f"{name} has the id of another event's message"


def _name(record: CommitRecord) -> str:
    return f"{record.stream}: the commit at version {record.first_version}"


class WitnessedStore(CommitStore, IOutboxStore):
    """A store that tells a witness."""

    def __init__(self, store: CommitStore, witness: Witness) -> None:
        self.clock = store.clock
        self._store = store
        self._witness = witness

    @property
    def store_id(self) -> UUID:
        """The store's."""
        return self._store.store_id

    @property
    def partitions(self) -> Sequence[str]:
        """The store's."""
        return outbox_of(self._store).partitions

    async def insert(self, record: CommitRecord, *, outbox: bool) -> None:
        """Noted before and after."""
        self._witness.inserting(record, outbox=outbox)
        try:
            await self._store.insert(record, outbox=outbox)
        except ConcurrencyError:
            self._witness.conflicted(record)
            raise
        self._witness.inserted(record)

    async def read(self, stream: str, *, to_version: int | None = None) -> Sequence[CommitRecord]:
        """Noted."""
        records = await self._store.read(stream, to_version=to_version)
        self._witness.read(records)
        return records

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        """Noted."""
        records = await self._store.unpublished(stream, before_version=before_version, limit=limit)
        self._witness.read(records)
        return records

    async def mark_published(self, record: CommitRecord) -> bool:
        """Passed on."""
        return await self._store.mark_published(record)

    async def sweep(self, partition: str) -> Swept:
        """Passed on."""
        return await outbox_of(self._store).sweep(partition)

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """Passed on."""
        return await outbox_of(self._store).write_lease(partition, seen, owner=owner, epoch=epoch)

    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """Noted."""
        await outbox_of(self._store).set_aside(record, reason)
        self._witness.set_aside(record)


class WitnessedProducer(IEventProducer):
    """A producer that tells a witness."""

    def __init__(self, producer: IEventProducer, witness: Witness) -> None:
        self._producer = producer
        self._witness = witness

    def check(self, commit: Commit[Any]) -> None:
        """Passed on."""
        self._producer.check(commit)

    async def dispatch(self, commit: Commit[Any]) -> None:
        """Noted."""
        await self._producer.dispatch(commit)
        self._witness.published(commit.record)
