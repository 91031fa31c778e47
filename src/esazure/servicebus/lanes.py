"""Works on one session: receives, handles in order, settles, until it is idle, was held long enough, or is lost.

What an outcome means for a message:

* handled: completed, while the next ones are handled already;
* poison: dead-lettered, and on to the next;
* something is away (a store, a service): waits in place, which costs no delivery;
* failed: after a pause it is abandoned, and the session given back with all that came after it, so that nothing
  overtakes it. Whoever takes the session next begins with a single message, then two, then four: most of those that
  wait behind a message that fails are not even delivered.

Read `subscription.py` next.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from random import SystemRandom

from azure.servicebus import ServiceBusReceivedMessage

from esazure.consumer import Lane
from esazure.errors import EsAzureError, PoisonMessageError, RetryLaterError, StoreUnavailableError
from esazure.servicebus.inbound import attempt_of, from_service_bus
from esazure.servicebus.sessions import Session, SessionLostError, ended, printable

_log = logging.getLogger("esazure.servicebus")
_random = SystemRandom()

BATCH = 100
"""Messages in hand, at most."""

SETTLED_AT_ONCE = 8
"""Round trips that overlap. With more, the SDK's tasks are busy waiting for each other."""

BATCH_SECONDS = 1.0
"""A batch that took longer to handle is followed by a smaller one: less has to go back when the session does."""

WAIT_SECONDS = 0.5
"""For messages, at a time: how long a stop can go unnoticed."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a message is tried again: twice as long each time, up to the longest; a quarter more or less."""

MAX_LOGGED = 500
"""Characters of an error's text in a log."""


@dataclass(slots=True)
class SubscriptionMetrics:
    """What an operator wants to know: plain numbers, to be read whenever and handed to any metrics library."""

    holding: int = 0
    """Lanes this process works on at this moment."""
    accepted: int = 0
    """Lanes taken so far."""
    lost: int = 0
    """Of these, lost: the lock ran out, or the connection broke. What was in hand comes again."""
    completed: int = 0
    """Messages that are done."""
    unconfirmed: int = 0
    """Messages that are done and perhaps not settled: the broker did not confirm it, and they may come again."""
    abandoned: int = 0
    """Times a message failed and went back."""
    waited: int = 0
    """Times a message was tried again in place, because something it needs was away."""
    dead_lettered: int = 0
    """Messages set aside. Alert when it grows."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What all lanes of a subscription have in common."""

    name: str
    """For logs."""
    idle: float
    hold: float
    stopping: asyncio.Event
    metrics: SubscriptionMetrics


class LaneWorker:
    """Does the work of one session, from its acceptance to its end."""

    def __init__(self, session: Session, lane: Lane, terms: Terms) -> None:
        self._session = session
        self._lane = lane
        self._terms = terms
        self._clock = asyncio.get_running_loop().time
        self._done: list[ServiceBusReceivedMessage] = []
        """Handled, and not completed yet."""
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._over = False
        # Lanes that were taken at the same moment should not all be given back at the same moment.
        self._until = self._clock() + terms.hold * _random.uniform(0.8, 1.0)

    async def run(self) -> None:
        """Work until it is time to give the session back, which is to close it: what is left in hand goes back with it.

        Raises:
            SessionLostError: it was lost meanwhile.
        """
        working = asyncio.create_task(self._work())
        keeping = asyncio.create_task(self._session.keep())
        completing = asyncio.create_task(self._complete())
        is_lost = False
        try:
            await asyncio.wait({working, keeping, completing}, return_when=asyncio.FIRST_COMPLETED)
            is_lost = not working.done()
            if is_lost:
                self._session.abort()  # somebody else may have it by now
        finally:
            self._over = True
            if not working.done():
                working.cancel()  # once: a handler may have to tidy up
                await asyncio.wait({working})
            await ended(completing)
            await ended(keeping)
        if not working.cancelled():
            working.result()
        if is_lost:  # also when a handler took the cancellation for something else, and came to an end
            raise SessionLostError

    async def _work(self) -> None:
        quiet_since = self._clock()
        window = 1
        while not self._is_time_to_go:
            quiet = self._clock() - quiet_since
            if quiet >= self._terms.idle:
                break
            batch = await self._session.receive(window, wait=min(WAIT_SECONDS, self._terms.idle - quiet))
            began = self._clock()
            for message in batch:
                if self._is_time_to_go or not await self._succeeded(message):
                    await self._all_settled()
                    return  # the rest goes back with the session
            # Waiting here keeps two tasks of ours from reading the same connection.
            await self._all_settled()
            if batch:
                quiet_since = self._clock()
            if self._clock() - began >= BATCH_SECONDS:
                window = 1
            elif len(batch) == window:
                window = min(2 * window, BATCH)

    async def _all_settled(self) -> None:
        if not self._over:  # otherwise nobody settles any more, and a handler may have used up our cancellation
            await self._settled.wait()

    @property
    def _is_time_to_go(self) -> bool:
        return self._over or self._terms.stopping.is_set() or self._clock() >= self._until

    async def _succeeded(self, message: ServiceBusReceivedMessage) -> bool:
        """Handle and settle one message; whether the next one may follow."""
        tries = 0
        while True:
            try:
                await self._lane.handle(from_service_bus(message), attempt_of(message))
            except PoisonMessageError as poison:
                await self._set_aside(message, poison)
                return True
            except (RetryLaterError, StoreUnavailableError) as error:
                pause = _pause(tries)
                if tries == 0:
                    _log.warning("%s: a message waits: %s", self._terms.name, _said(error))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                await self._give_up(message, "a handler was cancelled")
                return False
            except Exception as error:  # noqa: BLE001 - whatever it is, the message goes back, and other lanes go on
                await self._give_up(message, _said(error))
                return False
            else:
                self._done.append(message)
                self._settled.clear()
                self._wake.set()
                return True
            self._terms.metrics.waited += 1
            await self._sleep(pause)
            if self._over or self._terms.stopping.is_set():
                return False
            tries += 1

    async def _set_aside(self, message: ServiceBusReceivedMessage, poison: PoisonMessageError) -> None:
        why = printable(str(poison), MAX_LOGGED)
        _log.warning("%s: message %s is dead-lettered: %s", self._terms.name, message.sequence_number, why)
        metrics = self._terms.metrics
        metrics.unconfirmed += await self._session.dead_letter(message, poison.reason, poison.description)
        metrics.dead_lettered += 1

    async def _give_up(self, message: ServiceBusReceivedMessage, why: str) -> None:
        pause = _pause(attempt_of(message) - 1)
        _log.warning("%s: message %s goes back after %.1f s: %s", self._terms.name, message.sequence_number, pause, why)
        await self._sleep(pause)
        await self._session.abandon(message)
        self._terms.metrics.abandoned += 1

    async def _sleep(self, seconds: float) -> None:
        if self._over:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._terms.stopping.wait()

    async def _complete(self) -> None:
        """Complete what is handled, behind the back of the next message."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._done:
                due, self._done = self._done[:SETTLED_AT_ONCE], self._done[SETTLED_AT_ONCE:]
                self._terms.metrics.unconfirmed += await self._session.complete(due)
                self._terms.metrics.completed += len(due)
            self._settled.set()


def _pause(tries: int) -> float:
    return min(FIRST_PAUSE * 2.0 ** min(tries, 16), LONGEST_PAUSE) * _random.uniform(0.75, 1.25)


def _said(error: Exception) -> str:
    # What others wrote into an exception may be a payload.
    kind = type(error).__name__
    return printable(f"{kind}: {error}", MAX_LOGGED) if isinstance(error, EsAzureError) else kind
