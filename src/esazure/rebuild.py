"""`rebuild`: fills a new generation of a projection's views from the streams, while the old one serves.

    await rebuild(projection, store)

Nothing is missed although events are stored meanwhile. Whoever feeds views asks at least once a second which
generations there are, so two seconds after the announcement everybody feeds both, and only then are streams read. An
event that was stored before its stream was read is in what was read. One stored after is handled by somebody who knows
the new generation, where its consumer's position is 0, so the consumer hands over the stream from its beginning. Who
comes first does not matter: see `projection.py`. Two rebuilds at once do the same work twice, and meet at the end.

Consumer positions of the new generation are not written here: that would cost a write for each stream, where now a
consumer reads a stream once, when its next event arrives. Read `progress.py` next.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import inf
from typing import Any

from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot
from esazure.documents import IDocumentStore
from esazure.errors import CorruptStreamError
from esazure.events import CommitRecord
from esazure.generations import NOTICE, Generations
from esazure.ports import IStreamSource
from esazure.projection import Projection

__all__ = ["RebuildProgress", "RebuildReport", "rebuild"]

_log = logging.getLogger("esazure.rebuild")

SETTLE = 2 * NOTICE
"""Seconds after which everybody has noticed a change of the generations."""

CHECKPOINT_STREAMS, CHECKPOINT_SECONDS = 50, 5.0
"""After how many streams, or how long, each partition has a checkpoint written."""

_PROGRESS_SECONDS = 0.1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """How far a rebuild has come since it was called."""

    streams: int
    events: int
    """All events of these streams, whether the projection wants them or not."""
    partitions_done: int
    partitions: int
    """Each counts once for each aggregate class."""
    seconds: float


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a rebuild did."""

    name: str
    generation: int
    """The one that is read now."""
    resumed: bool
    """Whether it went on where an earlier one had been stopped, or only removed what that one had left."""
    streams: int
    """Without those the earlier one had done."""
    events: int
    seconds: float


async def rebuild(
    projection: Projection[Any],
    store: IStreamSource,
    *,
    concurrency: int = 8,
    fresh: bool = False,
    progress: Callable[[RebuildProgress], None] | None = None,
) -> RebuildReport:
    """Make all views of a projection anew from the events, and swap them for the old ones in one step.

    Readers see the old views to the last moment. Workers go on. Stopped at any moment, by an error or a kill, it goes
    on at its checkpoints when it is called again; what was done after a checkpoint is done again, and changes nothing.

    Args:
        projection: with every function registered, as in the workers.
        store: where its events are.
        concurrency: how many partitions are read at a time; where there are fewer, how many streams.
        fresh: throw away what an earlier call left unfinished: for when the projection's code has changed since.
        progress: called at most ten times a second, and at the end. It must be quick.

    Raises:
        CorruptStreamError, UnknownEventTypeError: a stream cannot be read.
        StoreError: the store or the documents failed; calling it again goes on.
        ValueError: `concurrency` is below 1, or the projection has no functions.
        Exception: what a function of the projection raises, with a note that names the stream. The old views stay.
    """
    if concurrency < 1 or not projection.interests:
        raise ValueError(f"{projection.name}: concurrency must be at least 1, and the projection needs its functions")
    return await _Rebuild(projection, store, concurrency, progress).run(fresh=fresh)


class _Rebuild:
    """One call."""

    def __init__(
        self,
        projection: Projection[Any],
        store: IStreamSource,
        concurrency: int,
        progress: Callable[[RebuildProgress], None] | None,
    ) -> None:
        self._projection = projection
        self._views = projection.views
        self._documents = projection.views.documents
        self._store = store
        self._progress = progress
        self._parts = list(product(projection.interests, store.partitions))
        self._parts_at_once = min(concurrency, len(self._parts))
        self._streams_at_once = concurrency // self._parts_at_once
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._told = -inf
        self._streams = self._events = self._parts_done = 0

    async def run(self, *, fresh: bool) -> RebuildReport:
        resumed = False

        def start(found: Generations) -> Generations:
            nonlocal resumed
            resumed = not fresh and (found.building is not None or found.dropping != ())
            return found if resumed else _started(found)

        self._tell()
        now = await self._views.generations.change(start)
        if resumed:
            _log.info("%s: an earlier rebuild goes on", self._views.name)
        while (generation := now.building) is not None:
            await asyncio.sleep(SETTLE)
            await self._fill(generation)
            now = await self._views.generations.change(partial(_swapped, filled=generation))
            if now.active >= generation:
                break
            # Another call has started over meanwhile: what this one has filled is not wanted, so it helps with that.
        if now.dropping:
            await asyncio.sleep(SETTLE)
            await self._drop(now)
        self._told = -inf
        self._tell()
        return RebuildReport(
            self._views.name, now.active, resumed, self._streams, self._events, self._clock() - self._began
        )

    async def _fill(self, generation: int) -> None:
        self._parts_done = 0
        await _each(self._parts, lambda part: self._fill_part(generation, *part), self._parts_at_once)

    async def _fill_part(self, generation: int, aggregate_class: type[AggregateRoot[Any, Any]], partition: str) -> None:
        """Every stream of one class in one partition that is behind the checkpoint."""
        aggregate_type = aggregate_class.aggregate_type
        checkpoint = _Checkpoint(self._documents, self._checkpoints(generation), f"{aggregate_type}/{partition}")
        after = await checkpoint.read()
        since, due = 0, self._clock() + CHECKPOINT_SECONDS
        some: list[Sequence[CommitRecord]] = []
        async for records in self._store.scan(partition, aggregate_type, after=after):
            some.append(records)
            if len(some) < self._streams_at_once:
                continue
            await self._replay(some, generation)
            since, after, some = since + len(some), records[0].stream, []
            if since >= CHECKPOINT_STREAMS or self._clock() >= due:
                await checkpoint.write(after)
                since, due = 0, self._clock() + CHECKPOINT_SECONDS
        if some:
            await self._replay(some, generation)
            since, after = since + len(some), some[-1][0].stream
        if since and after is not None:
            await checkpoint.write(after)
        self._parts_done += 1
        self._tell()

    async def _replay(self, streams: Sequence[Sequence[CommitRecord]], generation: int) -> None:
        async def replay(records: Sequence[CommitRecord]) -> None:
            try:
                await self._projection.replay(records, generation=generation)
            except Exception as error:
                error.add_note(f"while {self._views.name} was rebuilt from {records[0].stream}")
                raise
            self._streams += 1
            self._events += sum(record.count for record in records)
            self._tell()

        await _each(streams, replay, self._streams_at_once)

    async def _drop(self, now: Generations) -> None:
        """Remove what nobody reads any more."""
        for generation in now.dropping:
            await self._documents.clear_documents(self._views.collection(generation))
        for generation in (now.active, *now.dropping):
            await self._documents.clear_documents(self._checkpoints(generation))
        await self._views.generations.change(
            lambda found: found.model_copy(
                update={"dropping": tuple(left for left in found.dropping if left not in now.dropping)}
            )
        )

    def _checkpoints(self, generation: int) -> str:
        return f"rebuild-{self._views.collection(generation)}"

    def _tell(self) -> None:
        now = self._clock()
        if self._progress is not None and now >= self._told + _PROGRESS_SECONDS:
            self._told = now
            self._progress(
                RebuildProgress(self._streams, self._events, self._parts_done, len(self._parts), now - self._began)
            )


class _Checkpoint:
    """Up to which stream one class in one partition is done."""

    def __init__(self, documents: IDocumentStore, collection: str, key: str) -> None:
        self._documents = documents
        self._collection = collection
        self._key = key
        self._tag: str | None = None

    async def read(self) -> str | None:
        """The stream; None at the beginning."""
        document = await self._documents.read_document(self._collection, self._key)
        if document is None:
            self._tag = None
            return None
        self._tag = document.tag
        with suppress(ValueError, LookupError, TypeError):
            after: object = json.loads(document.text)["after"]
            if isinstance(after, str):
                return after
        raise CorruptStreamError(f"{self._collection}: the checkpoint {self._key} is damaged")

    async def write(self, after: str) -> None:
        """Note it, unless another rebuild has noted something here: then theirs stands until the next time."""
        text = json.dumps({"after": after})
        tag = await self._documents.write_document(self._collection, self._key, text, seen=self._tag)
        if tag is None:
            await self.read()
        else:
            self._tag = tag


def _started(found: Generations) -> Generations:
    """A generation that never was, to be filled; one that was begun is given up."""
    given_up = () if found.building is None else (found.building,)
    return found.model_copy(
        update={
            "building": max((found.active, *given_up, *found.dropping)) + 1,
            "dropping": (*found.dropping, *given_up),
        }
    )


def _swapped(found: Generations, *, filled: int) -> Generations:
    if found.building == filled:
        return Generations(active=filled, dropping=(*found.dropping, found.active))
    if filled in (found.active, *found.dropping):  # another rebuild was quicker
        return found
    return found.model_copy(update={"dropping": (*found.dropping, filled)})


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[None]], at_once: int) -> None:
    """Work on every item, some of them at a time. The first failure ends all, and is raised as it is."""
    left = iter(items)
    failure: BaseException | None = None

    async def some() -> None:
        for item in left:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(some())
    except BaseExceptionGroup as failures:
        failure = failures.exceptions[0]
    if failure is not None:
        raise failure
