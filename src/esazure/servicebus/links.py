"""One SDK sender and the connection under it: opened when first needed, thrown away as a whole when anything fails.

Nothing here decides whether to try again; `producer.py` does, read it next.

The SDK cannot be left to close its connections itself: when an open fails or hangs it forgets the socket without
closing it, and a close can wait for a peer that has gone. So closing is taken out of its hands: where it would close,
the socket is aborted at once, which also ends whatever hangs on it, and the rest is tidied up in `close`. The names
this needs are private to the SDK; without them sockets would wait for the garbage collector, and a test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError

CLOSE_SECONDS = 2.0
"""How long a link may take to say goodbye; a connection that is fine needs a tenth of it."""


class Link:
    """Sends one batch at a time; not safe for concurrent use, because the SDK's sender is not."""

    def __init__(self, sender: ServiceBusSender) -> None:
        self._sender = sender
        self._handlers: list[_Handler] = []
        _take_over_closing(sender, self._handlers)

    async def send(self, messages: Sequence[ServiceBusMessage], *, patience: float) -> int:
        """Send as many messages from the front as one batch holds, and return how many.

        Opens the link first if need be. `patience` bounds the send in seconds, not the opening.

        Raises:
            ServiceBusError: they were not accepted, or nobody knows.
        """
        batch = await self._sender.create_message_batch()
        count = _fill(batch, messages)
        # On the Premium tier one message may be larger than any batch; it travels alone, and the broker judges it.
        await self._sender.send_messages(batch if count else messages[0], timeout=patience)
        return count or 1

    @property
    def broken(self) -> bool:
        """Whether a connection of this link was cut, so that it has to be replaced."""
        return any(handler.cut for handler in self._handlers)

    def abort(self) -> None:
        """Cut the connection, so that nothing waits on it any longer. `close` is still due."""
        for handler in self._handlers:
            handler.abort()

    async def close(self) -> None:
        """Close what is open and let go of everything; bounded, and never raises."""
        for handler in self._handlers:
            await handler.close()
        self._handlers.clear()
        await bounded(self._sender.close())


class _Handler:
    """One AMQP client the SDK made for a sender: at most one connection, and the task that keeps it alive."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._close: Callable[[], Coroutine[Any, Any, None]] = client.close_async
        client.close_async = self._abort_instead_of_closing
        self.cut = False

    async def _abort_instead_of_closing(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.cut = True
        writer = self._writer
        if writer is not None:
            writer.transport.abort()

    async def close(self) -> None:
        writer = self._writer
        keep_alive = getattr(self._client, "_keep_alive_thread", None)
        if keep_alive is not None:
            keep_alive.cancel()  # otherwise closing waits for the end of its sleep, up to a second
        await bounded(self._close())
        if writer is not None:
            writer.transport.abort()

    @property
    def _writer(self) -> asyncio.StreamWriter | None:
        """The socket, unless it is a web socket, which aiohttp closes."""
        transport = getattr(getattr(self._client, "_connection", None), "_transport", None)
        writer = getattr(transport, "writer", None)
        return writer if isinstance(writer, asyncio.StreamWriter) else None


async def bounded(work: Coroutine[Any, Any, object], seconds: float = CLOSE_SECONDS) -> None:
    """Give clean-up its time, then cancel it; its failure is nobody's concern."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            if task.done():
                task.result()


def _fill(batch: ServiceBusMessageBatch, messages: Sequence[ServiceBusMessage]) -> int:
    for count, message in enumerate(messages):
        try:
            batch.add_message(message)
        except MessageSizeExceededError:
            return count
    return len(messages)


def _take_over_closing(sender: Any, handlers: list[_Handler]) -> None:
    create = getattr(sender, "_create_handler", None)
    if create is None:
        return

    def create_and_remember(*args: Any) -> None:
        create(*args)
        handlers.append(_Handler(sender._handler))  # noqa: SLF001 - see the top of the file

    sender._create_handler = create_and_remember  # noqa: SLF001 - the same
