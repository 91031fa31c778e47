"""What goes on behind the counter: relay, projections, reactions, letters. Any number of workers share the work."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager

from bank.backends import Part


async def work(parts: Sequence[Part]) -> None:
    """Run them until they are stopped. When one of them fails all end, for whoever started the worker to start it anew.

    Raises:
        ExceptionGroup: why.
    """
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part.run())


@asynccontextmanager
async def working(parts: Sequence[Part]) -> AsyncGenerator[None]:
    """Work beside what is inside, and in the end finish what is in hand."""
    async with asyncio.TaskGroup() as group:
        group.create_task(work(parts))
        try:
            yield
        finally:
            stop(parts)


def stop(parts: Sequence[Part]) -> None:
    for part in parts:
        part.stop()


@contextmanager
def stopped_by_signals(parts: Sequence[Part]) -> Generator[None]:
    """SIGTERM and SIGINT let `work` return."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, parts)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
