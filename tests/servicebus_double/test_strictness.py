"""What the service refuses is refused, what it adds is added, and what the double does not have it says."""

# ruff: noqa: FBT003 - the fields of a performative have a place, not a name

import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.servicebus_double.raw_client import RawClient, message, raw_session
from tests.servicebus_double.test_protocol import request

from esazure.testing.servicebus import MessageState, ServiceBusDouble, sql_rule
from esazure.testing.servicebus.amqp_types import Described, Int, Symbol, Timestamp, Ubyte, Uint, Ulong
from esazure.testing.servicebus.clock import Clock
from esazure.testing.servicebus.encoding import encode
from esazure.testing.servicebus.entities import Entity
from esazure.testing.servicebus.messages import Message
from esazure.testing.servicebus.namespace import Namespace
from esazure.testing.servicebus.performatives import Code
from esazure.testing.servicebus.queues import QueueSettings
from esazure.testing.servicebus.refusals import RefusalError
from esazure.testing.servicebus.sections import Sections, parse_message

pytestmark = pytest.mark.amqp


@pytest.fixture
async def bus() -> AsyncIterator[ServiceBusDouble]:
    async with ServiceBusDouble() as double:
        double.queue("q")
        double.queue("site/Queue")
        double.queue("sessions", requires_session=True)
        double.topic("t").subscribe("s")
        yield double


@pytest.fixture
async def client(bus: ServiceBusDouble) -> AsyncIterator[RawClient]:
    async with raw_session(bus) as opened:
        yield opened


def section(code: int, value: Any) -> bytes:
    return b"\x00\x53" + bytes((code,)) + encode(value)


BODY = section(0x75, b"body")


class TestSettings:
    @pytest.fixture
    def stopped(self) -> ServiceBusDouble:
        return ServiceBusDouble()

    @pytest.mark.parametrize(
        ("name", "refused", "taken"),
        [
            ("lock_duration", [0, -1, 300.1, float("inf"), float("nan")], [0.5, 5, 300]),
            ("max_delivery_count", [0, 2001], [1, 2000]),
            ("default_ttl", [0, -1, float("nan")], [1, 1e9]),
            ("duplicate_detection_window", [0, 19, 604_801, float("nan")], [20, 604_800]),
        ],
    )
    def test_a_setting_is_in_the_range_of_the_service(
        self, stopped: ServiceBusDouble, name: str, refused: list[float], taken: list[float]
    ) -> None:
        for number, value in enumerate(taken):
            stopped.queue(f"q{number}", **{name: value})  # type: ignore[arg-type]
        for value in refused:
            with pytest.raises(ValueError, match=name):
                stopped.queue("never", **{name: value})  # type: ignore[arg-type]
        with pytest.raises(LookupError):
            stopped.messages("never")

    @pytest.mark.parametrize("name", ["a", "a" * 260, "site/page/Q", "a.b-c_d", "1"])
    def test_a_queue_or_topic_may_be_called(self, stopped: ServiceBusDouble, name: str) -> None:
        stopped.queue(name)
        ServiceBusDouble().topic(name)

    @pytest.mark.parametrize("name", ["", "a" * 261, "/a", "a/", "a//b", "-a", "a.", "a b", "a?b", "a$", "ä", "a\n"])
    def test_a_queue_or_topic_may_not_be_called(self, stopped: ServiceBusDouble, name: str) -> None:
        with pytest.raises(ValueError, match="name"):
            stopped.queue(name)
        with pytest.raises(ValueError, match="name"):
            stopped.topic(name)

    @pytest.mark.parametrize("name", ["", "a" * 51, "a/b", "_a", "a-", "a b", "$Default"])
    def test_a_subscription_may_not_be_called(self, stopped: ServiceBusDouble, name: str) -> None:
        topic = stopped.topic("t" * 260)
        topic.subscribe("a" * 50)
        with pytest.raises(ValueError, match="name"):
            topic.subscribe(name)

    def test_a_topic_has_so_many_subscriptions(self) -> None:
        topic = ServiceBusDouble().topic("t")
        for number in range(2_000):
            topic.subscribe(f"s{number}")
        with pytest.raises(ValueError, match="2000 subscriptions"):
            topic.subscribe("more")

    def test_a_topic_has_so_many_sql_filters(self) -> None:
        topic = ServiceBusDouble().topic("t").subscribe("a", rules=[sql_rule("TRUE")] * 1_999)
        with pytest.raises(ValueError, match="2000 SQL filters"):
            topic.subscribe("b", rules=[sql_rule("TRUE")] * 2)
        topic.subscribe("b", rules=[sql_rule("TRUE")])

    @pytest.mark.parametrize("size", [0, -1, 104_857_601])
    def test_a_message_size_is_one_of_a_tier(self, size: int) -> None:
        with pytest.raises(ValueError, match="max_message_size"):
            ServiceBusDouble(max_message_size=size)


def entity(**settings: Any) -> Entity:
    return Namespace(Clock(lambda: 1_000_000.0)).add_queue("q", QueueSettings(**settings))


class TestMessages:
    @pytest.mark.parametrize("name", ["message_id", "session_id", "reply_to_session_id", "partition_key"])
    def test_an_id_has_at_most_128_characters(self, name: str) -> None:
        fits: dict[str, Any] = {name: "ä" * 128}
        too_long: dict[str, Any] = {name: "a" * 129}
        assert entity().admit([Message(**fits)]) == [1]
        with pytest.raises(RefusalError, match="128") as refused:
            entity().admit([Message(), Message(**too_long)])
        assert refused.value.condition == "com.microsoft:argument-out-of-range"

    @pytest.mark.parametrize(
        "raw",
        [
            section(0x74, {"a": "x" * 33_000}),
            section(0x74, {str(number): "x" * 6_600 for number in range(10)}),
            section(0x72, {Symbol("x-opt-mine"): "x" * 66_000}),
            section(0x73, ["id", None, "to" * 33_000]),
        ],
    )
    def test_properties_have_a_limit(self, raw: bytes) -> None:
        queue = entity()
        with pytest.raises(RefusalError, match="bytes"):
            queue.admit([parse_message(raw + BODY)])
        assert list(queue.in_state(MessageState.ACTIVE)) == []

    def test_properties_up_to_the_limit_are_taken(self) -> None:
        raw = section(0x74, {"a": "x" * 32_000, "b": "x" * 32_000})
        assert entity().admit([parse_message(raw + BODY)]) == [1]

    async def test_what_is_refused_is_rejected_and_the_link_stays(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        await client.attach_sender("q")
        client.transfer(section(0x73, ["a" * 129]) + BODY)
        outcome = (await client.expect(Code.DISPOSITION)).described(4)
        assert outcome is not None
        assert outcome.value[0].value[0] == "com.microsoft:argument-out-of-range"
        client.transfer(message(), delivery_id=1)
        await client.expect(Code.DISPOSITION)
        assert len(bus.messages("q")) == 1

    async def test_a_batch_has_a_limit_of_its_own_on_the_premium_tier(self) -> None:
        async with ServiceBusDouble(max_message_size=2 << 20) as bus, raw_session(bus) as client:
            bus.queue("q")
            fields = await client.attach_sender("q")
            assert fields.number(10) == 2 << 20
            assert fields.mapping(13)["com.microsoft:max-message-batch-size"] == 1 << 20
            half = b"x" * 550_000
            for batch, payload in enumerate((section(0x75, half + half), section(0x75, section(0x75, half)) * 2)):
                chunks = [payload[start : start + 60_000] for start in range(0, len(payload), 60_000)]
                for number, chunk in enumerate(chunks):
                    client.send(
                        *(Code.TRANSFER, Uint(0), Uint(batch), b"tag", Uint(0x80013700 if batch else 0)),
                        *(False, number < len(chunks) - 1),
                        payload=chunk,
                    )
            accepted = (await client.expect(Code.DISPOSITION)).described(4)
            refused = (await client.expect(Code.DISPOSITION)).described(4)
            assert (accepted is not None, refused is not None) == (True, True)
            assert accepted is not None
            assert refused is not None
            assert accepted.descriptor == 0x24
            assert refused.value[0].value[0] == "amqp:link:message-size-exceeded"
            assert len(bus.messages("q")) == 1


async def put_token(client: RawClient, name: str) -> int:
    """The status a token for `name` is answered with."""
    await client.attach_sender("$cbs", handle=8)
    await client.attach_receiver("$cbs", handle=9)
    client.grant(1, handle=9)
    properties = {"operation": "put-token", "type": "jwt", "name": name}
    client.transfer(section(0x73, ["1"]) + section(0x74, properties) + section(0x77, "token"), handle=8, delivery_id=99)
    _, payload = await client.expect_with_payload(Code.TRANSFER)
    status = Sections(payload).application_properties["status-code"]
    assert isinstance(status, int)
    return status


class TestTokens:
    @pytest.mark.parametrize(
        "path",
        [
            "q",
            "Q",
            "site/queue",
            "q/$management",
            "q/$DeadLetterQueue",
            "q/$deadletterqueue/$management",
            "q/$Transfer/$DeadLetterQueue",
            "t",
            "t/Subscriptions/s",
            "T/subscriptions/S/$DeadLetterQueue",
            "t/Subscriptions/s/$Transfer/$DeadLetterQueue",
            "t/$management",
            "",
        ],
    )
    @pytest.mark.parametrize("prefix", ["sb://localhost/", "amqps://localhost:5671/"])
    async def test_one_for_what_is_there_is_taken(self, client: RawClient, prefix: str, path: str) -> None:
        assert await put_token(client, prefix + path) == 202

    @pytest.mark.parametrize(
        "path",
        [
            "nowhere",
            "nowhere/$management",
            "nowhere/$DeadLetterQueue",
            "site",
            "t/Subscriptions/nobody",
            "t/Subscriptions/nobody/$DeadLetterQueue/$management",
            "nowhere/Subscriptions/s",
            "t/$DeadLetterQueue",
        ],
    )
    async def test_one_for_what_is_not_there_is_answered_with_404(self, client: RawClient, path: str) -> None:
        assert await put_token(client, f"sb://localhost/{path}") == 404

    async def test_one_for_nothing_is_a_bad_request(self, client: RawClient) -> None:
        assert await put_token(client, "") == 400

    async def test_a_credential_that_is_refused_does_not_learn_what_is_there(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        bus.faults.refuse_tokens = True
        assert await put_token(client, "sb://localhost/nowhere") == 401


class TestTransactions:
    async def test_a_coordinator_is_refused_on_its_link_and_the_connection_lives(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        coordinator = Described(Ulong(0x30), [[Symbol("amqp:local-transactions")]])
        source = Described(Ulong(0x28), [None])
        client.send(Code.ATTACH, "coordinator", Uint(5), False, Ubyte(0), Ubyte(0), source, coordinator)
        attached = await client.expect(Code.ATTACH)
        assert attached[6] is None
        assert await client.expect_error(Code.DETACH, 2) == "amqp:not-implemented"
        await client.attach_sender("q")
        client.transfer(message())
        await client.expect(Code.DISPOSITION)
        assert len(bus.messages("q")) == 1

    async def test_a_send_in_a_transaction_is_refused(self, bus: ServiceBusDouble, client: RawClient) -> None:
        await client.attach_sender("q")
        state = Described(Ulong(0x34), [b"txn"])
        client.send(Code.TRANSFER, Uint(0), Uint(0), b"tag", Uint(0), False, False, None, state, payload=message())
        outcome = (await client.expect(Code.DISPOSITION)).described(4)
        assert outcome is not None
        assert outcome.value[0].value[0] == "amqp:not-implemented"
        assert bus.messages("q") == []

    async def test_a_settlement_in_a_transaction_is_refused(self, bus: ServiceBusDouble, client: RawClient) -> None:
        await client.attach_sender("q", handle=1)
        client.transfer(message(), handle=1)
        await client.attach_receiver("q")
        client.grant(1)
        delivery_id = (await client.expect(Code.TRANSFER))[1]
        state = Described(Ulong(0x34), [b"txn", Described(Ulong(0x24), [])])
        client.send(Code.DISPOSITION, True, Uint(delivery_id), None, False, state)
        outcome = (await client.expect(Code.DISPOSITION)).described(4)
        assert outcome is not None
        assert outcome.value[0].value[0] == "amqp:not-implemented"
        assert len(bus.messages("q", state=MessageState.LOCKED)) == 1

    async def test_sending_via_another_entity_is_refused(self, client: RawClient) -> None:
        await client.attach_sender("q", properties={Symbol("com.microsoft:transfer-destination-address"): "other"})
        assert await client.expect_error(Code.DETACH, 2) == "amqp:not-implemented"


class TestReplies:
    async def attach_reply_link(self, client: RawClient, handle: int, target: str | None) -> None:
        ends = (Described(Ulong(0x28), ["q/$management"]), Described(Ulong(0x29), [target]))
        client.send(Code.ATTACH, f"name-{handle}", Uint(handle), True, Ubyte(0), Ubyte(0), *ends)
        await client.expect(Code.ATTACH)
        client.grant(5, handle=handle)

    def ask(self, client: RawClient, reply_to: str | None, delivery_id: int) -> None:
        asked = {"operation": "com.microsoft:peek-message"}
        properties = section(0x73, [f"request-{delivery_id}", None, None, None, reply_to])
        client.transfer(properties + section(0x74, asked) + section(0x77, {}), handle=0, delivery_id=delivery_id)

    @pytest.mark.parametrize(("reply_to", "handle"), [("one", 1), ("two", 2), ("name-1", 1), ("name-2", 2), (None, 1)])
    async def test_an_answer_goes_where_the_request_wants_it(
        self, client: RawClient, reply_to: str | None, handle: int
    ) -> None:
        await client.attach_sender("q/$management")
        await self.attach_reply_link(client, 1, "one")
        await self.attach_reply_link(client, 2, "two")
        self.ask(client, reply_to, 0)
        fields, _ = await client.expect_with_payload(Code.TRANSFER)
        assert fields.number(0) == handle

    async def test_an_answer_that_nobody_takes_is_logged_and_no_one_elses(
        self, client: RawClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        await client.attach_sender("q/$management")
        await self.attach_reply_link(client, 1, "one")
        await self.attach_reply_link(client, 2, "two")
        self.ask(client, "three", 0)
        self.ask(client, "two", 1)
        fields, payload = await client.expect_with_payload(Code.TRANSFER)
        assert (fields.number(0), Sections(payload).properties[5]) == (2, "request-1")
        assert ("no link takes the answer" in caplog.text, caplog.records[-1].levelno) == (True, logging.WARNING)


async def status(client: RawClient, entity: str, operation: str, body: dict[str, Any]) -> Any:
    return (await request(client, entity, operation, body)).application_properties["statusCode"]


class TestManagement:
    @pytest.mark.parametrize(
        ("operation", "body"),
        [
            ("cancel-scheduled-message", {"sequence-numbers": []}),
            ("get-message-sessions", {}),
            ("get-session-state", {"session-id": "a"}),
            ("peek-message", {}),
            ("receive-by-sequence-number", {"sequence-numbers": []}),
            ("renew-lock", {"lock-tokens": []}),
            ("renew-session-lock", {"session-id": "a"}),
            ("schedule-message", {"messages": []}),
            ("set-session-state", {"session-id": "a", "session-state": b""}),
            ("update-disposition", {"lock-tokens": [], "disposition-status": "completed"}),
        ],
    )
    async def test_an_argument_outside_the_subset_is_refused(
        self, client: RawClient, operation: str, body: dict[str, Any]
    ) -> None:
        assert await status(client, "sessions", operation, body) != 501
        assert await status(client, "sessions", operation, {**body, "something-new": 1}) == 501

    async def test_a_scheduled_message_carries_nothing_outside_the_subset(self, client: RawClient) -> None:
        item = {"message": message(), "message-id": "1", "via-partition-key": "a"}
        assert await status(client, "q", "schedule-message", {"messages": [item]}) == 200
        assert await status(client, "q", "schedule-message", {"messages": [{**item, "something-new": 1}]}) == 501

    async def test_what_is_scheduled_or_kept_with_a_session_has_the_size_of_a_message(self) -> None:
        async with ServiceBusDouble(max_message_size=1_000) as bus, raw_session(bus) as client:
            bus.queue("q")
            bus.queue("sessions", requires_session=True)
            large = b"x" * 1_001
            scheduled = {"messages": [{"message": message(large), "message-id": "1"}]}
            answer = await request(client, "q", "schedule-message", scheduled)
            assert answer.application_properties["errorCondition"] == "amqp:link:message-size-exceeded"
            await client.attach_receiver("sessions", filters={Symbol("com.microsoft:session-filter"): "a"})
            state = {"session-id": "a", "session-state": large}
            answer = await request(client, "sessions", "set-session-state", state)
            assert answer.application_properties["errorCondition"] == "amqp:link:message-size-exceeded"
            assert await status(client, "sessions", "set-session-state", {**state, "session-state": large[:-1]}) == 200

    async def test_sessions_are_listed_by_when_their_state_was_set(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        session_filter = Symbol("com.microsoft:session-filter")
        for handle, name in enumerate(("old", "new")):
            await client.attach_receiver("sessions", handle=handle, filters={session_filter: name})
            body = {"session-id": name, "session-state": b"x"}
            assert await status(client, "sessions", "set-session-state", body) == 200
            bus.advance(20)
        await client.attach_sender("sessions", handle=3)
        client.transfer(message(session_id="without"), handle=3)
        await client.expect(Code.DISPOSITION)

        async def listed(since: int | None) -> Any:
            body = {} if since is None else {"last-updated-time": Timestamp(since)}
            answer = await request(client, "sessions", "get-message-sessions", {**body, "skip": Int(0), "top": Int(9)})
            return (answer.value() or {}).get("sessions-ids", [])

        now = bus.messages("sessions")[0].enqueued_at.timestamp()
        assert await listed(None) == ["new", "old", "without"]
        assert await listed(253_402_300_800_000) == ["new", "old", "without"]  # what the SDK sends for "all"
        assert await listed(int(now - 30) * 1000) == ["new"]
        assert await listed(int(now - 50) * 1000) == ["new", "old"]
        assert await listed(int(now) * 1000) == []


class TestTime:
    async def test_what_a_client_schedules_comes_as_late_as_it_said(
        self, bus: ServiceBusDouble, client: RawClient
    ) -> None:
        bus.queue("late")
        bus.advance(3_600)
        await client.attach_sender("late")
        client.transfer(message())
        await client.expect(Code.DISPOSITION)
        now = bus.messages("late")[0].enqueued_at.timestamp()
        soon = Timestamp(int(now + 60) * 1000)
        client.transfer(section(0x72, {Symbol("x-opt-scheduled-enqueue-time"): soon}) + message(), delivery_id=1)
        await client.expect(Code.DISPOSITION)
        assert len(bus.messages("late", state=MessageState.SCHEDULED)) == 1
        bus.advance(61)
        assert len(bus.messages("late")) == 2

    async def test_a_renewed_lock_ends_by_the_clients_clock(self, bus: ServiceBusDouble, client: RawClient) -> None:
        bus.advance(3_600)
        await client.attach_sender("q", handle=1)
        client.transfer(message(), handle=1)
        await client.attach_receiver("q")
        client.grant(1)
        fields, payload = await client.expect_with_payload(Code.TRANSFER)
        sent = Sections(payload)
        token = uuid.UUID(bytes_le=fields[2])
        answer = await request(client, "q", "renew-lock", {"lock-tokens": [token]})
        enqueued = int.from_bytes(sent.annotations[Symbol("x-opt-enqueued-time")][1:], "big")
        locked = int.from_bytes(sent.annotations[Symbol("x-opt-locked-until")][1:], "big")
        assert 30_000 <= locked - enqueued < 60_000
        assert 0 <= answer.value()["expirations"][0] - locked < 30_000
