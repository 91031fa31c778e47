"""A transaction on the wire: what is sent, and what the replies of the service and of everybody else mean."""

from __future__ import annotations

import email
import json
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esazure.tables.entities import MalformedReplyError
from esazure.tables.gateway import Operation
from esazure.tables.multipart import Answer, content_type, decode, encode

TABLE = "https://someone.table.core.windows.net/events"
KIND = "multipart/mixed; boundary=batchresponse_1"
STORED = (
    b"--changesetresponse_2\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b"HTTP/1.1 204 No Content\r\nContent-ID: 1\r\nX-Content-Type-Options: nosniff\r\nDataServiceVersion: 3.0;\r\n"
    b"Location: https://someone.table.core.windows.net/events(PartitionKey='a',RowKey='b')\r\n"
    b"ETag: W/\"datetime'2026-11-23T10%3A50%3A09.4851757Z'\"\r\n\r\n\r\n"
)
REMOVED = (
    b"--changesetresponse_2\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b"HTTP/1.1 204 No Content\r\nDataServiceVersion: 1.0;\r\n\r\n\r\n"
)
ERROR = b'{"odata.error":{"code":"EntityAlreadyExists","message":{"lang":"en-US","value":"1:It is there."}}}'
REFUSED = (
    b"--changesetresponse_2\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b"HTTP/1.1 409 Conflict\r\nContent-ID: 2\r\nContent-Type: application/json;odata=minimalmetadata\r\n\r\n"
    + ERROR
    + b"\r\n"
)
TAG = "W/\"datetime'2026-11-23T10%3A50%3A09.4851757Z'\""


def reply(*parts: bytes) -> bytes:
    return (
        b"--batchresponse_1\r\nContent-Type: multipart/mixed; boundary=changesetresponse_2\r\n\r\n"
        + b"".join(parts)
        + b"--changesetresponse_2--\r\n--batchresponse_1--\r\n"
    )


def sent(operations: list[Operation]) -> list[str]:
    """The requests in a transaction, as the standard library reads them."""
    whole = email.message_from_bytes(
        f"Content-Type: {content_type('n')}\r\n\r\n".encode() + encode(operations, TABLE, "n")
    )
    (changes,) = whole.get_payload()
    assert isinstance(changes, Message)
    requests = []
    for part in changes.get_payload():
        assert isinstance(part, Message)
        assert part.get_content_type() == "application/http"
        assert part["Content-Transfer-Encoding"] == "binary"
        requests.append(part.get_payload(decode=True).decode())  # type: ignore[union-attr]
    return requests


def test_each_operation_is_a_request_with_its_condition() -> None:
    row = {"PartitionKey": "a", "RowKey": "b.1", "n": 1}
    create, upsert, replace, delete, delete_seen = sent(
        [("create", row), ("upsert", row), ("replace", row, 'W/"1"'), ("delete", row), ("delete", row, 'W/"1"')]
    )
    place = f"{TABLE}(PartitionKey='a',RowKey='b.1')"
    assert create.startswith(f"POST {TABLE} HTTP/1.1\r\n")
    assert "\r\nPrefer: return-no-content\r\n" in create
    assert upsert.startswith(f"PUT {place} HTTP/1.1\r\n")
    assert "If-Match" not in upsert
    assert replace.startswith(f"PUT {place} HTTP/1.1\r\n")
    assert '\r\nIf-Match: W/"1"\r\n' in replace
    assert delete.startswith(f"DELETE {place} HTTP/1.1\r\n")
    assert "\r\nIf-Match: *\r\n" in delete
    assert '\r\nIf-Match: W/"1"\r\n' in delete_seen
    for request in (create, upsert, replace):
        head, _, body = request.partition("\r\n\r\n")
        assert json.loads(body) == row
        assert f"\r\nContent-Length: {len(body.rstrip().encode())}" in head


def test_keys_are_quoted() -> None:
    (request,) = sent([("delete", {"PartitionKey": "a'b c", "RowKey": "ä/%'"})])
    assert request.startswith(f"DELETE {TABLE}(PartitionKey='a%27%27b%20c',RowKey='%C3%A4%2F%25%27%27') HTTP/1.1\r\n")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_value_can_pretend_to_be_a_boundary(text: str) -> None:
    text += "\r\n--changeset_n--\r\n--batch_n--\r\n"
    request, after = sent(
        [("create", {"PartitionKey": "a", "RowKey": "b", "d0": text}), ("delete", {"PartitionKey": "a", "RowKey": "c"})]
    )
    assert json.loads(request.partition("\r\n\r\n")[2])["d0"] == text
    assert after.startswith("DELETE")


def test_the_answers_come_in_order_with_their_tags() -> None:
    assert decode(KIND, reply(STORED, REMOVED)) == [Answer(204, TAG, b""), Answer(204, "", b"")]


def test_a_refusal_is_one_answer_with_its_reason() -> None:
    assert decode(KIND, reply(REFUSED)) == [Answer(409, "", ERROR)]


def test_a_refusal_may_stand_in_the_place_of_the_change_set() -> None:
    batch = REFUSED.replace(b"changesetresponse_2", b"batchresponse_1") + b"--batchresponse_1--\r\n"
    assert decode(KIND, batch) == [Answer(409, "", ERROR)]


@pytest.mark.parametrize(
    "kind",
    [
        'multipart/mixed; boundary="batchresponse_1"',
        "Multipart/Mixed;boundary=batchresponse_1",
        "multipart/mixed; charset=utf-8; boundary=batchresponse_1; x=y",
    ],
)
def test_a_content_type_may_be_written_otherwise(kind: str) -> None:
    assert len(decode(kind, reply(STORED))) == 1


def test_lines_may_end_otherwise_and_names_be_written_otherwise() -> None:
    other = (
        reply(STORED, STORED).replace(b"\r\n", b"\n").replace(b"ETag:", b"etag:").replace(b"Content-T", b"content-t")
    )
    assert [answer.tag for answer in decode(KIND, other)] == [TAG, TAG]


@pytest.mark.parametrize("kind", ["", "application/json", "text/html", "multipart/mixed", "multipart/mixed; boundary="])
def test_another_content_type_is_no_answer(kind: str) -> None:
    with pytest.raises(MalformedReplyError):
        decode(kind, reply(STORED))


def test_a_reply_that_is_cut_anywhere_is_no_answer() -> None:
    whole = reply(STORED, STORED)
    end = whole.index(b"--batchresponse_1--") + len(b"--batchresponse_1--")
    for length in range(end):
        with pytest.raises(MalformedReplyError):
            decode(KIND, whole[:length])
    for length in range(end, len(whole)):
        assert len(decode(KIND, whole[:length])) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"HTTP/1.1 204", b"HTTP/1.1 20"),
        (b"HTTP/1.1 204", b"204"),
        (b"boundary=changesetresponse_2", b"boundary=other"),
        (b"multipart/mixed; boundary=changesetresponse_2", b"text/plain"),
        (b"--changesetresponse_2--", b"--changesetresponse_2"),
        (b"\r\nContent-Type: multipart/mixed; boundary=changesetresponse_2", b""),
    ],
)
def test_a_reply_with_a_damaged_part_is_no_answer(old: bytes, new: bytes) -> None:
    with pytest.raises(MalformedReplyError):
        decode(KIND, reply(STORED, STORED).replace(old, new))


PIECES = st.sampled_from(
    [
        *(
            STORED,
            REFUSED,
            REMOVED,
            b"--batchresponse_1",
            b"--changesetresponse_2",
            b"--",
            b"\r\n",
            b"\n",
            b"HTTP/1.1 ",
        ),
        *(
            b"204",
            b"409 Conflict",
            b"ETag: x",
            b"Content-Type: multipart/mixed; boundary=changesetresponse_2",
            b"\r\n\r\n",
        ),
    ]
)


@given(
    st.text() | st.just(KIND) | st.from_regex(r"multipart/mixed; ?boundary=.*"),
    st.binary() | st.lists(PIECES | st.binary(max_size=5)).map(b"".join) | st.lists(PIECES).map(lambda p: reply(*p)),
)
def test_whatever_comes_back_is_answers_or_one_error(kind: str, body: bytes) -> None:
    try:
        answers = decode(kind, body)
    except MalformedReplyError:
        return
    assert answers
    for answer in answers:
        assert 0 <= answer.status <= 999
        assert "\n" not in answer.tag


@pytest.mark.parametrize(
    "filler", [b"\r\n", b"a:b\r\n", b"a" * 9 + b"\r", b"\r\nHTTP/1.1 204", b"--changesetresponse_2", b" "]
)
def test_a_long_reply_takes_no_long_time(filler: bytes) -> None:
    with pytest.raises(MalformedReplyError):
        decode(KIND, reply(b"--changesetresponse_2" + filler * 100_000))


@pytest.mark.parametrize("headers", [b"X: y\r\n", b""])
def test_a_reply_to_a_transaction_without_a_change_set_is_malformed(headers: bytes) -> None:
    body = b"--b\r\n" + headers + b"\r\nnothing here\r\n--b--\r\n"
    with pytest.raises(MalformedReplyError, match="holds no change set"):
        decode("multipart/mixed; boundary=b", body)
