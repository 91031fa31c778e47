"""Rows as JSON: what goes out comes back, and whatever comes back is a row or one declared error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esazure.tables.columns import Row, tag_of, time_of
from esazure.tables.entities import MalformedReplyError, code_in, decode_rows, encode_row

KEYS = {"PartitionKey": "00", "RowKey": "e.Counter.a.0000000001"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = TEXT | st.binary(max_size=99) | st.booleans() | st.integers(-(2**31), 2**31 - 1)
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["value", "PartitionKey", "RowKey", "d0", "d0@odata.type"]), inner)
    ),
    max_leaves=12,
)


def page(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"odata.metadata": "http://a/$metadata#t", "value": rows}).encode()


@given(st.dictionaries(NAMES, VALUES))
def test_a_row_comes_back_as_it_was_sent(columns: Row) -> None:
    row = KEYS | columns
    (back,) = decode_rows(b'{"value":[%b]}' % encode_row(row))
    assert back == row
    assert {name: type(value) for name, value in back.items()} == {name: type(value) for name, value in row.items()}


@given(st.dictionaries(NAMES, VALUES))
def test_a_row_is_one_line_for_every_reader(columns: Row) -> None:
    assert len(encode_row(KEYS | columns).decode().splitlines()) <= 1 + sum(
        character in "\x85\x1c\x1d\x1e" for value in columns.values() if isinstance(value, str) for character in value
    )
    assert not {"\u2028", "\u2029", "\n", "\r"} & set(encode_row(KEYS | columns).decode())


def test_bytes_are_marked_as_such() -> None:
    assert json.loads(encode_row({**KEYS, "d0": b"\xff\x00>?"})) == {
        **KEYS,
        "d0@odata.type": "Edm.Binary",
        "d0": "/wA+Pw==",
    }


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**63])
def test_a_number_the_service_would_store_as_another_type_is_refused(number: int) -> None:
    with pytest.raises(TypeError, match="32 bits"):
        encode_row({**KEYS, "n": number})


def test_the_notes_of_the_service_are_the_tag_and_the_time() -> None:
    noted = {"odata.etag": "W/\"datetime'x'\"", "Timestamp": "2026-11-23T10:50:09.4851757Z"}
    (row,) = decode_rows(page({**KEYS, **noted}))
    assert tag_of(row) == "W/\"datetime'x'\""
    assert time_of(row) == datetime(2026, 11, 23, 10, 50, 9, 485175, tzinfo=UTC)


def test_without_a_tag_it_is_made_of_the_time_as_the_service_makes_it() -> None:
    (row,) = decode_rows(page({**KEYS, "Timestamp": "2026-11-23T10:50:09.4851757Z"}))
    assert tag_of(row) == "W/\"datetime'2026-11-23T10%3A50%3A09.4851757Z'\""


@pytest.mark.parametrize("time", [None, 5, "", "yesterday", "2026-11-23T10:50:09", "9999-99-99T00:00:00Z"])
def test_a_time_that_is_none_is_not_known(time: object) -> None:
    (row,) = decode_rows(page({**KEYS, "Timestamp": time}))
    assert time_of(row) is None


def test_other_types_stay_as_the_service_writes_them() -> None:
    (row,) = decode_rows(page({**KEYS, "n@odata.type": "Edm.Int64", "n": "5", "x@odata.type": "Edm.Double", "x": 1.5}))
    assert row == {**KEYS, "n": "5", "x": 1.5}


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"[]", b"null", b"{}", b'{"value":', b'{"value":{}}x', b'{"value":5}', b'{"value":[5]}'),
        *(b'{"value":[[]]}', b'{"value":[["ab","cd"]]}', b'{"value":[{}]}', b'{"value":[{"PartitionKey":"a"}]}'),
        *(b'{"value":[{"PartitionKey":"a","RowKey":5}]}', b"[" * 100_000, b"\xff\xfe", b'"\\ud800"'),
        page({**KEYS, "d0@odata.type": "Edm.Binary", "d0": "no base64"}),
        page({**KEYS, "d0@odata.type": "Edm.Binary", "d0": 5}),
        page({**KEYS, "d0@odata.type": "Edm.Binary"}),
    ],
)
def test_what_is_no_page_is_one_error_that_quotes_nothing(body: bytes) -> None:
    with pytest.raises(MalformedReplyError, match=r"^not a page of rows$"):
        decode_rows(body)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | JSON.map(page))  # type: ignore[arg-type]
def test_whatever_comes_back_is_rows_or_that_error(body: bytes) -> None:
    try:
        rows = decode_rows(body)
    except MalformedReplyError:
        return
    for row in rows:
        assert isinstance(row["PartitionKey"], str)
        assert isinstance(tag_of(row), str)
        assert time_of(row) is None or time_of(row).tzinfo is not None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"odata.error":{"code":"TableNotFound","message":{"lang":"en-US","value":"x"}}}', "TableNotFound"),
        (b'<?xml version="1.0"?><m:error xmlns:m="x"><m:code>OutOfRangeInput</m:code></m:error>', "OutOfRangeInput"),
        (b"<Error><Code>AuthenticationFailed</Code><Message>x</Message></Error>", "AuthenticationFailed"),
        *((b"", None), (b"{}", None), (b"null", None), (b"<html>code</html>", None), (b'{"odata.error":"x"}', None)),
        (b'{"odata.error":{"code":"a key: 123"}}', None),
        (b'{"odata.error":{"code":["a"]}}', None),
    ],
)
def test_of_an_error_only_its_code_is_taken(body: bytes, code: str | None) -> None:
    assert code_in(body) == code


@given(st.binary() | JSON.map(lambda value: json.dumps({"odata.error": value}).encode()))
def test_a_code_is_a_short_word_or_none(body: bytes) -> None:
    code = code_in(body)
    assert code is None or (code.isidentifier() and len(code) <= 64) or code[0].isdigit()
