"""Several receivers share the lanes of a subscription: who is free gets what is idle, and takes over from the dead."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.servicebus.receiving import Mailbox, Recorder, first_times, mailbox, running, until, waiting

from esazure.servicebus import ServiceBus
from esazure.testing.servicebus import ServiceBusDouble

pytestmark = pytest.mark.amqp

LANES = tuple(str(number) for number in range(16))
ROOT = Path(__file__).parents[2]


@pytest.mark.long
async def test_lanes_that_are_idle_go_to_whoever_is_free(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble
) -> None:
    first, second = Recorder(), Recorder()
    one = bus.subscription("customers", "all", first, idle=2)
    await mail.send(*LANES)
    async with running(one):
        await until(lambda: len(first.done) == 16)
        assert one.metrics.holding == 16
        async with ServiceBus.from_connection_string(double.connection_string) as another_bus:
            two = another_bus.subscription("customers", "all", second, idle=2)
            async with running(two):
                # Its slots wait by then, and the first one's lanes were idle for long enough.
                await asyncio.sleep(7)
                await mail.send(*LANES)
                await until(lambda: len(first.done) + len(second.done) == 32)
                assert len(second.done) >= 4
                assert one.metrics.holding + two.metrics.holding == 16
            await until(lambda: one.metrics.holding == 0)
        await mail.send(*LANES)
        await until(lambda: len(first.done) + len(second.done) == 48)
        await until(lambda: not waiting(double))
    assert one.metrics.lost == two.metrics.lost == 0
    for lane in LANES:
        assert sorted(first.versions(lane) + second.versions(lane)) == [1, 2, 3]


@pytest.mark.long
async def test_a_lane_that_never_rests_changes_hands_as_well(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble
) -> None:
    first, second = Recorder(), Recorder()
    async with running(
        bus.subscription("customers", "all", first, sessions=2, hold=1),
        bus.subscription("customers", "all", second, sessions=2, hold=1),
    ):
        async with asyncio.timeout(60):
            while not (first.done and second.done and {"0", "1"} <= {call.lane for call in second.done}):
                await mail.send("0", "1")
        await until(lambda: not waiting(double))
    assert all(
        sorted(first.versions(lane) + second.versions(lane)) == list(range(1, mail.counts[lane] + 1)) for lane in "01"
    )


@asynccontextmanager
async def worker(double: ServiceBusDouble, path: Path) -> AsyncIterator[Process]:
    """A process that receives, once it runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.servicebus.worker", double.connection_string, str(path)),
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"running\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        process.stdin.close()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # or a ResourceWarning says so later


def calls(path: Path) -> list[tuple[int, str, int]]:
    """(process, lane, version), in the order of their ends."""
    if not path.exists():
        return []
    return [
        (int(pid), lane, int(version))
        for pid, lane, version in (line.split() for line in path.read_text().splitlines())
    ]


def lanes_of(process: Process, path: Path) -> set[str]:
    return {lane for pid, lane, _ in calls(path) if pid == process.pid}


@pytest.mark.long  # in peace: it is about seconds
@pytest.mark.parametrize(("end", "seconds"), [(signal.SIGKILL, 10), (signal.SIGSTOP, 20)], ids=["killed", "frozen"])
async def test_a_second_process_gets_its_share_and_what_it_leaves_is_taken_over(
    tmp_path: Path, end: signal.Signals, seconds: float
) -> None:
    """Killed, its connections break; frozen, they stay, and the broker has to wait for the end of its locks."""
    path = tmp_path / "handled"
    clock = asyncio.get_running_loop().time
    double = ServiceBusDouble()
    double.topic("customers").subscribe("all", requires_session=True, lock_duration=3.0)
    async with double, mailbox(double) as mail, worker(double, path) as first:
        await mail.send(*LANES)
        await until(lambda: len(calls(path)) == 16)

        async with worker(double, path) as second:
            began = clock()
            # Idle lanes: a message each now and then. Nobody has to be told that there is a second process.
            while len(lanes_of(second, path)) < 4:
                assert clock() - began < 10
                await mail.send(*LANES)
                await asyncio.sleep(1)

            # It dies with messages in hand.
            await mail.send(*LANES, count=30)
            sent = sum(mail.counts.values())
            await asyncio.sleep(0.5)
            os.kill(second.pid, end)
            await until(
                lambda: all(
                    first_times(version for _, name, version in calls(path) if name == lane)[-1] == mail.counts[lane]
                    for lane in LANES
                ),
                seconds=seconds,
            )
            await until(lambda: not waiting(double), seconds=5)
            if end is signal.SIGSTOP:
                os.kill(second.pid, signal.SIGCONT)  # it finds its locks lost, and goes on as one of two
                await asyncio.sleep(1)

        handled = calls(path)
        for lane in LANES:
            assert first_times(version for _, name, version in handled if name == lane) == list(
                range(1, mail.counts[lane] + 1)
            )
        assert len(handled) <= sent + 16 + 100, "what was in hand came again, and hardly more"
        assert first.stdin is not None
        first.stdin.write(b"stop\n")
        assert await asyncio.wait_for(first.wait(), 5) == 0
