"""Where something was opened: connections belong to one process and one event loop, and are of no use anywhere else.

Used elsewhere they hang, or fail after half of the work, or disturb whoever they belong to. So it is noticed before.
"""

from __future__ import annotations

import asyncio
import os


class Home:
    """This process and, inside of a coroutine, its running event loop."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = _running_loop()

    @property
    def is_gone(self) -> bool:
        """Whether the loop was closed: nobody can be there any more."""
        return self.is_of_this_process and self._loop is not None and self._loop.is_closed()

    @property
    def is_of_this_process(self) -> bool:
        """False in a child that was forked off since."""
        return os.getpid() == self._process

    @property
    def is_busy_elsewhere(self) -> bool:
        """Whether the loop runs, and is not the one that runs here."""
        return self._loop is not None and self._loop.is_running() and self._loop is not _running_loop()

    def why_not_here(self) -> str | None:
        """What is wrong with using it here and now, and what to do; None when it is at home."""
        if not self.is_of_this_process:
            return "was opened before this process was forked: open another one in the child"
        if self._loop is not _running_loop():
            return "was opened in another event loop: open one in each loop, and use and close it there"
        return None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
