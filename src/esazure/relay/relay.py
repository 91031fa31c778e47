"""`OutboxRelay`: sweeps the partitions of a store and publishes what is due, stream by stream.

Any number of relays may work on one store. Leases keep them out of each other's way, which saves work; that nothing is
lost and everything is in order does not depend on them. `ports.py` has what a store must offer. When a commit cannot be
published its stream waits, and nobody else. Read `leases.py` next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import groupby
from random import SystemRandom
from typing import Any, Literal

from esazure.aggregate import AggregateRoot
from esazure.errors import DispatchError, EsAzureError, StoreError, StoreUnavailableError
from esazure.events import Commit
from esazure.keys import encode_part
from esazure.ports import IEventProducer, IOutbox, IOutboxStore, OutboxRow
from esazure.relay.leases import Leases, Turn
from esazure.repository import CommitStore, EventsRepository

__all__ = ["Alert", "OutboxRelay", "RelayMetrics"]

_log = logging.getLogger("esazure.relay")
_random = SystemRandom()

BATCH = 32
"""Commits of a stream that are held in memory at a time."""

PAGE = 1_000
"""Outbox rows that are read at a time."""

TRIES = 3
"""Failures of a producer in a row after which it is left alone until the next sweep: its broker seems to be away."""


@dataclass(slots=True)
class RelayMetrics:
    """What an operator wants to know: plain numbers, to be read whenever and handed to any metrics library."""

    sweeps: int = 0
    """How often this relay has been through all partitions. When it stands still, so do the other numbers."""
    oldest_age: float = 0.0
    """Seconds the oldest outbox row had waited, by the store's clock, when its partition was last read. The one to
    alert on."""
    pending: int = 0
    """Outbox rows, when their partitions were last read; of a class that cannot be published now, up to 1,000 each."""
    published: int = 0
    """Commits this relay has published since it was made."""
    repeated: int = 0
    """Of these, how many somebody else had published meanwhile: consumers drop the repeat."""
    failed: int = 0
    """Attempts that failed; what they were for still waits."""
    quarantined: int = 0
    """Commits set aside as unpublishable."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A commit that cannot be published, however often it is tried, or the first one of a class without a producer."""

    stream: str
    first_version: int
    reason: str
    """Which error, and what it says; never a payload."""
    set_aside: bool
    """Whether the stream goes on without it. Otherwise it waits for somebody to act."""


class OutboxRelay:
    """Publishes what waits in the outbox of one store.

    Typically::

        relay = OutboxRelay(store, {Customer: bus.producer("customers"), Account: bus.producer("accounts")})
        await relay.run()         # a task of the service, or a process of its own; until `stop` or cancelled
        await relay.run_once()    # a timer trigger

    What it was not told how to publish stays where it is and is reported.
    """

    def __init__(
        self,
        store: IOutboxStore,
        producers: Mapping[type[AggregateRoot[Any, Any]], IEventProducer],
        *,
        interval: float = 15.0,
        grace: float = 10.0,
        lease: float = 60.0,
        concurrency: int = 8,
        attempts: int = 5,
        poison: Literal["block", "skip"] = "block",
        alert: Callable[[Alert], None] | None = None,
    ) -> None:
        """Say what goes where.

        Args:
            store: whose outbox.
            producers: where the events of each aggregate class go.
            interval: seconds between the sweeps of `run`, give or take a fifth.
            grace: seconds, by the store's clock, for which a row is left to the process that wrote it.
            lease: seconds after which a partition is taken over from a relay that went silent. A relay works on one
                for half of that at most, then it is the turn of others; a dispatch that outlasts it is cut off.
            concurrency: how many partitions are swept at a time.
            attempts: how often a commit that can never be published (`DispatchError.unpublishable`) is tried before its
                alert.
            poison: what happens to it then: it can `block` its stream until somebody acts, or the relay can `skip` it,
                which sets it aside (it is not lost) and goes on with the next.
            alert: called once for each such commit, and for whatever else waits until somebody acts, besides an error
                in the log.

        Raises:
            ValueError: a number below what makes sense, two classes that are stored under one name, or a class whose
                commits leave no outbox row.
        """
        if min(interval, lease) <= 0 or grace < 0 or min(concurrency, attempts) < 1:
            raise ValueError("interval and lease must be above 0 seconds, grace at least 0, the others at least 1")
        self.metrics = RelayMetrics()
        self._store = store
        self._routes: dict[str, _Route] = {}
        for aggregate_class, producer in producers.items():
            name = encode_part(aggregate_class.aggregate_type)
            if name in self._routes:
                raise ValueError(f"two classes are stored as {aggregate_class.aggregate_type}: give one of them")
            if isinstance(store, CommitStore):
                store.note_awaited(aggregate_class)
            outbox = EventsRepository(aggregate_class, store).outbox
            assert outbox is not None  # noqa: S101 - it is, unless it is made without
            self._routes[name] = _Route(outbox, producer)
        self._interval = interval
        self._grace = grace
        self._concurrency = concurrency
        self._attempts = attempts
        self._poison = poison
        self._alert = alert
        self._leases = Leases(store, lease)
        self._stopping: Callable[[], None] | None = None
        self._stopped = False
        # Entries for partitions, for what waits in them, and for aggregate classes: none of these grows without end.
        self._waiting: dict[str, tuple[int, float]] = {}
        self._troubles: dict[str, dict[tuple[str, int], _Trouble]] = {}
        self._unfinished: dict[str, tuple[str, int]] = {}
        self._ran_out_of_time = False
        self._without_route: set[str] = set()

    async def run(self) -> None:
        """Sweep at once and then every `interval`, until `stop`. Failures are logged and tried again, never raised.

        Raises:
            StoreError: the store is not open.
        """
        wake = asyncio.Event()
        self._stopping = wake.set
        while not self._stopped:
            await self.run_once()
            pause = self._interval * _random.uniform(0.8, 1.2)  # so that relays started together drift apart
            try:
                async with asyncio.timeout(pause):
                    await wake.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        """Let `run` return after the commits under way; what still waits stays in the outbox. For good."""
        self._stopped = True
        if self._stopping is not None:
            self._stopping()

    async def run_once(self) -> RelayMetrics:
        """One sweep over all partitions, in random order. Returns `metrics`.

        A partition that cannot be swept, or a stream that cannot be published, is logged and left for the next time.

        Raises:
            StoreError: the store is not open.
        """
        partitions = list(self._store.partitions)
        _random.shuffle(partitions)
        for route in self._routes.values():
            route.failures = 0
        remaining = iter(partitions)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._concurrency, len(partitions))):
                group.create_task(self._sweep_all(remaining))
        if not self._stopped:
            self.metrics.sweeps += 1
        return self.metrics

    async def _sweep_all(self, remaining: Iterator[str]) -> None:
        """One of `concurrency` that share the work: each takes the next partition from the same iterator."""
        for partition in remaining:
            if self._stopped:
                return
            try:
                await self._sweep(partition)
            except Exception as error:  # noqa: BLE001 - the others must go on, whatever a store or a producer raises
                self.metrics.failed += 1
                _log.warning("partition %s could not be swept: %s", partition, _said(error))

    async def _sweep(self, partition: str) -> None:
        """Publish what is due in one partition, page by page, for as long as it is this relay's turn."""
        swept = await self._store.sweep(partition, limit=PAGE)
        lease = swept.lease
        self._leases.note(partition, lease)
        after = self._unfinished.pop(partition, None)
        if after is not None:
            swept = await self._store.sweep(partition, after=after, limit=PAGE)
        sweep = _Sweep(is_whole=after is None)
        async with AsyncExitStack() as stack:
            turn: Turn | None = None
            while True:
                self._note(partition, sweep, swept.rows)
                due = self._due(swept.rows)
                if due and not sweep.asked_for_turn:
                    sweep.asked_for_turn = True
                    turn = await stack.enter_async_context(self._leases.turn(partition, lease))
                if due and turn is not None:
                    await self._publish(due, turn)
                sweep.troubles |= {(row.stream, row.first_version) for row in swept.rows} & self._troubles_of(partition)
                self._ran_out_of_time |= turn is not None and turn.is_over
                if not swept.more or not swept.rows or self._stopped:
                    break
                after = self._behind(swept.rows[-1], sweep)
                if turn is not None and turn.is_over:
                    self._unfinished[partition] = after  # where the next sweep goes on, so that nobody is starved
                    return
                swept = await self._store.sweep(partition, after=after, limit=PAGE)
        if sweep.is_whole and not self._stopped and partition in self._troubles:  # what is gone is forgotten
            troubles = self._troubles.pop(partition)
            self._troubles[partition] = {key: trouble for key, trouble in troubles.items() if key in sweep.troubles}

    def _behind(self, last: OutboxRow, sweep: _Sweep) -> tuple[str, int]:
        """Where to go on: behind the whole class when nothing of it can be published now, however much waits."""
        name = last.stream.partition(".")[0]
        route = self._routes.get(name)
        if route is None or route.failures >= TRIES:
            sweep.is_whole = False
            return f"{name}/", 0
        return last.stream, last.first_version

    def _troubles_of(self, partition: str) -> AbstractSet[tuple[str, int]]:
        return self._troubles.get(partition, {}).keys()

    def _note(self, partition: str, sweep: _Sweep, rows: Sequence[OutboxRow]) -> None:
        """Keep the numbers."""
        sweep.pending += len(rows)
        sweep.oldest = max([sweep.oldest, *(row.age for row in rows)])
        self._waiting[partition] = (sweep.pending, sweep.oldest)
        self.metrics.pending = sum(count for count, _ in self._waiting.values())
        self.metrics.oldest_age = max(0.0, *(age for _, age in self._waiting.values()))

    def _due(self, rows: Sequence[OutboxRow]) -> list[tuple[_Route, list[OutboxRow]]]:
        """The rows past their grace, stream by stream, with where they go."""
        due: list[tuple[_Route, list[OutboxRow]]] = []
        for stream, waiting in groupby(self._ripe(rows), lambda row: row.stream):
            name = stream.partition(".")[0]
            route, found = self._routes.get(name), list(waiting)
            if route is not None:
                due.append((route, found))
            elif name not in self._without_route:  # once for a class: it can have any number of streams
                self._without_route.add(name)
                self._report(stream, found[0].first_version, f"no producer was given for {name}", set_aside=False)
        return due

    def _ripe(self, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        """Those it is time for. `InProcessSubscription` also lets a stream rest after a failure."""
        return [row for row in rows if row.age >= self._grace]

    async def _publish(self, due: list[tuple[_Route, list[OutboxRow]]], turn: Turn) -> None:
        _random.shuffle(due)  # so that no stream that takes all of the time keeps the same others waiting at every turn
        for route, rows in due:
            if self._stopped or turn.is_over:
                return
            if route.failures >= TRIES:
                continue
            try:
                await self._publish_stream(route, rows, turn)
            except Exception as error:  # noqa: BLE001 - other streams must go on
                self.metrics.failed += 1
                _log.warning("%s: could not be published: %s", rows[0].stream, _said(error))
                if isinstance(error, StoreUnavailableError):
                    return

    async def _publish_stream(self, route: _Route, rows: Sequence[OutboxRow], turn: Turn) -> None:
        """In order, and never past a commit that could not be published."""
        stream, last, done, limit = rows[0].stream, rows[-1].first_version, 0, BATCH
        while done < last:
            before = done
            try:
                commits = await route.outbox.unpublished(stream, before_version=last + 1, limit=limit)
                for commit in commits:  # decodes each when it is reached
                    if self._stopped or turn.is_over or not await self._publish_commit(route, commit, turn):
                        return
                    done = commit.first_version
                if done == before:
                    return  # others were quicker
            except StoreError:
                raise
            except EsAzureError as error:
                if limit > 1:
                    limit = 1  # so that those before the unreadable one go out, and it is known which it is
                    continue
                self.metrics.failed += 1
                first = next(row.first_version for row in rows if row.first_version > done)
                self._report_trouble(turn.partition, stream, first, _said(error), set_aside=False)
                return

    async def _publish_commit(self, route: _Route, commit: Commit[Any], turn: Turn) -> bool:
        """Whether the stream may go on."""
        try:
            async with asyncio.timeout(turn.remaining):  # or one that hangs would stop this relay for ever
                await route.producer.dispatch(commit)
        except Exception as error:  # noqa: BLE001 - one commit must not stop the relay
            self.metrics.failed += 1
            if isinstance(error, DispatchError) and error.unpublishable:
                return await self._refused(commit, _said(error), turn)
            route.failures += isinstance(error, DispatchError | TimeoutError)
            _log.warning("%s: version %d not published: %s", commit.stream, commit.first_version, _said(error))
            return False
        route.failures = 0
        self.metrics.published += 1
        if not await self._store.mark_published(commit.record):
            self.metrics.repeated += 1
        return True

    async def _refused(self, commit: Commit[Any], why: str, turn: Turn) -> bool:
        """Count; after `attempts` act. Whether the stream may go on."""
        stream, first = commit.stream, commit.first_version
        trouble = self._trouble(turn.partition, stream, first)
        trouble.tries += 1
        if trouble.tries < self._attempts:
            _log.warning("%s: version %d not published: %s", stream, first, why)
            return False
        skip = self._poison == "skip"
        if skip:
            try:
                await self._store.set_aside(commit.record, why)
            except Exception:
                self._report_trouble(turn.partition, stream, first, why, set_aside=False)
                raise
            self.metrics.quarantined += 1
        self._report_trouble(turn.partition, stream, first, why, set_aside=skip)
        return skip

    def _trouble(self, partition: str, stream: str, first_version: int) -> _Trouble:
        return self._troubles.setdefault(partition, {}).setdefault((stream, first_version), _Trouble())

    def _report_trouble(self, partition: str, stream: str, first_version: int, why: str, *, set_aside: bool) -> None:
        """Once for each commit, not at every sweep; once more when it is set aside after all."""
        trouble = self._trouble(partition, stream, first_version)
        if set_aside not in trouble.reported:
            trouble.reported += (set_aside,)
            self._report(stream, first_version, why, set_aside=set_aside)

    def _report(self, stream: str, first_version: int, reason: str, *, set_aside: bool) -> None:
        consequence = "it was set aside" if set_aside else "its stream waits"
        _log.error("%s: version %d cannot be published, %s: %s", stream, first_version, consequence, reason)
        if self._alert is not None:
            try:
                self._alert(Alert(stream, first_version, reason, set_aside))
            except Exception as error:  # noqa: BLE001 - who listens must not decide whether others are served
                _log.error("alert failed: %s", _said(error))


@dataclass(slots=True)
class _Route:
    """Where the commits of an aggregate class come from and go to."""

    outbox: IOutbox
    producer: IEventProducer
    failures: int = 0
    """In a row, in this sweep."""


@dataclass(slots=True)
class _Sweep:
    """What is known of a partition while its pages are read."""

    is_whole: bool
    """Whether no row was passed over."""
    asked_for_turn: bool = False
    pending: int = 0
    oldest: float = 0.0
    troubles: set[tuple[str, int]] = field(default_factory=set)


@dataclass(slots=True)
class _Trouble:
    """What this relay remembers of a commit that could not be published."""

    tries: int = 0
    reported: tuple[bool, ...] = ()
    """As waiting (False), as set aside (True)."""


def _said(error: Exception) -> str:
    # The text of a foreign exception may quote a payload; ours never does.
    return f"{type(error).__name__}: {error}" if isinstance(error, EsAzureError) else type(error).__name__
