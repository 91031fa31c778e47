"""Bytes to values: `decode` for what the double reads, `skip` and the `raw_*` functions for what it hands on untouched.

Decoding an integer loses its width, so everything that must be echoed exactly (the bare message, a message id) is kept
as a slice. Every function raises `DecodeError`, and nothing else, for bytes it cannot accept: values nested too deep,
sizes beyond the buffer, arrays that claim more items than bytes. `encoding.py` is the way back.
"""

import struct
import uuid
from collections.abc import Callable
from typing import Any

from esazure.testing.servicebus.amqp_types import Array, DecodeError, Described, Raw, Symbol, Timestamp

_MAX_DEPTH = 32
_MAX_WIDTHLESS_ITEMS = 32
"""An array of nulls takes no byte per item, so its size does not limit its count."""

_FIXED_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_ONE_BYTE_SIZES = frozenset((0xA, 0xC, 0xE))
_FOUR_BYTE_SIZES = frozenset((0xB, 0xD, 0xF))
_LISTS = frozenset((0xC0, 0xD0))
_MAPS = frozenset((0xC1, 0xD1))
_ARRAYS = frozenset((0xE0, 0xF0))

_uint32 = struct.Struct(">I").unpack_from


def _character(buffer: bytes, position: int) -> str:
    code_point = _uint32(buffer, position)[0]
    if code_point > 0x10FFFF or 0xD800 <= code_point <= 0xDFFF:
        raise DecodeError("not a character")
    return chr(code_point)


def _unpack(layout: str) -> Callable[[bytes, int], Any]:
    unpack_from = struct.Struct(layout).unpack_from
    return lambda buffer, position: unpack_from(buffer, position)[0]


def _constant(value: Any) -> Callable[[bytes, int], Any]:
    return lambda _buffer, _position: value


def _octets(count: int) -> Callable[[bytes, int], bytes]:
    return lambda buffer, position: buffer[position : position + count]


_FIXED: dict[int, Callable[[bytes, int], Any]] = {
    0x40: _constant(None),
    0x41: _constant(True),  # noqa: FBT003 - the value is the point
    0x42: _constant(False),  # noqa: FBT003 - the same
    0x43: _constant(0),
    0x44: _constant(0),
    0x50: _unpack(">B"),
    0x51: _unpack(">b"),
    0x52: _unpack(">B"),
    0x53: _unpack(">B"),
    0x54: _unpack(">b"),
    0x55: _unpack(">b"),
    0x56: lambda buffer, position: buffer[position] == 1,
    0x60: _unpack(">H"),
    0x61: _unpack(">h"),
    0x70: _unpack(">I"),
    0x71: _unpack(">i"),
    0x72: _unpack(">f"),
    0x73: _character,
    0x74: _octets(4),  # the decimals are carried, not understood
    0x80: _unpack(">Q"),
    0x81: _unpack(">q"),
    0x82: _unpack(">d"),
    0x83: lambda buffer, position: Timestamp.from_bytes(buffer[position : position + 8], "big", signed=True),
    0x84: _octets(8),
    0x94: _octets(16),
    0x98: lambda buffer, position: uuid.UUID(bytes=buffer[position : position + 16]),
}
_VARIABLE: dict[int, Callable[[bytes], Any]] = {
    0xA0: bytes,
    0xB0: bytes,
    0xA1: lambda octets: str(octets, "utf-8"),
    0xB1: lambda octets: str(octets, "utf-8"),
    0xA3: lambda octets: Symbol(octets, "ascii"),
    0xB3: lambda octets: Symbol(octets, "ascii"),
}


def decode(buffer: bytes, position: int = 0) -> tuple[Any, int]:
    """The value that starts at `position`, and the position after it."""
    try:
        return _value(buffer, position, _MAX_DEPTH)
    except DecodeError:
        raise
    except (IndexError, struct.error, ValueError) as failure:
        # The original text may quote the bytes, which may be somebody's message.
        raise DecodeError(f"not an AMQP value ({type(failure).__name__})") from None


def skip(buffer: bytes, position: int) -> int:
    """The position after the value that starts at `position`, without reading what is inside."""
    try:
        end = _end_of(buffer, position, _MAX_DEPTH)
    except (IndexError, struct.error):
        raise DecodeError("value cut off") from None
    if end > len(buffer):
        raise DecodeError("value cut off")
    return end


def raw_items(buffer: bytes, position: int) -> list[Raw]:
    """The items of the list at `position`, each still encoded; an absent list has none."""
    try:
        constructor = buffer[position]
        if constructor in {0x40, 0x45}:
            return []
        if constructor not in _LISTS:
            raise DecodeError("list expected")
        return _slices(buffer, position, constructor)
    except (IndexError, struct.error):
        raise DecodeError("list cut off") from None


def raw_map(buffer: bytes, position: int) -> list[tuple[Any, Raw]]:
    """The entries of the map at `position`: the key decoded, the value as it came."""
    try:
        constructor = buffer[position]
        if constructor == 0x40:
            return []
        if constructor not in _MAPS:
            raise DecodeError("map expected")
        slices = _slices(buffer, position, constructor)
    except (IndexError, struct.error):
        raise DecodeError("map cut off") from None
    if len(slices) % 2:
        raise DecodeError("map with a key but no value")
    return [(_key(decode(slices[index])[0]), slices[index + 1]) for index in range(0, len(slices), 2)]


def _slices(buffer: bytes, position: int, constructor: int) -> list[Raw]:
    count, cursor, end = _compound(buffer, position + 1, constructor)
    slices: list[Raw] = []
    for _ in range(count):
        after = skip(buffer, cursor)
        slices.append(Raw(buffer[cursor:after]))
        cursor = after
    if cursor != end:
        raise DecodeError("size and content disagree")
    return slices


def _end_of(buffer: bytes, position: int, depth: int) -> int:
    constructor = buffer[position]
    if constructor == 0:
        if not depth:
            raise DecodeError("descriptors nested too deep")
        return _end_of(buffer, _end_of(buffer, position + 1, depth - 1), depth - 1)
    group = constructor >> 4
    if group in _FIXED_WIDTHS:
        return position + 1 + _FIXED_WIDTHS[group]
    if group in _ONE_BYTE_SIZES:
        return position + 2 + buffer[position + 1]
    if group in _FOUR_BYTE_SIZES:
        return int(position + 5 + _uint32(buffer, position + 1)[0])
    raise DecodeError(f"no AMQP type has the constructor 0x{constructor:02x}")


def _value(buffer: bytes, position: int, depth: int) -> tuple[Any, int]:
    constructor = buffer[position]
    if constructor:
        return _content(buffer, position + 1, constructor, depth)
    if not depth:
        raise DecodeError("descriptors nested too deep")
    descriptor, position = _value(buffer, position + 1, depth - 1)
    value, position = _value(buffer, position, depth - 1)
    return Described(descriptor, value), position


def _content(buffer: bytes, position: int, constructor: int, depth: int) -> tuple[Any, int]:
    """What follows a constructor; `position` is just after it."""
    read_fixed = _FIXED.get(constructor)
    if read_fixed is not None:
        end = position + _FIXED_WIDTHS[constructor >> 4]
        if end > len(buffer):
            raise DecodeError("value cut off")
        return read_fixed(buffer, position), end
    read_variable = _VARIABLE.get(constructor)
    if read_variable is not None:
        wide = constructor >> 4 in _FOUR_BYTE_SIZES
        start = position + (4 if wide else 1)
        end = start + (_uint32(buffer, position)[0] if wide else buffer[position])
        if end > len(buffer):
            raise DecodeError("value cut off")
        return read_variable(buffer[start:end]), end
    if constructor == 0x45:
        return [], position
    if not depth:
        raise DecodeError("values nested too deep")
    if constructor in _ARRAYS:
        return _array(buffer, position, constructor, depth - 1)
    if constructor in _LISTS or constructor in _MAPS:
        items, end = _items(buffer, position, constructor, depth - 1)
        return (items if constructor in _LISTS else _mapping(items)), end
    raise DecodeError(f"no AMQP type has the constructor 0x{constructor:02x}")


def _compound(buffer: bytes, position: int, constructor: int) -> tuple[int, int, int]:
    """Count, start and end of the items of a list, map or array whose size field is at `position`.

    The count is not checked here: items of a list or map take at least a byte each, so reading them runs into the end
    of the buffer first. Callers compare where they arrived with `end`.
    """
    if constructor >> 4 in _ONE_BYTE_SIZES:
        count, start, end = buffer[position + 1], position + 2, position + 1 + buffer[position]
    else:
        count, start, end = (
            _uint32(buffer, position + 4)[0],
            position + 8,
            position + 4 + _uint32(buffer, position)[0],
        )
    if end > len(buffer):
        raise DecodeError("value cut off")
    return count, start, end


def _items(buffer: bytes, position: int, constructor: int, depth: int) -> tuple[list[Any], int]:
    count, cursor, end = _compound(buffer, position, constructor)
    items: list[Any] = []
    for _ in range(count):
        item, cursor = _value(buffer, cursor, depth)
        items.append(item)
    if cursor != end:
        raise DecodeError("size and content disagree")
    return items, end


def _array(buffer: bytes, position: int, constructor: int, depth: int) -> tuple[Array, int]:
    count, cursor, end = _compound(buffer, position, constructor)
    descriptor: Any = None
    described = buffer[cursor] == 0
    if described:
        descriptor, cursor = _value(buffer, cursor + 1, depth)
    item_constructor = buffer[cursor]
    cursor += 1
    if count > max(end - cursor, _MAX_WIDTHLESS_ITEMS):
        raise DecodeError("more items than bytes")
    items = Array()
    for _ in range(count):
        item, cursor = _content(buffer, cursor, item_constructor, depth)
        items.append(Described(descriptor, item) if described else item)
    if cursor != end:
        raise DecodeError("size and content disagree")
    return items, end


def _mapping(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise DecodeError("map with a key but no value")
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _key(key: Any) -> Any:
    if isinstance(key, list | dict | Described):
        raise DecodeError("map with a key that is not a simple value")
    return key
