"""Values to bytes: the way back from `decoding.py`. Plain `int` is a long; see `amqp_types.py` for others."""

import struct
import uuid
from collections.abc import Callable
from typing import Any

from esazure.testing.servicebus.amqp_types import (
    Array,
    Described,
    Int,
    Long,
    Raw,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
)


def encode(value: Any) -> bytes:
    """The shortest usual encoding of `value`."""
    kind = value.__class__
    write = _WRITERS.get(kind)
    if write is None:
        raise TypeError(f"AMQP has no encoding for {kind.__name__}")
    return write(value)


def _variable(constructor: int, octets: bytes) -> bytes:
    if len(octets) < 256:
        return bytes((constructor, len(octets))) + octets
    return struct.pack(">BI", constructor + 0x10, len(octets)) + octets


def _compound(constructor: int, count: int, content: bytes) -> bytes:
    if count < 256 and len(content) < 255:
        return bytes((constructor, len(content) + 1, count)) + content
    return struct.pack(">BII", constructor + 0x10, len(content) + 4, count) + content


def _boolean(value: bool) -> bytes:  # noqa: FBT001 - a value, not a switch
    return b"\x41" if value else b"\x42"


def _uint(value: int) -> bytes:
    if value == 0:
        return b"\x43"
    return bytes((0x52, value)) if value < 256 else struct.pack(">BI", 0x70, value)


def _ulong(value: int) -> bytes:
    if value == 0:
        return b"\x44"
    return bytes((0x53, value)) if value < 256 else struct.pack(">BQ", 0x80, value)


def _list(items: list[Any]) -> bytes:
    return _compound(0xC0, len(items), b"".join(map(encode, items))) if items else b"\x45"


def _map(entries: dict[Any, Any]) -> bytes:
    return _compound(0xC1, 2 * len(entries), b"".join(encode(key) + encode(item) for key, item in entries.items()))


def _array(items: list[Any]) -> bytes:
    encoded = [encode(item) for item in items]
    constructors = {item[:1] for item in encoded}
    if len(constructors) > 1:
        raise TypeError("the items of an AMQP array have one type")
    content = (constructors.pop() if constructors else b"\x40") + b"".join(item[1:] for item in encoded)
    return struct.pack(">BII", 0xF0, len(content) + 4, len(items)) + content


_WRITERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"\x40",
    bool: _boolean,
    Raw: bytes,
    Symbol: lambda value: _variable(0xA3, value.encode("ascii")),
    str: lambda value: _variable(0xA1, value.encode()),
    bytes: lambda value: _variable(0xA0, value),
    Ubyte: lambda value: bytes((0x50, value)),
    Ushort: lambda value: struct.pack(">BH", 0x60, value),
    Uint: _uint,
    Ulong: _ulong,
    Int: lambda value: struct.pack(">Bi", 0x71, value),
    Long: lambda value: struct.pack(">Bq", 0x81, value),
    int: lambda value: struct.pack(">Bq", 0x81, value),
    Timestamp: lambda value: struct.pack(">Bq", 0x83, value),
    float: lambda value: struct.pack(">Bd", 0x82, value),
    uuid.UUID: lambda value: b"\x98" + value.bytes,
    Described: lambda value: b"\x00" + encode(value.descriptor) + encode(value.value),
    list: _list,
    dict: _map,
    Array: _array,
}
