"""Leases on partitions, so that relays share the work. Nothing that matters depends on them: only how much is repeated.

Clocks of machines are never compared. A holder counts by its own monotonic clock, from before its request, and so do
the others, from when they first saw its lease.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

from esazure.ports import IOutboxStore, Lease

TRUSTED = 0.5
"""The part of a lease's time after which its holder begins nothing new; others wait for all of it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The time for which one relay works on one partition. It is never renewed: afterwards it is the turn of others."""

    partition: str
    since: float
    seconds: float

    @property
    def is_over(self) -> bool:
        """Whether nothing new should be begun."""
        return self.remaining <= self.seconds * (1 - TRUSTED)

    @property
    def remaining(self) -> float:
        """Seconds for which nobody else takes the partition."""
        return self.since + self.seconds - time.monotonic()


class Leases:
    """Those of one relay, and what it knows of the others'."""

    def __init__(self, store: IOutboxStore, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._owner = uuid4().hex
        self._working: set[str] = set()
        # An entry for each partition at most.
        self._seen: dict[str, tuple[str, float]] = {}

    def note(self, partition: str, lease: Lease | None) -> None:
        """Say whose lease was seen, at every sweep: a holder that is gone should not be waited for later."""
        if lease is None or lease.owner in ("", self._owner):
            self._seen.pop(partition, None)
        elif partition not in self._seen or self._seen[partition][0] != lease.tag:
            self._seen[partition] = (lease.tag, time.monotonic())

    @asynccontextmanager
    async def turn(self, partition: str, lease: Lease | None) -> AsyncIterator[Turn | None]:
        """Take the lease that was noted, and give it up in the end; None when somebody else works there."""
        if partition in self._working or not self._is_free(partition, lease):
            yield None
            return
        self._working.add(partition)
        try:
            since = time.monotonic()
            epoch = (lease.epoch if lease is not None else 0) + 1
            mine = await self._store.write_lease(partition, lease, owner=self._owner, epoch=epoch)
            if mine is None:
                yield None
                return
            yield Turn(partition, since, self._seconds)
            # Not when cancelled: that must not wait for a store. The lease runs out by itself.
            await self._store.write_lease(partition, mine, owner="", epoch=mine.epoch)
        finally:
            self._working.discard(partition)

    def _is_free(self, partition: str, lease: Lease | None) -> bool:
        if lease is None or lease.owner in ("", self._owner):
            return True
        # Every write changes the tag: a holder whose lease stayed as it is for all of its time is gone, or has stopped.
        return time.monotonic() - self._seen[partition][1] >= self._seconds
