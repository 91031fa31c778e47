"""Breaks a handler at every call it makes, and checks what is left.

    async def test_a_transfer_survives_everything(self) -> None:
        report = await crash_everywhere(transfer, given=two_accounts, check=money_is_conserved)
        assert len(report.points) == 8

`crash_everywhere` is the part for users; `FaultyStore`, `FaultyProducer` and `Faults` are what it is made of, for tests
that want one particular fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, TId
from esazure.integration import IntegrationMessage
from esazure.keys import MAX_VERSION, split_stream_name
from esazure.memory import InMemoryEventProducer, InMemoryStore
from esazure.relay import Alert, OutboxRelay
from esazure.repository import CommitStore, EventsRepository
from esazure.testing._evidence import Witness
from esazure.testing._faulty import FaultyProducer, FaultyStore, has_outbox, outbox_of
from esazure.testing._points import READS, Crash, Fault, Faults, Kind, Point
from esazure.testing._witness import WitnessedProducer, WitnessedStore

__all__ = [
    "Crash",
    "Fault",
    "Faults",
    "FaultyProducer",
    "FaultyStore",
    "Kind",
    "Point",
    "Report",
    "World",
    "crash_everywhere",
]

A = TypeVar("A", bound=AggregateRoot[Any, Any])

Step = Callable[["World"], Awaitable[object]]
_PATIENCE = 3  # calls again, none of which is disturbed; a late write may still meet the first


class World:
    """What one process of yours can reach: a store and a broker that outlive it, through calls that can fail.

    A handler that is called again gets another one, over the same store and broker. Whatever else a handler touches is
    not broken, and not forgotten between its calls.
    """

    def __init__(self, store: FaultyStore, producer: FaultyProducer, broker: InMemoryEventProducer) -> None:
        self.store = store
        """For what needs a whole store: `views`, `unique_values`, an `OutboxRelay`, the positions of a consumer."""
        self.producer = producer
        """For an `EventsService` or a relay."""
        self._broker = broker

    def events(
        self,
        aggregate_class: Callable[[TId], A],
        *,
        outbox: bool | None = None,
        views: Sequence[Callable[[A], BaseModel]] = (),
    ) -> EventsRepository[A, TId]:
        """The repository of one aggregate class. See `CommitStore.events`."""
        return self.store.events(aggregate_class, outbox=outbox, views=views)

    @property
    def messages(self) -> Sequence[IntegrationMessage]:
        """Everything the broker has accepted, oldest first, repeats included."""
        return tuple(self._broker.messages)


@dataclass(frozen=True, slots=True)
class Report:
    """What was tried. Assert the number of points, so that a call which is added later is noticed."""

    points: tuple[Point, ...]
    """The calls the handler makes when nothing goes wrong; each was broken in every way."""
    runs: int
    """How many histories were played and checked, the undisturbed one included."""


async def crash_everywhere(
    handler: Step,
    *,
    given: Step | None = None,
    check: Step | None = None,
    store: Callable[[], CommitStore] = InMemoryStore,
    producer: Callable[[], InMemoryEventProducer] = InMemoryEventProducer,
    kinds: Iterable[Kind] = tuple(Kind),
) -> Report:
    """Call the handler once for each of its calls to the store and the broker and each kind of fault.

    Each time: `given` prepares a new store, undisturbed; the handler meets the one fault; if it crashed or failed it is
    called again with the same arguments, as a client would; a relay sweeps. Then these must be true, and `check` too:

    * every stream is contiguous, and nothing in it changed after it was read
    * every acknowledged commit is stored exactly once; what met a conflict is not stored
    * every commit stored with an outbox row was published; none was published that is not stored
    * commits were first published in version order; the same event was always the same message
    * no command was carried out twice, or after it was forbidden; an inline view is as of the last commit
    * no document was written over one that its writer had not seen

    Args:
        handler: gets everything it works with from its `World`, and makes the same calls each time it starts anew.
        given: what happened before. Not disturbed.
        check: looks at the end, and raises if it is not as it should be. Not disturbed.
        store: makes an empty one; it is opened and closed.
        producer: makes a broker.
        kinds: all, unless a slow store makes fewer advisable. `Kind.LATE` is tried with every later moment, so the
            number of its runs grows with the square of the number of calls.

    Raises:
        AssertionError: something is not true; at which point, after which fault, and the calls that led there.
        Exception: what the handler, `given` or `check` raises when nothing is disturbed.
    """
    undisturbed = _History(handler, given, check, None)
    await undisturbed.play(store, producer)
    runs = 1
    for point, kind in _troubles(undisturbed.calls, tuple(kinds)):
        lands_after = 1 if kind is Kind.LATE else None
        while True:
            history = _History(handler, given, check, (point, Fault(kind, lands_after)))
            await history.play(store, producer)
            runs += 1
            if lands_after is None or history.landed_at_the_end:
                break
            lands_after += 1
    return Report(tuple(undisturbed.calls), runs)


def _troubles(points: Sequence[Point], kinds: Sequence[Kind]) -> Iterator[tuple[Point, Kind]]:
    for point in points:
        for kind in kinds:
            if kind is not Kind.LATE or point.method not in READS:  # a read that arrives late changes nothing
                yield point, kind


class _History:
    """One run: a store and a broker, and the processes that come and go above them."""

    def __init__(
        self, handler: Step, given: Step | None, check: Step | None, trouble: tuple[Point, Fault] | None
    ) -> None:
        self.calls: Sequence[Point] = ()
        """Those of the first process."""
        self.landed_at_the_end = False
        self._handler = handler
        self._given = given
        self._check = check
        self._trouble = trouble
        self._faults = Faults({} if trouble is None else {trouble[0].number: trouble[1]})
        self._witness = Witness()
        self._aggregate_classes: dict[str, type[AggregateRoot[Any, Any]]] = {}
        self._wrong: list[str] = []
        self._alerts: list[str] = []
        self._began: list[tuple[int, str]] = []
        """After how many calls what came next began."""

    async def play(
        self, make_store: Callable[[], CommitStore], make_broker: Callable[[], InMemoryEventProducer]
    ) -> None:
        """From `given` to the checks.

        Raises:
            AssertionError: something is not as it must be.
        """
        async with make_store() as store:
            self._store, self._broker = store, make_broker()
            if self._given is not None:
                await self._given(self._world(Faults()))
            cause = await self._act()
            await self._sweep()
            self.landed_at_the_end = await self._faults.settle() > 0
            await self._sweep()
            self._wrong += await self._witness.violations(store, self._broker.messages)
            cause = await self._look() or cause
        if self._wrong:
            raise AssertionError(self._story()) from cause

    async def _act(self) -> BaseException | None:
        """Call the handler, and again after a crash or an error."""
        error = await self._process()
        self.calls = tuple(self._faults.points)
        if self._trouble is None:
            if error is not None:
                raise error
            return None
        self._check_that_it_came_to(self._trouble[0])
        for _ in range(_PATIENCE):
            if error is None:
                return None
            self._began.append((len(self._faults.points), f"called again after {type(error).__name__}"))
            error = await self._process()
        if error is not None:
            self._wrong.append(f"called again, the handler still fails: {type(error).__name__}: {error}")
        return error

    async def _process(self) -> BaseException | None:
        """One process from its beginning to its end; what it died of."""
        self._faults.restart()
        await self._let_leases_expire()
        world = self._world(self._faults)

        async def live() -> None:
            await self._handler(world)

        task = asyncio.create_task(live())
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        error = asyncio.CancelledError("cancelled") if task.cancelled() else task.exception()
        if self._faults.crashed:
            return Crash()  # whatever the handler made of it: there may be a group around it, or it was caught
        if error is not None and not isinstance(error, Exception | asyncio.CancelledError):
            raise error
        return error

    def _check_that_it_came_to(self, point: Point) -> None:
        reached = self.calls[point.number - 1] if len(self.calls) >= point.number else None
        if reached is None or reached.method != point.method:
            raise AssertionError(
                f"undisturbed, {point} was called, and now {reached or 'nothing'}: "
                "a handler must make the same calls each time it starts anew, or its points cannot be enumerated"
            )

    async def _sweep(self) -> None:
        """What a relay does, in a process of its own."""
        self._began.append((len(self._faults.points), "swept"))
        self._faults.restart()
        await self._let_leases_expire()
        world = self._world(self._faults)
        self._alerts = []
        if has_outbox(self._store):
            routes = dict.fromkeys(self._aggregate_classes.values(), world.producer)
            await OutboxRelay(world.store, routes, grace=0.0, alert=self._note_alert).run_once()
        else:
            await self._publish_by_hand(world)

    async def _let_leases_expire(self) -> None:
        """The dead give nothing up, but their time runs out; nobody wants to wait for that in a test."""
        if not has_outbox(self._store):
            return
        store = outbox_of(self._store)
        for partition in store.partitions:
            lease = (await store.sweep(partition)).lease
            if lease is not None and lease.owner:
                await store.write_lease(partition, lease, owner="", epoch=lease.epoch + 1)

    async def _publish_by_hand(self, world: World) -> None:
        for stream in self._witness.streams:
            name = split_stream_name(stream)[0]
            if name not in self._aggregate_classes:
                continue  # the witness will say that its outbox row is left
            outbox = world.events(self._aggregate_classes[name]).outbox
            assert outbox is not None
            for commit in await outbox.unpublished(stream, before_version=MAX_VERSION):
                await world.producer.dispatch(commit)
                await outbox.mark_published(commit)

    async def _look(self) -> Exception | None:
        """The user's own check."""
        if self._check is None:
            return None
        try:
            await self._check(self._world(Faults()))
        except Exception as error:
            if self._trouble is None:
                raise
            self._wrong.append(f"check: {type(error).__name__}: {error}".rstrip(": "))
            return error
        return None

    def _world(self, faults: Faults) -> World:
        store = FaultyStore(WitnessedStore(self._store, self._witness), faults)
        store.aggregate_classes = self._aggregate_classes
        return World(store, FaultyProducer(WitnessedProducer(self._broker, self._witness), faults), self._broker)

    def _note_alert(self, alert: Alert) -> None:
        self._alerts.append(
            f"the relay could not publish {alert.stream} at version {alert.first_version}: {alert.reason}"
        )

    def _story(self) -> str:
        happened = "undisturbed" if self._trouble is None else f"{self._trouble[1]}: {self._trouble[0]}"
        lines = [happened, *(f"  - {what}" for what in [*self._wrong, *self._alerts]), "  calls:"]
        began = list(self._began)
        for point in self._faults.points:
            while began and began[0][0] < point.number:
                lines.append(f"    -- {began.pop(0)[1]}")
            mark = f"   <-- {self._trouble[1]}" if self._trouble and self._trouble[0].number == point.number else ""
            lines.append(f"    {point}{mark}")
        return "\n".join(lines)
