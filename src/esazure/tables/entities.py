"""Rows as the JSON of the table service: what is sent, and what comes back. Pure functions; read `multipart.py` next.

Answers are asked for with minimal metadata: it says which columns are binary, which in JSON look like text, and what
the tag of a row is, for 3 % of the time that a load takes.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import Any

from pydantic_core import from_json, to_json

from esazure.tables.columns import Row, StoredRow

METADATA = "application/json;odata=minimalmetadata"

_TYPE = "@odata.type"
_MARK = _TYPE.encode()
_INT = 2**31
_CODE = re.compile(rb"<(?:\w+:)?code>\s*(\w{1,64})\s*<", re.IGNORECASE)
_NAME = re.compile(r"\w{1,64}", re.ASCII)


class MalformedReplyError(Exception):
    """What came back is not what the service says; the message says why, and quotes nothing."""


def encode_row(row: Row) -> bytes:
    """The row as it is sent.

    Raises:
        TypeError: a number beyond 32 bits, which the service would store as something else.
    """
    sent: dict[str, Any] = row
    for value in row.values():
        if type(value) is bytes or (type(value) is int and not -_INT <= value < _INT):
            sent = _annotated(row)
            break
    content = to_json(sent)
    # Both are allowed in JSON, and Azurite, which looks for it with a regular expression, takes them for ends of lines.
    if not content.isascii():
        content = content.replace("\u2028".encode(), rb"\u2028").replace("\u2029".encode(), rb"\u2029")
    return content


def decode_rows(body: bytes) -> list[StoredRow]:
    """The rows of a page.

    Raises:
        MalformedReplyError: this is not a page of rows.
    """
    try:
        rows: list[StoredRow] = from_json(body, cache_strings="keys")["value"]
        if _MARK[:1] in body and _MARK in body:  # a single byte is looked for five times as fast
            for row in rows:
                _convert(row)
        if all([type(row["PartitionKey"]) is type(row["RowKey"]) is str for row in rows]):  # noqa: C419 - half the time
            return rows
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise MalformedReplyError("not a page of rows")


def code_in(body: bytes) -> str | None:
    """The service's code for an error, in JSON or in XML; nothing else of the text."""
    try:
        code = from_json(body)["odata.error"]["code"]
    except (ValueError, TypeError, KeyError):
        found = _CODE.search(body)
        return found[1].decode("ascii", "replace") if found is not None else None
    return code if isinstance(code, str) and _NAME.fullmatch(code) else None


def _annotated(row: Row) -> dict[str, Any]:
    sent: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, bytes):
            sent[name + _TYPE] = "Edm.Binary"
            sent[name] = b64encode(value).decode()
        elif type(value) is int and not -_INT <= value < _INT:
            raise TypeError(f"column {name} takes a number of 32 bits")
        else:
            sent[name] = value
    return sent


def _convert(row: StoredRow) -> None:
    """Take the annotations out, and make bytes of what is binary; other types stay as the service writes them."""
    for name in [name for name in row if name.endswith(_TYPE)]:
        kind, column = row.pop(name), name.removesuffix(_TYPE)
        if kind == "Edm.Binary" and row[column] is not None:  # as it is where a column was asked for by name
            row[column] = b64decode(row[column], validate=True)
