"""The connections under the SDK's senders and receivers: cut at once when they fail, and let go of in bounded time.

The SDK cannot be left to close its connections itself: when an open fails or hangs it forgets the socket without
closing it, and a close can wait for a peer that has gone. So closing is taken out of its hands: where it would close,
the socket is aborted at once, which also ends whatever hangs on it, and the rest is tidied up in `close`. The names
this needs are private to the SDK; without them sockets would wait for the garbage collector, and a test says so.

Read `links.py` next for sending, `sessions.py` for receiving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

CLOSE_SECONDS = 2.0
"""How long a link may take to say goodbye; a connection that is fine needs a tenth of it."""


class Connection:
    """One AMQP client the SDK made for a link: at most one socket, and the task that keeps it alive."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._close: Callable[[], Coroutine[Any, Any, None]] = client.close_async
        client.close_async = self._when_the_sdk_would_close
        self.cut = False
        self.polite = False
        """Whether the SDK's own closing says goodbye first, within bounds. Otherwise it aborts."""

    async def _when_the_sdk_would_close(self) -> None:
        if self.polite:
            await self.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Cut it, so that nothing waits on it any longer. `close` is still due."""
        self.cut = True
        writer = self._writer
        if writer is not None:
            writer.transport.abort()

    async def close(self) -> None:
        """Say goodbye, in bounded time, then cut it. Never raises."""
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


def take_over_closing(link: Any, connections: list[Connection]) -> None:
    """From now on, remember every connection that a sender or receiver of the SDK opens, and close it our way."""
    create = getattr(link, "_create_handler", None)
    if create is None:
        return

    def create_and_remember(*args: Any) -> None:
        create(*args)
        connections.append(Connection(link._handler))  # noqa: SLF001 - see the top of the file

    link._create_handler = create_and_remember  # noqa: SLF001 - the same


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
