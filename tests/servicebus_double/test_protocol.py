"""AMQP as the SDK never speaks it: broken frames, tiny windows, impossible ranges, heartbeats, unknown operations."""

# ruff: noqa: FBT003 - the fields of a performative have a place, not a name

import asyncio
import gc
import logging
import struct
import uuid
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.servicebus_double.raw_client import (
    AMQP_HEADER,
    SASL_HEADER,
    RawClient,
    message,
    put,
    raw_client,
    raw_session,
)
from tests.servicebus_double.support import texts, until

from esazure.testing.servicebus import Drop, MessageState, Reject, ServiceBusDouble
from esazure.testing.servicebus.amqp_types import Described, Symbol, Uint, Ulong
from esazure.testing.servicebus.encoding import encode
from esazure.testing.servicebus.performatives import ACCEPTED, FRAME_HEADER, Code, frame, read, write
from esazure.testing.servicebus.sections import Sections
from esazure.testing.servicebus.sessions import SessionQueue

SETTLED_ACCEPTED = (True, ACCEPTED)


@pytest.fixture
async def client(bus: ServiceBusDouble) -> AsyncIterator[RawClient]:
    async with raw_session(bus) as opened:
        yield opened


class TestFrames:
    @pytest.mark.parametrize(
        ("broken", "condition"),
        [
            (FRAME_HEADER.pack(2**31, 2, 0, 0), "amqp:connection:framing-error"),
            (FRAME_HEADER.pack(65_537, 2, 0, 0), "amqp:connection:framing-error"),
            (FRAME_HEADER.pack(7, 2, 0, 0), "amqp:connection:framing-error"),
            (FRAME_HEADER.pack(8, 1, 0, 0), "amqp:connection:framing-error"),
            (FRAME_HEADER.pack(8, 3, 0, 0), "amqp:connection:framing-error"),
            (frame(0, b"\x40", 7), "amqp:decode-error"),
            (frame(0, write(Code.END), 7), "amqp:connection:framing-error"),
            (frame(0, b"\x00\x53\x99\x45"), "amqp:decode-error"),
            (frame(0, b"\x00\x53\x14\xc0\x02\x01"), "amqp:decode-error"),
            (frame(0, b"\x00\x53\x14\x40"), "amqp:decode-error"),
            (frame(0, write(Code.FLOW, "x", "y")), "amqp:decode-error"),
            (frame(0, write(Code.ATTACH, None, Uint(0), True)), "amqp:decode-error"),
            (frame(0, write(Code.SASL_INIT, Symbol("PLAIN"))), "amqp:decode-error"),
            (frame(0, write(Code.ATTACH, "name", Uint(256), True)), "amqp:session:handle-in-use"),
            (frame(0, write(Code.BEGIN, None, Uint(0), Uint(1))), "amqp:not-allowed"),
            (frame(5000, write(Code.BEGIN, None, Uint(0), Uint(1))), "amqp:not-allowed"),
            (frame(3, write(Code.TRANSFER, Uint(0))), "amqp:not-allowed"),
            (frame(0, write(Code.TRANSFER, Uint(9))), "amqp:session:unattached-handle"),
        ],
    )
    async def test_a_broken_frame_closes_its_connection_and_no_other(
        self, bus: ServiceBusDouble, client: RawClient, broken: bytes, condition: str
    ) -> None:
        async with raw_session(bus) as other:
            client.writer.write(broken)
            assert await client.expect_error(Code.CLOSE, 0) == condition
            await other.attach_sender("q")
            other.transfer(message())
            await other.expect(Code.DISPOSITION)
        assert texts(bus.messages("q")) == ["body"]

    @pytest.mark.parametrize("code", [Code.DETACH, Code.DISPOSITION, Code.END, Code.FLOW])
    async def test_what_comes_late_on_an_ended_session_is_ignored(self, client: RawClient, code: Code) -> None:
        client.send(Code.END)
        await client.expect(Code.END)
        client.send(code, Uint(0), Uint(0), Uint(0))
        client.send(Code.CLOSE)
        assert (await client.expect(Code.CLOSE))[0] is None

    async def test_a_frame_may_come_byte_by_byte(self, bus: ServiceBusDouble) -> None:
        async with raw_client(bus) as client:
            opening = (
                AMQP_HEADER + frame(0, write(Code.OPEN, "raw")) + frame(0, write(Code.BEGIN, None, Uint(0), Uint(1)))
            )
            for octet in opening:
                client.writer.write(bytes((octet,)))
                await client.writer.drain()
                await asyncio.sleep(0)
            assert await client.reader.readexactly(8) == AMQP_HEADER
            await client.expect(Code.BEGIN)

    async def test_everything_may_come_at_once(self, bus: ServiceBusDouble) -> None:
        source, target = Described(Ulong(0x28), [None]), Described(Ulong(0x29), ["amqps://host:5671/q/"])
        async with raw_client(bus) as client:
            client.writer.write(
                SASL_HEADER
                + frame(0, write(Code.SASL_INIT, Symbol("ANONYMOUS")), 1)
                + AMQP_HEADER
                + frame(0, write(Code.OPEN, "raw"))
                + frame(0, write(Code.BEGIN, None, Uint(0), Uint(9)))
                + frame(0, write(Code.ATTACH, "s", Uint(0), False, None, None, source, target))
                + frame(0, write(Code.TRANSFER, Uint(0), Uint(0), b"t", Uint(0), True, False) + message())
            )
            await until(lambda: texts(bus.messages("q")) == ["body"])

    @pytest.mark.parametrize(
        ("said", "condition"),
        [
            (SASL_HEADER + frame(0, write(Code.OPEN, "raw"), 1), "amqp:connection:framing-error"),
            (SASL_HEADER + frame(0, write(Code.SASL_INIT, Symbol("PLAIN")), 0), "amqp:connection:framing-error"),
        ],
    )
    async def test_sasl_is_finished_first(self, bus: ServiceBusDouble, said: bytes, condition: str) -> None:
        async with raw_client(bus) as client:
            client.writer.write(said)
            assert await client.reader.readexactly(8) == SASL_HEADER
            assert await client.expect_error(Code.CLOSE, 0) == condition

    async def test_another_protocol_is_told_ours_and_hung_up_on(self, bus: ServiceBusDouble) -> None:
        async with raw_client(bus) as client:
            client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await client.expect_end() == AMQP_HEADER

    async def test_a_closed_connection_hangs_up_even_if_the_client_does_not(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        bus.faults.close_connections("amqp:connection:forced")
        assert await client.expect_error(Code.CLOSE, 0) == "amqp:connection:forced"
        client.send(Code.BEGIN)  # ignored
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.next()
        await until(lambda: bus.activity.open_connections == 0)

    async def test_heartbeats_come_when_the_client_wants_them(self, bus: ServiceBusDouble) -> None:
        async with raw_client(bus) as client:
            await client.open(idle_timeout=100)
            async with asyncio.timeout(10):
                for _ in range(3):
                    assert await client.reader.readexactly(8) == FRAME_HEADER.pack(8, 2, 0, 0)
            connection = weakref.ref(next(iter(bus._broker.connections)))
        # The timer ends with the connection, or it would hold on to it.
        await until(lambda: gc.collect() >= 0 and connection() is None)

    async def test_an_internal_error_closes_the_connection_and_is_logged_without_the_message(
        self,
        bus: ServiceBusDouble,
        client: RawClient,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        await client.attach_sender("q")
        monkeypatch.setattr("esazure.testing.servicebus.links.parse_transfer", fail)
        client.transfer(message(b"s3cret"))
        assert await client.expect_error(Code.CLOSE, 0) == "amqp:internal-error"
        assert "ZeroDivisionError" in caplog.text
        assert "s3cret" not in caplog.text


class TestSending:
    async def test_a_delivery_of_many_frames_is_one_message(self, bus: ServiceBusDouble, client: RawClient) -> None:
        await client.attach_sender("q")
        payload = message(b"x" * 1000)
        for start in range(0, len(payload), 100):
            client.transfer(payload[start : start + 100], more=start + 100 < len(payload))
        disposition = await client.expect(Code.DISPOSITION)
        assert (disposition.number(1), disposition.flag(3)) == (0, True)
        assert texts(bus.messages("q")) == ["x" * 1000]

    async def test_an_aborted_delivery_never_was(self, bus: ServiceBusDouble, client: RawClient) -> None:
        await client.attach_sender("q")
        client.transfer(message(b"half")[:5], more=True)
        client.transfer(b"", aborted=True)
        client.transfer(message(b"whole"), delivery_id=1)
        assert (await client.expect(Code.DISPOSITION)).number(1) == 1
        assert texts(bus.messages("q")) == ["whole"]

    async def test_a_settled_delivery_gets_no_answer(self, bus: ServiceBusDouble, client: RawClient) -> None:
        await client.attach_sender("q")
        client.transfer(message(b"1"), settled=True)
        client.transfer(message(b"2"), delivery_id=1)
        assert (await client.expect(Code.DISPOSITION)).number(1) == 1
        assert texts(bus.messages("q")) == ["1", "2"]

    async def test_too_large_is_rejected_and_then_detached(self) -> None:
        async with ServiceBusDouble(max_message_size=1000) as bus:
            bus.queue("q")
            async with raw_session(bus) as client:
                assert (await client.attach_sender("q")).number(10) == 1000
                for _ in range(20):
                    client.transfer(b"x" * 100, more=True)
                (connection,) = bus._broker.connections
                link = connection.sessions[0].links[0]
                await until(lambda: link._size == 2000)
                assert len(link._payload) <= 1000
                client.transfer(b"x")
                rejected = (await client.expect(Code.DISPOSITION)).described(4)
                assert rejected is not None
                assert rejected.value[0].value[0] == "amqp:link:message-size-exceeded"
                assert await client.expect_error(Code.DETACH, 2) == "amqp:link:message-size-exceeded"
                client.transfer(message())  # sent before the client read the detach: ignored
                await client.attach_sender("q", handle=1)
                client.transfer(message(b"small"), handle=1, delivery_id=1)
                await client.expect(Code.DISPOSITION)
            assert texts(bus.messages("q")) == ["small"]

    async def test_a_message_that_cannot_be_read_is_rejected_and_the_link_stays(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        await client.attach_sender("q")
        client.transfer(b"\x00\x53\x73\xa1")
        rejected = (await client.expect(Code.DISPOSITION)).described(4)
        assert rejected is not None
        assert rejected.value[0].value[0] == "amqp:decode-error"
        client.transfer(message(), delivery_id=1)
        await client.expect(Code.DISPOSITION)
        assert len(bus.messages("q")) == 1

    async def test_windows_and_credit_are_renewed(self, bus: ServiceBusDouble, client: RawClient) -> None:
        bus.faults.sender_credit = 10
        await client.attach_sender("q")
        assert (await client.expect(Code.FLOW)).number(6) == 10
        for number in range(6):
            client.transfer(message(), delivery_id=number, settled=True)
        flow = await client.expect(Code.FLOW)
        assert (flow.number(5), flow.number(6)) == (6, 10)
        for number in range(6, 2600):
            client.transfer(message(), delivery_id=number, settled=True)
        await client.writer.drain()
        while (flow := await client.expect(Code.FLOW))[4] is not None:
            pass  # the link's credit
        assert flow.number(1) == 5000
        await until(lambda: len(bus.messages("q")) == 2600)


class TestReceiving:
    async def test_a_large_message_waits_for_the_window_of_the_client(self, bus: ServiceBusDouble) -> None:
        async with raw_session(bus) as sender:
            await sender.attach_sender("q")
            sender.transfer(message(b"x" * 2000))
            await sender.expect(Code.DISPOSITION)
        async with raw_session(bus, window=2, max_frame_size=512) as client:
            assert (await client.attach_receiver("q")).number(9) == 0
            client.grant(5, window=2)
            received, last = b"", False
            for _ in range(2):
                fields, payload = await client.expect_with_payload(Code.TRANSFER)
                received += payload
                assert fields.flag(5)
            # The answer to this flow comes, and no further transfer before it.
            windows = (Uint(3), Uint(0), Uint(0), Uint(100))
            client.send(Code.FLOW, *windows, Uint(0), Uint(0), Uint(5), None, None, True)
            assert (await client.next())[0] is Code.FLOW
            client.send(Code.FLOW, Uint(3), Uint(100), Uint(0), Uint(100))
            while not last:
                fields, payload = await client.expect_with_payload(Code.TRANSFER)
                received, last = received + payload, not fields.flag(5)
            assert Sections(received).data() == [b"x" * 2000]

    async def test_draining_gives_the_credit_back(self, client: RawClient) -> None:
        await client.attach_receiver("q")
        client.grant(7, drain=True)
        flow = await client.expect(Code.FLOW)
        assert (flow.number(5), flow.number(6), flow.flag(8)) == (7, 0, True)

    async def test_an_echo_is_answered(self, client: RawClient) -> None:
        await client.attach_receiver("q")
        windows = (Uint(1), Uint(100), Uint(0), Uint(100))
        client.send(Code.FLOW, *windows, Uint(0), Uint(0), Uint(3), None, None, True)
        assert (await client.expect(Code.FLOW)).number(6) == 3

    async def test_settling_an_enormous_range_takes_what_there_is(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        await client.attach_sender("q", handle=1)
        for number in range(3):
            client.transfer(message(), delivery_id=number, handle=1)
            await client.expect(Code.DISPOSITION)
        await client.attach_receiver("q")
        client.grant(3)
        for _ in range(3):
            await client.expect(Code.TRANSFER)
        client.send(Code.DISPOSITION, True, Uint(1), Uint(2**32 - 1), *SETTLED_ACCEPTED)
        await until(lambda: len(bus.messages("q", state=MessageState.LOCKED)) == 1)
        client.send(Code.DISPOSITION, True, Uint(2**32 - 1), Uint(0), *SETTLED_ACCEPTED)
        client.send(Code.DISPOSITION, False, Uint(0), None, *SETTLED_ACCEPTED)
        client.send(Code.DISPOSITION, True, Uint(0), None, False, None)
        confirmed = await client.expect(Code.DISPOSITION)
        assert confirmed.number(1) == 0
        assert bus.activity.settlements == 3

    async def test_a_drop_in_the_middle_of_a_range_settles_no_more(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        await client.attach_sender("q", handle=1)
        for number in range(3):
            client.transfer(message(), delivery_id=number, handle=1)
            await client.expect(Code.DISPOSITION)
        await client.attach_receiver("q")
        client.grant(3)
        for _ in range(3):
            await client.expect(Code.TRANSFER)
        bus.faults.next_settlement(Drop(applied=True))
        client.send(Code.DISPOSITION, True, Uint(0), Uint(2), False, ACCEPTED)
        await until(lambda: bus.activity.open_connections == 0)
        assert bus.activity.settlements == 1

    @pytest.mark.parametrize(
        ("outcome", "state", "count"),
        [
            (Described(Ulong(0x26), []), MessageState.ACTIVE, 0),
            (Described(Ulong(0x27), [True, False, {Symbol("k"): "v"}]), MessageState.ACTIVE, 1),
            (Described(Ulong(0x27), [True, True]), MessageState.DEFERRED, 1),
        ],
    )
    async def test_each_outcome_is_applied_and_echoed(
        self, bus: ServiceBusDouble, client: RawClient, outcome: Described, state: MessageState, count: int
    ) -> None:
        await client.attach_sender("q", handle=1)
        client.transfer(message(), handle=1)
        await client.expect(Code.DISPOSITION)
        await client.attach_receiver("q")
        client.grant(1)
        await client.expect(Code.TRANSFER)
        client.send(Code.DISPOSITION, True, Uint(0), None, False, outcome)
        echoed = (await client.expect(Code.DISPOSITION)).described(4)
        assert echoed is not None
        assert echoed.descriptor == outcome.descriptor
        (stored,) = bus.messages("q", state=state)
        assert stored.delivery_count == count

    async def test_an_unknown_outcome_is_refused_and_the_lock_stays(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        await client.attach_sender("q", handle=1)
        client.transfer(message(), handle=1)
        await client.expect(Code.DISPOSITION)
        await client.attach_receiver("q")
        client.grant(1)
        await client.expect(Code.TRANSFER)
        client.send(Code.DISPOSITION, True, Uint(0), None, False, Described(Ulong(0x34), []))
        refused = (await client.expect(Code.DISPOSITION)).described(4)
        assert refused is not None
        assert refused.value[0].value[0] == "amqp:not-implemented"
        assert len(bus.messages("q", state=MessageState.LOCKED)) == 1

    async def test_the_tag_is_the_lock_token_as_a_guid(self, bus: ServiceBusDouble, client: RawClient) -> None:
        await client.attach_sender("q", handle=1)
        client.transfer(message(), handle=1)
        await client.expect(Code.DISPOSITION)
        await client.attach_receiver("q")
        client.grant(1)
        tag = (await client.expect(Code.TRANSFER))[2]
        answer = await request(client, "q", "renew-lock", {"lock-tokens": [uuid.UUID(bytes_le=tag)]})
        assert answer.application_properties["statusCode"] == 200


class TestFaults:
    async def test_a_fault_for_an_attach_leaves_tokens_and_management_alone(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        planned = bus.faults.next_attach(Reject("amqp:not-found"), times=None)
        for handle, address in enumerate(("$cbs", "q/$management")):
            assert (await client.attach_sender(address, handle=handle))[6] is not None
        assert (await client.attach_sender("q", handle=2))[6] is None
        assert planned.hits == 1

    async def test_held_deliveries_go_out_on_credit_that_was_granted_before(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        await client.attach_receiver("q")
        client.grant(1)
        bus.faults.hold_deliveries = True
        await put(bus, "1")
        assert texts(bus.messages("q")) == ["1"]
        bus.faults.hold_deliveries = False
        await client.expect(Code.TRANSFER)


class TestAttaching:
    async def test_a_refused_attach_has_no_terminus_of_ours_and_says_why(self, client: RawClient) -> None:
        fields = await client.attach_receiver("nowhere", handle=3)
        assert fields[5] is None
        assert fields[6] is not None
        assert await client.expect_error(Code.DETACH, 2) == "amqp:not-found"
        fields = await client.attach_sender("nowhere", handle=3)
        assert fields[5] is not None
        assert fields[6] is None
        assert await client.expect_error(Code.DETACH, 2) == "amqp:not-found"

    async def test_the_address_comes_back_byte_for_byte_with_the_session(self, client: RawClient) -> None:
        session_filter = Symbol("com.microsoft:session-filter")
        address = "amqps://127.0.0.1:1/Sessions"
        fields = await client.attach_receiver(address, filters={session_filter: "a"})
        source = fields.described(5)
        assert source is not None
        assert source.value[0] == address
        assert source.value[7] == {session_filter: "a"}
        ticks = fields.mapping(13)["com.microsoft:locked-until-utc"]
        assert ticks > 638_000_000_000_000_000

    async def test_a_session_id_is_text(self, client: RawClient) -> None:
        await client.attach_receiver("sessions", filters={Symbol("com.microsoft:session-filter"): 5})
        assert await client.expect_error(Code.DETACH, 2) == "amqp:not-allowed"

    async def test_leaving_while_waiting_for_a_session_leaves_nothing_behind(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        session_filter = Symbol("com.microsoft:session-filter")
        source = Described(Ulong(0x28), ["sessions", *[None] * 6, {session_filter: None}])
        target = Described(Ulong(0x29), [None])
        client.send(Code.ATTACH, "r", Uint(0), True, None, None, source, target)
        client.grant(5)
        client.send(Code.DETACH, Uint(0), True)
        await client.expect(Code.DETACH)
        queue = bus._broker.namespace.find("sessions")
        assert isinstance(queue, SessionQueue)
        assert queue.sessions == {}
        await client.attach_sender("sessions", handle=1)
        client.transfer(message(session_id="a"), handle=1)
        await client.expect(Code.DISPOSITION)
        assert queue.sessions["a"].owner is None
        assert queue.consumers == []


async def request(client: RawClient, entity: str, operation: str, body: Any) -> Sections:
    """Ask a management node over a link pair of its own, as handles 8 and 9."""
    address = f"{entity}/$management"
    await client.attach_sender(address, handle=8)
    await client.attach_receiver(address, handle=9)
    client.grant(1, handle=9)
    client.transfer(management_request(operation, body), handle=8, delivery_id=99)
    _, payload = await client.expect_with_payload(Code.TRANSFER)
    for handle in (8, 9):
        client.send(Code.DETACH, Uint(handle), True)
        await client.expect(Code.DETACH)
    return Sections(payload)


def management_request(operation: str, body: Any) -> bytes:
    return (
        b"\x00\x53\x73"
        + encode([uuid.UUID(int=7)])
        + b"\x00\x53\x74"
        + encode({"operation": f"com.microsoft:{operation}"})
        + b"\x00\x53\x77"
        + encode(body)
    )


class TestManagement:
    async def test_an_unknown_operation_is_refused_loudly(
        self, client: RawClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer = await request(client, "q", "add-rule", {})
        assert answer.application_properties["statusCode"] == 501
        assert answer.application_properties["errorCondition"] == "amqp:not-implemented"
        assert type(answer.application_properties["errorCondition"]) is Symbol
        assert ("add-rule" in caplog.text, caplog.records[-1].levelno) == (True, logging.WARNING)

    async def test_the_request_id_comes_back_with_its_type(self, client: RawClient) -> None:
        answer = await request(client, "q", "peek-message", {})
        assert answer.properties[5] == uuid.UUID(int=7)
        assert answer.application_properties["statusCode"] == 204

    @pytest.mark.parametrize(
        ("entity", "operation", "body", "status", "condition"),
        [
            ("q", "renew-lock", None, 400, "com.microsoft:argument-error"),
            ("q", "renew-lock", {}, 400, "com.microsoft:argument-error"),
            ("q", "renew-lock", {"lock-tokens": ["x"]}, 400, "com.microsoft:argument-error"),
            ("q", "renew-lock", {"lock-tokens": 5}, 400, "com.microsoft:argument-error"),
            ("q", "renew-lock", {"lock-tokens": [uuid.UUID(int=1)]}, 410, "com.microsoft:message-lock-lost"),
            ("q", "renew-session-lock", {"session-id": "a"}, 400, "amqp:not-allowed"),
            ("sessions", "renew-session-lock", {}, 400, "com.microsoft:argument-error"),
            ("sessions", "renew-session-lock", {"session-id": "a"}, 410, "com.microsoft:session-lock-lost"),
            ("sessions", "set-session-state", {"session-id": "a"}, 410, "com.microsoft:session-lock-lost"),
            ("sessions", "update-disposition", {"session-id": "a"}, 410, "com.microsoft:session-lock-lost"),
            (
                "q",
                "update-disposition",
                {"disposition-status": "eaten", "lock-tokens": [uuid.UUID(int=1)]},
                400,
                "com.microsoft:argument-error",
            ),
            ("q", "cancel-scheduled-message", {"sequence-numbers": [1]}, 404, "com.microsoft:message-not-found"),
            ("q", "receive-by-sequence-number", {"sequence-numbers": [1]}, 404, "com.microsoft:message-not-found"),
            ("q", "schedule-message", {"messages": [{}, {"message": b"\x40"}]}, 400, "com.microsoft:argument-error"),
            ("q/$DeadLetterQueue", "schedule-message", {"messages": []}, 400, "amqp:not-allowed"),
            ("topic", "peek-message", {}, 400, "amqp:not-allowed"),
        ],
    )
    async def test_a_bad_request_is_refused(
        self,
        bus: ServiceBusDouble,
        client: RawClient,
        entity: str,
        operation: str,
        body: Any,
        status: int,
        condition: str,
    ) -> None:
        bus.topic("topic")
        answer = (await request(client, entity, operation, body)).application_properties
        assert (answer["statusCode"], answer["errorCondition"]) == (status, condition)

    async def test_sessions_are_listed_page_by_page(self, client: RawClient) -> None:
        await client.attach_sender("sessions")
        for number, session_id in enumerate("bac"):
            client.transfer(message(session_id=session_id), delivery_id=number)
            await client.expect(Code.DISPOSITION)
        first = await request(client, "sessions", "get-message-sessions", {"top": 2})
        assert first.value() == {"skip": 2, "sessions-ids": ["a", "b"]}
        second = await request(client, "sessions", "get-message-sessions", {"skip": 2})
        assert second.value() == {"skip": 3, "sessions-ids": ["c"]}
        last = await request(client, "sessions", "get-message-sessions", {"skip": 3})
        assert last.application_properties["statusCode"] == 204

    async def test_a_reply_waits_for_credit(self, client: RawClient) -> None:
        await client.attach_sender("q/$management", handle=8)
        await client.attach_receiver("q/$management", handle=9)
        client.transfer(management_request("peek-message", {}), handle=8)
        await client.expect(Code.DISPOSITION)
        client.grant(1, handle=9)
        await client.expect(Code.TRANSFER)

    @pytest.mark.parametrize(
        ("status", "state", "where"),
        [
            ("completed", None, None),
            ("abandoned", MessageState.ACTIVE, "q"),
            ("defered", MessageState.DEFERRED, "q"),
            ("suspended", MessageState.ACTIVE, "q/$DeadLetterQueue"),
        ],
    )
    async def test_a_lock_outlives_its_link_and_settles_over_management(
        self, bus: ServiceBusDouble, client: RawClient, status: str, state: MessageState | None, where: str | None
    ) -> None:
        await client.attach_sender("q", handle=1)
        client.transfer(message(), handle=1)
        await client.expect(Code.DISPOSITION)
        await client.attach_receiver("q")
        client.grant(1)
        token = uuid.UUID(bytes_le=(await client.expect(Code.TRANSFER))[2])
        client.send(Code.DETACH, Uint(0), True)
        await client.expect(Code.DETACH)
        body = {"disposition-status": status, "lock-tokens": [token], "properties-to-modify": {"k": "v"}}
        answer = await request(client, "q", "update-disposition", body)
        assert answer.application_properties["statusCode"] == 200
        assert bus.messages("q", state=MessageState.LOCKED) == []
        if where is not None and state is not None:
            (stored,) = bus.messages(where, state=state)
            assert stored.application_properties == {"k": "v"}


def test_frames_are_read_as_they_are_written() -> None:
    code, fields, payload = read(write(Code.FLOW, Uint(1)) + b"payload")
    assert (code, fields.number(0), fields[10], fields[99], payload) == (Code.FLOW, 1, None, None, b"payload")
    assert struct.unpack(">I", frame(1, b"x")[:4]) == (9,)
