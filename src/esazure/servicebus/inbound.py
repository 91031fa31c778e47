"""From the messages of the SDK, and of Azure Functions, to esazure's: pure functions that trust nothing they read.

What cannot be a message of esazure is malformed: the error says which field, and never what is in it. What the
application properties say is for the consumer to judge. Read `sessions.py` next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageBodyType

from esazure.errors import PoisonMessageError
from esazure.integration import IntegrationMessage
from esazure.keys import MAX_COMMIT_BYTES

MAX_BODY_BYTES = MAX_COMMIT_BYTES
"""No commit holds more, so no event can be larger, whatever the tier takes; what is, is not even decoded."""

_JSON = "application/json"


class FunctionsMessage(Protocol):
    """What is used of `azure.functions.ServiceBusMessage`."""

    def get_body(self) -> bytes:
        """The body, all of it."""

    @property
    def message_id(self) -> str:
        """See there."""

    @property
    def application_properties(self) -> Mapping[str, Any] | None:
        """See there."""


def from_service_bus(message: ServiceBusReceivedMessage) -> IntegrationMessage:
    """The message as esazure sent it.

    Raises:
        PoisonMessageError: malformed; esazure did not send it, or somebody changed it on its way.
    """
    # Not by the properties of the SDK's message: each of them looks at all the others first.
    raw = message.raw_amqp_message
    if raw.body_type is not AmqpMessageBodyType.DATA:
        raise _malformed("the body is no bytes")
    fields: Any = raw.properties
    return _message(
        content_type=getattr(fields, "content_type", None),
        message_id=getattr(fields, "message_id", None),
        session_id=getattr(fields, "group_id", None),
        correlation_id=getattr(fields, "correlation_id", None),
        subject=getattr(fields, "subject", None),
        properties=raw.application_properties,
        body=raw.body,
    )


def from_functions(message: FunctionsMessage) -> IntegrationMessage:
    """The same for a message that a trigger of Azure Functions hands over.

    Raises:
        PoisonMessageError: malformed.
    """
    body: object = message.get_body()
    if not isinstance(body, bytes | bytearray):
        raise _malformed("the body is no bytes")
    subject = getattr(message, "subject", None) or getattr(message, "label", None)
    properties = message.application_properties or getattr(message, "user_properties", None)
    received: Any = message
    return _message(
        content_type=received.content_type,
        message_id=received.message_id,
        session_id=received.session_id,
        correlation_id=received.correlation_id,
        subject=subject,
        properties=properties,
        body=(bytes(body),),
    )


def attempt_of(message: Any) -> int:
    """Which delivery of the message this is, from 1 on."""
    count = message.delivery_count
    known = count if isinstance(count, int) and count > 0 else 0
    # The SDK counts the deliveries that failed, as AMQP does; Functions gives the number of .NET, which begins at 1.
    return known + 1 if isinstance(message, ServiceBusReceivedMessage) else max(1, known)


def text_of(value: object) -> str | None:
    """What AMQP had as a string: the SDK hands out the keys and values of properties as bytes. None if it was not."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return value if isinstance(value, str) else None


def properties_of(properties: object) -> dict[str, str]:
    """The application properties that are text. Others exist, for example when a rule of the subscription adds one."""
    found: dict[str, str] = {}
    if isinstance(properties, Mapping):
        for key, value in properties.items():
            name, text = text_of(key), text_of(value)
            if name is not None and text is not None:
                found[name] = text
    return found


def _message(
    *,
    content_type: object,
    message_id: object,
    session_id: object,
    correlation_id: object,
    subject: object,
    properties: object,
    body: Iterable[bytes],
) -> IntegrationMessage:
    kind = text_of(content_type)
    if kind != _JSON and (kind or "").partition(";")[0].strip().lower() != _JSON:
        raise _malformed("content_type is not application/json")
    return IntegrationMessage(
        message_id=_text("message_id", message_id),
        session_id=_text("session_id", session_id),
        correlation_id=_text("correlation_id", correlation_id),
        subject=_text("subject", subject),
        properties=properties_of(properties),
        body=_body(body),
    )


def _text(field: str, value: object) -> str:
    text = text_of(value)
    if not text:
        raise _malformed(f"{field} is missing, or no text")
    return text


def _body(sections: Iterable[bytes]) -> str:
    parts: list[bytes] = []
    size = 0
    for section in sections:
        size += len(section)
        if size > MAX_BODY_BYTES:
            raise _malformed(f"the body takes more than {MAX_BODY_BYTES:,} bytes")
        parts.append(section)
    try:
        return b"".join(parts).decode()
    except UnicodeDecodeError:
        raise _malformed("the body is not UTF-8") from None


def _malformed(what: str) -> PoisonMessageError:
    return PoisonMessageError("Malformed", what)
