"""Dispatches that wait for each other, in simulated time: a late turn says so, and leaves the link alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.servicebus.support import commit_of
from tests.support.simulation import SimulatedLoop

from esazure import DispatchError
from esazure.integration import LANES, MAX_MESSAGE_BYTES, whole
from esazure.servicebus.producer import ServiceBusEventProducer


class SlowLink:
    """Takes its time for each batch, and works."""

    broken = False

    def __init__(self, seconds: float, links: list[SlowLink]) -> None:
        self._seconds = seconds
        self.sends = 0
        links.append(self)

    async def send(self, messages: Sequence[Any], *, patience: float) -> int:
        self.sends += 1
        await asyncio.sleep(self._seconds)
        return len(messages)


def test_a_turn_that_comes_too_late_sends_nothing_and_cuts_no_link() -> None:
    links: list[SlowLink] = []

    async def dispatch_four() -> list[BaseException | None]:
        producer = ServiceBusEventProducer(
            "customers",
            lambda: SlowLink(0.475, links),  # type: ignore[arg-type,return-value]
            integration=whole,
            lanes=LANES,
            max_message_bytes=MAX_MESSAGE_BYTES,
            timeout=1.0,
        )
        commits = [await commit_of("a") for _ in range(4)]
        return await asyncio.gather(*[producer.dispatch(commit) for commit in commits], return_exceptions=True)

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        outcomes = runner.run(dispatch_four())

    assert outcomes[:2] == [None, None]
    for late in outcomes[2:]:
        assert isinstance(late, DispatchError)
        assert "nothing of it was sent" in str(late)
        assert not late.permanent
    assert [link.sends for link in links] == [2], "the third would have been cut in the middle, and the link with it"
