"""Contenders take turns, round by round; what counts is the median of the ratios within the rounds.

A machine is faster now and slower then, and that cancels out. Before each turn the garbage is collected and what is
left is put out of the collector's sight, so that nobody pays for the objects of others. Read `report.py` next.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Work = Callable[[], Awaitable[object]]

TURN_SECONDS = 0.05
"""How long a turn takes, about."""

_MOST_CALLS = 5_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How long to measure."""

    rounds: int
    quick: bool


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds for a call."""

    cpu: float
    """Of this process, all its threads."""
    wall: float


class Race:
    """What each contender spent in each round."""

    def __init__(self, taken: Mapping[str, list[Spent]]) -> None:
        self.taken = taken

    def ratio(self, one: str, other: str, of: Literal["cpu", "wall"] = "cpu") -> float:
        """How many times as much as the other the one spends."""
        pairs = zip(self.taken[one], self.taken[other], strict=True)
        return statistics.median(getattr(mine, of) / getattr(theirs, of) for mine, theirs in pairs)

    def typical(self, name: str) -> Spent:
        """The medians of one contender."""
        spent = self.taken[name]
        return Spent(statistics.median(each.cpu for each in spent), statistics.median(each.wall for each in spent))

    def milliseconds(self, of: Literal["cpu", "wall"] = "cpu") -> str:
        """The medians of all, to be shown."""
        return ", ".join(f"{name} {getattr(self.typical(name), of) * 1e3:.3g}" for name in self.taken)


async def race(contenders: Mapping[str, Work], settings: Settings, *, calls: int = 1) -> Race:
    """Let them take turns; `calls` is how many operations one call of a contender carries out."""
    times = {name: await _calibrated(work) for name, work in contenders.items()}
    taken: dict[str, list[Spent]] = {name: [] for name in contenders}
    for _ in range(settings.rounds):
        for name in random.sample(list(contenders), len(contenders)):
            spent = await _turn(contenders[name], times[name])
            taken[name].append(Spent(spent.cpu / calls, spent.wall / calls))
    return Race(taken)


async def _turn(work: Work, times: int) -> Spent:
    gc.collect()
    gc.freeze()
    try:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(times):
            await work()
        return Spent((time.process_time() - cpu) / times, (time.perf_counter() - wall) / times)
    finally:
        gc.unfreeze()


async def _calibrated(work: Work) -> int:
    for _ in range(3):
        await work()  # warms up
    spent = await _turn(work, 2)
    return max(1, min(_MOST_CALLS, round(TURN_SECONDS / spent.wall)))
