"""The AMQP codec: what is written is read back, and what is not AMQP is a DecodeError, whatever the bytes."""

import contextlib
import struct
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esazure.testing.servicebus.amqp_types import (
    Array,
    DecodeError,
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
from esazure.testing.servicebus.decoding import decode, raw_items, raw_map, skip
from esazure.testing.servicebus.encoding import encode
from esazure.testing.servicebus.performatives import read
from esazure.testing.servicebus.sections import parse_message, parse_transfer

ascii_text = st.text(st.characters(max_codepoint=127), max_size=300)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 2**8 - 1).map(Ubyte),
    st.integers(0, 2**16 - 1).map(Ushort),
    st.integers(0, 2**32 - 1).map(Uint),
    st.integers(0, 2**64 - 1).map(Ulong),
    st.integers(-(2**31), 2**31 - 1).map(Int),
    st.integers(-(2**63), 2**63 - 1).map(Long),
    st.integers(-(2**63), 2**63 - 1).map(Timestamp),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.uuids(),
    st.binary(max_size=300),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    ascii_text.map(Symbol),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(ascii_text.map(Symbol), inner, max_size=5),
        st.lists(st.integers(0, 2**32).map(Long), max_size=5).map(Array),
        st.builds(Described, st.integers(0, 255).map(Ulong), inner),
    ),
    max_leaves=20,
)


@given(values)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(value: Any) -> None:
    encoded = encode(value)
    assert decode(encoded) == (value, len(encoded))
    assert skip(encoded, 0) == len(encoded)


@given(st.lists(values, max_size=5), st.binary(max_size=5), st.binary(max_size=5))
@settings(max_examples=60, deadline=None)
def test_items_are_cut_out_unchanged(items: list[Any], before: bytes, after: bytes) -> None:
    encoded = before + encode(items) + after
    assert raw_items(encoded, len(before)) == [encode(item) for item in items]


@given(st.dictionaries(ascii_text, values, max_size=5))
@settings(max_examples=60, deadline=None)
def test_map_values_are_cut_out_unchanged(entries: dict[str, Any]) -> None:
    assert raw_map(encode(entries), 0) == [(key, encode(value)) for key, value in entries.items()]


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (b"\x56\x01", True),
        (b"\x56\x00", False),
        (b"\x50\xff", 255),
        (b"\x51\xff", -1),
        (b"\x54\x80", -128),
        (b"\x55\x7f", 127),
        (b"\x60\x01\x00", 256),
        (b"\x61\xff\xff", -1),
        (b"\x52\x07", 7),
        (b"\x72\x3f\xc0\x00\x00", 1.5),
        (b"\x73\x00\x00\x00\xe9", "é"),
        (b"\x74abcd", b"abcd"),
        (b"\x84abcdefgh", b"abcdefgh"),
        (b"\x94" + b"x" * 16, b"x" * 16),
        (b"\xe0\x04\x02\x50\x01\x02", [1, 2]),
        (b"\xe0\x02\x03\x40", [None, None, None]),
        (b"\xe0\x07\x02\x00\x53\x24\x50\x01\x02", [Described(0x24, 1), Described(0x24, 2)]),
        (b"\xf0" + struct.pack(">II", 5, 0) + b"\x40", []),
    ],
)
def test_what_we_never_write_is_read_too(encoded: bytes, value: Any) -> None:
    assert decode(encoded) == (value, len(encoded))


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\x3f",
        b"\x00",
        b"\x70\x00",
        b"\xa1\x05abc",
        b"\xa1\x01\xff",
        b"\xa3\x01\xe9",
        b"\xb0\xff\xff\xff\xff",
        b"\x73\x00\x11\x00\x00",
        b"\x73\x00\x00\xd8\x00",
        b"\xc0\x02\x09\x40",
        b"\xc0\x03\x01\x40\x40",
        b"\xc0\x00\x00",
        b"\xd0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xc1\x02\x01\x40",
        b"\xc1\x03\x02\x45\x40",
        b"\xf0" + struct.pack(">II", 5, 2**32 - 1) + b"\x40",
        b"\xf0" + struct.pack(">II", 2**32 - 1, 2**32 - 100) + b"\x40",
        b"\xe0\x02\x02\x50\x01",
        b"\xc0\x02\x01",
        b"\x00" * 200 + b"\x40",
        (b"\xc0\x7f\x01" * 60) + b"\x45",
        b"\xe0\x80\x01" * 60,
    ],
)
def test_what_is_not_amqp_is_a_decode_error(encoded: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(encoded)


@pytest.mark.parametrize(
    "encoded", [b"\xa0\x05ab", b"\xd0\x00\x00\x00\x09\x00", b"\x83\x00", b"\x00\x53\x75", b"\x3f", b""]
)
def test_what_is_cut_off_cannot_be_skipped(encoded: bytes) -> None:
    with pytest.raises(DecodeError):
        skip(encoded, 0)


def test_nesting_is_limited_in_depth_only() -> None:
    nested: Any = []
    for _ in range(20):
        nested = [nested, nested] if _ < 3 else [nested]
    assert decode(encode(nested))[0] == nested
    for _ in range(20):
        nested = [nested]
    with pytest.raises(DecodeError, match="deep"):
        decode(encode(nested))
    described: Any = 1
    for _ in range(40):
        described = Described(Ulong(1), described)
    for reader in (decode, partial(skip, position=0)):
        with pytest.raises(DecodeError, match="deep"):
            reader(encode(described))


def test_arrays_of_nothing_cannot_take_long() -> None:
    one = b"\xe0\x02\xff\x40"
    with pytest.raises(DecodeError, match="more items"):
        decode(one)
    inner = b"\x02\x20\x40"  # 32 nulls, the most that is allowed
    count = 2_000
    bomb = b"\xf0" + struct.pack(">II", 5 + len(inner) * count, count) + b"\xe0" + inner * count
    value, end = decode(bomb)
    assert end == len(bomb)
    assert sum(map(len, value)) == 32 * count, "a byte of input makes a bounded number of items"


@pytest.mark.parametrize("value", [object(), {1, 2}, Array([1, "a"])])
def test_what_has_no_encoding_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)


def test_the_error_does_not_quote_the_bytes() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(b"\xa1\x08secret\xff\xff")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


readers: list[Callable[[bytes], Any]] = [
    decode,
    lambda raw: skip(raw, 0),
    lambda raw: raw_items(raw, 0),
    lambda raw: raw_map(raw, 0),
    read,
    parse_message,
    lambda raw: parse_transfer(raw, 0x80013700),
]
# Bytes that look like AMQP get further than random ones.
amqp_like = st.lists(
    st.one_of(
        st.sampled_from(
            [bytes((code,)) for code in (0x00, 0x40, 0x45, 0x53, 0x70, 0x72, 0x73, 0x74, 0x75, 0x77, 0x83, 0x98)]
            + [bytes((code,)) for code in (0xA0, 0xA1, 0xA3, 0xB0, 0xC0, 0xC1, 0xD0, 0xD1, 0xE0, 0xF0)]
            + [b"\x00\x53\x75", b"\x00\x53\x73", b"\x00\x53\x70", b"\x00\x53\x72", b"\x00\x53\x74", b"\x00\x53\x77"]
        ),
        st.binary(max_size=4),
        values.map(encode),
    ),
    max_size=12,
).map(b"".join)


@given(st.one_of(st.binary(max_size=200), amqp_like))
@settings(max_examples=200, deadline=None)
@example(b"\x00\x53\x73\xc0\x05\x01\xc1\x02\x01\x40")
def test_any_bytes_are_read_or_a_decode_error(raw: bytes) -> None:
    for reader in readers:
        with contextlib.suppress(DecodeError):
            reader(raw)


@given(st.data(), values)
@settings(max_examples=100, deadline=None)
def test_a_damaged_value_is_read_or_a_decode_error(data: st.DataObject, value: Any) -> None:
    raw = bytearray(encode([value, uuid.UUID(int=1), {"k": value}]))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        decode(bytes(raw))


def test_raw_is_written_as_it_is() -> None:
    assert encode([Raw(b"\x40")]) == b"\xc0\x02\x01\x40"
