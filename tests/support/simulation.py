"""Time and chance under the control of a seed: an event loop whose clock jumps, and nothing random from outside.

The same seed gives the same run, to the last interleaving, in a fraction of the time it is about.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest.mock import patch
from uuid import UUID

T = TypeVar("T")


class _Clock(selectors.SelectSelector):
    """Where a loop would wait, the time is simply later."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Never waits."""
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits, and nothing will happen any more"
            self.now += timeout
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop in which an hour takes no time."""

    def __init__(self) -> None:
        self.clock = _Clock()
        super().__init__(self.clock)

    def time(self) -> float:
        """The simulated clock."""
        return self.clock.now


def simulate(seed: int, work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, with every clock, id and choice made by the seed."""
    chance = random.Random(seed)  # noqa: S311 - not a secret

    def seeded_uuid() -> UUID:
        return UUID(int=chance.getrandbits(128), version=4)

    loop = SimulatedLoop()
    random.seed(seed)
    with (
        asyncio.Runner(loop_factory=lambda: loop) as runner,
        patch.object(time, "monotonic", loop.time),
        patch("esazure.repository.urandom", chance.randbytes),
        patch("esazure.relay.leases.uuid4", seeded_uuid),
        patch("esazure.tables.layout.uuid4", seeded_uuid),
        patch("esazure.relay.relay._random", chance),
        patch("tests.support.stress.uuid4", seeded_uuid),
    ):
        return runner.run(work)
