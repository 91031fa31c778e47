"""The nine performatives of AMQP, the three of SASL, and the frames they travel in.

Reading gives typed fields and raises `DecodeError` for a field of the wrong type. Writing always gives the full field
list, because SDKs before 7.15 index fields without looking whether they are there. `connection.py` is next.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from esazure.testing.servicebus.amqp_types import (
    DecodeError,
    Described,
    Raw,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
)
from esazure.testing.servicebus.decoding import decode
from esazure.testing.servicebus.encoding import encode
from esazure.testing.servicebus.refusals import RefusalError


class Code(IntEnum):
    """The descriptor of a performative."""

    OPEN = 0x10
    BEGIN = 0x11
    ATTACH = 0x12
    FLOW = 0x13
    TRANSFER = 0x14
    DISPOSITION = 0x15
    DETACH = 0x16
    END = 0x17
    CLOSE = 0x18
    SASL_MECHANISMS = 0x40
    SASL_INIT = 0x41
    SASL_OUTCOME = 0x44


class Outcome(IntEnum):
    """The descriptor of a delivery's outcome."""

    ACCEPTED = 0x24
    REJECTED = 0x25
    RELEASED = 0x26
    MODIFIED = 0x27


_FIELD_COUNTS = {
    Code.OPEN: 10,
    Code.BEGIN: 8,
    Code.ATTACH: 14,
    Code.FLOW: 11,
    Code.TRANSFER: 11,
    Code.DISPOSITION: 6,
    Code.DETACH: 3,
    Code.END: 1,
    Code.CLOSE: 1,
    Code.SASL_MECHANISMS: 1,
    Code.SASL_INIT: 3,
    Code.SASL_OUTCOME: 2,
}
AMQP_FRAME, SASL_FRAME = 0, 1
FRAME_HEADER = struct.Struct(">IBBH")
HEARTBEAT = FRAME_HEADER.pack(8, 2, AMQP_FRAME, 0)
SOURCE, TARGET, COORDINATOR = 0x28, 0x29, 0x30
TRANSACTIONAL_STATE = 0x34
ACCEPTED = Raw(b"\x00\x53\x24\x45")


def write(code: Code, *fields: Any) -> bytes:
    """A performative with every field, those not given as null."""
    values = [*fields, *[None] * (_FIELD_COUNTS[code] - len(fields))]
    return b"\x00\x53" + bytes((code,)) + encode(values)


def frame(channel: int, body: bytes, frame_type: int = AMQP_FRAME) -> bytes:
    """A frame around a performative and its payload."""
    return FRAME_HEADER.pack(len(body) + 8, 2, frame_type, channel) + body


def error(refusal: RefusalError) -> Described:
    """The AMQP form of a refusal."""
    return Described(Ulong(0x1D), [Symbol(refusal.condition), refusal.description or None, None])


def rejected(refusal: RefusalError) -> Described:
    """The outcome of a delivery that was refused."""
    return Described(Ulong(Outcome.REJECTED), [error(refusal)])


class Fields:
    """The fields of a received performative or described list; absent ones are None."""

    def __init__(self, values: Any) -> None:
        if not isinstance(values, list):
            raise DecodeError("list of fields expected")
        self._values: list[Any] = values

    def __getitem__(self, index: int) -> Any:
        return self._values[index] if index < len(self._values) else None

    def optional_number(self, index: int) -> int | None:
        """An unsigned number or None."""
        value = self[index]
        if value is None:
            return None
        if isinstance(value, bool | Timestamp) or not isinstance(value, int) or value < 0:
            raise DecodeError(f"field {index} is not a number")
        return value

    def number(self, index: int, default: int | None = None) -> int:
        """An unsigned number; without a default it must be there."""
        value = self.optional_number(index)
        if value is None:
            value = default
        if value is None:
            raise DecodeError(f"field {index} is missing")
        return value

    def flag(self, index: int) -> bool:
        """True only when it is."""
        return self[index] is True

    def text(self, index: int) -> str:
        """Text that must be there."""
        value = self[index]
        if not isinstance(value, str):
            raise DecodeError(f"field {index} is not text")
        return value

    def mapping(self, index: int) -> dict[Any, Any]:
        """A map; empty when absent."""
        value = self[index]
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise DecodeError(f"field {index} is not a map")
        mapping: dict[Any, Any] = value
        return mapping

    def described(self, index: int) -> Described | None:
        """A described value or None."""
        value = self[index]
        if value is not None and not isinstance(value, Described):
            raise DecodeError(f"field {index} is not described")
        return value


def read(body: bytes) -> tuple[Code, Fields, bytes]:
    """The performative of a frame, and the payload after it."""
    performative, end = decode(body)
    if not isinstance(performative, Described) or not isinstance(performative.descriptor, int):
        raise DecodeError("performative expected")
    try:
        code = Code(performative.descriptor)
    except ValueError:
        raise DecodeError(f"no performative has the code 0x{performative.descriptor:02x}") from None
    return code, Fields(performative.value), body[end:]


def path_of(address: str) -> str:
    """An address without scheme, host and outer slashes."""
    _, has_scheme, rest = address.partition("://")
    return (rest.partition("/")[2] if has_scheme else address).strip("/")


@dataclass(frozen=True, slots=True)
class Terminus:
    """One end of a link, as the peer described it."""

    code: int
    address: str
    filters: dict[Any, Any]

    @classmethod
    def read(cls, described: Described | None) -> "Terminus | None":
        """The terminus, or None when the link has none at that end."""
        if described is None:
            return None
        if described.descriptor == COORDINATOR:
            return cls(COORDINATOR, "", {})
        if described.descriptor not in (SOURCE, TARGET):
            raise DecodeError("neither a source nor a target")
        fields = Fields(described.value)
        address = fields[0]
        if address is not None and not isinstance(address, str):
            raise DecodeError("an address is text")
        filters = fields.mapping(7) if described.descriptor == SOURCE else {}
        return cls(described.descriptor, address or "", filters)

    def echo(self, filters: dict[Symbol, Any] | None = None) -> Described:
        """The same end in our words: the SDK compares the address byte for byte."""
        if self.code == COORDINATOR:
            return Described(Ulong(COORDINATOR), [])
        rest = [None] * 6 if self.code == TARGET else [None] * 6 + [filters] + [None] * 3
        return Described(Ulong(self.code), [self.address, *rest])

    @property
    def path(self) -> str:
        """The address without scheme, host and outer slashes."""
        return path_of(self.address)


@dataclass(frozen=True, slots=True)
class Attach:
    """The peer wants a link."""

    name: str
    handle: int
    peer_receives: bool
    sender_settle_mode: int | None
    receiver_settle_mode: int | None
    source: Terminus | None
    target: Terminus | None
    properties: dict[Any, Any]

    @classmethod
    def read(cls, fields: Fields) -> "Attach":
        """From the fields of an attach."""
        return cls(
            name=fields.text(0),
            handle=fields.number(1),
            peer_receives=fields.flag(2),
            sender_settle_mode=fields.optional_number(3),
            receiver_settle_mode=fields.optional_number(4),
            source=Terminus.read(fields.described(5)),
            target=Terminus.read(fields.described(6)),
            properties=fields.mapping(13),
        )

    def settle_modes(self) -> tuple[Ubyte | None, Ubyte | None]:
        """Both modes as they are echoed."""
        return (
            None if self.sender_settle_mode is None else Ubyte(self.sender_settle_mode & 0xFF),
            None if self.receiver_settle_mode is None else Ubyte(self.receiver_settle_mode & 0xFF),
        )


@dataclass(frozen=True, slots=True)
class Transfer:
    """A frame of a delivery; id and format are on the first only."""

    handle: int
    delivery_id: int | None
    message_format: int
    settled: bool
    more: bool
    aborted: bool
    in_transaction: bool

    @classmethod
    def read(cls, fields: Fields) -> "Transfer":
        """From the fields of a transfer."""
        return cls(
            handle=fields.number(0),
            delivery_id=fields.optional_number(1),
            message_format=fields.number(3, 0),
            settled=fields.flag(4),
            more=fields.flag(5),
            aborted=fields.flag(9),
            in_transaction=(state := fields.described(7)) is not None and state.descriptor == TRANSACTIONAL_STATE,
        )


def uint(value: int) -> Uint:
    """A number on the wire that wraps at 32 bits, as counters and credit do."""
    return Uint(value & 0xFFFFFFFF)
