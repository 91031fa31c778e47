"""Writers, relays and crashes on one store, and what came of it.

Each writer is a little process of its own: it opens a store, loads or creates, records, persists, and is killed now and
then in the middle, which here means that its task is cancelled and its objects are dropped. Read `history.py` next.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol
from uuid import uuid4

from tests.support.flaky_broker import Received
from tests.support.history import (
    ACKNOWLEDGED,
    CONFLICTED,
    REFUSED,
    Operation,
    Violation,
    commits_in,
    report,
    violations,
)

from esazure import AggregateNotFoundError, AppendOutcomeUnknownError, ConcurrencyError, EventsService, StoreError
from esazure.aggregate import stream_of
from esazure.ports import IEventProducer, IOutboxStore
from esazure.relay import OutboxRelay
from esazure.tables import TableStore
from esazure.testing.conformance import Counter

_log = logging.getLogger("stress")

_WORK_SECONDS, _QUIET_SECONDS = 30.0, 30.0
"""What a run may take before it is given up, besides half a second for each operation."""


class IBroker(Protocol):
    """Where the messages go."""

    def producer(self) -> IEventProducer:
        """A way to send, faulty while the run lasts."""
        raise NotImplementedError

    async def received(self) -> Sequence[Received]:
        """Everything that arrived, in order."""
        raise NotImplementedError


@dataclass
class World:
    """Where a run takes place."""

    open_store: Callable[[], TableStore]
    """Each call a client of its own, on a way that loses requests while the run lasts."""
    rows: Callable[[], Awaitable[Iterable[Mapping[str, Any]]]]
    """What is stored, seen from the side."""
    broker: IBroker
    calm: Callable[[], Awaitable[None]]
    """Ends the faults, and waits for what is late."""


@dataclass
class Run:
    """What to do, and after `run` what was done."""

    world: World
    seed: int
    operations: int
    writers: int = 8
    streams: int = 6
    relays: int = 2
    crashes: float = 0.15
    """Share of the operations that are killed half-way."""
    life: float = 0.03
    """Seconds such an operation lives, on average."""
    relay_options: Mapping[str, Any] = field(
        default_factory=lambda: {"interval": 0.3, "grace": 0.0, "lease": 1.0, "concurrency": 4}
    )
    history: list[Operation] = field(default_factory=list)
    done: Tally[str] = field(default_factory=Tally)
    messages: Sequence[Received] = ()
    found: list[Violation] = field(default_factory=list)

    async def run(self) -> Run:
        """Do it all, then look."""
        self._random = Random(self.seed)  # noqa: S311 - not a secret
        self._names = [f"{uuid4().hex[:8]}-{number}" for number in range(self.streams)]
        self._left = self.operations
        stop = asyncio.Event()
        async with asyncio.timeout(_WORK_SECONDS + self.operations / 2), asyncio.TaskGroup() as relays:
            for number in range(self.relays):
                relays.create_task(self._relay(stop, number))
            async with asyncio.TaskGroup() as writers:
                for number in range(self.writers):
                    writers.create_task(self._writer(number))
            stop.set()
        await self.world.calm()
        async with self.world.open_store() as store:
            self.done["published by relays"] += await sweep_until_quiet(
                store, self.world.broker.producer(), **self.relay_options
            )
        rows = [row for row in await self.world.rows() if any(name in row["RowKey"] for name in self._names)]
        self.messages = await self.world.broker.received()
        self.found += violations(self.history, *commits_in(rows), self.messages)
        self.done.update(operation.outcome for operation in self.history)
        _log.info("seed %d: %d operations, %s", self.seed, len(self.history), dict(self.done))
        return self

    def report(self) -> str:
        """For a failed test."""
        return report(f"seed {self.seed}", self.found, self.history, self.messages)

    async def _writer(self, number: int) -> None:
        while self._left > 0:
            with suppress(StoreError):  # it could not even be opened
                async with self.world.open_store() as store:
                    await self._life(EventsService(store.events(Counter), self.world.broker.producer()), number)

    async def _life(self, service: EventsService[Counter, str], number: int) -> None:
        """Until the work is done, or a crash."""
        while self._left > 0:
            self._left -= 1
            work = asyncio.create_task(self._work(service, f"writer {number}"))
            if self._random.random() >= self.crashes:
                await work
                continue
            await asyncio.wait({work}, timeout=self._random.expovariate(1 / self.life))
            if not work.done():
                self.done["crashes"] += 1
                work.cancel()
                await asyncio.wait({work})
                return

    async def _work(self, service: EventsService[Counter, str], who: str) -> None:
        """Load, or create, and persist once or a few times."""
        name = self._random.choice(self._names)
        try:
            counter = await service.rehydrate(name)
        except AggregateNotFoundError:
            counter = Counter(name)
        except StoreError:
            self.done["loads that failed"] += 1
            self._left += 1
            return
        while await self._persist(service, counter, who) and self._random.random() < 0.6 and self._left > 0:
            self._left -= 1

    async def _persist(self, service: EventsService[Counter, str], counter: Counter, who: str) -> bool:
        count = self._random.choice((1, 1, 2, 3))
        operation = Operation(f"m{len(self.history)}", stream_of(counter), counter.version, count, who)
        counter.note(*operation.texts())
        self.history.append(operation)
        attempt: Callable[[], Awaitable[Any]] = lambda: service.persist(counter)  # noqa: E731 - `retry` takes its place
        for _ in range(3):
            try:
                await attempt()
            except ConcurrencyError:
                operation.end(CONFLICTED)
            except AppendOutcomeUnknownError as error:
                self.done["asked again"] += 1
                attempt = error.retry
                continue
            except StoreError as error:
                operation.end(REFUSED, type(error).__name__)
            else:
                operation.end(ACKNOWLEDGED)
                return True
            return False
        return False

    async def _relay(self, stop: asyncio.Event, number: int) -> None:
        while not stop.is_set():
            with suppress(StoreError):
                async with self.world.open_store() as store:
                    relay = OutboxRelay(store, {Counter: self.world.broker.producer()}, **self.relay_options)
                    running = asyncio.create_task(relay.run())
                    stopping = asyncio.create_task(stop.wait())
                    await asyncio.wait(
                        {running, stopping},
                        timeout=self._random.uniform(0.5, 3),
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    stopping.cancel()
                    if not running.done():  # killed, not stopped
                        self.done["relay crashes"] += not stop.is_set()
                        running.cancel()
                    (ended,) = await asyncio.gather(running, return_exceptions=True)
                    if isinstance(ended, Exception):
                        self.found.append(Violation("relay", "-", f"relay {number} ended with {ended!r}"))
                    self.done["published by relays"] += relay.metrics.published


async def sweep_until_quiet(store: IOutboxStore, producer: IEventProducer, **options: Any) -> int:
    """Two relays, until nothing waits. Returns how many commits they published."""
    relays = [OutboxRelay(store, {Counter: producer}, **options) for _ in range(2)]
    async with asyncio.timeout(_QUIET_SECONDS):
        while True:
            metrics = [await relay.run_once() for relay in relays]
            if not any(each.pending for each in metrics):
                return sum(each.published for each in metrics)
            await asyncio.sleep(0.1)
