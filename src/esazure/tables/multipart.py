"""A transaction on the wire: requests in one body, and answers in one. Pure functions; read `pipeline.py` next.

The body is a batch that holds one change set (OData 3, "Performing entity group transactions"). No line of it can be
taken for a boundary, because the JSON of a row is a single line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from esazure.tables.entities import METADATA, MalformedReplyError, encode_row
from esazure.tables.gateway import Operation

_HEADERS = f"Accept: {METADATA}\r\nDataServiceVersion: 3.0\r\n"
_JSON_HEADERS = f"{_HEADERS}Content-Type: application/json\r\n"
_QUIET_HEADERS = f"{_JSON_HEADERS}Prefer: return-no-content\r\n"

_BOUNDARY = re.compile(
    rb"\s*multipart/mixed\s*;.{0,200}?\bboundary=\"?([\w'()+,./:=?-]{1,70})\"?\s*(?:;|$)", re.IGNORECASE
)
_CONTENT_TYPE = re.compile(rb"^content-type:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_ANSWER = re.compile(
    # The headers of the part, a blank line, the status line, headers, a blank line, the body.
    rb"[ \t]*\r?\n(?:[^\r\n]+\r?\n)*\r?\nHTTP/1\.\d (\d{3})[^\r\n]*\r?\n((?:[^\r\n]+\r?\n)*)(?:\r?\n(.*))?",
    re.DOTALL,
)
_TAG = re.compile(rb"^etag:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


class Answer(NamedTuple):
    """What became of one operation; of a refused transaction there is only the answer that refuses it."""

    status: int
    tag: str
    body: bytes


def encode(operations: Sequence[Operation], table: str, name: str) -> bytes:
    """The body of a transaction on the table at this URL; `name` is part of its boundaries."""
    changes = f"changeset_{name}"
    between = f"--{changes}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n".encode()
    parts = [f"--batch_{name}\r\nContent-Type: multipart/mixed; boundary={changes}\r\n\r\n".encode()]
    for operation in operations:
        parts += (between, *_request(operation, table), b"\r\n")
    parts.append(f"--{changes}--\r\n\r\n--batch_{name}--\r\n".encode())
    return b"".join(parts)


def content_type(name: str) -> str:
    """The content type of a transaction."""
    return f"multipart/mixed; boundary=batch_{name}"


def decode(kind: str, body: bytes) -> list[Answer]:
    """The answers in the reply to a transaction; `kind` is its content type.

    Raises:
        MalformedReplyError: cut, or no reply to a transaction.
    """
    (batch,) = _sections(body, kind.encode("latin-1", "replace"), 1)
    answer = _answer(batch)
    if answer is not None:
        return [answer]
    inner = _CONTENT_TYPE.search(batch)
    if inner is None:
        raise MalformedReplyError("the reply to a transaction holds no change set")
    answers = [_answer(section) for section in _sections(batch, inner[1])]
    whole = [answer for answer in answers if answer is not None]
    if len(whole) != len(answers):
        raise MalformedReplyError("a part of the reply to a transaction is no answer")
    return whole


def _request(operation: Operation, table: str) -> tuple[bytes, bytes]:
    """Head and body of one operation."""
    kind, row = operation[0], operation[1]
    if kind == "create":
        content = encode_row(row)
        head = f"POST {table} HTTP/1.1\r\n{_QUIET_HEADERS}Content-Length: {len(content)}\r\n\r\n"
        return head.encode(), content
    place = f"{table}(PartitionKey='{_quoted(row['PartitionKey'])}',RowKey='{_quoted(row['RowKey'])}')"
    tag = operation[2] if len(operation) == 3 else "*"  # noqa: PLR2004 - with a tag
    if kind == "delete":
        return f"DELETE {place} HTTP/1.1\r\n{_HEADERS}If-Match: {tag}\r\n\r\n".encode(), b""
    content = encode_row(row)
    only_if = "" if kind == "upsert" else f"If-Match: {tag}\r\n"
    verb = "MERGE" if kind == "touch" else "PUT"
    head = f"{verb} {place} HTTP/1.1\r\n{_JSON_HEADERS}{only_if}Content-Length: {len(content)}\r\n\r\n"
    return head.encode(), content


def _quoted(key: object) -> str:
    return quote(str(key).replace("'", "''"), safe="")


def _sections(body: bytes, kind: bytes, count: int | None = None) -> list[bytes]:
    """What is between the boundaries that a content type names."""
    found = _BOUNDARY.match(kind)
    if found is None:
        raise MalformedReplyError("not a multipart reply")
    _, *sections = (b"\n" + body).split(b"\n--" + found[1])
    if len(sections) < 2 or not sections.pop().startswith(b"--") or len(sections) != (count or len(sections)):  # noqa: PLR2004 - one and the end
        raise MalformedReplyError("the reply to a transaction is cut")
    return sections


def _answer(section: bytes) -> Answer | None:
    found = _ANSWER.match(section)
    if found is None:
        return None
    tag = _TAG.search(found[2])
    return Answer(int(found[1]), tag[1].strip().decode("latin-1") if tag else "", (found[3] or b"").strip())
