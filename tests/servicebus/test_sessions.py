"""One session of the SDK, used our way: the lock, the clock, the order, and giving back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient
from tests.servicebus.receiving import SUBSCRIPTION, Mailbox, mailbox, until, waiting
from tests.servicebus.support import open_connections, within

from esazure.servicebus import sessions
from esazure.servicebus.sessions import Session, SessionLostError
from esazure.servicebus.sockets import Connection
from esazure.testing.servicebus import Drop, Ignore, MessageState, Reject, ServiceBusDouble

pytestmark = pytest.mark.amqp


@pytest.fixture
async def client(double: ServiceBusDouble) -> AsyncIterator[ServiceBusClient]:
    async with ServiceBusClient.from_connection_string(double.connection_string, retry_total=0) as client:
        yield client
    double.faults.clear()
    assert await open_connections(double, 0) == 0


@pytest.fixture
async def mail(double: ServiceBusDouble, client: ServiceBusClient) -> AsyncIterator[Mailbox]:
    async with mailbox(double) as mail:
        yield mail


@asynccontextmanager
async def accepted(client: ServiceBusClient, *, wait: float = 10) -> AsyncIterator[Session]:
    receiver = client.get_subscription_receiver(
        "customers", "all", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=wait
    )
    session = Session(receiver)
    try:
        await session.accept()
        yield session
    finally:
        await session.close()


def ids(messages: list[Any]) -> list[str]:
    return [message.message_id for message in messages]


async def test_a_session_has_a_name_and_its_messages_in_order(client: ServiceBusClient, mail: Mailbox) -> None:
    await mail.send("a", count=3)
    async with accepted(client) as session:
        assert session.id == "a"
        assert ids(await session.receive(2, wait=1)) == ["a/1", "a/2"]
        assert ids(await session.receive(2, wait=0.3)) == ["a/3"]
        assert await session.receive(2, wait=0.1) == []


async def test_what_arrives_between_two_receives_is_kept_and_not_handed_back(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble
) -> None:
    """The SDK would release it, and what comes after it could be received before it comes again."""
    await mail.send("a")
    async with accepted(client) as session:
        first = await session.receive(10, wait=1)
        await mail.send("a", count=3)  # the broker may still send nine
        await until(lambda: len(double.messages(SUBSCRIPTION, state=MessageState.LOCKED)) == 4)
        assert await session.complete(first) == 0
        assert ids(await session.receive(10, wait=1)) == ["a/2", "a/3", "a/4"]
        assert double.activity.settlements == 1, "nothing was released"


async def test_what_is_given_back_counts_as_never_delivered(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble
) -> None:
    await mail.send("a", count=5)
    async with accepted(client) as session:
        messages = await session.receive(10, wait=1)
        await mail.send("a", count=3)
        await until(lambda: len(double.messages(SUBSCRIPTION, state=MessageState.LOCKED)) == 8)
        await session.complete(messages[:2])
        await session.close()
    left = waiting(double)
    assert ids(left) == [f"a/{version}" for version in range(3, 9)]
    assert {(message.state, message.delivery_count) for message in left} == {(MessageState.ACTIVE, 0)}
    async with accepted(client) as session:
        assert len(await session.receive(6, wait=1)) == 6


async def test_what_arrived_unasked_is_given_back_too(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble
) -> None:
    await mail.send("a")
    async with accepted(client) as session:
        first = await session.receive(10, wait=1)
        await mail.send("a", count=2)
        await until(lambda: len(double.messages(SUBSCRIPTION, state=MessageState.LOCKED)) == 3)
        await session.complete(first)
        await session.complete([])
        await asyncio.wait_for(session._receiver._handler._connection.listen(wait=0.1, batch=5), 1)
        await session.close()
    assert [message.delivery_count for message in waiting(double)] == [0, 0]


async def test_giving_back_a_session_that_broke_never_raises(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble
) -> None:
    await mail.send("a", count=2)
    async with accepted(client) as session, within(6):
        await session.receive(2, wait=1)
        double.faults.drop_connections()
        await session.close()


@pytest.mark.parametrize("hours", [-6, 6])
async def test_a_clock_that_is_wrong_does_no_harm(
    client: ServiceBusClient, mail: Mailbox, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    def now() -> datetime:
        return datetime.now(UTC) + timedelta(hours=hours)

    monkeypatch.setattr("azure.servicebus._servicebus_session.utc_now", now)
    await mail.send("a", count=2)
    async with accepted(client) as session:
        keeping = asyncio.create_task(session.keep())
        messages = await session.receive(1, wait=1)
        await asyncio.sleep(0.1)
        assert await session.complete(messages) == 0
        session._lock = 0.3
        assert ids(await session.receive(1, wait=1)) == ["a/2"]
        assert not keeping.done()
        await sessions.ended(keeping)


@pytest.mark.parametrize(("seconds", "taken_for"), [(0.5, 1.0), (6.0, 6.0), (60.0, 20.0)])
async def test_the_lock_is_measured_within_bounds(seconds: float, taken_for: float) -> None:
    async with ServiceBusDouble() as double:
        double.topic("customers").subscribe("all", requires_session=True, lock_duration=seconds)
        async with (
            mailbox(double) as mail,
            ServiceBusClient.from_connection_string(double.connection_string, retry_total=0) as client,
        ):
            await mail.send("a")
            async with accepted(client) as session:
                assert session._lock == pytest.approx(taken_for, abs=0.3)


async def test_a_lock_is_renewed_until_nobody_keeps_it() -> None:
    async with ServiceBusDouble() as short:
        short.topic("customers").subscribe("all", requires_session=True, lock_duration=1.0)
        async with (
            mailbox(short) as mail,
            ServiceBusClient.from_connection_string(short.connection_string, retry_total=0) as client,
        ):
            await mail.send("a")
            async with accepted(client) as session:
                messages = await session.receive(1, wait=1)
                keeping = asyncio.create_task(session.keep())
                await asyncio.sleep(2.2)
                assert short.messages(SUBSCRIPTION) == []
                await sessions.ended(keeping)
                await until(lambda: short.messages(SUBSCRIPTION), seconds=2)
                with pytest.raises(SessionLostError):
                    await session.receive(1, wait=1)
                with pytest.raises(SessionLostError):
                    await session.complete(messages)


def taken(double: ServiceBusDouble) -> None:
    double.faults.detach_links("com.microsoft:session-lock-lost")


def expired(double: ServiceBusDouble) -> None:
    double.advance(31)


def dropped(double: ServiceBusDouble) -> None:
    double.faults.drop_connections()


def silent(double: ServiceBusDouble) -> None:
    double.faults.next_request(Ignore(), times=None, operation="renew-session-lock")


def half_open(double: ServiceBusDouble) -> None:
    double.faults.stop_reading = True


def busy(double: ServiceBusDouble) -> None:
    double.faults.next_request(Reject("com.microsoft:server-busy"), times=None, operation="renew-session-lock")


def refused(double: ServiceBusDouble) -> None:
    double.faults.next_request(Reject("amqp:unauthorized-access"), operation="renew-session-lock")


@pytest.mark.parametrize("fault", [taken, expired, dropped, silent, half_open, busy, refused])
async def test_whoever_keeps_a_session_learns_that_it_is_lost(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble, fault: Callable[[ServiceBusDouble], None]
) -> None:
    await mail.send("a")
    async with accepted(client) as session:
        session._lock = 0.9  # instead of the twenty seconds that it would be renewed within
        fault(double)
        async with within(4):
            with pytest.raises(SessionLostError):
                await session.keep()
        double.faults.clear()
        with pytest.raises(SessionLostError):
            await session.receive(1, wait=0.1)


async def test_one_renewal_that_a_busy_broker_refuses_is_no_loss(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble
) -> None:
    await mail.send("a")
    async with accepted(client) as session:
        session._lock = 0.9
        planned = double.faults.next_request(Reject("com.microsoft:server-busy"), operation="renew-session-lock")
        keeping = asyncio.create_task(session.keep())
        await asyncio.sleep(1.5)
        assert planned.hits == 1
        assert not keeping.done()
        assert len(await session.receive(1, wait=1)) == 1
        await sessions.ended(keeping)


async def test_a_session_that_somebody_else_took_is_not_renewed_for_them(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble
) -> None:
    await mail.send("a")
    async with accepted(client) as first:
        first._lock = 0.9
        double.faults.detach_links(entity=SUBSCRIPTION)
        async with accepted(client) as second:
            assert second.id == "a"
            with pytest.raises(SessionLostError):
                await first.keep()


async def test_a_session_that_failed_is_not_taken_up_again_behind_our_back(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble
) -> None:
    await mail.send("a", count=2)
    async with accepted(client) as session:
        messages = await session.receive(1, wait=1)
        await session._receiver._close_handler()  # what the SDK does after some errors
        attached = double.activity.connections
        with pytest.raises(SessionLostError):
            await session.receive(1, wait=1)
        with pytest.raises(SessionLostError):
            await session.complete(messages)
        assert double.activity.connections == attached


async def test_a_settlement_without_an_answer_loses_the_session_in_time(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SETTLE_SECONDS", 0.5)
    await mail.send("a", count=2)
    async with accepted(client) as session:
        messages = await session.receive(2, wait=1)
        double.faults.next_settlement(Ignore(applied=True), entity=SUBSCRIPTION)
        async with within(3):
            with pytest.raises(SessionLostError):
                await session.complete(messages)


async def test_an_accept_that_is_cancelled_at_any_moment_holds_no_session(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble
) -> None:
    await mail.send("a")
    for moment in range(12):
        receiver = client.get_subscription_receiver(
            "customers", "all", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=10
        )
        session = Session(receiver)
        accepting = asyncio.create_task(session.accept())
        await asyncio.sleep(moment * 0.05)
        async with within(3):
            await sessions.ended(accepting)
            await session.close()
    async with accepted(client) as session:
        (message,) = await session.receive(1, wait=1)
        assert message.delivery_count == 0


async def test_only_a_session_that_is_held_is_cut_without_a_goodbye(client: ServiceBusClient, mail: Mailbox) -> None:
    """While we wait for one the broker has to hear that we leave; a session that is lost must be let go of at once."""
    await mail.send("a")
    receiver = client.get_subscription_receiver("customers", "all", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=10)
    session = Session(receiver)
    accepting = asyncio.create_task(session.accept())
    await until(lambda: session._connections)
    assert [connection.polite for connection in session._connections] == [True]
    await accepting
    assert [connection.polite for connection in session._connections] == [False]
    await session.close()


@pytest.mark.parametrize("polite", [True, False])
async def test_a_goodbye_is_said_only_by_who_is_polite(*, polite: bool) -> None:
    class Client:
        closed = 0

        async def close_async(self) -> None:
            self.closed += 1

    client = Client()
    connection = Connection(client)
    connection.polite = polite
    await client.close_async()
    assert client.closed == polite
    assert connection.cut is not polite
    await connection.close()
    assert client.closed == polite + 1


async def test_an_open_that_fails_leaves_no_socket_behind(
    client: ServiceBusClient, mail: Mailbox, double: ServiceBusDouble
) -> None:
    await mail.send("a")
    double.faults.next_attach(Drop(), entity=SUBSCRIPTION)
    with pytest.raises(Exception, match="onnect"):
        async with accepted(client):
            pass
    async with accepted(client) as session:
        assert session.id == "a"


@pytest.mark.parametrize("settle", ["complete", "abandon", "dead_letter"])
async def test_a_settlement_that_was_cancelled_inside_the_sdk_is_not_taken_for_done(settle: str) -> None:
    class Receiver:
        async def settle(self, *_: object, **__: object) -> None:
            raise asyncio.CancelledError

        complete_message = abandon_message = dead_letter_message = settle

    receiver: Any = Receiver()
    session, message = Session(receiver), cast("ServiceBusReceivedMessage", object())
    settled = {
        "complete": lambda: session.complete([message]),
        "abandon": lambda: session.abandon(message),
        "dead_letter": lambda: session.dead_letter(message, "Reason", "why"),
    }
    with pytest.raises(SessionLostError):
        await settled[settle]()
