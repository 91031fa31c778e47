"""The sections of an AMQP message: bytes to a `Message`, a stored message back to bytes.

The bare message (properties, application properties, body, footer) goes through untouched, but for an id where there is
none; only the header's delivery count and the broker's own annotations are written anew. Everything is checked on the
way in, so that rendering and rules cannot fail later, when half of a batch is stored.
"""

import uuid
from collections.abc import Callable
from typing import Any

from esazure.testing.servicebus.amqp_types import (
    EMPTY_LIST,
    NULL,
    DecodeError,
    Int,
    Long,
    Raw,
    Symbol,
    Timestamp,
    Uint,
    Ulong,
)
from esazure.testing.servicebus.decoding import decode, raw_items, raw_map, skip
from esazure.testing.servicebus.encoding import encode
from esazure.testing.servicebus.messages import Message, MessageState, StoredMessage

BATCH_FORMAT = 0x80013700
"""The message format of a transfer whose data sections are messages themselves."""

_HEADER, _DELIVERY_ANNOTATIONS, _ANNOTATIONS = 0x70, 0x71, 0x72
_PROPERTIES, _APPLICATION_PROPERTIES, _DATA, _VALUE = 0x73, 0x74, 0x75, 0x77
_BODY_SECTIONS = frozenset((_DATA, 0x76, _VALUE, 0x78))
_SCHEDULED_TIME = "x-opt-scheduled-enqueue-time"
_PARTITION_KEY = "x-opt-partition-key"
_MAX_BATCH = 4_500
"""The service's own limit on messages in one batch."""
_STATE_CODES = {MessageState.ACTIVE: 0, MessageState.LOCKED: 0, MessageState.DEFERRED: 1, MessageState.SCHEDULED: 2}


class Sections:
    """One message, cut at its section borders."""

    __slots__ = (
        "annotations",
        "application_properties",
        "body",
        "delivery_annotations",
        "header",
        "properties",
        "raw_application_properties",
        "raw_properties",
    )

    def __init__(self, raw: bytes) -> None:
        self.header: list[Raw] = []
        self.delivery_annotations: dict[Any, Raw] = {}
        self.annotations: dict[Any, Raw] = {}
        self.properties: list[Any] = []
        self.raw_properties = EMPTY_LIST
        self.application_properties: dict[str, Any] = {}
        self.raw_application_properties = NULL
        self.body: list[tuple[int, Raw]] = []
        position = 0
        while position < len(raw):
            code, start = _section(raw, position)
            position = skip(raw, start)
            self._read(code, Raw(raw[start:position]))

    def _read(self, code: int, value: Raw) -> None:
        if code == _HEADER:
            self.header = raw_items(value, 0)
        elif code == _ANNOTATIONS:
            self.annotations = {_annotation_key(key): item for key, item in raw_map(value, 0)}
        elif code == _PROPERTIES:
            self.raw_properties = value
            self.properties = _list(value)
        elif code == _APPLICATION_PROPERTIES:
            self.raw_application_properties = value
            self.application_properties = _application_properties(value)
        elif code in _BODY_SECTIONS:
            self.body.append((code, value))
        elif code == _DELIVERY_ANNOTATIONS:
            self.delivery_annotations = {_annotation_key(key): item for key, item in raw_map(value, 0)}
        else:
            raise DecodeError(f"no message section has the code 0x{code:02x}")

    def data(self) -> list[bytes]:
        """The content of every data section."""
        parts = [decode(value)[0] for code, value in self.body if code == _DATA]
        if not all(isinstance(part, bytes) for part in parts):
            raise DecodeError("data section without bytes")
        return parts

    def value(self) -> Any:
        """What the value section holds; None without one."""
        return next((decode(value)[0] for code, value in self.body if code == _VALUE), None)

    def raw_message_id(self) -> Raw:
        """The message id as it was encoded: as a correlation id it must come back with the same type."""
        items = raw_items(self.raw_properties, 0)
        return items[0] if items else NULL

    def reply_to(self) -> str | None:
        """Where the answer to a request goes."""
        return _text(self.properties[4], "reply-to") if len(self.properties) > 4 else None

    def assign_message_id(self, message_id: str) -> None:
        """Write an id where the sender gave none."""
        items: list[Any] = raw_items(self.raw_properties, 0)
        self.raw_properties = Raw(encode([message_id, *items[1:]]))

    def property_sizes(self) -> list[int]:
        """The bytes of each application property."""
        return [len(item) for _, item in raw_map(self.raw_application_properties, 0)]

    def header_size(self) -> int:
        """The bytes of everything that is not the body."""
        annotations = sum(len(encode(key)) + len(item) for key, item in self.annotations.items())
        return len(self.raw_properties) + len(self.raw_application_properties) + annotations

    def content(self) -> bytes:
        """The body as one string of bytes: data sections joined, a bytes or text value as it is, else its encoding."""
        if any(code == _DATA for code, _ in self.body):
            return b"".join(self.data())
        value = self.value()
        if isinstance(value, bytes):
            return value
        return value.encode() if isinstance(value, str) else b"".join(raw for _, raw in self.body)


def parse_message(raw: bytes) -> Message:
    """One message.

    Raises:
        DecodeError: the bytes are none.
    """
    sections = Sections(raw)
    properties = sections.properties + [None] * (13 - len(sections.properties))
    header = [decode(item)[0] for item in sections.header]
    scheduled = _number(decode(sections.annotations.get(_SCHEDULED_TIME, NULL))[0], "scheduled enqueue time")
    time_to_live = _number(header[2] if len(header) > 2 else None, "time to live")
    if time_to_live is not None and not 0 <= time_to_live < 2**32:
        raise DecodeError("time to live out of range")
    partition_key = _text(decode(sections.annotations.get(_PARTITION_KEY, NULL))[0], "partition key")
    sections.data()  # raises now rather than when a snapshot is taken
    message_id = _identifier(properties[0])
    if message_id is None:
        # The service gives every message an id; clients other than the one of Python need not send one.
        message_id = uuid.uuid4().hex
        sections.assign_message_id(message_id)
    return Message(
        wire=sections,
        message_id=message_id,
        to=_text(properties[2], "to"),
        subject=_text(properties[3], "subject"),
        reply_to=_text(properties[4], "reply-to"),
        correlation_id=_identifier(properties[5]),
        content_type=_text(properties[6], "content-type"),
        session_id=_text(properties[10], "group-id"),
        reply_to_session_id=_text(properties[12], "reply-to-group-id"),
        partition_key=partition_key,
        time_to_live=None if time_to_live is None else time_to_live / 1000,
        scheduled_at=None if scheduled is None else scheduled / 1000,
        properties=sections.application_properties,
    )


def parse_transfer(payload: bytes, message_format: int) -> list[Message]:
    """The messages of one transfer: several when it is a batch.

    Raises:
        DecodeError: one of them is none.
    """
    if message_format != BATCH_FORMAT:
        return [parse_message(payload)]
    parts = Sections(payload).data()
    if len(parts) > _MAX_BATCH:
        raise DecodeError(f"more than {_MAX_BATCH} messages in a batch")
    return [parse_message(part) for part in parts]


def render(stored: StoredMessage, told: Callable[[float], float], *, peeked: bool = False) -> bytes:
    """The message as a receiver gets it; `told` makes the broker's times those of the receiver's clock."""
    sections = stored.message.wire
    if sections is None:
        raise ValueError("this message never was on the wire")
    header = (sections.header + [NULL] * 4)[:4]
    # The count is written even when it is 0: without it the SDK reports None.
    parts = [_described(_HEADER, encode([*header, Uint(stored.delivery_count)]))]
    deliveries: dict[Any, Any] = dict(sections.delivery_annotations)
    if stored.lock_token is not None and not peeked:
        deliveries[Symbol("x-opt-lock-token")] = stored.lock_token
    if deliveries:
        parts.append(_described(_DELIVERY_ANNOTATIONS, encode(deliveries)))
    parts.append(_described(_ANNOTATIONS, encode(_annotations(sections, stored, told, peeked=peeked))))
    if sections.raw_properties != EMPTY_LIST:
        parts.append(_described(_PROPERTIES, sections.raw_properties))
    if stored.added_properties:
        items: dict[str, Any] = dict(raw_map(sections.raw_application_properties, 0))
        parts.append(_described(_APPLICATION_PROPERTIES, encode(items | stored.added_properties)))
    elif sections.raw_application_properties != NULL:
        parts.append(_described(_APPLICATION_PROPERTIES, sections.raw_application_properties))
    parts += [_described(code, value) for code, value in sections.body]
    return b"".join(parts)


def render_response(correlation_id: Raw, properties: dict[str, Any], value: Any) -> bytes:
    """A reply of `$cbs` or of a management node."""
    return b"".join(
        (
            _described(_PROPERTIES, encode([None] * 5 + [correlation_id] + [None] * 7)),
            _described(_APPLICATION_PROPERTIES, encode(properties)),
            _described(_VALUE, encode(value)),
        )
    )


def _annotations(
    sections: Sections, stored: StoredMessage, told: Callable[[float], float], *, peeked: bool
) -> dict[Any, Any]:
    annotations: dict[Any, Any] = dict(sections.annotations)
    annotations[Symbol("x-opt-sequence-number")] = Long(stored.sequence_number)
    annotations[Symbol("x-opt-enqueued-time")] = Timestamp(told(stored.enqueued_at) * 1000)
    annotations[Symbol("x-opt-enqueue-sequence-number")] = Long(stored.enqueued_sequence_number)
    if stored.lock_token is not None:
        annotations[Symbol("x-opt-locked-until")] = Timestamp(told(stored.locked_until) * 1000)
    if stored.dead_letter_source is not None:
        annotations[Symbol("x-opt-deadletter-source")] = stored.dead_letter_source
    if peeked or stored.deferred:
        code = _STATE_CODES[MessageState.DEFERRED if stored.deferred else stored.state]
        annotations[Symbol("x-opt-message-state")] = Int(code)
    return annotations


def _described(code: int, value: bytes) -> bytes:
    return b"\x00\x53" + bytes((code,)) + value


def _section(raw: bytes, position: int) -> tuple[int, int]:
    if raw[position] != 0:
        raise DecodeError("section expected")
    code, start = decode(raw, position + 1)
    if not isinstance(code, int):
        raise DecodeError("a section is described by a number")
    return code, start


def _list(raw: bytes) -> list[Any]:
    value = decode(raw)[0]
    if value is None:
        return []
    if not isinstance(value, list):
        raise DecodeError("list expected")
    items: list[Any] = value
    return items


def _application_properties(raw: bytes) -> dict[str, Any]:
    value = decode(raw)[0]
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DecodeError("application properties are a map")
    properties: dict[Any, Any] = value
    if not all(isinstance(name, str) for name in properties):
        raise DecodeError("application properties have names that are text")
    return properties


def _annotation_key(key: Any) -> Any:
    if isinstance(key, Symbol):
        return key
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < 2**64:
        return Ulong(key)
    raise DecodeError("an annotation has a name that is a symbol")


def _number(value: Any, name: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise DecodeError(f"{name} is not a number")


def _identifier(value: Any) -> Any:
    if value is None or isinstance(value, str | bytes | uuid.UUID) or type(value) is int:
        return value
    raise DecodeError("an id is text, bytes, a number or a UUID")


def _text(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise DecodeError(f"{name} is not text")
