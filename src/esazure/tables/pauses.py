"""How long to wait before a request is sent again. Read `append.py` next."""

from __future__ import annotations

import asyncio
import random

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0


async def rest(pause: float, asked: float | None = None) -> float:
    """Wait for as long as the service asked, then up to `pause` seconds more; returns the pause for the next time."""
    # Jitter, also on top of the wait the service asks for: writers that failed together must not come back together.
    await asyncio.sleep((asked or 0.0) + random.uniform(0, pause))  # noqa: S311 - not a secret
    return min(2 * pause, LONGEST_PAUSE)
