"""Every call to a store or a broker as a numbered point, and what can go wrong at one.

`Faults` counts the calls and does what it was told to. Read `_faulty.py` next: who makes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from typing_extensions import TypeVar

from esazure.errors import DispatchError, StoreUnavailableError

T = TypeVar("T")

READS = frozenset(
    ("read", "scan", "find_command", "read_view", "sweep", "unpublished", "read_document", "list_documents")
)
"""Calls which change nothing, however late they arrive."""

_SLOW_TURNS = 50  # of the event loop: whatever runs beside a slow call overtakes it


class Crash(BaseException):
    """The process died here. Not an `Exception`, so that no handler survives it by accident."""


class Kind(StrEnum):
    """What can go wrong with one call."""

    CRASH_BEFORE = "crash before the call"
    """The process dies, and the call was never made."""
    CRASH_AFTER = "crash after the call"
    """The call was carried out, and the process died before it heard so."""
    REFUSED = "the call is refused"
    """StoreUnavailableError or DispatchError; nothing happened."""
    LOST_REQUEST = "the request is lost"
    """No answer (AppendOutcomeUnknownError for an insert), and nothing happened."""
    LOST_ANSWER = "the answer is lost"
    """The same error, and the call was carried out."""
    LATE = "the call arrives late"
    """The same error, and the call is carried out some points later: a zombie write."""
    SLOW = "the call is slow"
    """Whatever runs beside it overtakes it."""
    TWICE = "the call arrives twice"
    """Carried out twice in a row; the second answer is heard."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a point."""

    kind: Kind
    lands_after: int | None = None
    """For `Kind.LATE`: how many points later the call is carried out; None is at the end, in `Faults.settle`."""

    def __str__(self) -> str:
        if self.kind is not Kind.LATE:
            return str(self.kind)
        return f"{self.kind}, {'at the end' if self.lands_after is None else f'before point +{self.lands_after}'}"


@dataclass(frozen=True, slots=True)
class Point:
    """One call to the store or the producer."""

    number: int
    """Counts from 1, over crashes too."""
    method: str
    subject: str
    """The stream; of `sweep` and `write_lease` the partition; of documents `<collection>/<key>`."""
    version: int | None = None
    """The first version of the commit it is about, where it is about one."""

    def __str__(self) -> str:
        at = "" if self.version is None else f" at version {self.version}"
        return f"point {self.number}, {self.method} of {self.subject}{at}"


class _Life:
    """One process. What belongs to a dead one can do nothing any more, whatever it caught."""

    def __init__(self) -> None:
        self.over = False

    def check(self) -> None:
        if self.over:
            raise Crash("this process is dead")

    def end(self, point: Point) -> None:
        self.over = True
        raise Crash(f"at {point}")


class Faults:
    """Counts the calls of everything that was wrapped with it, and spoils those that are planned.

    ``Faults({2: Fault(Kind.LOST_ANSWER)})`` loses the answer of the second call. Without a plan it only counts.
    Every call gives way to other tasks before it is carried out and before its answer is heard, as real I/O does.
    """

    def __init__(self, planned: Mapping[int, Fault] | None = None) -> None:
        self.points: list[Point] = []
        """Every call so far."""
        self._planned = dict(planned or {})
        self._under_way: list[tuple[float, Callable[[], Awaitable[object]]]] = []
        self.life = _Life()

    @property
    def crashed(self) -> bool:
        """Whether the process died; every further call raises `Crash` until `restart`."""
        return self.life.over

    def restart(self) -> None:
        """End the process, if it lives, and begin another: wrap the store and the producer again for it.

        What was wrapped before stays dead. Calls that are under way stay under way.
        """
        self.life.over = True
        self.life = _Life()

    async def settle(self) -> int:
        """Carry out the calls that have not arrived yet; how many they were."""
        return await self._land(float("inf"))

    async def call(
        self, life: _Life, point: tuple[str, str, int | None], action: Callable[[], Awaitable[T]], *, silence: Exception
    ) -> T:
        """Make one call, unless something else is planned; `silence` is what its caller gets instead of an answer."""
        life.check()
        here = Point(len(self.points) + 1, *point)
        self.points.append(here)
        fault = self._planned.get(here.number)
        kind = None if fault is None else fault.kind
        await self._land(here.number)
        await asyncio.sleep(0)
        life.check()
        if fault is not None and kind is Kind.LATE:
            due = float("inf") if fault.lands_after is None else here.number + fault.lands_after
            self._under_way.append((due, action))
        if kind is Kind.CRASH_BEFORE:
            life.end(here)
        if kind is Kind.REFUSED:
            raise DispatchError("refused") if here.method == "dispatch" else StoreUnavailableError(f"{here}: refused")
        if kind in (Kind.LOST_REQUEST, Kind.LATE):
            raise silence
        if kind is Kind.SLOW:
            for _ in range(_SLOW_TURNS):
                await asyncio.sleep(0)
        if kind in (Kind.TWICE, Kind.CRASH_AFTER, Kind.LOST_ANSWER):
            with suppress(Exception):  # nobody hears this answer
                await action()
        if kind is Kind.CRASH_AFTER:
            life.end(here)
        if kind is Kind.LOST_ANSWER:
            raise silence
        answer = await action()
        await asyncio.sleep(0)
        life.check()
        return answer

    async def _land(self, number: float) -> int:
        due = [action for at, action in self._under_way if at <= number]
        self._under_way = [waiting for waiting in self._under_way if waiting[0] > number]
        for action in due:
            with suppress(Exception):  # nobody hears this answer
                await action()
        return len(due)
