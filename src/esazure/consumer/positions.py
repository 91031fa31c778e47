"""How far each handler has come in each stream, and where it is stuck: one document a stream.

A position never goes back, whoever writes at the same time: two versions of a document are merged by the larger number,
and a handler is parked only as long as its position is before the version it is parked at. Read `decoding.py` next.
"""

from __future__ import annotations

import json
import logging
from asyncio import sleep
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from random import uniform
from typing import Any

from esazure.documents import Document, IDocumentStore
from esazure.errors import CorruptStreamError, PoisonMessageError, RetryLaterError, StoreError, StoreUnavailableError
from esazure.keys import MAX_STREAM_NAME, encode_part

_LONGEST_PAUSE = 0.05  # seconds, after another writer was quicker
_REASON_CHARACTERS = 1_000
_PAGE = 100

_log = logging.getLogger("esazure.consumer")


@dataclass(frozen=True, slots=True)
class ParkedStream:
    """A handler is stuck in a stream; it goes on with the others."""

    handler: str
    stream: str
    version: int
    """The first one it has not got past."""
    reason: str
    """Which error; never a payload."""


@dataclass(slots=True)
class Place:
    """Where all handlers stand in one stream, as far as one worker knows."""

    stream: str
    tag: str | None = None
    """Of the document it was read from; None when there was none."""
    positions: dict[str, int] = field(default_factory=dict[str, int])
    """The last version each handler is done with."""
    parked: dict[str, ParkedStream] = field(default_factory=dict[str, ParkedStream])
    unsaved: bool = False
    """Whether something that must not be done again is not in the document yet."""
    changed: set[str] = field(default_factory=set[str])
    """Handlers that were parked, or went on, since the document was read."""
    strangers: set[str] = field(default_factory=set[str])
    """Handlers that are not at work here: of these the document knows best, and they may be forgotten."""
    message: int = 0
    """The version of the message in hand. What follows is about that one, and is never stored."""
    tries: dict[str, int] = field(default_factory=dict[str, int])
    """How often each handler has failed."""
    owed: dict[str, str] = field(default_factory=dict[str, str])
    """Why handlers are parked since this message, which has to be set aside once nobody else waits for it."""

    def meet(self, handlers: Iterable[str]) -> None:
        """These are at work here, and no others."""
        self.strangers = {*self.positions, *self.parked}.difference(handlers)

    def begin(self, message: int) -> None:
        """A message is in hand: maybe the same one, which had to wait."""
        if message != self.message:
            self.end()
            self.message = message

    def end(self) -> list[str]:
        """No handler waits for the message any more. Returns why it has to be set aside, if it has."""
        why = [said for handler, said in self.owed.items() if handler in self.parked]
        self.message = 0
        self.tries.clear()
        self.owed.clear()
        return why

    def failed(self, handler: str, attempt: int) -> int:
        """A handler failed, at this attempt. Returns how often so far: while others wait, attempts are not counted."""
        self.tries[handler] = max(attempt, self.tries.get(handler, 0) + 1)
        return self.tries[handler]

    def reach(self, handler: str, version: int) -> bool:
        """The handler is done with this version, and with all before it. Whether it was not before."""
        is_further = version > self.positions.get(handler, 0)
        if is_further:
            self.positions[handler] = version
        parked = self.parked.get(handler)
        if parked is not None and version >= parked.version:
            del self.parked[handler]
            self.changed.add(handler)
            self.unsaved = True
        return is_further

    def park(self, handler: str, version: int, reason: str) -> None:
        """The handler cannot get past this version."""
        parked = ParkedStream(handler, self.stream, version, reason[:_REASON_CHARACTERS])
        if self.parked.get(handler) != parked:
            self.parked[handler] = parked
            self.changed.add(handler)
            self.unsaved = True

    def merge(self, other: Place) -> None:
        """Take over what another worker has written meanwhile."""
        self.tag = other.tag
        for handler in self.strangers:
            self.positions.pop(handler, None)
            self.parked.pop(handler, None)
        for handler, parked in other.parked.items():
            mine = self.parked.get(handler)
            if mine is None or mine.version < parked.version:
                self.parked[handler] = parked
        for handler in {*self.positions, *other.positions}:
            self.reach(handler, max(self.positions.get(handler, 0), other.positions.get(handler, 0)))


class Positions:
    """Those of one consumer. Without documents, nothing is remembered for longer than a `Place` lives."""

    def __init__(self, consumer: str, documents: IDocumentStore | None) -> None:
        self._documents = documents
        self._collection = f"positions-{consumer}"
        self._parked = f"parked-{consumer}"

    @property
    def durable(self) -> bool:
        """Whether a handler that has no position has never seen the stream."""
        return self._documents is not None

    async def load(self, stream: str) -> Place:
        """Where the handlers stand.

        Raises:
            PoisonMessageError: the document is damaged.
            StoreUnavailableError, RetryLaterError: it cannot be read now.
        """
        if self._documents is None:
            return Place(stream)
        with _translated():
            document = await self._documents.read_document(self._collection, _key(stream))
        if document is None:
            return Place(stream)
        place = _place(stream, document)
        if place is None:
            raise PoisonMessageError("PositionsDamaged", f"{stream}: the document of its positions is damaged")
        return place

    async def refresh(self, place: Place) -> None:
        """Learn what others have written since the place was loaded.

        Raises:
            PoisonMessageError, StoreUnavailableError, RetryLaterError: see `load`.
        """
        if self._documents is not None:
            place.merge(await self.load(place.stream))

    async def save(self, place: Place) -> None:
        """Store the place, merged with what others have written meanwhile.

        Raises:
            PoisonMessageError, StoreUnavailableError, RetryLaterError: nobody knows whether it is stored; the place
                stays unsaved.
        """
        if self._documents is None:
            place.unsaved = False
            return
        with _translated():
            # What is parked is listed first and struck off last, so that the list never lacks anything.
            for handler in sorted(place.changed & place.parked.keys()):
                await self._list(self._documents, place.parked[handler])
            while (tag := await self._write(self._documents, place)) is None:
                await sleep(uniform(0, _LONGEST_PAUSE))  # noqa: S311 - not a secret
                await self.refresh(place)
            place.tag, place.unsaved = tag, False
            for handler in sorted(place.changed - place.parked.keys()):
                await self._strike_off(self._documents, handler, place.stream, up_to=place.positions.get(handler, 0))
        place.changed.clear()

    async def forget(self, handler: str, stream: str) -> None:
        """Keep nothing of a handler in a stream.

        Raises:
            PoisonMessageError, StoreUnavailableError, RetryLaterError: see `load`.
        """
        documents = self._documents
        while documents is not None:
            place = await self.load(stream)
            if handler not in place.positions and handler not in place.parked:
                break
            place.positions.pop(handler, None)
            place.parked.pop(handler, None)
            with _translated():
                if await self._write(documents, place) is not None:
                    break
                await sleep(uniform(0, _LONGEST_PAUSE))  # noqa: S311 - not a secret
        if documents is not None:
            with _translated():
                await self._strike_off(documents, handler, stream, up_to=None)

    async def parked(self, limit: int) -> list[ParkedStream]:
        """At most `limit` of what is parked.

        Raises:
            PoisonMessageError, StoreUnavailableError, RetryLaterError: see `load`.
        """
        found: list[ParkedStream] = []
        after: str | None = None
        while self._documents is not None:
            with _translated():
                page = await self._documents.list_documents(self._parked, after=after, limit=_PAGE)
            for document in page.documents:
                listed = _parked(document.text)
                if listed is None:
                    _log.error("%s: a document of this collection is damaged", self._parked)
                    continue
                # The list is only where to look; the stream's own document decides.
                parked = (await self.load(listed.stream)).parked.get(listed.handler)
                if parked is not None:
                    found.append(parked)
                if len(found) >= limit:
                    return found
            if page.next is None:
                break
            after = page.next
        return found

    async def _write(self, documents: IDocumentStore, place: Place) -> str | None:
        text = json.dumps(
            {
                "positions": place.positions,
                "parked": {name: [parked.version, parked.reason] for name, parked in place.parked.items()},
            },
            separators=(",", ":"),
        )
        return await documents.write_document(self._collection, _key(place.stream), text, seen=place.tag)

    async def _list(self, documents: IDocumentStore, parked: ParkedStream) -> None:
        key, text, seen = _key(f"{parked.handler}/{parked.stream}"), json.dumps(asdict(parked)), None
        while await documents.write_document(self._parked, key, text, seen=seen) is None:
            await sleep(uniform(0, _LONGEST_PAUSE) if seen else 0)  # noqa: S311 - not a secret
            document = await documents.read_document(self._parked, key)
            seen = None if document is None else document.tag

    async def _strike_off(self, documents: IDocumentStore, handler: str, stream: str, *, up_to: int | None) -> None:
        document = await documents.read_document(self._parked, _key(f"{handler}/{stream}"))
        if document is not None:
            listed = _parked(document.text)
            # Another worker may have parked it again, further on.
            if listed is None or up_to is None or listed.version <= up_to:
                # A late copy may list it again: the list is only where to look.
                await documents.delete_document(self._parked, document.key, seen=document.tag, erase=True)


@contextmanager
def _translated() -> Iterator[None]:
    """A store that refuses is no failure of a message: it waits. A document that is damaged will stay so."""
    try:
        yield
    except StoreUnavailableError:
        raise
    except StoreError as error:
        raise RetryLaterError(str(error)) from error
    except CorruptStreamError as error:
        raise PoisonMessageError("PositionsDamaged", str(error)) from error


def _key(text: str) -> str:
    """The text, or its hash when it is too long for a document's key."""
    return text if len(encode_part(text)) <= MAX_STREAM_NAME else sha256(text.encode()).hexdigest()


def _place(stream: str, document: Document) -> Place | None:
    """What a document says; None when it cannot be what was written."""
    found = _object(document.text)
    positions, parked = found.get("positions"), found.get("parked")
    if not isinstance(positions, dict) or not isinstance(parked, dict) or len(found) != len(("positions", "parked")):
        return None
    place = Place(stream, document.tag)
    for handler, version in positions.items():
        if type(version) is not int:
            return None
        place.positions[handler] = version
    for handler, stuck in parked.items():
        match stuck:
            case [int(version), str(reason)]:
                place.parked[handler] = ParkedStream(handler, stream, version, reason)
            case _:
                return None
    return place


def _parked(text: str) -> ParkedStream | None:
    match _object(text):
        case {"handler": str(handler), "stream": str(stream), "version": int(version), "reason": str(reason)}:
            return ParkedStream(handler, stream, version, reason)
        case _:
            return None


def _object(text: str) -> dict[str, Any]:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}
