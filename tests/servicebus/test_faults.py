"""Publishing to a broker that fails: a dispatch succeeds or raises DispatchError in time, and the next one works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.servicebus.support import (
    Sends,
    commit_of,
    commits_of,
    end_silence,
    open_connections,
    received,
    versions,
    within,
)

from esazure import DispatchError
from esazure.servicebus import ServiceBus
from esazure.servicebus import producer as producing
from esazure.testing.servicebus import Close, Detach, Drop, Fault, Faults, Ignore, Reject, ServiceBusDouble

pytestmark = pytest.mark.amqp

BUSY = Reject("com.microsoft:server-busy")

UNDER_A_SEND = [
    Drop(),
    Drop(applied=True),
    Detach(),
    Detach(applied=True),
    Close(),
    Close(applied=True),
    Ignore(),
    Ignore(applied=True),
    BUSY,
]


@pytest.mark.parametrize("fault", UNDER_A_SEND, ids=repr)
async def test_one_failing_send_is_made_good_and_its_neighbours_notice_nothing(
    bus: ServiceBus, double: ServiceBusDouble, fault: Fault
) -> None:
    producer = bus.producer("customers", timeout=5)
    await producer.dispatch(await commit_of("before"))
    commits = [await commit_of("a", "b", id=f"customer-{number}") for number in range(6)]
    planned = double.faults.next_send(fault)

    async with within(5):
        await asyncio.gather(*[producer.dispatch(commit) for commit in commits])

    assert planned.hits == 1
    # Also when the broker had taken it before the failure: the second copy has the same ids, so it is dropped.
    assert [message.correlation_id for message in received(double)[1:]] == [
        f"customer-{number}" for number in range(6) for _ in "ab"
    ]
    assert await open_connections(double, 1) == 1


@pytest.mark.parametrize("fault", [Drop(), Detach(), Close(), Ignore(), BUSY], ids=repr)
async def test_one_failing_open_is_made_good(bus: ServiceBus, double: ServiceBusDouble, fault: Fault) -> None:
    producer = bus.producer("customers", timeout=6)
    commits = [await commit_of("a", id=f"customer-{number}") for number in range(3)]
    double.faults.next_attach(fault)

    async with within(6):
        await asyncio.gather(*[producer.dispatch(commit) for commit in commits])

    assert [message.correlation_id for message in received(double)] == ["customer-0", "customer-1", "customer-2"]
    assert await open_connections(double, 1) == 1
    assert await keep_alives(1) == 1


async def keep_alives(expected: int) -> int:
    """How many connections the SDK still tends in this process, once they are as expected or seconds have passed."""
    found = -1
    for _ in range(100):
        found = sum("_keep_alive_async" in repr(task.get_coro()) for task in asyncio.all_tasks())
        if found == expected:
            break
        await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize(
    "interrupt",
    [
        Faults.drop_connections,
        Faults.close_connections,
        Faults.detach_links,  # what the service does to a link that was idle for ten minutes
    ],
)
async def test_a_link_lost_while_idle_is_reopened_unnoticed(
    bus: ServiceBus, double: ServiceBusDouble, interrupt: Callable[[Faults], int]
) -> None:
    producer = bus.producer("customers")
    first, second = await commits_of(("a",), ("b", "c"))
    await producer.dispatch(first)
    assert interrupt(double.faults) == 1

    async with within(4):
        await producer.dispatch(second)

    assert versions(double, first) == [1, 2, 3]
    assert await open_connections(double, 1) == 1


def busy(faults: Faults) -> None:
    faults.next_send(BUSY, times=None)


def full(faults: Faults) -> None:
    faults.next_send(Reject("amqp:resource-limit-exceeded"), times=None)


def not_allowed(faults: Faults) -> None:
    faults.next_send(Reject("amqp:not-allowed"), times=None)


def dropping(faults: Faults) -> None:
    faults.next_send(Drop(), times=None)


def silent(faults: Faults) -> None:
    faults.next_send(Ignore(), times=None)


def silent_at_open(faults: Faults) -> None:
    faults.drop_connections()
    faults.next_attach(Ignore(), times=None)


def half_open(faults: Faults) -> None:
    faults.stop_reading = True


def disabled(faults: Faults) -> None:
    faults.disable("customers")


def deleted(faults: Faults) -> None:
    faults.next_attach(Reject("amqp:not-found"), times=None)
    faults.detach_links("amqp:resource-deleted")


def refusing_tokens(faults: Faults) -> None:
    faults.refuse_tokens = True
    faults.drop_connections()


def refusing_connections(faults: Faults) -> None:
    faults.refuse_connections = True
    faults.drop_connections()


@pytest.mark.parametrize(
    ("failure", "permanent", "why"),
    [
        (busy, False, "busy"),
        (full, False, "full"),
        (dropping, False, "cannot be reached"),
        (silent, False, "did not answer in time"),
        (silent_at_open, False, "did not answer in time"),
        (half_open, False, "did not answer in time"),
        (refusing_connections, False, "cannot be reached"),
        (not_allowed, True, "refuses the messages"),
        (disabled, True, "is disabled"),
        (deleted, True, "does not exist"),
        (refusing_tokens, True, "does not accept the credential"),
    ],
)
@pytest.mark.long
async def test_a_lasting_failure_is_reported_in_time_and_forgotten_afterwards(
    bus: ServiceBus, double: ServiceBusDouble, failure: Callable[[Faults], None], *, permanent: bool, why: str
) -> None:
    timeout = 5 if why == "did not answer in time" else 20
    producer = bus.producer("customers", timeout=timeout)
    first, second, third = await commits_of(("a",), ("secret", "secret"), ("d",))
    await producer.dispatch(first)
    failure(double.faults)

    async with within(timeout + 2):
        with pytest.raises(DispatchError, match=why) as caught:
            await producer.dispatch(second)

    assert caught.value.permanent is permanent
    message = str(caught.value)
    assert second.stream in message
    assert "versions 2 to 3" in message
    assert "'customers'" in message
    assert "secret" not in message + str(caught.value.__cause__)

    double.faults.clear()
    double.faults.enable("customers")
    end_silence(producer)
    await producer.dispatch(second)
    await producer.dispatch(third)
    assert versions(double, first) == [1, 2, 3, 4]
    assert await open_connections(double, 1) == 1


async def test_a_permanent_failure_is_not_tried_again(bus: ServiceBus, double: ServiceBusDouble) -> None:
    planned = double.faults.next_send(Reject("amqp:not-allowed"), times=None)
    with pytest.raises(DispatchError):
        await bus.producer("customers").dispatch(await commit_of("a"))
    assert planned.hits == 1


async def test_a_busy_broker_is_asked_again_over_the_same_link(bus: ServiceBus, double: ServiceBusDouble) -> None:
    planned = double.faults.next_send(BUSY, times=None)
    with pytest.raises(DispatchError):
        await bus.producer("customers").dispatch(await commit_of("a"))
    assert planned.hits == 4
    assert double.activity.connections == 1


async def test_a_pause_beyond_the_deadline_is_not_begun(
    bus: ServiceBus, double: ServiceBusDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producing, "_PAUSES", (0.1, 60.0))
    double.faults.next_send(BUSY, times=None)
    async with within(7):
        with pytest.raises(DispatchError, match="busy"):
            await bus.producer("customers", timeout=10).dispatch(await commit_of("a"))


async def test_each_batch_has_tries_of_its_own(bus: ServiceBus, double: ServiceBusDouble, sends: Sends) -> None:
    commit = await commit_of(*("x" * 20_000 for _ in range(60)))
    sends.before = lambda number: double.faults.next_send(BUSY) if number % 2 == 0 else None
    await bus.producer("customers").dispatch(commit)
    assert versions(double, commit) == list(range(1, 61))
    assert sends.batches == [12] * 10


async def test_a_missing_topic_is_named(bus: ServiceBus, double: ServiceBusDouble) -> None:
    producer = bus.producer("orders")
    commit = await commit_of("a")
    with pytest.raises(DispatchError, match="topic 'orders', because the topic does not exist") as caught:
        await producer.dispatch(commit)
    assert caught.value.permanent

    double.topic("orders").subscribe("all")
    await producer.dispatch(commit)
    assert len(double.messages("orders/subscriptions/all")) == 1


async def test_a_message_the_broker_finds_too_large_is_permanent_and_stops_nobody_else() -> None:
    async with ServiceBusDouble(max_message_size=5_000) as small:
        small.topic("customers").subscribe("all", requires_session=True)
        async with ServiceBus.from_connection_string(small.connection_string) as bus:
            producer = bus.producer("customers")
            large, other = await commit_of("x" * 6_000), await commit_of("small")
            outcomes = await asyncio.gather(producer.dispatch(large), producer.dispatch(other), return_exceptions=True)
        assert isinstance(outcomes[0], DispatchError)
        assert outcomes[0].permanent
        assert "larger than the broker takes" in str(outcomes[0])
        assert outcomes[1] is None
        assert versions(small, other) == [1]
        assert versions(small, large) == []


async def test_a_permanent_failure_of_one_dispatch_leaves_its_neighbours_alone(
    bus: ServiceBus, double: ServiceBusDouble
) -> None:
    producer = bus.producer("customers")
    commits = [await commit_of("a", id=f"customer-{number}") for number in range(5)]
    double.faults.next_send(Reject("amqp:not-allowed"))

    outcomes = await asyncio.gather(*[producer.dispatch(commit) for commit in commits], return_exceptions=True)

    assert [type(outcome).__name__ for outcome in outcomes] == ["DispatchError"] + ["NoneType"] * 4
    assert [message.correlation_id for message in received(double)] == [f"customer-{n}" for n in (1, 2, 3, 4)]


async def test_waiting_for_a_turn_counts_towards_the_deadline(bus: ServiceBus, double: ServiceBusDouble) -> None:
    producer = bus.producer("customers", timeout=2)
    double.faults.next_send(Ignore(), times=None)
    async with within(3):
        outcomes = await asyncio.gather(
            *[producer.dispatch(await commit_of("a")) for _ in range(5)], return_exceptions=True
        )
    assert all(isinstance(outcome, DispatchError) for outcome in outcomes)


async def test_a_peer_that_hangs_on_megabytes_is_left_in_time(bus: ServiceBus, double: ServiceBusDouble) -> None:
    # More than the buffers of both ends hold, so that a polite close would wait for ever.
    producer = bus.producer("customers", timeout=5)
    await producer.dispatch(await commit_of("before"))
    double.faults.stop_reading = True
    commit = await commit_of(*("x" * 200_000 for _ in range(16)))

    async with within(7):
        with pytest.raises(DispatchError):
            await producer.dispatch(commit)

    double.faults.clear()
    end_silence(producer)
    await producer.dispatch(commit)
    assert versions(double, commit) == list(range(1, 17))
    assert await open_connections(double, 1) == 1


@pytest.mark.parametrize("texts", [("a",), ("a", "b")], ids=["alone", "in a batch"])
async def test_a_connection_dropped_during_the_handshake_leaves_no_socket_behind(texts: tuple[str, ...]) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with ServiceBus.from_connection_string(connection_string(port)) as bus:
            with pytest.raises(DispatchError, match="cannot be reached") as caught:
                await bus.producer("customers").dispatch(await commit_of(*texts))
    assert not caught.value.permanent


async def test_a_peer_that_never_says_a_word_leaves_no_socket_behind() -> None:
    closed = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal closed
        await reader.read()  # until the other side goes
        closed += 1
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with ServiceBus.from_connection_string(connection_string(port)) as bus, within(5):
            with pytest.raises(DispatchError, match="did not answer in time"):
                await bus.producer("customers", timeout=3).dispatch(await commit_of("a"))
        await asyncio.sleep(0.1)
        assert closed == 2


async def test_an_address_that_swallows_packets_leaves_no_task_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*args: object, **options: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", hang)
    async with within(3), ServiceBus.from_connection_string(connection_string(1)) as bus:
        with pytest.raises(DispatchError, match="did not answer in time"):
            await bus.producer("customers", timeout=0.5).dispatch(await commit_of("a"))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_nobody_listening_is_reported() -> None:
    async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    async with ServiceBus.from_connection_string(connection_string(port)) as bus:
        with pytest.raises(DispatchError, match="cannot be reached"):
            await bus.producer("customers").dispatch(await commit_of("a"))


def connection_string(port: int) -> str:
    return f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true"
