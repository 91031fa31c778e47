"""What goes wrong between a client and Table Storage, by chance: faults for a `TableProxy`, and for the fake."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from tests.support.table_proxy import BrokenError, Forward, Reply

T = TypeVar("T")

KINDS = (
    *("reset before", "reset after", "closed before", "closed after", "hang before", "hang after"),
    *("500 before", "500 after", "503 before", "503 after", "truncated", "delay", "late"),
)
"""`before` and `after` it was carried out; `late` is a request that arrives after its client was told of a reset."""


@dataclass
class Dice:
    """Which fault a request meets; the same seed gives the same choices, but not the same interleaving."""

    seed: int
    share: float = 0.2
    hang: float = 0.6
    """Seconds; more than the client waits."""
    late: float = 0.5
    """Seconds, at most."""
    met: Counter[str] = field(default_factory=Counter)
    requests: int = 0

    def __post_init__(self) -> None:
        self._random = Random(self.seed)  # noqa: S311 - not a secret
        self._late: set[asyncio.Task[object]] = set()

    def stop(self) -> None:
        """No more faults; what is late still comes."""
        self.share = 0.0

    def roll(self) -> str | None:
        """The fault of the next request, if any."""
        self.requests += 1
        if self._random.random() >= self.share:
            return None
        kind = self._random.choice(KINDS)
        self.met[kind] += 1
        return kind

    def send_late(self, deliver: Callable[[], Awaitable[object]]) -> None:
        """Deliver a request some time from now, whoever is still there."""
        wait = self._random.uniform(0, self.late)

        async def arrive() -> None:
            await asyncio.sleep(wait)
            await deliver()

        task = asyncio.create_task(arrive())
        self._late.add(task)

    async def settled(self) -> None:
        """Everything late has arrived."""
        await asyncio.gather(*self._late)

    def delay(self) -> float:
        """Seconds."""
        return self._random.uniform(0, self.late / 10)


def proxy_faults(dice: Dice) -> Callable[[str, Forward], Awaitable[Reply]]:
    """For `TableProxy.fault`."""

    async def fault(_: str, forward: Forward) -> Reply:
        kind = dice.roll()
        what, _, when = (kind or "").partition(" ")
        if what == "late":
            dice.send_late(forward)
            raise BrokenError
        if what == "delay":
            await asyncio.sleep(dice.delay())
        reply = await forward() if when != "before" else Reply(b"")
        match what:
            case "reset" | "closed":
                raise BrokenError(reset=what == "reset")
            case "hang":
                await asyncio.sleep(dice.hang)
                raise BrokenError
            case "500" | "503":
                return Reply.of(int(what))
            case "truncated":
                return Reply(reply.data[: len(reply.data) * 2 // 3], close=True)
            case _:
                return reply

    return fault
