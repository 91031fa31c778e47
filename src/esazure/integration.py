"""From stored events to messages: what goes out, under which id, in which lane.

Pure functions, used by every producer: `esazure.servicebus` sends these messages, the in-memory producer keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from uuid import uuid5

from esazure.errors import CommitTooLargeError, EventNotStorableError
from esazure.events import Commit, EventEnvelope
from esazure.keys import bucket_of
from esazure.plain import own

MAX_MESSAGE_BYTES = 256_000
"""The Standard tier takes 256 KB (262,144 bytes) with headers; this leaves room for those of the service."""

MAX_PROPERTY_BYTES = 60_000
"""The service takes 64 KB of headers and properties in a message."""

MAX_SESSION_ID = 128
"""Characters, by the service's limit."""

LANES = 16

_FIXED_OVERHEAD = 512  # sections, annotations, ids and content type of one message, generously
_PROPERTY_OVERHEAD = 10  # two AMQP string headers


@dataclass(frozen=True, slots=True)
class IntegrationEvent:
    """What the outside world is told about one event."""

    type: str
    """Becomes the message's subject and its `type` property."""
    body: str = field(repr=False)
    """JSON."""


Integration = Callable[[EventEnvelope[Any], str], IntegrationEvent | None]
"""Decides what goes out for an event: gets the envelope and the event's JSON as stored; None keeps the event
private."""


def whole(envelope: EventEnvelope[Any], payload: str) -> IntegrationEvent | None:
    """The event's own JSON, as it is stored: the default."""
    return IntegrationEvent(envelope.type, payload)


def thin(envelope: EventEnvelope[Any], payload: str) -> IntegrationEvent | None:  # noqa: ARG001 - leaving it out is the point
    """Only that it happened, and to whom: `{"id": ..., "version": ...}`; who needs more asks the owner."""
    return IntegrationEvent(envelope.type, json.dumps({"id": envelope.aggregate_id, "version": envelope.version}))


@dataclass(frozen=True, slots=True)
class IntegrationMessage:
    """One message, independent of the broker. The same event always makes the same message, whoever sends it."""

    message_id: str
    """From store, stream and version, so that duplicate detection recognises a repeat."""
    session_id: str
    """The lane: what has the same one stays in order."""
    correlation_id: str
    """The aggregate's id."""
    subject: str
    """The integration event's type."""
    properties: Mapping[str, str] = field(repr=False)
    """`aggregate`, `aggregate_type`, `type`, `version`, `occurred_at` and the metadata, all text."""
    body: str = field(repr=False)

    @property
    def size(self) -> int:
        """An upper bound of its bytes on the wire."""
        return len(self.body.encode()) + self.property_size + _FIXED_OVERHEAD

    @property
    def property_size(self) -> int:
        """An upper bound of the bytes of its properties."""
        named = sum(len(name) + len(value.encode()) + _PROPERTY_OVERHEAD for name, value in self.properties.items())
        return named + len(self.correlation_id.encode()) + len(self.subject.encode())


def check_lanes(lanes: int | None) -> int | None:
    """Refuse a number of lanes that cannot be.

    Raises:
        ValueError: below 1.
    """
    if lanes is not None and lanes < 1:
        raise ValueError(f"there must be at least 1 lane, not {lanes}")
    return lanes


def lane_of(stream: str, lanes: int | None) -> str:
    """The session of a stream: one of `lanes`, or with None a session of its own."""
    if lanes is not None:
        return str(bucket_of(stream, lanes))
    return stream if len(stream) <= MAX_SESSION_ID else sha256(stream.encode()).hexdigest()


def messages_of(commit: Commit[Any], integration: Integration, lanes: int | None) -> list[IntegrationMessage]:
    """The messages of one commit, in version order; events kept private have none."""
    lane = lane_of(commit.stream, lanes)
    messages: list[IntegrationMessage] = []
    for envelope, payload in zip(commit.events, commit.payloads, strict=True):
        public = integration(own(envelope), payload)
        if public is None:
            continue
        messages.append(
            IntegrationMessage(
                message_id=str(uuid5(commit.store_id, f"{commit.stream}/{envelope.version}")),
                session_id=lane,
                correlation_id=commit.aggregate_id,
                subject=public.type,
                properties={
                    **commit.metadata,
                    "aggregate": commit.aggregate_id,
                    "aggregate_type": commit.aggregate_type,
                    "type": public.type,
                    "version": str(envelope.version),
                    "occurred_at": commit.occurred_at.isoformat(),
                },
                body=public.body,
            )
        )
    return messages


def check_publishable(stream: str, messages: list[IntegrationMessage], max_message_bytes: int) -> None:
    """Refuse what the broker would never take.

    Raises:
        CommitTooLargeError: a message is over `max_message_bytes`, or its properties over 60,000 bytes.
    """
    for message in messages:
        version = message.properties["version"]
        try:
            size, property_size = message.size, message.property_size
        except UnicodeEncodeError:
            raise EventNotStorableError(
                f"{stream}: the message for version {version} is not well-formed Unicode: correct the integration"
            ) from None
        if size > max_message_bytes:
            raise CommitTooLargeError(
                f"{stream}: the message for {message.subject} at version {version} takes {size:,} bytes, "
                f"at most {max_message_bytes:,} can be published: send a thin event, or keep the content elsewhere"
            )
        if property_size > MAX_PROPERTY_BYTES:
            raise CommitTooLargeError(
                f"{stream}: the properties for {message.subject} at version {version} take "
                f"{property_size:,} bytes, at most {MAX_PROPERTY_BYTES:,} can be published: carry less metadata"
            )
