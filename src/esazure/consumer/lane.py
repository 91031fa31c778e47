"""`Lane`: one message at a time, to each handler that has not seen its event yet.

A message is never trusted further than its version: what lies between a handler's position and the message is read from
the store, in order. One handler that fails disturbs no other. Read `positions.py` next.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError, current_task
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from esazure.consumer.decoding import (
    Received,
    Route,
    StoredEvents,
    Wanted,
    aggregate_type_of,
    envelope_of,
    received_of,
)
from esazure.consumer.failure import Failure
from esazure.consumer.positions import Place
from esazure.consumer.roster import Setup
from esazure.errors import (
    CorruptStreamError,
    PoisonMessageError,
    RetryLaterError,
    StoreError,
    StoreUnavailableError,
)
from esazure.events import EventEnvelope
from esazure.handlers import IEventHandler
from esazure.integration import IntegrationMessage
from esazure.plain import own

REMEMBERED = 4_096
"""Streams whose positions a lane keeps in memory; those beyond are read again."""

SLICE = 256
"""Versions that are read from the store at a time."""

_log = logging.getLogger("esazure.consumer")


Taker = tuple[IEventHandler, Wanted]


@dataclass(slots=True)
class _Due:
    """Who has not seen the event of a message yet."""

    ready: list[Taker] = field(default_factory=list[Taker])
    """It is the next one for these."""
    behind: list[Taker] = field(default_factory=list[Taker])
    """These have to read the store."""
    gap: bool = False
    """Whether one of them because it has missed something, or is parked."""
    stuck: list[str] = field(default_factory=list[str])
    """These are parked further back, and there is no store to read."""


class Lane:
    """Handles the messages of one session, one after the other; made by `Consumer.lane`.

    It remembers the positions of its streams, so make a new one whenever the session may have been somebody else's, or
    call `distrust`.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._places: dict[str, Place] = {}
        """The least recently used first."""
        self._doubtful: set[str] = set()
        """Streams in which others may have got further."""

    def distrust(self) -> None:
        """The session may have been somebody else's meanwhile: read each position again before relying on it.

        Unlike a new lane this one still knows what it has done and could not store.
        """
        self._doubtful.update(self._places)

    async def handle(self, message: IntegrationMessage, attempt: int = 1) -> None:
        """Bring every handler up to the version of this message. When this returns the message is done.

        Args:
            message: as it was sent.
            attempt: how often it has been delivered, this time included; waiting does not count.

        Raises:
            HandlerFailedError: deliver it again. Handlers that succeeded will not be called again for it.
            StoreUnavailableError, RetryLaterError: deliver it again later, with the same `attempt`.
            PoisonMessageError: set it aside. It can never be handled, or a handler has failed for the last time; its
                stream is parked for this handler then, and the others go on.
        """
        setup = self._setup
        handlers = await setup.roster.current()
        route = setup.roster.route(aggregate_type_of(message))
        if route is None:
            setup.metrics.ignored += 1
            return
        received = received_of(message, route, thin=setup.thin)
        place, is_fresh = await self._place(received.stream)
        place.begin(received.version)
        due = self._due(handlers, route, received.version, place)
        if due.gap and not is_fresh:
            # A gap may only mean that another worker had this stream meanwhile.
            await setup.positions.refresh(place)
            due = self._due(handlers, route, received.version, place)
        envelope = self._envelope(received, route, due)
        failures: list[Failure] = []
        # The store first: it knows whether the message can be true.
        if due.behind and not await self._catch_up(place, route, due.behind, received.version, failures):
            await self._save(place)
            raise PoisonMessageError(
                "NoSuchVersion", f"{place.stream}: version {received.version} is not in the store, which ends before it"
            )
        for handler, wanted in due.ready:
            events = (envelope,) if envelope is not None and received.event_class in wanted else ()
            failure = await self._serve(handler, place, events)
            if failure is None:
                place.reach(handler.name, received.version)
            else:
                failures.append(failure)
        await self._conclude(place, failures, due, attempt)

    async def resume(self, handler: IEventHandler, route: Route, stream: str) -> int:
        """Bring one handler up to the end of a stream, out of the store; the version it has reached.

        Nothing happens to one with effects that is not parked: a message may be on its way to it just now.

        Raises:
            HandlerFailedError: it failed again, and stays parked.
            StoreUnavailableError, RetryLaterError, PoisonMessageError: see `handle`.
        """
        place, _ = await self._place(stream)
        if not handler.repeatable and handler.name not in place.parked:
            return place.positions.get(handler.name, 0)
        place.meet([handler.name])
        failures: list[Failure] = []
        await self._catch_up(place, route, [(handler, handler.interests[route.aggregate_class])], None, failures)
        for failure in failures:
            if not failure.not_now:
                place.park(handler.name, failure.version, failure.reason)
        await self._save(place)
        for failure in failures:
            if failure.not_now:
                raise failure.error
            raise failure.raised(stream) from failure.error
        return place.positions.get(handler.name, 0)

    async def _place(self, stream: str) -> tuple[Place, bool]:
        """Where the handlers stand, and whether that was read just now."""
        place = self._places.get(stream)
        is_fresh = place is None or stream in self._doubtful
        if place is None:
            place = await self._setup.positions.load(stream)
            if len(self._places) >= REMEMBERED:
                del self._places[next(iter(self._places))]
        elif is_fresh:
            await self._setup.positions.refresh(place)
        self._doubtful.discard(stream)
        self._places.pop(stream, None)
        self._places[stream] = place
        return place, is_fresh

    def _due(self, handlers: Sequence[IEventHandler], route: Route, version: int, place: Place) -> _Due:
        """Who has not seen this version yet, and whether the message is the next one for them."""
        setup, due = self._setup, _Due()
        place.meet(handler.name for handler in handlers)
        for handler in handlers:
            wanted = handler.interests.get(route.aggregate_class)
            if wanted is None:
                continue
            name = handler.name
            position = place.positions.get(name)
            if position is None:
                position = 0 if setup.positions.durable else version - 1
                place.positions[name] = position
            if position >= version:
                continue
            parked = place.parked.get(name)
            if parked is not None and name in place.owed:
                continue  # it has had its tries at this message, which is here again because of others
            if setup.source is not None:
                gap = position < version - 1 or parked is not None
                (due.behind if gap or setup.thin else due.ready).append((handler, wanted))
                due.gap = due.gap or gap
            elif parked is not None and version > parked.version:
                due.stuck.append(name)
            else:
                place.positions[name] = version - 1  # nobody can say what was between
                due.ready.append((handler, wanted))
        return due

    def _envelope(self, received: Received, route: Route, due: _Due) -> EventEnvelope[Any] | None:
        """The message's event, when it is wanted; if its class refuses it, it has to come from the store, too."""
        event_class = received.event_class
        if event_class is None or not any(event_class in wanted for _, wanted in due.ready):
            return None
        try:
            return envelope_of(received, event_class, route)
        except CorruptStreamError as error:
            if self._setup.source is None:
                raise PoisonMessageError("Malformed", str(error)) from None
        due.behind += due.ready
        due.ready.clear()
        return None

    async def _catch_up(
        self, place: Place, route: Route, takers: Sequence[Taker], to: int | None, failures: list[Failure]
    ) -> bool:
        """Serve what is stored behind each handler's position, up to version `to` (None: the end).

        Returns whether the stream goes as far as that. A handler that fails is left where it is, the others go on.
        """
        metrics, takers = self._setup.metrics, list(takers)
        first = 1 + min(place.positions.get(handler.name, 0) for handler, _ in takers)
        while takers:
            last = first + SLICE - 1 if to is None else min(first + SLICE - 1, to)
            try:
                stored = await self._read(route, place.stream, first, last)
            except CorruptStreamError as error:
                failures += [
                    Failure(handler, max(first, place.positions.get(handler.name, 0) + 1), error)
                    for handler, _ in takers
                ]
                return True
            if to is not None and stored.last < last:
                return False
            metrics.filled += stored.last - first + (last != to)
            for taker in tuple(takers):
                handler, wanted = taker
                events, unreadable = stored.wanted(wanted, after=place.positions.get(handler.name, 0))
                end = stored.last if unreadable is None else unreadable.version - 1
                failure = await self._serve(handler, place, events)
                if failure is None and place.reach(handler.name, end) and stored.last > first:
                    place.unsaved = True  # so that what is of no interest is not read again
                if failure is None and unreadable is not None:
                    failure = Failure(handler, unreadable.version, unreadable.error)
                if failure is not None:
                    takers.remove(taker)
                    failures.append(failure)
            if stored.last < last or last == to:
                break
            first = last + 1
        return True

    async def _read(self, route: Route, stream: str, first: int, last: int) -> StoredEvents:
        source = self._setup.source
        assert source is not None  # noqa: S101 - nobody is behind without one
        try:
            records = await source.read(stream, from_version=first, to_version=last)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            raise RetryLaterError(str(error)) from error
        return StoredEvents(route, stream, records, first, last)

    async def _serve(
        self, handler: IEventHandler, place: Place, events: Sequence[EventEnvelope[Any]]
    ) -> Failure | None:
        """Hand over these events."""
        name = handler.name
        while events:
            try:
                reached = await handler.handle(place.stream, [own(envelope) for envelope in events])
                if reached < events[0].version:
                    raise RuntimeError(f"{name} returned a version before the event it was given")  # noqa: TRY301
            except Exception as error:  # noqa: BLE001 - user code may raise anything
                return Failure(handler, events[0].version, error)
            except CancelledError as error:
                task = current_task()
                if task is None or task.cancelling():
                    raise
                return Failure(handler, events[0].version, error)  # something in the handler was cancelled, not we
            place.reach(name, reached)
            place.unsaved = True
            if not handler.repeatable:
                await self._save(place)
            # Not `reached`: another worker may have been found to be further.
            events = [envelope for envelope in events if envelope.version > place.positions[name]]
        return None

    async def _save(self, place: Place) -> None:
        if place.unsaved:
            await self._setup.positions.save(place)

    async def _conclude(self, place: Place, failures: list[Failure], due: _Due, attempt: int) -> None:
        """Store how far it went, and say what becomes of the message."""
        metrics = self._setup.metrics
        again: list[Failure] = []
        final: list[Failure] = []
        for failure in self._still_counting(place, failures):
            tries = attempt if failure.not_now else place.failed(failure.handler.name, attempt)
            (final if failure.is_final(tries, self._setup.attempts) else again).append(failure)
        # One that waits may do so for days, in which nobody else is tried in vain. Otherwise all of them at once, in
        # the end, so that parking and the dead letter belong together.
        if not again or any(failure.not_now for failure in again):
            self._park(place, final)
        await self._save(place)
        if again:
            first = next((failure for failure in again if failure.not_now), again[0])
            for failure in again:
                if failure is not first:  # that one is raised
                    _log.warning("%s: %s", self._setup.name, failure.raised(place.stream))
            if first.not_now:
                raise first.error
            raise first.raised(place.stream) from first.error
        if owed := place.end():
            raise PoisonMessageError("HandlerFailed", "; ".join(owed)) from (final[0].error if final else None)
        if due.stuck:
            raise PoisonMessageError("StreamParked", f"{place.stream}: {', '.join(due.stuck)} did not get past earlier")
        if due.ready or due.behind:
            metrics.handled += 1
        else:
            metrics.duplicates += 1

    def _still_counting(self, place: Place, failures: list[Failure]) -> list[Failure]:
        """Without those of handlers that were parked and still are: their record says so already."""
        counting: list[Failure] = []
        for failure in failures:
            self._setup.metrics.failed += not failure.not_now
            if self._setup.source is None or failure.handler.name not in place.parked:
                counting.append(failure)
            elif not failure.not_now:
                place.park(failure.handler.name, failure.version, failure.reason)
        return counting

    def _park(self, place: Place, failures: list[Failure]) -> None:
        for failure in failures:
            place.park(failure.handler.name, failure.version, failure.reason)
            place.owed[failure.handler.name] = str(failure)
            self._setup.metrics.parked += 1
            _log.error("%s: parked, until it gets past this: %s", self._setup.name, failure.raised(place.stream))
