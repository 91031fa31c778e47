"""From the SDK's messages, and those of Azure Functions, to ours: what is read, and what is refused unquoted."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from azure.functions.servicebus import ServiceBusMessage as FunctionsMessage
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus._pyamqp.message import Header, Message, Properties
from tests.servicebus.support import commit_of
from tests.support.secrets import MARKER

from esazure.errors import PoisonMessageError
from esazure.integration import IntegrationMessage, messages_of, whole
from esazure.servicebus.inbound import MAX_BODY_BYTES, attempt_of, from_functions, from_service_bus
from esazure.servicebus.messages import to_service_bus

FIELDS: dict[str, Any] = {
    "message_id": b"id",
    "group_id": b"7",
    "correlation_id": b"c1",
    "subject": b"Noted",
    "content_type": b"application/json",
}
PROPERTIES: dict[Any, Any] = {b"aggregate": b"c1", b"version": b"3", b"stra\xc3\x9fe": "Ω".encode()}


def received(
    *, body: Any = (b'{"text":', b'"a"}'), properties: Any = PROPERTIES, count: int | None = 0, **fields: Any
) -> ServiceBusReceivedMessage:
    """As the SDK makes it of what is on the wire."""
    sections = {"data": list(body)} if isinstance(body, tuple) else body
    message = Message(
        properties=Properties(**{**FIELDS, **fields}),
        application_properties=properties,
        header=None if count is None else Header(delivery_count=count),
        **sections,
    )
    return ServiceBusReceivedMessage(message, receiver=None)


EXPECTED = IntegrationMessage(
    message_id="id",
    session_id="7",
    correlation_id="c1",
    subject="Noted",
    properties={"aggregate": "c1", "version": "3", "straße": "Ω"},
    body='{"text":"a"}',
)


def functions_message(**fields: Any) -> FunctionsMessage:
    """As the worker of Azure Functions makes it."""
    standard: dict[str, Any] = {
        "body": b'{"text":"a"}',
        "message_id": "id",
        "session_id": "7",
        "correlation_id": "c1",
        "subject": "Noted",
        "content_type": "application/json",
        "application_properties": {"aggregate": "c1", "version": "3", "straße": "Ω"},
        "user_properties": {},
        "delivery_count": 1,
    }
    return FunctionsMessage(**{**standard, **fields})


def test_a_message_of_the_sdk_is_read_field_by_field() -> None:
    assert from_service_bus(received()) == EXPECTED


def test_a_message_of_functions_is_read_field_by_field() -> None:
    assert from_functions(functions_message()) == EXPECTED


def test_older_workers_of_functions_have_other_names() -> None:
    properties = {"aggregate": "c1", "version": "3", "straße": "Ω"}
    older = functions_message(
        subject=None,
        label="Noted",
        application_properties=None,
        user_properties=properties,
        body=bytearray(b'{"text":"a"}'),
    )
    assert from_functions(older) == EXPECTED


async def test_what_was_sent_comes_out_again() -> None:
    (sent,) = messages_of(await commit_of("Ω"), whole, 16)
    outgoing = to_service_bus(sent)
    encoded = {name.encode(): value.encode() for name, value in outgoing.application_properties.items()}
    again = received(
        body=tuple(outgoing.body),
        properties=encoded,
        message_id=outgoing.message_id,
        group_id=outgoing.session_id,
        correlation_id=outgoing.correlation_id,
        subject=outgoing.subject,
        content_type=outgoing.content_type,
    )
    assert from_service_bus(again) == sent


@pytest.mark.parametrize("content_type", [b"application/json; charset=utf-8", b"Application/JSON"])
def test_the_content_type_may_say_more(content_type: bytes) -> None:
    assert from_service_bus(received(content_type=content_type)) == EXPECTED


SECRET = MARKER.encode()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"body": {"value": SECRET}}, "the body is no bytes"),
        ({"body": {"value": None}}, "the body is no bytes"),
        ({"body": {"sequence": [[SECRET]]}}, "the body is no bytes"),
        ({"body": (SECRET + b"\xff",)}, "the body is not UTF-8"),
        ({"body": (b"{", b"\xed\xa0\x80}")}, "the body is not UTF-8"),
        ({"body": (b"x" * (MAX_BODY_BYTES + 1),)}, "the body takes more than 3,670,016 bytes"),
        ({"body": (b"x" * 2_000_000, b"x" * 2_000_000)}, "the body takes more than 3,670,016 bytes"),
        ({"content_type": None}, "content_type is not application/json"),
        ({"content_type": b"text/" + SECRET}, "content_type is not application/json"),
        ({"content_type": b"\xff"}, "content_type is not application/json"),
        ({"content_type": b""}, "content_type is not application/json"),
        ({"message_id": None}, "message_id is missing, or no text"),
        ({"message_id": UUID(int=5)}, "message_id is missing, or no text"),
        ({"message_id": 7}, "message_id is missing, or no text"),
        ({"group_id": None}, "session_id is missing, or no text"),
        ({"group_id": b""}, "session_id is missing, or no text"),
        ({"correlation_id": None}, "correlation_id is missing, or no text"),
        ({"correlation_id": SECRET + b"\xff"}, "correlation_id is missing, or no text"),
        ({"subject": None}, "subject is missing, or no text"),
    ],
)
def test_what_esazure_does_not_send_is_malformed(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(PoisonMessageError) as caught:
        from_service_bus(received(**changes))
    assert (caught.value.reason, caught.value.description) == ("Malformed", what)


def test_the_largest_body_is_read() -> None:
    assert len(from_service_bus(received(body=(b"x" * MAX_BODY_BYTES,))).body) == MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"body": "text"}, "the body is no bytes"),
        ({"body": b"\xff"}, "the body is not UTF-8"),
        ({"body": b"x" * (MAX_BODY_BYTES + 1)}, "the body takes more than 3,670,016 bytes"),
        ({"session_id": None}, "session_id is missing, or no text"),
        ({"subject": None}, "subject is missing, or no text"),
        ({"content_type": "text/plain"}, "content_type is not application/json"),
    ],
)
def test_the_same_goes_for_functions(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(PoisonMessageError, match=what):
        from_functions(functions_message(**changes))


@pytest.mark.parametrize("properties", [None, {}, {5: b"x", b"n": 7, b"b": True, b"\xff": b"x", b"y": b"\xff"}])
def test_properties_that_are_no_text_are_left_out(properties: Any) -> None:
    """The consumer judges what is left; rules of a subscription, and tracing, may add what they like."""
    assert from_service_bus(received(properties=properties)).properties == {}


@pytest.mark.parametrize(("count", "attempt"), [(None, 1), (0, 1), (1, 2), (9, 10)])
def test_the_sdk_counts_the_deliveries_that_failed(count: int | None, attempt: int) -> None:
    assert attempt_of(received(count=count)) == attempt


@pytest.mark.parametrize(("count", "attempt"), [(None, 1), (0, 1), (1, 1), (2, 2), (10, 10), ("7", 1)])
def test_functions_number_the_deliveries_from_one(count: Any, attempt: int) -> None:
    assert attempt_of(functions_message(delivery_count=count)) == attempt
