"""`ServiceBusSubscription`: starting, stopping, what it raises, what it only logs, and long handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from azure.servicebus.aio import ServiceBusClient
from pydantic import BaseModel
from tests.servicebus.receiving import SUBSCRIPTION, Handled, Mailbox, Recorder, dead, mailbox, running, until, waiting
from tests.servicebus.support import Customer, Noted, open_connections, within

from esazure.consumer import Consumer
from esazure.errors import EsAzureError, PoisonMessageError, RetryLaterError, SubscriptionError
from esazure.memory import InMemoryStore
from esazure.projection import Projection
from esazure.servicebus import ServiceBus, lanes, subscription
from esazure.testing.servicebus import Faults, Ignore, MessageState, Reject, ServiceBusDouble

pytestmark = pytest.mark.amqp

CONSUMER: Any = Recorder()


@pytest.mark.parametrize("options", [{"sessions": 0}, {"idle": 0}, {"hold": 0}, {"idle": -1.0}])
async def test_options_out_of_range_are_refused(bus: ServiceBus, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        bus.subscription("customers", "all", CONSUMER, **options)


async def test_a_connection_string_for_another_entity_is_refused_at_once(double: ServiceBusDouble) -> None:
    async with ServiceBus.from_connection_string(f"{double.connection_string};EntityPath=orders") as bus:
        with pytest.raises(ValueError, match="does not match"):
            bus.subscription("customers", "all", CONSUMER)


async def test_a_real_consumer_fits(bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble) -> None:
    consumer = Consumer("worker", [], positions=None, source=None)
    await mail.send("a", count=3)
    async with running(bus.subscription("customers", "all", consumer, sessions=1)):
        await until(lambda: not waiting(double))
    assert consumer.metrics.ignored == 3


@pytest.mark.parametrize(
    ("topic", "name", "why"),
    [
        ("customers", "nobody", "it does not exist: create it"),
        ("nothing", "all", "it does not exist: create it"),
        ("orders", "plain", "it gives out no sessions: make it anew, with sessions required"),
    ],
)
async def test_what_only_people_can_correct_is_raised_at_the_start(
    bus: ServiceBus, double: ServiceBusDouble, topic: str, name: str, why: str
) -> None:
    double.topic("orders").subscribe("plain")
    async with within(5):
        with pytest.raises(SubscriptionError, match=why) as caught:
            await bus.subscription(topic, name, CONSUMER, sessions=3).run()
    assert f"{topic}/{name}" in str(caught.value)
    assert isinstance(caught.value, EsAzureError)


async def test_a_credential_that_may_not_receive_is_raised_at_the_start(
    bus: ServiceBus, double: ServiceBusDouble
) -> None:
    double.faults.refuse_tokens = True
    with pytest.raises(SubscriptionError, match="no right to receive from it: assign Azure Service Bus Data Receiver"):
        await bus.subscription("customers", "all", CONSUMER).run()


async def test_once_it_works_even_that_is_tried_again(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    await mail.send("a")
    async with running(bus.subscription("customers", "all", recorder, sessions=2, idle=0.1)):
        await until(lambda: recorder.done)
        double.faults.next_attach(Reject("amqp:not-found"), times=4, entity=SUBSCRIPTION)
        double.faults.detach_links(entity=SUBSCRIPTION)
        await until(lambda: "it does not exist" in caplog.text)
        await mail.send("a", "b")
        await until(lambda: len(recorder.done) == 3)


def disabled(faults: Faults) -> None:
    faults.disable(SUBSCRIPTION)


def not_listening(faults: Faults) -> None:
    faults.refuse_connections = True


def busy(faults: Faults) -> None:
    faults.next_attach(Reject("com.microsoft:server-busy"), times=None)


@pytest.mark.parametrize(
    ("failure", "why"),
    [(disabled, "is disabled"), (not_listening, "cannot be reached"), (busy, "the broker is busy")],
)
async def test_other_trouble_is_logged_once_and_tried_again_with_pauses(
    bus: ServiceBus,
    mail: Mailbox,
    double: ServiceBusDouble,
    recorder: Recorder,
    failure: Callable[[Faults], None],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await mail.send("a")
    failure(double.faults)
    before = double.activity.connections
    async with running(bus.subscription("customers", "all", recorder, sessions=2)):
        await asyncio.sleep(3)
        assert 4 <= double.activity.connections - before <= 14
        assert caplog.text.count(why) == 1
        double.faults.clear()
        double.faults.enable(SUBSCRIPTION)
        await until(lambda: recorder.done)


async def test_a_broker_that_never_answers_is_given_up_and_asked_again(
    bus: ServiceBus,
    mail: Mailbox,
    double: ServiceBusDouble,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(subscription, "ACCEPT_SECONDS", 0.6)
    monkeypatch.setattr(subscription, "ACCEPT_SLACK", 0.6)
    await mail.send("a")
    double.faults.next_attach(Ignore(), entity=SUBSCRIPTION)
    async with running(bus.subscription("customers", "all", recorder, sessions=1)):
        await until(lambda: recorder.done, seconds=8)
    assert "did not answer in time (TimeoutError)" in caplog.text


async def test_waiting_for_a_lane_in_vain_is_no_trouble(
    bus: ServiceBus,
    mail: Mailbox,
    double: ServiceBusDouble,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(subscription, "ACCEPT_SECONDS", 1.0)
    async with running(bus.subscription("customers", "all", recorder, sessions=1)):
        await asyncio.sleep(3)
        assert 2 <= double.activity.connections - 1 <= 4
        await mail.send("a")
        await until(lambda: recorder.done)
    assert "esazure.servicebus" not in caplog.text


async def test_a_broker_that_says_at_once_that_there_is_no_lane_is_not_asked_without_end(
    bus: ServiceBus, double: ServiceBusDouble, recorder: Recorder
) -> None:
    planned = double.faults.next_attach(Reject("com.microsoft:timeout"), times=None, entity=SUBSCRIPTION)
    async with running(bus.subscription("customers", "all", recorder, sessions=1)):
        await asyncio.sleep(4)
    assert 2 <= planned.hits <= 5


async def test_a_consumer_that_cannot_make_a_lane_does_not_end_the_run(
    bus: ServiceBus,
    mail: Mailbox,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = recorder.lane
    tries = 0

    def lane() -> Any:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RuntimeError("private")
        return made()

    monkeypatch.setattr(recorder, "lane", lane)
    await mail.send("a")
    async with running(bus.subscription("customers", "all", recorder, sessions=1)):
        await until(lambda: recorder.done)
    assert "RuntimeError" in caplog.text
    assert "private" not in caplog.text


async def test_a_consumer_that_cannot_serve_what_was_registered_later_is_raised(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble
) -> None:
    class Balance(BaseModel):
        amount: int = 0

    projection = Projection(InMemoryStore().views(Balance))
    consumer = Consumer("worker", [projection], positions=None, source=None)
    receiving = bus.subscription("customers", "all", consumer, sessions=2)
    projection.fold(Customer, Noted)(lambda view, envelope: view)
    await mail.send("a")
    with pytest.raises(SubscriptionError, match="customers/all: balance folds events"):
        await asyncio.wait_for(receiving.run(), 5)
    assert [message.delivery_count for message in waiting(double)] == [0]
    assert receiving.metrics.holding == 0


async def test_it_runs_once_at_a_time(bus: ServiceBus) -> None:
    receiving = bus.subscription("customers", "all", CONSUMER, sessions=1)
    async with running(receiving):
        await asyncio.sleep(0.1)
        with pytest.raises(RuntimeError, match="received from already"):
            await receiving.run()


async def test_stopped_before_it_runs_it_does_not(bus: ServiceBus, double: ServiceBusDouble) -> None:
    receiving = bus.subscription("customers", "all", CONSUMER)
    receiving.stop()
    await receiving.run()
    assert double.activity.connections == 0


async def test_a_stop_while_it_waits_is_quick_and_holds_no_lane(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble, recorder: Recorder
) -> None:
    for moment in (0.0, 0.1, 0.3, 1.0):
        receiving = bus.subscription("customers", "all", CONSUMER, sessions=4)
        run = asyncio.create_task(receiving.run())
        await asyncio.sleep(moment)
        async with within(2.5):
            receiving.stop()
            await run
    assert await open_connections(double, 1) == 1
    await mail.send("a")
    async with running(bus.subscription("customers", "all", recorder, sessions=1)):
        await until(lambda: recorder.done, seconds=3)
    assert recorder.done == [Handled("a", 1, 1)]


async def test_cancelled_it_cancels_what_is_in_hand_which_comes_again(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble, recorder: Recorder
) -> None:
    async def hang(call: Handled) -> None:
        if len(recorder.begun) <= 2:
            await asyncio.Event().wait()

    recorder.handle = hang
    await mail.send("a", "b")
    receiving = bus.subscription("customers", "all", recorder, sessions=3)
    run = asyncio.create_task(receiving.run())
    await until(lambda: len(recorder.begun) == 2)
    async with within(4):
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert {call.lane for call in recorder.cancelled} == {"a", "b"}
    async with running(bus.subscription("customers", "all", recorder, sessions=2)):
        await until(lambda: len(recorder.done) == 2)


async def test_closing_the_bus_lets_a_message_end(double: ServiceBusDouble, recorder: Recorder) -> None:
    async def handle(call: Handled) -> None:
        await asyncio.sleep(0.5)

    recorder.handle = handle
    async with mailbox(double) as mail:
        await mail.send("a", count=5)
        async with ServiceBus.from_connection_string(double.connection_string) as bus:
            run = asyncio.create_task(bus.subscription("customers", "all", recorder, sessions=2).run())
            await until(lambda: recorder.begun)
        await run
        assert recorder.done == [Handled("a", 1, 1)]
        assert [message.state for message in waiting(double)] == [MessageState.ACTIVE] * 4


async def test_closing_the_bus_cancels_a_message_that_does_not_end(
    double: ServiceBusDouble, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "FAREWELL_SECONDS", 0.3)

    async def hang(call: Handled) -> None:
        await asyncio.Event().wait()

    recorder.handle = hang
    async with mailbox(double) as mail:
        await mail.send("a")
        async with within(6):
            async with ServiceBus.from_connection_string(double.connection_string) as bus:
                run = asyncio.create_task(bus.subscription("customers", "all", recorder, sessions=2).run())
                await until(lambda: recorder.begun)
            await run
    assert recorder.cancelled == [Handled("a", 1, 1)]


async def test_a_client_of_ones_own_that_tries_again_by_itself_will_do(
    mail: Mailbox, double: ServiceBusDouble, recorder: Recorder
) -> None:
    await mail.send("a", "b", count=30)
    async with (
        ServiceBusClient.from_connection_string(double.connection_string) as mine,
        ServiceBus.from_client(mine) as bus,
        running(bus.subscription("customers", "all", recorder, sessions=2)),
    ):
        await until(lambda: len(recorder.done) > 10)
        double.faults.drop_connections()
        await until(lambda: recorder.in_order({"a": 30, "b": 30}))


def short_locks(seconds: float) -> ServiceBusDouble:
    double = ServiceBusDouble()
    double.topic("customers").subscribe("all", requires_session=True, lock_duration=seconds)
    return double


async def test_a_handler_may_take_longer_than_the_lock_lasts(recorder: Recorder) -> None:
    async def handle(call: Handled) -> None:
        await asyncio.sleep(3.5 if call.version == 2 else 0)

    recorder.handle = handle
    async with (
        short_locks(1.0) as double,
        mailbox(double) as mail,
        ServiceBus.from_connection_string(double.connection_string) as bus,
    ):
        await mail.send("a", count=4)
        receiving = bus.subscription("customers", "all", recorder, sessions=2)
        async with running(receiving):
            await until(lambda: len(recorder.done) == 4)
            await until(lambda: not waiting(double))
    assert recorder.begun == [Handled("a", version, 1) for version in (1, 2, 3, 4)]
    assert receiving.metrics.lost == 0


async def test_waiting_in_place_outlives_the_lock_as_well(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "FIRST_PAUSE", 2.5)

    async def handle(call: Handled) -> None:
        if len(recorder.begun) == 1:
            raise RetryLaterError

    recorder.handle = handle
    async with (
        short_locks(1.0) as double,
        mailbox(double) as mail,
        ServiceBus.from_connection_string(double.connection_string) as bus,
    ):
        await mail.send("a")
        async with running(bus.subscription("customers", "all", recorder, sessions=1)):
            await until(lambda: recorder.done)
    assert recorder.begun == [Handled("a", 1, 1)] * 2


async def test_a_lane_whose_lock_is_lost_is_cancelled_and_goes_on_elsewhere(recorder: Recorder) -> None:
    async def handle(call: Handled) -> None:
        if call.version == 3 and call.attempt == 1:
            await asyncio.Event().wait()

    recorder.handle = handle
    other = Recorder()
    async with (
        short_locks(2.0) as double,
        mailbox(double) as mail,
        ServiceBus.from_connection_string(double.connection_string) as bus,
        ServiceBus.from_connection_string(double.connection_string) as another_bus,
    ):
        await mail.send("a", count=6)
        first = bus.subscription("customers", "all", recorder, sessions=1)
        second = another_bus.subscription("customers", "all", other, sessions=1)
        async with running(first):
            await until(lambda: len(recorder.begun) == 3)
            async with running(second):
                await asyncio.sleep(1)  # now it waits for a lane
                double.advance(2.1)
                await until(lambda: recorder.cancelled, seconds=2)
                await until(lambda: not waiting(double))
    assert recorder.cancelled == [Handled("a", 3, 1)]
    assert recorder.versions("a") == [1, 2]
    assert other.versions("a") == [3, 4, 5, 6]
    assert other.begun[0] == Handled("a", 3, 2)
    assert first.metrics.lost == 1


@pytest.mark.parametrize(
    "then",
    [None, ValueError(), RetryLaterError(), PoisonMessageError("HandlerFailed")],
    ids=lambda then: type(then).__name__,
)
async def test_a_lane_is_lost_even_when_its_handler_takes_the_cancellation_for_something_else(
    recorder: Recorder, then: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "FIRST_PAUSE", 30.0)

    async def handle(call: Handled) -> None:
        if call == Handled("a", 2, 1):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if then is not None:
                    raise then from None

    recorder.handle = handle
    async with (
        short_locks(1.0) as double,
        mailbox(double) as mail,
        ServiceBus.from_connection_string(double.connection_string) as bus,
    ):
        await mail.send("a", count=5)
        receiving = bus.subscription("customers", "all", recorder, sessions=1)
        async with asyncio.timeout(20), running(receiving):
            await until(lambda: len(recorder.begun) == 2)
            await until(lambda: len(waiting(double)) == 4)  # the first one is completed
            double.advance(1.1)
            await until(lambda: receiving.metrics.lost, seconds=3)
            metrics = replace(receiving.metrics)
            await until(lambda: not waiting(double))
        assert dead(double) == []
    assert (metrics.completed, metrics.abandoned, metrics.dead_lettered, metrics.unconfirmed) == (1, 0, 0, 0)
    assert [call.attempt for call in recorder.begun if call.version == 2] == [1, 2]
    assert [call.version for call in recorder.done if call.attempt > 1 or call.version != 2] == [1, 2, 3, 4, 5]
    assert (receiving.metrics.lost, receiving.metrics.completed) == (1, 5)


async def test_cancelled_it_ends_even_when_a_handler_takes_that_for_something_else(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble, recorder: Recorder
) -> None:
    async def handle(call: Handled) -> None:
        if call.version == 2:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    recorder.handle = handle
    await mail.send("a", count=5)
    run = asyncio.create_task(bus.subscription("customers", "all", recorder, sessions=1).run())
    await until(lambda: len(recorder.begun) == 2)
    run.cancel()
    await asyncio.wait({run}, timeout=4)
    assert run.cancelled()
    assert [call.version for call in recorder.begun] == [1, 2]
    left = waiting(double)[-3:]
    assert [message.message_id for message in left] == ["a/3", "a/4", "a/5"]
    assert {(message.state, message.delivery_count) for message in left} == {(MessageState.ACTIVE, 0)}


async def test_a_handler_that_tidies_up_is_waited_for(recorder: Recorder) -> None:
    async def handle(call: Handled) -> None:
        if call.attempt > 1:
            return
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.5)
            tidied.append(call)

    tidied: list[Handled] = []
    recorder.handle = handle
    async with (
        short_locks(1.0) as double,
        mailbox(double) as mail,
        ServiceBus.from_connection_string(double.connection_string) as bus,
    ):
        await mail.send("a")
        async with running(bus.subscription("customers", "all", recorder, sessions=1)):
            await until(lambda: recorder.begun)
            double.advance(1.1)
            await until(lambda: recorder.done)
    assert tidied == [Handled("a", 1, 1)]
