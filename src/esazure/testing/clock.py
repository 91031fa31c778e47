"""A clock that stands still until it is told to move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class ManualClock:
    """A callable clock for stores and tests: `InMemoryStore(clock=ManualClock())`.

    It always answers in UTC, and never goes back.
    """

    def __init__(self, start: datetime = datetime(2000, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError("start needs a time zone, as in datetime(2000, 1, 1, tzinfo=UTC)")
        self._now = start.astimezone(UTC)

    def __call__(self) -> datetime:
        """What time it is."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: less than no time.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back, not by {-seconds} seconds either")
        self._now += timedelta(seconds=seconds)
