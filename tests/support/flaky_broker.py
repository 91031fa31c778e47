"""A broker in memory that keeps every message it was ever given, and producers that lose their way to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any, NamedTuple

from esazure.errors import DispatchError
from esazure.events import Commit
from esazure.integration import LANES, check_publishable, messages_of, whole
from esazure.integration import MAX_MESSAGE_BYTES as MOST
from esazure.ports import IEventProducer

KINDS = ("lost", "stored and lost", "half stored", "slow", "late")


class Received(NamedTuple):
    """A message as the broker has it."""

    stream: str
    version: int
    message_id: str
    content: tuple[str, ...]
    """Everything that has to be the same each time the event is sent."""


class FlakyBroker:
    """What was sent, in the order in which it was taken; repeats are here again."""

    def __init__(self, seed: int, *, share: float = 0.15) -> None:
        self.messages: list[Received] = []
        self.share = share
        self.met: Counter[str] = Counter()
        self._random = Random(seed)  # noqa: S311 - not a secret
        self._late: set[asyncio.Task[None]] = set()

    def producer(self) -> IEventProducer:
        """A way to send."""
        return _FlakyProducer(self)

    async def settled(self) -> None:
        """Everything late has arrived."""
        await asyncio.gather(*self._late)

    async def received(self) -> list[Received]:
        """What the broker has."""
        return self.messages

    async def take(self, batch: list[Received]) -> None:
        """A batch arrives, or does not."""
        await asyncio.sleep(0)
        kind = self._random.choice(KINDS) if self._random.random() < self.share else ""
        self.met[kind] += bool(kind)
        if kind == "slow":
            await asyncio.sleep(self._random.uniform(0, 0.02))
        elif kind == "late":
            self._late.add(asyncio.create_task(self._take_later(batch, self._random.uniform(0, 0.2))))
        count = {"lost": 0, "late": 0, "half stored": len(batch) // 2}.get(kind, len(batch))
        self.messages.extend(batch[:count])
        await asyncio.sleep(0)
        if kind not in ("", "slow"):
            raise DispatchError(f"the connection broke ({kind})")

    async def _take_later(self, batch: list[Received], wait: float) -> None:
        await asyncio.sleep(wait)
        self.messages.extend(batch)


class _FlakyProducer(IEventProducer):
    def __init__(self, broker: FlakyBroker) -> None:
        self._broker = broker

    def check(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.check`."""
        check_publishable(commit.stream, messages_of(commit, whole, LANES), MOST)

    async def dispatch(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.dispatch`."""
        await self._broker.take(as_received(commit))


def as_received(commit: Commit[Any]) -> list[Received]:
    """The messages of a commit, as a broker has them."""
    return [
        Received(
            commit.stream,
            int(message.properties["version"]),
            message.message_id,
            (
                *(message.session_id, message.correlation_id, message.subject, message.body),
                *(f"{name}={text}" for name, text in sorted(message.properties.items())),
            ),
        )
        for message in messages_of(commit, whole, LANES)
    ]
