"""A clock that moves when told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from esazure.testing import ManualClock


def test_it_stands_still_until_it_is_moved() -> None:
    clock = ManualClock()
    assert clock() == clock() == datetime(2000, 1, 1, tzinfo=UTC)
    clock.advance(90.5)
    assert clock() == datetime(2000, 1, 1, 0, 1, 30, 500_000, tzinfo=UTC)
    clock.advance(0)
    assert clock() == datetime(2000, 1, 1, 0, 1, 30, 500_000, tzinfo=UTC)


def test_it_answers_in_utc_wherever_it_was_started() -> None:
    clock = ManualClock(datetime(2024, 7, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert clock().isoformat() == "2024-07-01T00:00:00+00:00"


def test_a_start_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        ManualClock(datetime(2024, 7, 1))  # noqa: DTZ001 - the point


def test_time_does_not_go_back() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    assert clock() == datetime(2000, 1, 1, tzinfo=UTC)
