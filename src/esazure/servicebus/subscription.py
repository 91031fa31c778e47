"""`ServiceBusSubscription`: shares the lanes of a subscription with whoever else receives from it.

Each of its slots takes the next lane that has messages and nobody, works on it (`lanes.py`), gives it back, and takes
the next. So lanes that are idle belong to nobody, and whoever is free gets them. Dead letters are in `deadletters.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from random import SystemRandom

from azure.servicebus.exceptions import OperationTimeoutError

from esazure.consumer import Consumer, Lane
from esazure.errors import SubscriptionError
from esazure.servicebus.deadletters import DeadLetter, DeadLetters
from esazure.servicebus.lanes import LaneWorker, SubscriptionMetrics, Terms
from esazure.servicebus.sessions import Session, SessionLostError, ended
from esazure.servicebus.translation import may_quote_secrets, why_not_received

_log = logging.getLogger("esazure.servicebus")
_random = SystemRandom()

ACCEPT_SECONDS = 60.0
"""How long the broker is asked to wait for a lane before it is asked again."""

ACCEPT_SLACK = 10.0
"""What opening a connection may take besides, before it is given up."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
"""Seconds before the broker is asked again after a failure: twice as long each time; a quarter more or less."""

FAREWELL_SECONDS = 10.0
"""What `ServiceBus` leaves the messages in hand when it is closed."""


class ServiceBusSubscription:
    """One subscription of a topic; made by `ServiceBus.subscription`.

    Any number of them, in any number of processes, share its lanes; a lane is one process's at a time.
    """

    def __init__(
        self,
        name: str,
        consumer: Consumer,
        new_session: Callable[[float], Session],
        dead_letters: DeadLetters,
        *,
        sessions: int,
        idle: float,
        hold: float,
    ) -> None:
        self.metrics = SubscriptionMetrics()
        self._name = name
        self._consumer = consumer
        self._new_session = new_session
        self._dead_letters = dead_letters
        self._sessions = sessions
        self._stopping = asyncio.Event()
        self._terms = Terms(name, idle, hold, self._stopping, self.metrics)
        self._slots: set[asyncio.Task[None]] = set()
        self._reached = False
        self._troubles: set[str] = set()

    def __repr__(self) -> str:
        return f"ServiceBusSubscription({self._name!r})"

    async def run(self) -> None:
        """Receive and handle until `stop`. When it is cancelled, what is in hand is cancelled, and comes again.

        Trouble on the way to the broker is logged, once for each kind until things work again, and tried again with
        growing pauses. Only what nobody but you can correct is raised, and only until the broker has once said yes:

        Raises:
            SubscriptionError: the subscription does not exist, has no sessions, or the credential may not receive; or
                the consumer cannot serve what was registered after it was made.
            RuntimeError: it runs already.
        """
        if self._slots:
            raise RuntimeError(f"{self._name} is being received from already: make another subscription object")
        if self._stopping.is_set():
            return
        self._slots = {asyncio.create_task(self._slot()) for _ in range(self._sessions)}
        try:
            done, _ = await asyncio.wait(self._slots, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await self._end_slots()
        for slot in done:
            if not slot.cancelled():
                slot.result()

    def stop(self) -> None:
        """Let `run` return once the messages in hand are handled and settled; the others go back. For good."""
        self._stopping.set()

    async def close(self) -> None:
        """Stop; cancel what is still in hand after ten seconds. Called by `ServiceBus`."""
        self.stop()
        if self._slots:
            await asyncio.wait(self._slots, timeout=FAREWELL_SECONDS)
            await self._end_slots()

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """What was set aside, the oldest first, at most `limit`. They stay where they are.

        Raises:
            SubscriptionError: they cannot be read.
        """
        return await self._dead_letters.peek(limit)

    async def resubmit(self, message_ids: Collection[str] | None = None, limit: int = 100) -> int:
        """Send dead letters back to the topic, in their order: those with these ids, or all. Returns how many.

        A copy with a new message id goes to the topic, then the dead letter is removed; a crash in between, or another
        subscription of the topic, gets a message it has seen, and drops it by its version.

        Args:
            message_ids: as `dead_letters` gives them.
            limit: at most so many.

        Raises:
            SubscriptionError: it could not be done; what was not sent is still there.
        """
        return await self._dead_letters.resubmit(message_ids, limit)

    # ---- slots

    async def _slot(self) -> None:
        """One lane after the other."""
        failures = 0
        while not self._stopping.is_set():
            session = self._new_session(ACCEPT_SECONDS)
            try:
                if await self._accepted(session):
                    await self._work(session)
                failures = 0
            except SubscriptionError:
                raise
            except Exception as error:  # noqa: BLE001 - the other lanes must go on
                self._report(error)
                pause = min(FIRST_PAUSE * 2.0 ** min(failures, 16), LONGEST_PAUSE) * _random.uniform(0.75, 1.25)
                failures += 1
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopping.wait()
            finally:
                await session.close()

    async def _accepted(self, session: Session) -> bool:
        """Wait for a lane; False when there was none, or it is time to stop."""
        clock = asyncio.get_running_loop().time
        began = clock()
        accepting = asyncio.create_task(session.accept())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait(
                {accepting, stopped}, timeout=ACCEPT_SECONDS + ACCEPT_SLACK, return_when=asyncio.FIRST_COMPLETED
            )
            if accepting.done():
                accepting.result()
            elif not self._stopping.is_set():
                raise TimeoutError
        except OperationTimeoutError:
            # One that comes at once is no answer to the question whether there is a lane.
            if clock() - began < ACCEPT_SECONDS / 2:
                raise
            self._all_is_well()
            return False
        else:
            return accepting.done()
        finally:
            await ended(stopped)
            await ended(accepting)

    async def _work(self, session: Session) -> None:
        self._all_is_well()
        metrics = self.metrics
        metrics.accepted += 1
        metrics.holding += 1
        try:
            await LaneWorker(session, self._lane(), self._terms).run()
        except SessionLostError:
            metrics.lost += 1
            raise
        finally:
            metrics.holding -= 1

    def _lane(self) -> Lane:
        try:
            return self._consumer.lane()
        except ValueError as error:
            raise SubscriptionError(f"{self._name}: {error}") from error

    def _all_is_well(self) -> None:
        self._reached = True
        self._troubles.clear()

    def _report(self, error: Exception) -> None:
        """Log it once.

        Raises:
            SubscriptionError: somebody has to act, and did not before anything ever worked.
        """
        if isinstance(error, SessionLostError):
            why = f"a lane was lost, and its messages come again ({type(error.__cause__ or error).__name__})"
        else:
            why, is_wrong = why_not_received(error)
            if is_wrong and not self._reached:
                raise SubscriptionError(f"{self._name}: {why}") from (None if may_quote_secrets(error) else error)
        if why not in self._troubles:
            self._troubles.add(why)
            _log.warning("%s: %s; it is tried again", self._name, why)

    async def _end_slots(self) -> None:
        slots, self._slots = self._slots, set()
        for slot in slots:
            slot.cancel()
        if slots:
            await asyncio.wait(slots)
