"""Query models: pydantic models by key, written by projections and read by whoever serves them.

Every view remembers which version of each stream it has seen, in the same document, so an older result never replaces a
newer one, and a repeat changes nothing. `generations.py` has what a rebuild needs. Read `projection.py` next.
"""

from __future__ import annotations

import asyncio
import json
import re
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from random import uniform
from typing import Any, Generic, Protocol
from uuid import UUID

from pydantic import BaseModel, ValidationError, create_model
from typing_extensions import TypeVar

from esazure.aggregate import id_text
from esazure.documents import IDocumentStore, check_page
from esazure.errors import (
    CorruptStreamError,
    EventNotStorableError,
    RetryLaterError,
    ViewBehindError,
    ViewOutdatedError,
)
from esazure.generations import GenerationPointer
from esazure.keys import MAX_STREAM_NAME, split_stream_name
from esazure.proof import prove

__all__ = ["IViews", "Page", "Views", "parse_token"]

V = TypeVar("V", bound=BaseModel)
Key = str | UUID
Change = Callable[[V | None], V | Awaitable[V | None] | None]
"""From the view as it is (None: there is none) to what it shall be (None: none any more)."""

_NAME = re.compile(r"(?!positions-|parked-|rebuild-|unique-)[a-z][a-z0-9_-]{0,79}")
_TOKEN = re.compile(rf"([^@]{{1,{MAX_STREAM_NAME}}})@([1-9][0-9]{{0,9}})")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
_PATIENCE = 30.0  # seconds of meeting other writers, one after the other


@dataclass(frozen=True, slots=True)
class Page(Generic[V]):
    """Some views of a listing."""

    views: Sequence[V]
    next: str | None
    """Give it as `after` to get the next page; None after the last."""


class IViews(Protocol[V]):
    """The views of one model."""

    @abstractmethod
    async def get(self, key: Key) -> V | None:
        """The view, or None.

        Raises:
            ViewOutdatedError: it was stored by code whose model had another shape.
            StoreError: the store could not be read.
        """
        raise NotImplementedError

    @abstractmethod
    async def list(self, *, after: str | None = None, limit: int = 100) -> Page[V]:
        """A page of 1 to 1,000 views, in a stable order that means nothing.

        Raises:
            ValueError: `limit` is out of range, or `after` is not what a page gave.
            ViewOutdatedError, StoreError: as for `get`.
        """
        raise NotImplementedError

    @abstractmethod
    async def wait_for(self, key: Key, token: str, *, timeout: float = 5.0) -> V | None:  # noqa: ASYNC109 - it gets an error of its own
        """The view once it shows what `token` (`Commit.token`) stands for, so that a writer reads its own write.

        None when the view was deleted by then.

        Raises:
            ValueError: not a token, or a `timeout` (in seconds) that is not above 0.
            ViewBehindError: it did not in time.
            ViewOutdatedError, StoreError: as for `get`.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Row(Generic[V]):
    """What one document says."""

    sources: Mapping[str, int]
    view: V | None
    tag: str | None


class Views(IViews[V], Generic[V]):
    """Views kept as documents; made by a store's `views`.

    Keep one for as long as the process lives: it remembers for a second which generation is the active one. A view
    remembers the version of every stream that feeds it, some 60 bytes for each, so let tens or hundreds of streams feed
    a view, not all there are.
    """

    def __init__(self, model: type[V], documents: IDocumentStore, *, name: str | None = None) -> None:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise TypeError(f"a view is a pydantic model, not {model!r}")
        self.name = model.__name__.lower() if name is None else name
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(
                "views have a name of 1 to 80 of a-z, 0-9, - and _, beginning with a letter and not with positions-, "
                f"parked-, rebuild- or unique-, not {self.name[:100]!r}"
            )
        self.documents = documents
        self._model = model
        shape: Any = model | None
        row = create_model("Row", sources=(dict[str, int], ...), view=(shape, ...))
        self._validate: Callable[[str], Any] = row.__pydantic_validator__.validate_json
        self.generations = GenerationPointer(documents, self.name)

    async def get(self, key: Key) -> V | None:
        """See `IViews.get`. One point read, and another one once a second."""
        return (await self._read(key_text(key))).view

    async def list(self, *, after: str | None = None, limit: int = 100) -> Page[V]:
        """See `IViews.list`."""
        check_page(limit)
        found: dict[str, V] = {}
        while True:
            active = (await self.generations.get()).active
            page = await self.documents.list_documents(self.collection(active), after=after, limit=limit - len(found))
            if (await self.generations.get()).active != active:
                continue  # see _read
            rows = [(document.key, self._row(active, document.text, document.tag).view) for document in page.documents]
            found.update((key, view) for key, view in rows if view is not None)
            after = page.next
            if after is None or len(found) >= limit:
                return Page(tuple(found.values()), after)

    async def wait_for(self, key: Key, token: str, *, timeout: float = 5.0) -> V | None:  # noqa: ASYNC109 - it gets an error of its own
        """See `IViews.wait_for`. Looks at once, and then with growing pauses of 10 to 250 milliseconds.

        A view shows the version of the last event that changed it. With `Projection.fold`, wait for commits whose last
        event is one of those folded into this view; with `Projection.reload`, for any commit of the class.
        """
        text = key_text(key)
        stream, version = _parsed(token)
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {timeout}")
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(timeout):
                while (row := await self._read(text)).sources.get(stream, 0) < version:
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, _LONGEST_PAUSE / 2)
        except TimeoutError:
            raise ViewBehindError(
                f"{self.name}: the view did not show version {version} of {stream} within {timeout:g} s: "
                "ask again, and look whether its projection runs and folds this event"
            ) from None
        return row.view

    async def update(
        self, key: Key, stream: str, version: int, change: Change[V], *, generation: int | None = None
    ) -> bool:
        """Show version `version` of a stream in this view, unless it shows that or more already.

        `change` gets the view as it is (None: there is none) and returns what it shall be (None: none any more). It may
        be async. It is called again when another writer was quicker. Without a `generation`, the active one is meant.
        Returns whether something was written.

        Raises:
            EventNotStorableError: the view would not come back as it is, or is not of the model.
            InvalidIdError, CommitTooLargeError: over the limits of a document.
            RetryLaterError: others have changed this view for 30 seconds without a pause.
            ViewOutdatedError, StoreError: as for `get`. After StoreUnavailableError it may be written or not; doing it
                again is safe.
            Exception: what `change` raises; nothing was written.
        """
        if generation is None:
            generation = (await self.generations.get()).active
        return await self.advance(key, stream, [(version, change)], generation=generation)

    async def advance(
        self,
        key: Key,
        stream: str,
        changes: Sequence[tuple[int, Change[V]]],
        *,
        generation: int,
        likely_new: bool = False,
    ) -> bool:
        """Apply the changes, given in the order of their versions, whose version this view does not show yet.

        In one write, with the promises of `update`. When it is `likely_new`, it is written without a look; should it be
        there after all, that costs a request, and nothing else.
        """
        text, collection = key_text(key), self.collection(generation)
        clock = asyncio.get_running_loop().time
        patience, pause = clock() + _PATIENCE, _FIRST_PAUSE
        row: _Row[V] | None = _Row({}, None, None) if likely_new else None
        while True:
            row = row or await self._row_of(generation, text)
            due = [change for version, change in changes if version > row.sources.get(stream, 0)]
            if not due:
                return False
            view = row.view
            for change in due:
                changed = change(view)
                view = await changed if isawaitable(changed) else changed
            document = self._text({**row.sources, stream: changes[-1][0]}, view)
            # The sources are in the same document, and only the document that was read is replaced. So whatever this
            # view has learned meanwhile is looked at again before anything is written.
            if await self.documents.write_document(collection, text, document, seen=row.tag) is not None:
                return True
            if clock() >= patience:
                raise RetryLaterError(f"{collection}: a view has been changed by others for {_PATIENCE:g} s")
            await asyncio.sleep(uniform(0, pause))  # noqa: S311 - not a secret
            row, pause = None, min(pause * 2, _LONGEST_PAUSE)

    def collection(self, generation: int) -> str:
        """Where the documents of a generation are."""
        return f"{self.name}-g{generation}"

    async def _read(self, key: str) -> _Row[V]:
        """The row in the active generation."""
        while True:
            active = (await self.generations.get()).active
            row = await self._row_of(active, key)
            # An answer that took its time may be from a generation that was dropped meanwhile. Nothing is dropped that
            # somebody may still take for the active one, so looking there again, afterwards, is enough to know.
            if row.tag is not None or (await self.generations.get()).active == active:
                return row

    async def _row_of(self, generation: int, key: str) -> _Row[V]:
        document = await self.documents.read_document(self.collection(generation), key)
        return _Row({}, None, None) if document is None else self._row(generation, document.text, document.tag)

    def _row(self, generation: int, text: str, tag: str) -> _Row[V]:
        wrong: list[Any] = []
        try:
            found = self._validate(text)
            return _Row(found.sources, found.view, tag)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False, include_context=False)
        except Exception:  # noqa: BLE001, S110 - a validator of the model's own may raise anything
            pass
        # Outside the handlers, so that no exception which holds the view is chained. Nor is the key named: it may be
        # somebody's name. Of the fields only the declared ones are named: others are input.
        where = self.collection(generation)
        if any(each["loc"][:1] != ("view",) or (len(each["loc"]) == 1 and each["type"] == "missing") for each in wrong):
            raise CorruptStreamError(f"{where}: the document of a view is damaged")
        fields = {each["loc"][1] for each in wrong if len(each["loc"]) > 1} & self._model.model_fields.keys()
        names = f" ({', '.join(sorted(fields))})" if fields else ""
        raise ViewOutdatedError(
            f"{where}: a stored view does not fit {self._model.__name__} any more{names}: "
            "give the views of the changed model a new name, and rebuild them"
        )

    def _text(self, sources: Mapping[str, int], view: V | None) -> str:
        """The document; the view in it is proved like an event."""
        if view is None:
            proved: tuple[str, object] | str = ("null", None)
        elif type(view) is self._model:
            proved = prove(view)
        else:
            proved = f"{type(view).__name__} is not {self._model.__name__}"
        if isinstance(proved, str):
            raise EventNotStorableError(f"{self.name}: a view cannot be stored: {proved}")
        return f'{{"sources":{json.dumps(dict(sources), separators=(",", ":"))},"view":{proved[0]}}}'


def key_text(key: Key) -> str:
    """A key as it is stored.

    Raises:
        TypeError: neither text nor a UUID.
    """
    if not isinstance(key, str | UUID):
        raise TypeError(f"the key of a view is a str or a UUID, not {type(key).__name__}")
    return id_text(key)


def parse_token(token: str) -> tuple[str, str, int]:
    """The aggregate type, the aggregate id and the version that a `Commit.token` stands for.

    For whoever gets tokens from outside, to refuse those of streams that never feed the view asked.

    Raises:
        ValueError: not a token.
    """
    stream, version = _parsed(token)
    return *split_stream_name(stream), version


def _parsed(token: str) -> tuple[str, int]:
    """The stream and the version of a `Commit.token`; whoever asks may have got it from anywhere."""
    parts = _TOKEN.fullmatch(token)
    try:
        if parts is not None and split_stream_name(parts[1]):
            return parts[1], int(parts[2])
    except ValueError:  # which holds the token
        pass
    raise ValueError("this is not the token of a commit")
