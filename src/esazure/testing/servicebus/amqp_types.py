"""The AMQP 1.0 types that Python has no word for, so that a value is written with the width it must have.

`decoding.py` and `encoding.py` turn them from and into bytes.
"""

from dataclasses import dataclass
from typing import Any


class DecodeError(ValueError):
    """Bytes that are not AMQP, or AMQP beyond the limits the double accepts. The text never quotes the bytes."""


class Symbol(str):
    """A symbolic name: ASCII, and a type of its own on the wire."""

    __slots__ = ()


class Ubyte(int):
    """8 bits, unsigned."""

    __slots__ = ()


class Ushort(int):
    """16 bits, unsigned."""

    __slots__ = ()


class Uint(int):
    """32 bits, unsigned."""

    __slots__ = ()


class Ulong(int):
    """64 bits, unsigned."""

    __slots__ = ()


class Int(int):
    """32 bits, signed."""

    __slots__ = ()


class Long(int):
    """64 bits, signed."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since 1970, UTC."""

    __slots__ = ()


class Raw(bytes):
    """A value that is encoded already: what must come back unchanged is kept as the bytes it came in."""

    __slots__ = ()


class Array(list[Any]):
    """Values of one type; all must encode with the same constructor."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor that says what it means; `descriptor` is a number for everything in AMQP itself."""

    descriptor: Any
    value: Any


NULL = Raw(b"\x40")
EMPTY_LIST = Raw(b"\x45")
