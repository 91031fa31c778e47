"""Runs a function where the broker lives, whoever asks: its own loop, another thread, or nobody while it is stopped.

The broker's state is touched by one thread at a time. While it runs, that is the thread of its loop; before and after,
it is whoever holds the gate's lock.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

_PATIENCE = 30.0


class LoopGate:
    """`open` and `close` are called on the loop; `run` from anywhere."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        self._calls: deque[Callable[[], None]] = deque()

    @property
    def is_open(self) -> bool:
        """Whether a loop runs the broker."""
        return self._loop is not None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on this loop, whose thread calls this, runs everything."""
        with self._lock:
            self._loop, self._thread = loop, threading.get_ident()

    def close(self) -> None:
        """Run what still waits; from now on every caller runs its own."""
        with self._lock:
            self._run_calls()
            self._loop = self._thread = None

    def run(self, function: Callable[[], Result]) -> Result:
        """Call `function` where the broker lives, and give back what it returns or raises.

        Raises:
            TimeoutError: the broker's loop is blocked, for example by a synchronous client on the same thread.
        """
        with self._lock:
            if self._loop is None or self._thread == threading.get_ident():
                return function()
            answer: Future[Result] = Future()
            self._calls.append(lambda: _answer(answer, function))
            # Under the lock, so that `close` cannot come between: after it, nobody would run the call.
            self._loop.call_soon_threadsafe(self._run_calls)
        try:
            return answer.result(_PATIENCE)
        except TimeoutError:
            if answer.done():
                raise
            answer.cancel()
            raise TimeoutError(f"the double's event loop did not run for {_PATIENCE:.0f} s: is it blocked?") from None

    def _run_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()


def _answer(future: "Future[Any]", function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as failure:  # noqa: BLE001 - it is raised where the call came from
        future.set_exception(failure)
    else:
        future.set_result(result)
