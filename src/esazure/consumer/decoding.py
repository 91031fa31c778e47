"""Messages and stored commits to events. Nothing received chooses what is imported, and nothing unchecked gets further.

Pure functions. A message names an aggregate type and an event type; both are looked up among those the handlers of this
consumer were registered for. Read `lane.py` next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from esazure.aggregate import AggregateRoot, codec_of
from esazure.codec import EventCodec
from esazure.context import is_metadata_name
from esazure.errors import (
    CorruptStreamError,
    EsAzureError,
    InvalidIdError,
    PoisonMessageError,
    UnknownEventTypeError,
)
from esazure.events import CommitRecord, DomainEvent, EventEnvelope, decode_metadata, decode_time, is_stored_name
from esazure.integration import IntegrationMessage
from esazure.keys import MAX_VERSION, split_stream_name, stream_name

Wanted = frozenset[type[DomainEvent]]

_VERSION = re.compile(r"[1-9][0-9]{0,9}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Route:
    """What is needed to read the events of one aggregate class."""

    def __init__(self, aggregate_class: type[AggregateRoot[Any, Any]]) -> None:
        self.aggregate_class = aggregate_class
        self.aggregate_type = aggregate_class.aggregate_type
        self.event_types = aggregate_class.event_types
        self.codec: EventCodec[Any] = codec_of(aggregate_class)
        self.id_pattern = _UUID if aggregate_class.id_type is UUID else None


@dataclass(frozen=True, slots=True)
class Received:
    """A message whose every property is well-formed. Its body is text, and was not looked at."""

    stream: str
    aggregate_id: str
    version: int
    event_class: type[DomainEvent] | None
    """None when the aggregate declares none of this type, which only a thin message may have."""
    occurred_at: datetime
    metadata: Mapping[str, str] = field(repr=False)
    body: str = field(repr=False)


def aggregate_type_of(message: IntegrationMessage) -> str:
    """Whose message it is.

    Raises:
        PoisonMessageError: it does not say so.
    """
    try:
        found: object = message.properties["aggregate_type"]
    except (AttributeError, KeyError, TypeError):
        found = None
    if not isinstance(found, str) or not is_stored_name(found):
        raise _malformed("the property aggregate_type")
    return found


def received_of(message: IntegrationMessage, route: Route, *, thin: bool) -> Received:
    """Everything but the body, checked. How large that may be is for whoever received it to say.

    Raises:
        PoisonMessageError: a property is missing or cannot be what esazure sent, or the body is no text; or, unless
            messages are thin, an event type that the aggregate does not declare.
    """
    properties, body = message.properties, message.body
    try:
        # One join and one encode say of all of them that they are text, and well-formed.
        "".join(properties).encode()
        "".join(properties.values()).encode()
    except (TypeError, UnicodeEncodeError):
        raise _malformed("a property that is not well-formed text") from None
    aggregate_id, version, name = properties.get("aggregate"), properties.get("version"), properties.get("type")
    if aggregate_id is None or not (route.id_pattern is None or route.id_pattern.fullmatch(aggregate_id)):
        raise _malformed("the property aggregate")
    try:
        stream = stream_name(route.aggregate_type, aggregate_id)
    except InvalidIdError:
        raise _malformed("the property aggregate") from None
    if version is None or _VERSION.fullmatch(version) is None or int(version) > MAX_VERSION:
        raise _malformed("the property version", stream)
    event_class = route.event_types.get(name or "")
    if event_class is None:
        if name is None or not is_stored_name(name):
            raise _malformed("the property type", stream)
        if not thin:
            owner = route.aggregate_class.__name__
            raise PoisonMessageError(
                "UnknownEventType", f"{stream}: version {version} is of type {name}, which {owner} does not declare"
            )
    return Received(
        stream,
        aggregate_id,
        int(version),
        event_class,
        _time_of(properties.get("occurred_at"), stream),
        MappingProxyType({key: value for key, value in properties.items() if is_metadata_name(key)}),
        _text(body, stream),
    )


def envelope_of(received: Received, event_class: type[DomainEvent], route: Route) -> EventEnvelope[Any]:
    """The event in the message.

    Raises:
        CorruptStreamError: its class refuses the body.
    """
    return EventEnvelope(
        route.codec.decode(received.stream, received.version, f"{event_class.event_type} {received.body}"),
        route.aggregate_type,
        received.aggregate_id,
        received.version,
        received.occurred_at,
        received.metadata,
    )


class StoredEvents:
    """Consecutive events of a stream, out of the store: decoded when a handler wants them, and once for all of them."""

    def __init__(
        self, route: Route, stream: str, records: Sequence[CommitRecord], first: int, last: int | None
    ) -> None:
        """Look for gaps between versions `first` and `last` (None: the end); nothing is decoded yet.

        Raises:
            CorruptStreamError: the commits do not follow upon each other.
        """
        self._route = route
        self._stream = stream
        self._first = first
        self._lines = list(_lines(stream, records, first, last))
        self._decoded: dict[int, EventEnvelope[Any]] = {}

    @property
    def last(self) -> int:
        """The version of the last one; when there are none, the one before the first."""
        return self._first + len(self._lines) - 1

    def wanted(self, event_classes: Wanted, *, after: int) -> tuple[list[EventEnvelope[Any]], Unreadable | None]:
        """The events of these classes behind version `after`, up to one that cannot be read."""
        found: list[EventEnvelope[Any]] = []
        for version in range(max(after + 1, self._first), self.last + 1):
            record, line = self._lines[version - self._first]
            event_class = self._route.event_types.get(line.partition(" ")[0])
            # One that is not declared might be of interest under its old name, so it is not passed over.
            if event_class is None or event_class in event_classes:
                try:
                    found.append(self._decoded.get(version) or self._decode(version, record, line))
                except (CorruptStreamError, UnknownEventTypeError) as error:
                    return found, Unreadable(version, error)
        return found, None

    def _decode(self, version: int, record: CommitRecord, line: str) -> EventEnvelope[Any]:
        event = self._route.codec.decode(self._stream, version, line)
        aggregate_type, aggregate_id = split_stream_name(self._stream)
        envelope = EventEnvelope(
            event, aggregate_type, aggregate_id, version, decode_time(record), decode_metadata(record)
        )
        self._decoded[version] = envelope
        return envelope


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A stored event that cannot be read, and why."""

    version: int
    error: EsAzureError


def _lines(
    stream: str, records: Sequence[CommitRecord], first: int, last: int | None
) -> Iterator[tuple[CommitRecord, str]]:
    expected = first
    for record in records:
        lines = record.payload.split("\n")
        if not record.first_version <= expected <= record.last_version or record.count != len(lines):
            raise CorruptStreamError(
                f"{stream}: version {expected} is missing, and a commit of {record.count} events with {len(lines)} "
                f"payloads is at {record.first_version}: rows were removed, or written by others"
            )
        for line in lines[expected - record.first_version :]:
            if last is not None and expected > last:
                return
            yield record, line
            expected += 1


def _time_of(text: str | None, stream: str) -> datetime:
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise _malformed("the property occurred_at", stream)
    return time


def _text(body: object, stream: str) -> str:
    if not isinstance(body, str):
        raise _malformed("a body that is not text", stream)
    return body


def _malformed(what: str, stream: str | None = None) -> PoisonMessageError:
    # Names of fields only: what stands in them is input.
    return PoisonMessageError("Malformed", what if stream is None else f"{stream}: {what}")
