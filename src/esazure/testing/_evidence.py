"""Whether what really reached a store and a broker is as promised. Read `_witness.py` next: who tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from esazure.documents import IDocumentStore
from esazure.errors import EsAzureError
from esazure.events import CommitRecord
from esazure.integration import IntegrationMessage
from esazure.keys import MAX_VERSION
from esazure.ports import ViewRecord
from esazure.repository import CommitStore
from esazure.testing._faulty import documents_of


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
        self._views: dict[str, Sequence[ViewRecord]] = {}
        self._forbidden: set[tuple[str, str]] = set()
        self._written: dict[tuple[str, str], list[str]] = {}
        self._gone: dict[tuple[str, str], list[str | None]] = {}
        self._out_of_sight: set[tuple[str, str]] = set()

    def inserting(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord]) -> None:
        """Somebody tries to store this."""
        self.streams[record.stream] = None
        self._views[record.commit_id] = views
        if outbox:
            self._with_outbox.add(record.commit_id)

    def inserted(self, record: CommitRecord) -> None:
        """The store says that it is stored."""
        self._acknowledged[record.commit_id] = record

    def conflicted(self, record: CommitRecord) -> None:
        """The store says that it is not, and never will be."""
        self._refused[record.commit_id] = record

    def forbade(self, stream: str, command_id: str) -> None:
        """The store says that no commit with this command id is there, or ever will be."""
        self._forbidden.add((stream, command_id))

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

    def wrote(self, collection: str, key: str, *, seen: str | None, tag: str | None) -> None:
        """The store says that the document with the tag `seen` (None: there was none) has the other one now.

        A `tag` of None: it was deleted.
        """
        document = collection, key
        self._gone.setdefault(document, []).append(seen)
        if tag is not None:
            self._written.setdefault(document, []).append(tag)

    def lost_sight(self, collection: str, key: str) -> None:
        """Nobody knows what became of a write."""
        self._out_of_sight.add((collection, key))

    def cleared(self, collection: str) -> None:
        """The store says that the collection is empty; who wrote at the same time may or may not have been first."""
        for document in [each for each in self._gone if each[0] == collection]:
            del self._gone[document]
            self._written.pop(document, None)

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
            found += self._wrong_commands(stream, stored)
            found += await self._wrong_views(stream, stored, store)
            found += self._wrong_publications(stream, stored)
            found += [f"{_name(record)} still has its outbox row after a sweep" for record in waiting]
        if self._gone:
            found += await self._wrong_documents(documents_of(store))
        return [*found, *self._changed, *_wrong_messages(messages)]

    def _wrong_answers(self, stream: str, stored: Sequence[CommitRecord]) -> Iterator[str]:
        times = Counter(record.commit_id for record in stored)
        for record in self._acknowledged.values():
            if record.stream == stream and times[record.commit_id] != 1:
                yield f"{_name(record)} was acknowledged, and is stored {times[record.commit_id]} times"
        for record in self._refused.values():
            if record.stream == stream and times[record.commit_id]:
                yield f"{_name(record)} was refused with a conflict, and is stored"

    def _wrong_commands(self, stream: str, stored: Sequence[CommitRecord]) -> Iterator[str]:
        seen: set[str] = set()
        for record in stored:
            if record.command_id is None:
                continue
            if record.command_id in seen:
                yield f"{_name(record)} has the command id of an earlier one"
            seen.add(record.command_id)
            if (stream, record.command_id) in self._forbidden:
                yield f"{_name(record)} has a command id that was forbidden"

    async def _wrong_views(self, stream: str, stored: Sequence[CommitRecord], store: CommitStore) -> list[str]:
        found: list[str] = []
        last = {view.name: view for record in stored for view in self._views.get(record.commit_id, ())}
        for name, view in last.items():
            kept = await store.read_view(stream, name)
            if kept is None or kept.version < view.version:
                found.append(f"{stream}: the view {name} is not that of version {view.version}")
            elif (kept.version, kept.shape) == (view.version, view.shape) and kept.text != view.text:
                found.append(f"{stream}: the view {name} is not what was stored with version {view.version}")
        return found

    async def _wrong_documents(self, documents: IDocumentStore) -> list[str]:
        found: list[str] = []
        for (collection, key), gone in self._gone.items():
            if (collection, key) in self._out_of_sight:
                continue
            name, written = f"{collection}/{key}", self._written.get((collection, key), [])
            twice = [tag for tag, times in Counter(gone).items() if tag is not None and times > 1]
            found += [f"{name}: two writes replaced the same text" for _ in twice]
            document = await documents.read_document(collection, key)
            tags = set(written) - set(gone)
            if tags != ({document.tag} if document is not None else set()):
                found.append(f"{name} is not what was written last")
        return found

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
