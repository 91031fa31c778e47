"""One session of a subscription, from asking for it to giving it back: the lock, the messages in order, the settlement.

Three things are not left to the SDK. It compares the broker's lock with this machine's clock; here the lock is renewed
by an interval, and the broker says when it is lost. It hands back what arrives between two receives, so that the next
message may overtake it; here it is kept. And it takes a session up again by itself after some failures, behind the back
of whoever has messages in hand; here a session that failed is lost. The names this needs are private to the SDK; tests
show what happens without.

Read `lanes.py` next. How connections end is in `sockets.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    SessionLockLostError,
)

from esazure.servicebus.sockets import CLOSE_SECONDS, Connection, bounded, take_over_closing
from esazure.servicebus.translation import judge

SETTLE_SECONDS = 10.0
"""After which a settlement without an answer means that the connection is dead."""

SHORTEST_LOCK, LONGEST_LOCK = 1.0, 20.0
"""Seconds a lock is taken to last at least, and at most, before it is renewed: clocks may differ."""

MAX_REASON, MAX_DESCRIPTION = 128, 4_096
"""Characters of what is written on a dead letter."""


class SessionLostError(Exception):
    """The session may be somebody else's by now; what was in hand comes again. Never leaves the package."""


class Session:
    """Uses one receiver of the SDK for one session; a new one is made for each."""

    def __init__(self, receiver: ServiceBusReceiver) -> None:
        self._receiver: Any = receiver
        self._connections: list[Connection] = []
        self._accepted = False
        self._lost = False
        self._lock = SHORTEST_LOCK
        take_over_closing(receiver, self._connections)
        self._keep_order()

    @property
    def id(self) -> str:
        """Which session it is, once it is accepted."""
        return str(self._receiver.session.session_id)

    async def accept(self) -> None:
        """Wait for a session, as long as the receiver was made to.

        Raises:
            ServiceBusError: none was available in time (OperationTimeoutError), or the broker refuses.
        """
        await self._receiver.__aenter__()
        self._accepted = True
        for connection in self._connections:
            connection.polite = False
        until = self._receiver.session.locked_until_utc
        measured = (until - datetime.now(UTC)).total_seconds() if until is not None else SHORTEST_LOCK
        self._lock = min(max(measured, SHORTEST_LOCK), LONGEST_LOCK)
        self._ignore_the_clock()

    async def keep(self) -> None:
        """Renew the lock in time, again and again, until it is lost or this is cancelled.

        Raises:
            SessionLostError: it is lost, or nobody knows.
        """
        clock = asyncio.get_running_loop().time
        renewed = clock()
        while not self._lost:
            await asyncio.sleep(self._lock / 3)
            asked = clock()
            remaining = renewed + self._lock - asked
            if remaining <= 0:
                break
            try:
                async with asyncio.timeout(remaining):
                    await self._receiver.session.renew_lock(timeout=remaining)
                self._check_link()
            except Exception as error:
                if judge(error).link_is_fine:
                    continue  # a busy broker: there is time for another try
                raise self._losing() from error
            renewed = asked
            self._ignore_the_clock()
        raise self._losing()

    async def receive(self, count: int, *, wait: float) -> list[ServiceBusReceivedMessage]:
        """The next messages, at most `count`; none when `wait` seconds pass without one.

        Raises:
            SessionLostError: the session was lost meanwhile.
        """
        try:
            messages: list[ServiceBusReceivedMessage] = await self._receiver.receive_messages(
                max_message_count=count, max_wait_time=wait
            )
        except Exception as error:
            raise self._losing() from error
        if self._lost:
            raise SessionLostError
        return messages

    async def complete(self, messages: Sequence[ServiceBusReceivedMessage]) -> int:
        """These are done. Returns how many of them nobody confirmed: they may come again.

        Raises:
            SessionLostError: some may not be completed, and come again.
        """
        return await self._settle(*[self._receiver.complete_message(message) for message in messages])

    async def abandon(self, message: ServiceBusReceivedMessage) -> int:
        """It comes again, with a higher delivery count. Returns as `complete` does.

        Raises:
            SessionLostError: it comes again anyhow.
        """
        return await self._settle(self._receiver.abandon_message(message))

    async def dead_letter(self, message: ServiceBusReceivedMessage, reason: str, description: str) -> int:
        """Set it aside. Returns as `complete` does.

        Raises:
            SessionLostError: it may come again.
        """
        reason, description = printable(reason, MAX_REASON), printable(description, MAX_DESCRIPTION)
        return await self._settle(
            self._receiver.dead_letter_message(message, reason=reason, error_description=description)
        )

    def abort(self) -> None:
        """Nothing of it can be used any longer. `close` is still due."""
        self._losing()

    async def close(self) -> None:
        """Let go of the session, with all that is not settled; bounded, and never raises.

        The broker counts no delivery for it: that is Microsoft's rule for a session that is closed, as opposed to one
        whose lock expires (its page "Message sessions", the impact of delivery count).
        """
        for connection in self._connections:
            await connection.close()
        self._connections.clear()
        await bounded(self._receiver.close())

    # ---- inside

    async def _settle(self, *settlements: Coroutine[Any, Any, None]) -> int:
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                # At once: each takes a round trip, in which the others would wait.
                outcomes = await asyncio.gather(*settlements, return_exceptions=True)
        except TimeoutError as error:
            raise self._losing() from error
        unconfirmed = 0
        for outcome in outcomes:
            if isinstance(outcome, MessageLockLostError | MessageAlreadySettled):
                unconfirmed += 1  # it may have been settled, and only the answer got lost
            elif isinstance(outcome, BaseException):
                raise self._losing() from outcome
        return unconfirmed

    def _losing(self) -> SessionLostError:
        self._lost = True
        for connection in self._connections:
            connection.abort()
        return SessionLostError()

    def _check_link(self) -> None:
        """Raise when the broker has closed the link. Then the lock that was renewed may be somebody else's."""
        link = getattr(getattr(self._receiver, "_handler", None), "_link", None)
        if link is not None:
            link.get_state()

    def _ignore_the_clock(self) -> None:
        self._receiver.session._locked_until_utc = None  # noqa: SLF001 - see the top of the file

    def _keep_order(self) -> None:
        create = getattr(self._receiver, "_create_handler", None)
        if create is None:
            return

        def create_once(*args: Any) -> None:
            if self._accepted:
                raise SessionLockLostError
            create(*args)
            # Until there is a session nobody waits for the end of it, and the broker should know that we left.
            self._connections[-1].polite = True
            # What was put over the client's own way, which keeps what arrives.
            vars(self._receiver._handler).pop("_message_received_async", None)  # noqa: SLF001 - see the top of the file

        self._receiver._create_handler = create_once  # noqa: SLF001 - the same


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task that only uses the SDK, and wait for its end: in Python 3.11 the SDK can miss a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CLOSE_SECONDS)
    if not task.cancelled():
        task.exception()  # seen already, or of no interest any more


def printable(text: str, characters: int) -> str:
    """At most so much of it, and well-formed: whoever raised it may have put anything into it."""
    return text[:characters].encode(errors="replace").decode()
