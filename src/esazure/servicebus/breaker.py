"""Remembers that a broker was silent, so that not every dispatch waits for it anew. Read `producer.py` next."""

from __future__ import annotations

from asyncio import CancelledError, get_running_loop
from collections.abc import Iterator
from contextlib import contextmanager

from esazure.servicebus.translation import SilentError, judge


class Breaker:
    """Open after a silence: for `pause` seconds nobody asks the broker. Then one dispatch tries, the others still not.

    Silence is a failure without an answer that took as long as `slow` seconds, or dispatches that were cancelled one
    after the other in so long. A broker that refuses, throttles or cannot be reached says so quickly; it closes the
    breaker, as a success does.
    """

    def __init__(self, *, slow: float, pause: float) -> None:
        self._slow = slow
        self._pause = pause
        self._open_until: float | None = None
        self._has_probe = False
        self._waited = 0.0  # seconds, without an answer so far
        self.skipped = 0
        """Dispatches that were refused without asking the broker."""

    @contextmanager
    def passing(self) -> Iterator[bool]:
        """Let a dispatch pass, and say whether it is the one that tries.

        Raises:
            SilentError: the broker is not to be asked now.
        """
        is_probe = self._open_until is not None
        if self._open_until is not None and (self._has_probe or get_running_loop().time() < self._open_until):
            self._refuse()
        self._has_probe |= is_probe
        try:
            yield is_probe
        finally:
            # Also after a cancellation, which says nothing about the broker: the next one tries.
            if is_probe:
                self._has_probe = False

    @contextmanager
    def listening(self, *, is_probe: bool) -> Iterator[None]:
        """Note how it ends.

        Raises:
            SilentError: the broker fell silent while this dispatch waited for its turn.
        """
        if self._open_until is not None and not is_probe:
            self._refuse()
        clock = get_running_loop().time
        began = clock()
        try:
            yield
        except (CancelledError, Exception) as error:
            self._waited += clock() - began
            verdict = judge(error)
            if verdict.link_is_fine or verdict.permanent:
                self._waited = 0.0
            if self._waited >= self._slow:
                self._open_until, self._waited = clock() + self._pause, 0.0
            elif not isinstance(error, CancelledError):
                self._open_until, self._waited = None, 0.0
            raise
        self._open_until, self._waited = None, 0.0

    def _refuse(self) -> None:
        self.skipped += 1
        raise SilentError
