"""A real consumer behind a subscription: what must not be handled is set aside once, with a reason; work goes on."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.amqp import AmqpAnnotatedMessage
from tests.servicebus.receiving import Mailbox, dead, message_of, running, until, waiting
from tests.servicebus.support import Customer, Noted, commits_of
from tests.support.secrets import MARKER

from esazure import EventEnvelope
from esazure.consumer import Consumer
from esazure.handlers import EventHandlers
from esazure.memory import InMemoryStore
from esazure.servicebus import ServiceBus
from esazure.testing.servicebus import ServiceBusDouble

pytestmark = pytest.mark.amqp

GOOD: dict[str, Any] = {
    "aggregate": "x",
    "aggregate_type": "Customer",
    "type": "Noted",
    "version": "1",
    "occurred_at": "2026-01-01T00:00:00+00:00",
}


def properties(**changes: Any) -> dict[str, Any]:
    return {"application_properties": {**GOOD, **changes}}


def without(name: str) -> dict[str, Any]:
    return {"application_properties": {key: value for key, value in GOOD.items() if key != name}}


def annotated(message_id: str, **body: Any) -> AmqpAnnotatedMessage:
    """With a body that is no data."""
    return AmqpAnnotatedMessage(
        properties={
            "message_id": message_id,
            "group_id": "lane",
            "correlation_id": "x",
            "subject": "Noted",
            "content_type": "application/json",
        },
        application_properties=GOOD,
        **body,
    )


DEEP = b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HOSTILE: dict[str, Any] = {
    "an unknown type": properties(type="Unheard"),
    "a type of the standard library": properties(type="os:system"),
    "a builtin": properties(type="builtins.eval"),
    "an assembly-qualified name": properties(type="Sample.Events.Noted, Sample, Version=1.0.0.0, Culture=neutral"),
    "a module path": properties(type="antigravity"),
    "another class of ours": properties(type="DomainEvent"),
    "an aggregate type that cannot be one": properties(aggregate_type="os.path/../system"),
    "no aggregate type": without("aggregate_type"),
    "no aggregate": without("aggregate"),
    "no version": without("version"),
    "no type": without("type"),
    "no time": without("occurred_at"),
    "no properties": {"application_properties": None},
    "version zero": properties(version="0"),
    "a negative version": properties(version="-1"),
    "no number": properties(version="one"),
    "a version as a number": properties(version=1),
    "a version in another script": properties(version="\u0661"),
    "a huge version": properties(version="9" * 5_000),
    "a time without a zone": properties(occurred_at="2026-01-01T00:00:00"),
    "no time at all": properties(occurred_at=MARKER),
    "bytes that are no text": properties(type={"TYPE": "BINARY", "VALUE": b"\xff\xfe"}),
    "an aggregate id too long": properties(aggregate="x" * 481),
    "a deep body": {"body": DEEP},
    "five thousand digits": {"body": b'{"text":' + b"9" * 5_000 + b"}"},
    "NaN": {"body": b'{"text":NaN}'},
    "infinity": {"body": b'{"text":1e999}'},
    "a lone surrogate": {"body": b'{"text":"\\ud800"}'},
    "UTF-16": {"body": '{"text":"a"}'.encode("utf-16")},
    "a byte order mark": {"body": b'\xef\xbb\xbf{"text":"a"}'},
    "no JSON": {"body": MARKER.encode()},
    "JSON, but no object": {"body": b"[]"},
    "another type of field": {"body": b'{"text":5}'},
    "a field too many": {"body": f'{{"text":"a","{MARKER}":1}}'.encode()},
    "an empty body": {"body": b""},
    "another content type": {"content_type": "application/x-python-pickle"},
    "no content type": {"content_type": None},
    "no correlation id": {"correlation_id": None},
    "no subject": {"subject": None},
    "a value for a body": annotated("odd-1", value_body={"__class__": "os.system"}),
    "a sequence for a body": annotated("odd-2", sequence_body=[["os.system", MARKER]]),
}


async def test_every_hostile_message_is_set_aside_once_and_nothing_else_happens(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble
) -> None:
    handled: list[tuple[str, int]] = []
    handlers = EventHandlers("notes")

    @handlers.on(Customer, Noted)
    async def note(noted: EventEnvelope[Noted]) -> None:
        handled.append((noted.aggregate_id, noted.version))

    consumer = Consumer("worker", [handlers], positions=InMemoryStore(), source=None)
    subscription = bus.subscription("customers", "all", consumer, sessions=2)
    producer = bus.producer("customers", lanes=1)
    before, after = await commits_of(("a", "b"), ("c",), id="good")
    async with running(subscription):
        await producer.dispatch(before)
        await until(lambda: len(handled) == 2)
        modules = set(sys.modules)
        for number, hostile in enumerate(HOSTILE.values()):
            if isinstance(hostile, AmqpAnnotatedMessage):
                await mail.post(hostile)
            else:
                await mail.post(message_of("0", 1, **{"message_id": f"hostile-{number}", **hostile}))
        # One that could be an aggregate of somebody else is not ours to judge.
        await mail.post(message_of("0", 1, message_id="other", **properties(aggregate_type="os:system")))
        await producer.dispatch(after)
        await until(lambda: len(handled) == 3 and not waiting(double))
        assert set(sys.modules) == modules

    assert handled == [("good", 1), ("good", 2), ("good", 3)]
    letters = dead(double)
    assert len(letters) == len(HOSTILE)
    assert {letter.delivery_count for letter in letters} == {0}
    assert {letter.dead_letter_reason for letter in letters} <= {"Malformed", "UnknownEventType", "HandlerFailed"}
    for letter in letters:
        assert letter.dead_letter_error_description
        assert MARKER not in letter.dead_letter_error_description
    assert subscription.metrics.dead_lettered == len(HOSTILE)
    assert consumer.metrics.ignored == 1
    assert subscription.metrics.abandoned == subscription.metrics.lost == 0


async def test_a_message_without_a_session_is_set_aside_by_the_broker(mail: Mailbox, double: ServiceBusDouble) -> None:
    await mail.post(ServiceBusMessage(b"{}", content_type="application/json"))
    assert [letter.dead_letter_reason for letter in dead(double)] == ["Session id is null."]
