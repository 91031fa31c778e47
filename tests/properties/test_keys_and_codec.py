"""Keys and lines, for any text."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from esazure import CorruptStreamError, UnknownEventTypeError
from esazure.codec import EventCodec
from esazure.keys import decode_part, encode_part
from esazure.testing._counter import Counter, Kept, Noted

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
CODEC: EventCodec[Any] = EventCodec(Counter.event_types)


@given(st.text())
def test_keys_are_plain_and_reversible(text: str) -> None:
    key = encode_part(text)
    assert key.isascii()
    assert key.replace("-", "").replace("_", "").isalnum() or not key.strip("-_")
    assert key
    assert decode_part(key) == text


@given(st.text(), st.text())
def test_different_texts_have_different_keys(one: str, other: str) -> None:
    assert (encode_part(one) == encode_part(other)) == (one == other)


@given(st.text(alphabet="_0123456789ABCDEFabcdef.-", max_size=12))
def test_what_decodes_is_what_was_encoded(key: str) -> None:
    try:
        text = decode_part(key)
    except ValueError:
        return
    assert encode_part(text) == key


@given(ANY_JSON, st.text())
def test_events_come_back_equal_from_one_line(value: Any, text: str) -> None:
    for event in (Kept(value=value), Noted(text=text)):
        line = CODEC.encode("s", event)
        assert "\n" not in line
        assert repr(CODEC.decode("s", 1, line)) == repr(event)


@given(
    st.text()
    | st.sampled_from(["Noted ", "Kept ", "Incremented ", "Emptied "]).flatmap(lambda n: st.text().map(n.__add__))
)
def test_any_line_is_an_event_or_one_of_two_errors(line: str) -> None:
    try:
        event = CODEC.decode("s", 1, line)
    except (UnknownEventTypeError, CorruptStreamError):
        return
    assert type(event) in Counter.event_types.values()
