"""Delivery without a broker: the outbox is the queue, and a relay hands what waits in it to a consumer.

    service = EventsService(store.events(Account, outbox=True))          # without a producer: commits wait
    subscription = InProcessSubscription(store, [Customer, Account], consumer)
    await subscription.run()

What holds for the relay holds here: nothing is lost in a crash, and processes on one store share the work. See
`relay/relay.py`, and `consumer/` for what happens to a message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from esazure.aggregate import AggregateRoot
from esazure.consumer import Consumer, Lane
from esazure.errors import HandlerFailedError, PoisonMessageError
from esazure.events import Commit
from esazure.integration import IntegrationMessage, messages_of, whole
from esazure.ports import IEventProducer, IOutboxStore, OutboxRow
from esazure.relay import OutboxRelay, RelayMetrics

__all__ = ["InProcessSubscription"]

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds a stream rests after a failure: four times as long each time, up to the longest."""

_GROWS = 4
_REMEMBERED = 1_000  # streams, before any of them is looked at whether it is still of interest
_FORGOTTEN_AFTER = 300.0  # seconds in which a stream was ready to be tried, and was not: somebody else has

_log = logging.getLogger("esazure.inprocess")


class InProcessSubscription:
    """Brings the commits of one store to one consumer, in this process.

    A commit leaves the outbox once every handler is done with it. What a handler fails at is tried again, with growing
    pauses, and parked in the end, as with a broker; other streams go on meanwhile.
    """

    def __init__(
        self,
        store: IOutboxStore,
        aggregate_classes: Sequence[type[AggregateRoot[Any, Any]]],
        consumer: Consumer,
        *,
        interval: float = 0.05,
        lease: float = 8.0,
    ) -> None:
        """Say what is delivered to whom. Nothing else may publish from this outbox.

        Args:
            store: whose outbox.
            aggregate_classes: all that leave rows in it; those of a class that is not named wait, and are reported.
            consumer: gets them. Give it `positions` and `source`.
            interval: seconds between two looks into the outbox.
            lease: seconds after which the work of a process that died is taken over by another. A handler that takes
                longer than half of it may be called by another process, too.

        Raises:
            ValueError: a number that is not above 0, two classes that are stored under one name, or a class whose
                commits leave no outbox row.
        """
        self._store = store
        self._interval = interval
        self._lease = lease
        self._hands = _Hands(consumer)
        self._relay = _Relay(store, aggregate_classes, self._hands, interval=interval, lease=lease)

    @property
    def metrics(self) -> RelayMetrics:
        """Of the delivery: `oldest_age` is the one to alert on. The consumer has metrics of its own."""
        return self._relay.metrics

    async def run(self) -> None:
        """Deliver until `stop`. Failures are logged and tried again, never raised.

        Raises:
            StoreError: the store is not open.
            ValueError: the consumer cannot serve what was registered after it was made.
        """
        try:
            await self._relay.run()
            await self._hands.wait(self._lease)
        finally:
            await self._hands.drop()

    def stop(self) -> None:
        """Let `run` return after the commit under way; what still waits stays in the outbox. For good."""
        self._relay.stop()

    async def run_once(self) -> RelayMetrics:
        """Deliver what waits now, except for streams that rest after a failure. Returns `metrics`.

        Raises:
            StoreError, ValueError: see `run`.
        """
        return await self._relay.run_once()

    async def drain(self) -> int:
        """For tests: deliver what waits, and what handlers commit meanwhile, until nothing waits any more.

        Handlers that fail are called again at once, until they succeed or their stream is parked. When another process
        is at work this waits for it.

        Returns how many commits are left: 0, unless a handler needs something that is away (RetryLaterError), a commit
        cannot be read, or its class was not named. The log says why.

        Raises:
            StoreError: the store could not be read.
            ValueError: see `run`.
        """
        while True:
            steps = self._hands.steps
            await self._relay.run_once(in_a_hurry=True)
            left, is_shared = 0, False
            for partition in self._store.partitions:
                swept = await self._store.sweep(partition)
                is_shared |= swept.lease is not None and swept.lease.owner != ""
                left += len(swept.rows)
                while swept.more:
                    last = swept.rows[-1]
                    swept = await self._store.sweep(partition, after=(last.stream, last.first_version))
                    left += len(swept.rows)
            if left == 0:
                return 0
            if self._hands.steps == steps:
                if not self._hands.busy and not is_shared and not self._relay.ran_out_of_time:
                    return left
                await asyncio.sleep(self._interval)


class _Relay(OutboxRelay):
    """Hands out what is due, except for streams that rest."""

    def __init__(
        self,
        store: IOutboxStore,
        aggregate_classes: Sequence[type[AggregateRoot[Any, Any]]],
        hands: _Hands,
        *,
        interval: float,
        lease: float,
    ) -> None:
        super().__init__(store, dict.fromkeys(aggregate_classes, hands), interval=interval, grace=0.0, lease=lease)
        self._hands = hands
        self._is_in_a_hurry = False
        self._sweeping = asyncio.Lock()

    async def run_once(self, *, in_a_hurry: bool = False) -> RelayMetrics:
        # Both raise what a sweep would log, again and again.
        _ = self._store.store_id
        self._hands.check_consumer()
        async with self._sweeping:  # `drain` may be called beside `run`
            self._is_in_a_hurry = in_a_hurry
            self._ran_out_of_time = False
            return await super().run_once()

    @property
    def ran_out_of_time(self) -> bool:
        """Whether a turn of the last sweep was over, so that what nothing became of may not have been tried."""
        return self._ran_out_of_time

    def _ripe(self, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        return [row for row in rows if self._is_in_a_hurry or not self._hands.rests(row.stream)]


@dataclass(slots=True)
class _Work:
    """A commit whose delivery has begun."""

    first_version: int
    lane: Lane
    done: int = 0
    """How many of its messages."""
    task: asyncio.Task[None] | None = None
    """Handles the next one. It outlives a turn of the relay, and is waited for in the next one."""
    tries: int = 0
    """How often that one has failed."""
    troubles: int = 0
    """How often that one has failed, had to wait or taken too long."""
    rests_until: float = field(default_factory=time.monotonic)

    @property
    def is_forgotten(self) -> bool:
        """Whether nothing has become of it for so long that another process must have finished it."""
        is_idle = self.task is None or self.task.done()
        return is_idle and time.monotonic() - self.rests_until > _FORGOTTEN_AFTER

    def rest(self) -> None:
        """Leave it alone for a while, and for longer each time."""
        pause = min(FIRST_PAUSE * _GROWS ** min(self.troubles, _GROWS), LONGEST_PAUSE)
        self.troubles += 1
        self.rests_until = time.monotonic() + pause


class _Hands(IEventProducer):
    """Where the relay takes a broker to be: gives each message to the consumer."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._begun: dict[str, _Work] = {}
        """By stream."""
        self._remembered = _REMEMBERED
        self.steps = 0
        """Grows whenever something has become of a message."""

    def check_consumer(self) -> None:
        """Raise what is wrong with it."""
        self._consumer.lane()

    def check(self, commit: Commit[Any]) -> None:
        """Nothing is too large."""

    async def dispatch(self, commit: Commit[Any]) -> None:
        """Returns when the consumer is done with every message of the commit, or has set it aside."""
        work = await self._work_on(commit)
        messages = messages_of(commit, whole, None)
        while work.done < len(messages):
            task = work.task = work.task or self._begin(work, messages[work.done])
            try:
                # Not to be cancelled when the turn of the relay is over: what has begun goes on until the next one.
                await asyncio.shield(task)
            except asyncio.CancelledError:
                work.task = None if task.done() else task
                work.rest()
                raise
            except PoisonMessageError as poison:
                _log.error("%s: a message is passed over: %s", commit.stream, poison)
            except Exception as error:
                work.task = None
                work.rest()
                if isinstance(error, HandlerFailedError):
                    work.tries += 1
                    self.steps += 1
                raise
            work.done += 1
            work.task, work.tries, work.troubles = None, 0, 0
            self.steps += 1
        del self._begun[commit.stream]

    def rests(self, stream: str) -> bool:
        """Whether a stream is to be left alone for a while."""
        work = self._begun.get(stream)
        return work is not None and time.monotonic() < work.rests_until

    @property
    def busy(self) -> bool:
        """Whether a handler is at work."""
        return bool(self._tasks())

    async def wait(self, seconds: float) -> None:
        """For handlers that outlived their turn."""
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=seconds)

    async def drop(self) -> None:
        """Cancel them; their commits are still in the outbox."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [work.task for work in self._begun.values() if work.task is not None and not work.task.done()]

    async def _work_on(self, commit: Commit[Any]) -> _Work:
        work = self._begun.get(commit.stream)
        if work is not None and work.first_version != commit.first_version:  # another process has finished that one
            if work.task is not None:
                await asyncio.wait({work.task})
            work = None
        if work is None:
            self._forget()
            work = self._begun[commit.stream] = _Work(commit.first_version, self._consumer.lane())
        work.lane.distrust()  # between two turns the stream may have been another process's
        return work

    def _forget(self) -> None:
        """Never one that is to be tried again: its tries would begin anew, and it would not rest."""
        if len(self._begun) >= self._remembered:
            self._begun = {stream: work for stream, work in self._begun.items() if not work.is_forgotten}
            self._remembered = max(_REMEMBERED, 2 * len(self._begun))

    def _begin(self, work: _Work, message: IntegrationMessage) -> asyncio.Task[None]:
        task = asyncio.create_task(work.lane.handle(message, work.tries + 1))

        def done(_: object) -> None:
            work.rests_until = time.monotonic()
            if not task.cancelled():
                task.exception()  # there may be nobody left who asks for it

        task.add_done_callback(done)
        return task
