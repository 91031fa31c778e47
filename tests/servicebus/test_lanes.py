"""One lane at work: order, settlement, failures, waiting, giving back."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest
from tests.servicebus.receiving import Handled, Mailbox, Recorder, dead, running, until, waiting
from tests.servicebus.support import within
from tests.support.secrets import MARKER

from esazure.errors import HandlerFailedError, PoisonMessageError, RetryLaterError, StoreUnavailableError
from esazure.servicebus import ServiceBus, lanes, sessions
from esazure.testing.servicebus import Ignore, MessageState, Reject, ServiceBusDouble

pytestmark = pytest.mark.amqp

ALL = "customers/subscriptions/all"


async def test_every_message_is_handled_once_in_the_order_of_its_lane(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder
) -> None:
    async def handle(call: Handled) -> None:
        await asyncio.sleep(0.001 if call.version % 7 == 0 else 0)

    recorder.handle = handle
    names = [str(number) for number in range(5)]
    await mail.send(*names, count=60)
    subscription = bus.subscription("customers", "all", recorder, sessions=5)
    async with running(subscription):
        for _ in range(60):
            await mail.send(*names)
        await until(lambda: len(recorder.done) == 600)
        await until(lambda: not waiting(double))

    assert {name: recorder.versions(name) for name in names} == {name: list(range(1, 121)) for name in names}
    assert {call.attempt for call in recorder.done} == {1}
    assert subscription.metrics.completed == 600
    assert subscription.metrics.lost == subscription.metrics.abandoned == subscription.metrics.unconfirmed == 0
    assert dead(double) == []


async def test_no_more_lanes_are_worked_on_at_a_time_than_there_are_sessions(
    mail: Mailbox, bus: ServiceBus, recorder: Recorder
) -> None:
    busy: set[str] = set()
    most = 0

    async def handle(call: Handled) -> None:
        nonlocal most
        busy.add(call.lane)
        most = max(most, len(busy))
        await asyncio.sleep(0.05)
        busy.discard(call.lane)

    recorder.handle = handle
    await mail.send("a", "b", "c", "d", "e", count=3)
    subscription = bus.subscription("customers", "all", recorder, sessions=2, idle=0.1)
    async with running(subscription):
        await until(lambda: len(recorder.done) == 15)
    assert most == 2
    assert subscription.metrics.holding == 0
    assert subscription.metrics.accepted == recorder.lanes >= 5


async def test_exactly_the_message_that_failed_is_done_again(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder, no_pauses: None
) -> None:
    async def handle(call: Handled) -> None:
        if call.version == 40 and call.attempt < 4:
            raise HandlerFailedError("welcome", "Customer.a", 40, "ValueError")

    recorder.handle = handle
    await mail.send("a", count=120)
    subscription = bus.subscription("customers", "all", recorder, sessions=3)
    async with running(subscription):
        await until(lambda: len(recorder.done) == 120)
        await until(lambda: not waiting(double))

    assert recorder.versions("a") == list(range(1, 121))
    assert [call for call in recorder.begun if call.version == 40] == [Handled("a", 40, n) for n in (1, 2, 3, 4)]
    assert len(recorder.begun) == 123
    # Those behind it came in the same batch, went back, and count as never tried.
    assert {call.attempt for call in recorder.done if call.version != 40} == {1}
    assert subscription.metrics.abandoned == 3
    assert dead(double) == []


@pytest.mark.parametrize(
    "failure", [ValueError(MARKER), asyncio.CancelledError(), HandlerFailedError("h", "Customer.a", 1, "KeyError")]
)
async def test_whatever_a_handler_raises_the_lane_goes_on(
    mail: Mailbox,
    bus: ServiceBus,
    recorder: Recorder,
    failure: BaseException,
    no_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(call: Handled) -> None:
        if call.attempt == 1:
            raise failure

    recorder.handle = handle
    await mail.send("a", count=2)
    async with running(bus.subscription("customers", "all", recorder, sessions=1)):
        await until(lambda: len(recorder.done) == 2)
    assert recorder.done == [Handled("a", 1, 2), Handled("a", 2, 2)]
    assert "customers/all: message 1 goes back" in caplog.text


async def test_a_message_that_keeps_failing_pauses_longer_each_time_and_is_the_only_one_delivered(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "FIRST_PAUSE", 0.1)
    times: list[float] = []
    delivered: list[int] = []

    async def handle(call: Handled) -> None:
        times.append(asyncio.get_running_loop().time())
        delivered.append(len(double.messages(ALL, state=MessageState.LOCKED)))
        raise ValueError

    recorder.handle = handle
    await mail.send("a", count=50)
    async with running(bus.subscription("customers", "all", recorder, sessions=1)):
        await until(lambda: len(recorder.begun) == 4)
        assert [message.delivery_count for message in waiting(double)] == [3] + [0] * 49
    # If the lock of the session expired now, the broker would count a failure for this one alone.
    assert set(delivered) == {1}
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[0] >= 0.075
    assert pauses[1] >= 0.15
    assert pauses[2] >= 0.3


async def test_a_failure_before_a_stop_goes_back_at_once(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "FIRST_PAUSE", 30.0)

    async def handle(call: Handled) -> None:
        raise ValueError

    recorder.handle = handle
    await mail.send("a")
    async with within(3), running(bus.subscription("customers", "all", recorder, sessions=1)):
        await until(lambda: recorder.begun)
        await asyncio.sleep(0.1)
        assert [message.state for message in waiting(double)] == [MessageState.LOCKED]
    assert [message.delivery_count for message in waiting(double)] == [1]


async def test_poison_is_dead_lettered_once_with_its_reason_and_the_next_one_follows(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(call: Handled) -> None:
        if call.version == 2:
            raise PoisonMessageError("HandlerFailed", "welcome: ValueError at version 2")
        if call.version == 4:
            raise PoisonMessageError("x" * 5_000 + "\ud800", "\ud800" + "y" * 5_000)

    recorder.handle = handle
    await mail.send("a", count=5)
    subscription = bus.subscription("customers", "all", recorder, sessions=1)
    async with running(subscription):
        await until(lambda: len(recorder.done) == 3)
        await until(lambda: not waiting(double))
    assert recorder.versions("a") == [1, 3, 5]
    assert len(recorder.begun) == 5
    second, fourth = dead(double)
    assert second.message_id == "a/2"
    assert second.dead_letter_reason == "HandlerFailed"
    assert second.dead_letter_error_description == "welcome: ValueError at version 2"
    assert fourth.dead_letter_reason == "x" * 128
    assert fourth.dead_letter_error_description == "?" + "y" * 4_095
    assert subscription.metrics.dead_lettered == 2
    assert len(caplog.text.encode()) < 2_000, "well-formed, and not all of it"


@pytest.mark.parametrize("error", [RetryLaterError("the mail server is away"), StoreUnavailableError("no answer")])
async def test_a_message_waits_in_place_while_something_is_away(
    mail: Mailbox,
    bus: ServiceBus,
    double: ServiceBusDouble,
    recorder: Recorder,
    error: Exception,
    no_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(call: Handled) -> None:
        if call.version == 2 and len(recorder.begun) < 32:
            raise error

    recorder.handle = handle
    await mail.send("a", count=3)
    subscription = bus.subscription("customers", "all", recorder, sessions=1)
    async with running(subscription):
        await until(lambda: len(recorder.done) == 3)
        await until(lambda: not waiting(double))
    # Far more often than the ten deliveries after which the broker would have dead-lettered it.
    assert recorder.begun == [Handled("a", 1, 1), *[Handled("a", 2, 1)] * 31, Handled("a", 3, 1)]
    assert subscription.metrics.waited == 30
    assert subscription.metrics.accepted == 1
    assert dead(double) == []
    assert caplog.text.count(f"a message waits: {type(error).__name__}: {error}") == 1


async def test_a_message_that_waits_goes_back_untried_at_a_stop(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "FIRST_PAUSE", 30.0)

    async def handle(call: Handled) -> None:
        raise RetryLaterError

    recorder.handle = handle
    await mail.send("a", count=3)
    async with within(3), running(bus.subscription("customers", "all", recorder, sessions=1)):
        await until(lambda: recorder.begun)
    assert [(message.state, message.delivery_count) for message in waiting(double)] == [(MessageState.ACTIVE, 0)] * 3


async def test_a_completion_nobody_confirmed_is_not_a_failure(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder
) -> None:
    await mail.send("a", count=20)
    planned = double.faults.next_settlement(Reject("com.microsoft:message-lock-lost"), entity=ALL)
    subscription = bus.subscription("customers", "all", recorder, sessions=1, idle=0.5)
    async with running(subscription):
        # What the broker does not take for completed comes again when the lane is given back.
        await until(lambda: len(recorder.done) == 21)
        await until(lambda: not waiting(double))
    assert planned.hits == 1
    assert recorder.versions("a") == [*range(1, 21), 1]
    assert subscription.metrics.unconfirmed == 1
    assert subscription.metrics.lost == 0


async def test_completing_does_not_hold_up_the_next_message(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SETTLE_SECONDS", 3.0)

    async def handle(call: Handled) -> None:
        if call == Handled("a", 2, 1):  # received together with the third
            double.faults.next_settlement(Ignore(applied=True), entity=ALL)

    recorder.handle = handle
    await mail.send("a", count=3)
    async with running(bus.subscription("customers", "all", recorder, sessions=1)):
        await until(lambda: recorder.begun)
        await until(lambda: len(recorder.done) == 3, seconds=2.5)


async def test_what_is_handled_is_completed_before_a_stop_takes_effect(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder
) -> None:
    async def handle(call: Handled) -> None:
        subscription.stop()

    recorder.handle = handle
    await mail.send("a", count=2)
    subscription = bus.subscription("customers", "all", recorder, sessions=1)
    await subscription.run()
    assert recorder.done == [Handled("a", 1, 1)]
    assert [message.message_id for message in waiting(double)] == ["a/2"]
    assert subscription.metrics.completed == 1


@pytest.mark.parametrize(("tries", "least", "most"), [(0, 0.37, 0.63), (1, 0.75, 1.25), (3, 3, 5), (5_000, 22.5, 37.5)])
def test_pauses_grow_and_end_growing(tries: int, least: float, most: float) -> None:
    pauses = {lanes._pause(tries) for _ in range(100)}
    assert least <= min(pauses) < max(pauses) <= most


async def test_a_stop_lets_the_message_in_hand_end_and_gives_the_others_back_untried(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder
) -> None:
    go_on = asyncio.Event()

    async def handle(call: Handled) -> None:
        if call.version == 20:
            await go_on.wait()

    recorder.handle = handle
    await mail.send("a", count=100)
    subscription = bus.subscription("customers", "all", recorder, sessions=4)
    run = asyncio.create_task(subscription.run())
    await until(lambda: len(recorder.begun) == 20)
    subscription.stop()
    await asyncio.sleep(0.3)
    assert not run.done()
    go_on.set()
    async with within(2):
        await run

    assert recorder.versions("a") == list(range(1, 21))
    left = waiting(double)
    assert [message.message_id for message in left] == [f"a/{version}" for version in range(21, 101)]
    assert {(message.state, message.delivery_count) for message in left} == {(MessageState.ACTIVE, 0)}


async def test_a_lane_that_takes_long_gets_small_batches(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "BATCH_SECONDS", 0.1)
    in_hand: list[int] = []

    async def handle(call: Handled) -> None:
        in_hand.append(len(double.messages(ALL, state=MessageState.LOCKED)))
        await asyncio.sleep(0.06)

    recorder.handle = handle
    await mail.send("a", count=40)
    async with running(bus.subscription("customers", "all", recorder, sessions=1)):
        await until(lambda: len(recorder.done) == 40)
    assert max(in_hand) <= 4


async def test_a_busy_lane_is_given_back_in_the_middle_of_a_batch(
    mail: Mailbox, bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder
) -> None:
    async def handle(call: Handled) -> None:
        await asyncio.sleep(0.02)

    recorder.handle = handle
    for _ in range(6):
        await mail.send("a", "b", count=10)
    subscription = bus.subscription("customers", "all", recorder, sessions=1, hold=0.5)
    async with running(subscription):
        await until(lambda: len(recorder.done) == 120)
    assert recorder.in_order({"a": 60, "b": 60})
    assert len(recorder.begun) == 120
    assert {call.attempt for call in recorder.begun} == {1}
    turns = sum(before.lane != after.lane for before, after in pairwise(recorder.begun))
    assert turns >= 3, "neither lane waits for the end of the other"


async def test_no_log_record_holds_a_payload(
    mail: Mailbox, bus: ServiceBus, recorder: Recorder, no_pauses: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def handle(call: Handled) -> None:
        if call.attempt == 1:
            raise ValueError(MARKER)
        if call.attempt == 2:
            raise KeyError(MARKER)

    recorder.handle = handle
    await mail.send("a")
    subscription = bus.subscription("customers", "all", recorder, sessions=1)
    async with running(subscription):
        await until(lambda: recorder.done)
    assert "ValueError" in caplog.text
    assert MARKER not in caplog.text
    assert repr(subscription) == "ServiceBusSubscription('customers/all')"
