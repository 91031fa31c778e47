"""Receiving from a broker that fails: everything is handled, in the order of its lane, whatever happens on the way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from random import Random

import pytest
from tests.servicebus.receiving import SUBSCRIPTION, Handled, Mailbox, Recorder, dead, mailbox, running, until, waiting

from esazure.servicebus import ServiceBus, sessions
from esazure.testing.servicebus import Close, Detach, Drop, Fault, Faults, Ignore, Reject, ServiceBusDouble

pytestmark = [pytest.mark.amqp, pytest.mark.long]

BUSY = Reject("com.microsoft:server-busy")
LANES = tuple("abcd")

UNDER_A_SETTLEMENT = [
    Drop(),
    Drop(applied=True),
    Detach(),
    Detach(applied=True),
    Close(),
    Close(applied=True),
    Ignore(),
    Ignore(applied=True),
    BUSY,
    Reject("com.microsoft:message-lock-lost"),
    Reject("com.microsoft:session-lock-lost"),
]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SETTLE_SECONDS", 1.0)


@pytest.mark.parametrize("fault", UNDER_A_SETTLEMENT, ids=repr)
async def test_one_failing_settlement_loses_nothing_and_no_order(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble, recorder: Recorder, fault: Fault
) -> None:
    await mail.send(*LANES, count=30)
    planned = double.faults.next_settlement(fault, entity=SUBSCRIPTION)
    async with running(bus.subscription("customers", "all", recorder, sessions=4)):
        await until(lambda: recorder.in_order(mail.counts))
        await until(lambda: not waiting(double))
    assert planned.hits == 1
    assert len(recorder.done) < 120 + 40
    assert dead(double) == []


@pytest.mark.parametrize("fault", [Drop(), Detach(), Close(), BUSY], ids=repr)
async def test_failing_attaches_are_made_good(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble, recorder: Recorder, fault: Fault
) -> None:
    await mail.send(*LANES, count=5)
    planned = double.faults.next_attach(fault, times=3, entity=SUBSCRIPTION)
    async with running(bus.subscription("customers", "all", recorder, sessions=2)):
        await until(lambda: recorder.in_order(mail.counts))
        await until(lambda: not waiting(double))
    assert planned.hits == 3
    assert {call.attempt for call in recorder.done} == {1}


@pytest.mark.parametrize(
    "interrupt",
    [
        Faults.drop_connections,
        Faults.close_connections,
        Faults.detach_links,
        lambda faults: faults.detach_links("com.microsoft:session-lock-lost"),
    ],
    ids=["drop", "close", "detach-forced", "session-lock-lost"],
)
async def test_lanes_that_are_cut_off_in_the_middle_go_on(
    bus: ServiceBus,
    mail: Mailbox,
    double: ServiceBusDouble,
    recorder: Recorder,
    interrupt: Callable[[Faults], int],
) -> None:
    async def handle(call: Handled) -> None:
        await asyncio.sleep(0.005)

    recorder.handle = handle
    await mail.send(*LANES, count=50)
    subscription = bus.subscription("customers", "all", recorder, sessions=4)
    async with running(subscription):
        for share in (40, 90):
            await until(lambda share=share: len(recorder.done) > share)
            interrupt(double.faults)
        await until(lambda: recorder.in_order(mail.counts))
        await until(lambda: not waiting(double))
    assert subscription.metrics.lost >= 4
    assert dead(double) == []


async def test_a_broker_that_restarts_is_found_again(recorder: Recorder) -> None:
    double = ServiceBusDouble(port=unused_tcp_port())
    double.topic("customers").subscribe("all", requires_session=True)
    async with double:
        address = double.connection_string
        async with mailbox(double) as mail:
            await mail.send("a", "b", count=40)
    async with ServiceBus.from_connection_string(address) as bus:
        subscription = bus.subscription("customers", "all", recorder, sessions=2)
        async with running(subscription):
            await asyncio.sleep(0.5)
            async with double:
                await until(lambda: recorder.in_order(mail.counts))
                await until(lambda: not waiting(double))


def unused_tcp_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.parametrize("seed", range(2))
async def test_chaos(
    bus: ServiceBus,
    mail: Mailbox,
    double: ServiceBusDouble,
    recorder: Recorder,
    seed: int,
    no_pauses: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two receivers, a sender, and a fault of some kind every tenth of a second."""
    random = Random(seed)  # noqa: S311 - not a secret

    async def handle(call: Handled) -> None:
        await asyncio.sleep(random.choice((0, 0, 0, 0.002, 0.01)))
        if random.random() < 0.01:
            raise ValueError

    recorder.handle = handle
    names = [str(number) for number in range(6)]
    subscriptions = [bus.subscription("customers", "all", recorder, sessions=4, hold=2, idle=0.3) for _ in range(2)]
    settling = [*UNDER_A_SETTLEMENT[:6], *UNDER_A_SETTLEMENT[8:]]
    async with running(*subscriptions):
        for _ in range(40):
            await mail.send(*names, count=2)
            faults = double.faults
            match random.randrange(5):
                case 0:
                    faults.next_settlement(random.choice(settling), entity=SUBSCRIPTION)
                case 1:
                    faults.next_attach(random.choice((Drop(), Detach(), Close(), BUSY)), entity=SUBSCRIPTION)
                case 2:
                    faults.detach_links(entity=SUBSCRIPTION)
                case 3:
                    faults.next_request(random.choice((Drop(), BUSY, Detach())), operation="renew-session-lock")
                case _:
                    pass
            await asyncio.sleep(0.1)
        double.faults.clear()
        await until(lambda: recorder.in_order(mail.counts), seconds=40)
        await until(lambda: not waiting(double))
    assert dead(double) == []
    assert sum(one.metrics.lost for one in subscriptions) > 5
