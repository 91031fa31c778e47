"""The broker's one clock, and what it is due to do: nothing polls, nothing scans.

Every lock, time to live and scheduled message sets an `Alarm`; `Clock.catch_up` rings those that are due, in order.
`queues.py` sets most of them, `broker.py` sleeps until the next.
"""

import heapq
import itertools
import time
from collections.abc import Callable

_WORTH_COMPACTING = 64


class Alarm:
    """One thing to do at one time; `cancel` when it is no longer wanted."""

    __slots__ = ("_clock", "action", "due")

    def __init__(self, clock: "Clock", due: float, action: Callable[[], None]) -> None:
        self._clock = clock
        self.due = due
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Never ring. Cancelling twice, or after it rang, does nothing."""
        if self.action is not None:
            self.action = None
            self._clock.forget_one()


class Clock:
    """`time.time` plus an offset that only grows; epoch seconds."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._offset = 0.0
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._cancelled = 0
        self._order = itertools.count()
        self.sooner: Callable[[], None] = lambda: None
        """Called when an alarm is set that is due before all others."""

    def now(self) -> float:
        """Seconds since 1970 as the broker sees them."""
        return self._source() + self._offset

    def told(self, seconds: float) -> float:
        """A time of the broker as a client is told it: its own clock did not move with `advance`."""
        return seconds - self._offset

    def heard(self, seconds: float) -> float:
        """A time that a client gave, by its own clock, as the broker means it."""
        return seconds + self._offset

    def advance(self, seconds: float) -> None:
        """Move on, and ring what became due."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._offset += seconds
        self.catch_up()

    def alarm(self, due: float, action: Callable[[], None]) -> Alarm:
        """Ring at `due`: with the next `catch_up` when that is past already."""
        alarm = Alarm(self, due, action)
        heapq.heappush(self._alarms, (due, next(self._order), alarm))
        if self._alarms[0][2] is alarm:
            self.sooner()
        return alarm

    def next_due(self) -> float | None:
        """When the next alarm rings."""
        while self._alarms and self._alarms[0][2].action is None:
            heapq.heappop(self._alarms)
            self._cancelled -= 1
        return self._alarms[0][0] if self._alarms else None

    def catch_up(self) -> None:
        """Ring everything due by now, in order of time; costs nothing when nothing is."""
        now = self.now()
        while self._alarms and self._alarms[0][0] <= now:
            alarm = heapq.heappop(self._alarms)[2]
            action, alarm.action = alarm.action, None
            if action is None:
                self._cancelled -= 1
            else:
                action()

    def forget_one(self) -> None:
        """An alarm was cancelled: most are, so the heap is rebuilt when half of it is dead."""
        self._cancelled += 1
        if self._cancelled > _WORTH_COMPACTING and self._cancelled * 2 > len(self._alarms):
            self._alarms = [entry for entry in self._alarms if entry[2].action is not None]
            heapq.heapify(self._alarms)
            self._cancelled = 0
