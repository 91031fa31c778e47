"""Publishing commits: in order, one batch at a time, each dispatch within its deadline. Read `client.py` next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from azure.servicebus import ServiceBusMessage

from esazure.errors import RefusedError
from esazure.events import Commit
from esazure.home import Home
from esazure.integration import Integration, IntegrationMessage, check_publishable, messages_of
from esazure.ports import IEventProducer
from esazure.servicebus.breaker import Breaker
from esazure.servicebus.links import Link
from esazure.servicebus.messages import to_service_bus
from esazure.servicebus.sockets import CLOSE_SECONDS
from esazure.servicebus.translation import ClosedError, LateTurnError, dispatch_error, judge, may_quote_secrets

_LEAST_TIME = 0.1
"""The part of its time a dispatch must still have when its turn comes."""

_PAUSES = (0.1, 0.3, 0.9)
"""Seconds before each further try. Short, because a persist waits for it; the outbox is for long outages."""


class ServiceBusEventProducer(IEventProducer):
    """One topic; made by `ServiceBus.producer`.

    Dispatches that run at the same time take turns on one link, first come first served, because the SDK's sender is
    not safe for concurrent use. A link that failed, or whose dispatch was cancelled, is replaced by the next one.
    """

    def __init__(
        self,
        topic: str,
        new_link: Callable[[], Link],
        *,
        integration: Integration,
        lanes: int | None,
        max_message_bytes: int,
        timeout: float,
    ) -> None:
        self._topic = topic
        self._new_link = new_link
        self._integration = integration
        self._lanes = lanes
        self._max_message_bytes = max_message_bytes
        self._timeout = timeout
        self._lock = asyncio.Lock()
        self._home: Home | None = None
        # A silent link is given half of the time, see below.
        self._breaker = Breaker(slow=timeout / 2, pause=timeout)
        self._link = new_link()
        self._farewells: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"ServiceBusEventProducer(topic={self._topic!r})"

    @property
    def skipped(self) -> int:
        """Dispatches that failed at once, because the broker had just been silent: it was not asked."""
        return self._breaker.skipped

    def check(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.check`.

        Raises:
            RefusedError: this producer is in use in another event loop, or was before this process was forked.
        """
        self._come_home()
        check_publishable(commit.stream, self._messages(commit), self._max_message_bytes)

    async def dispatch(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.dispatch`: one batch, or several in order when one does not hold the commit.

        Returns or raises within the producer's `timeout`, waiting for its turn included. When it is cancelled, part of
        the commit may have been published. After a dispatch that had no answer in time, all others raise at once for as
        long as it took; then one tries again.

        Raises:
            DispatchError: not all messages were accepted, or nobody knows. Its `permanent` says whether trying again
                alone can help. Trying again sends the same message ids, so that duplicate detection sees repeats.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            self._come_home()
            messages = self._messages(commit)
            if not messages:
                return
            check_publishable(commit.stream, messages, self._max_message_bytes)
            await self._send_in_turn([to_service_bus(message) for message in messages], deadline)
        except Exception as error:
            failure = dispatch_error(commit, self._topic, error)
            if not may_quote_secrets(error):
                raise failure from error
        else:
            return
        raise failure

    def _come_home(self) -> None:
        """Settle down where it is used first, and again when the event loop there is closed."""
        if self._home is None or self._home.is_gone:
            if self._home is not None:
                self._lock, self._link = asyncio.Lock(), self._new_link()
                self._farewells.clear()
            self._home = Home()
        if why := self._home.why_not_here():
            raise RefusedError(f"{self!r} {why}")

    async def _send_in_turn(self, messages: Sequence[ServiceBusMessage], deadline: float) -> None:
        with self._breaker.passing() as is_probe:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._lock.acquire()
            except TimeoutError:
                raise LateTurnError from None
            try:
                # Who gets the turn with hardly any time left would only cut a link that works.
                if deadline - asyncio.get_running_loop().time() < self._timeout * _LEAST_TIME:
                    raise LateTurnError
                with self._breaker.listening(is_probe=is_probe):
                    async with asyncio.timeout_at(deadline):
                        await self._send_all(messages, deadline)
            finally:
                self._lock.release()

    def _messages(self, commit: Commit[Any]) -> list[IntegrationMessage]:
        return messages_of(commit, self._integration, self._lanes)

    async def _send_all(self, messages: Sequence[ServiceBusMessage], deadline: float) -> None:
        clock = asyncio.get_running_loop().time
        sent = tries = 0
        while sent < len(messages):
            if self._closed:
                raise ClosedError
            try:
                sent += await self._send_some(messages[sent:])
                tries = 0
            except Exception as error:
                pause = _PAUSES[tries] if tries < len(_PAUSES) else None
                # A pause beyond the deadline would hide this failure behind a timeout.
                if judge(error).permanent or pause is None or clock() + pause >= deadline:
                    raise
                tries += 1
                await asyncio.sleep(pause)

    async def _send_some(self, messages: Sequence[ServiceBusMessage]) -> int:
        # Half of the time, so that after a link that hangs there is time for a fresh one: a peer that went away
        # without a word is found out only by waiting.
        patience = self._timeout / 2
        # In a task of its own: when the time is over or the caller is cancelled, the connection has to be cut before
        # the SDK hears of it, or its clean-up would wait for the very peer that does not answer.
        attempt = asyncio.create_task(self._link.send(messages, patience=patience))
        try:
            async with asyncio.timeout(patience):
                await asyncio.wait({attempt})
            return attempt.result()
        except BaseException as error:
            if self._link.broken or not judge(error).link_is_fine:
                self._replace_link(attempt)
            raise

    def _replace_link(self, attempt: asyncio.Task[int]) -> None:
        failed, self._link = self._link, self._new_link()
        failed.abort()
        attempt.cancel()
        farewell = asyncio.create_task(_say_farewell(failed, attempt))
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)

    async def close(self) -> None:
        """Let the dispatch under way end, for a moment, then let go of every connection. Called by `ServiceBus`."""
        self._closed = True
        if not await self._my_turn():
            self._link.abort()  # now it fails, and finds this producer closed
            await self._my_turn()
        await self._link.close()
        if self._farewells:
            await asyncio.wait(self._farewells)

    async def _my_turn(self) -> bool:
        try:
            async with asyncio.timeout(CLOSE_SECONDS), self._lock:
                return True
        except TimeoutError:
            return False


async def _say_farewell(link: Link, attempt: asyncio.Task[int]) -> None:
    """Tidy up after a failed link, behind the back of the dispatch that goes on."""
    await asyncio.wait({attempt}, timeout=CLOSE_SECONDS)
    if attempt.done() and not attempt.cancelled():
        attempt.exception()  # seen already, or about a link that nobody waits for any more
    await link.close()
