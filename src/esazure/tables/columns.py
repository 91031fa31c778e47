"""Rows as they are sent and as they come back, and a text as columns of them. Pure functions; read `rows.py` next.

A text is in the columns `d0`, `d1`, ... of a row: plain for as long as one row holds it, so that people can read it.
Beyond that `z` is true and the columns are binary (zlib), and `parts` says how many rows that follow carry more of it.
Sizes: a string column takes 32,768 UTF-16 units, a binary one 65,536 bytes, an entity 1 MiB, a transaction 100 rows and
4 MiB of HTTP body (Table Storage service limits).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from esazure.keys import MAX_COMMIT_BYTES

Row = dict[str, str | bytes | int | bool]
StoredRow = dict[str, Any]
"""The columns of a row as it was read; among them is what the service notes about it, see `tag_of` and `time_of`."""

TAG = "odata.etag"
TIME = "Timestamp"
"""Columns of a row that was read, as the service names them."""

MAX_ROWS = 100
MAX_BODY = 4 * 1024 * 1024
MAX_PARTS = 9

_TextOrBytes = TypeVar("_TextOrBytes", str, bytes)

_STRING_UNITS = 32_768
_BINARY_BYTES = 65_536
_COLUMNS = 15  # 15 x 64 KiB leave room for keys and metadata in an entity of 1 MiB
# Azurite measures a row that is replaced by its JSON, where binary columns are in base64 and characters escaped.
_REPLACEABLE_COLUMNS = 11
_REPLACEABLE_BODY = 1_000_000
_LONGEST_ESCAPE = 12
_HEADERS = 1_024


class DamagedTextError(Exception):
    """The columns do not hold what was written; the message says why, and quotes nothing."""


def tag_of(row: StoredRow) -> str:
    """The ETag of a row that was read: it changes with every write."""
    tag = row.get(TAG)
    # Without it, what the SDK does: the service makes the tag of the time of the last write.
    return tag if isinstance(tag, str) else f"W/\"datetime'{quote(str(row.get(TIME)))}'\""


def time_of(row: StoredRow) -> datetime | None:
    """When a row that was read was last written, by the service's clock; None when that is not known."""
    try:
        noted = datetime.fromisoformat(row.get(TIME, ""))
    except (ValueError, TypeError):
        return None
    return noted if noted.tzinfo is not None else None


def text_columns(text: str, *, dense: bool = False, columns: int = _COLUMNS, letter: str = "d") -> list[Row]:
    """The columns of a text, in its row and in each row that follows; compressed when they must be, or with `dense`."""
    plain = None if dense else plain_columns(text, letter)
    if plain is not None:
        return [plain]
    data = zlib.compress(text.encode())
    step = columns * _BINARY_BYTES
    first, *more = [_binary_columns(data[start : start + step], letter) for start in range(0, len(data), step)]
    first["z"] = True
    if more:
        first["parts"] = len(more)
    return [first, *more]


def text_rows(
    partition: str,
    name: str,
    text: str,
    write_id: str,
    columns: Mapping[str, str] | None = None,
    *,
    dense: bool = False,
    letter: str = "d",
) -> list[Row]:
    """Rows `<name>.0`, `<name>.1`, ... for a text that may be replaced, all with the id of this write as `w`."""
    dense = dense or is_over(_REPLACEABLE_BODY, [text])
    rows: list[Row] = [
        {"PartitionKey": partition, "RowKey": f"{name}.{number}", "w": write_id, **held}
        for number, held in enumerate(text_columns(text, dense=dense, columns=_REPLACEABLE_COLUMNS, letter=letter))
    ]
    rows[0].update(columns or {})
    return rows


def text_of(rows: Sequence[Mapping[str, object]], letter: str = "d") -> str:
    """The text in a row and those that follow it; what is beyond its `parts` is left from an earlier, longer one.

    Raises:
        DamagedTextError: not what was written.
    """
    row = rows[0]
    if "z" not in row:
        first = row.get(f"{letter}0")
        return first if isinstance(first, str) and f"{letter}1" not in row else joined(row, str, letter)
    return _inflated(b"".join([joined(part, bytes, letter) for part in rows[: parts_of(row) + 1]]))


def parts_of(row: Mapping[str, object]) -> int:
    """How many rows carry more of its text.

    Raises:
        DamagedTextError: not a number there can be.
    """
    parts = row.get("parts", 0)
    if type(parts) is not int or not 0 <= parts <= MAX_PARTS:
        raise DamagedTextError("its number of continuation rows is not possible")
    return parts


def are_whole(rows: Sequence[Mapping[str, object]]) -> bool:
    """Whether rows made by `text_rows` are one text of one write, and not parts of two.

    Raises:
        DamagedTextError: see `parts_of`.
    """
    if not str(rows[0].get("RowKey")).endswith(".0"):
        return False
    wanted = parts_of(rows[0]) + 1
    return len(rows) >= wanted and all(row.get("w") == rows[0].get("w") for row in rows[:wanted])


def is_over(most: int, texts: Sequence[str]) -> bool:
    """Whether texts take more than so many bytes as plain columns: in JSON a character takes one to twelve."""
    if sum(map(len, texts)) * _LONGEST_ESCAPE <= most:
        return False
    return sum(len(json.dumps(text)) for text in texts) > most


def body_size(rows: Iterable[Row]) -> int:
    """About how many bytes of HTTP body a transaction of these rows takes."""
    size = 0
    for row in rows:
        size += _HEADERS
        for value in row.values():
            size += len(value) * 4 // 3 if isinstance(value, bytes) else len(json.dumps(value))
    return size


def plain_columns(text: str, name: str = "d") -> Row | None:
    """A text in columns `<name>0`, `<name>1`, ...; None when it takes more than a row has."""
    if len(text) > _COLUMNS * _STRING_UNITS:
        return None
    # A character beyond the basic plane takes two units, so half as many always fit.
    step = _STRING_UNITS if text.isascii() or max(text) <= "\uffff" else _STRING_UNITS // 2
    chunks = [text[start : start + step] for start in range(0, len(text), step)]
    if len(chunks) > _COLUMNS:
        return None
    return {f"{name}{index}": chunk for index, chunk in enumerate(chunks)}


def _binary_columns(data: bytes, letter: str) -> Row:
    starts = range(0, len(data), _BINARY_BYTES)
    return {f"{letter}{index}": data[start : start + _BINARY_BYTES] for index, start in enumerate(starts)}


def joined(row: Mapping[str, object], kind: type[_TextOrBytes], name: str = "d") -> _TextOrBytes:
    """What is in columns `<name>0`, `<name>1`, ..., empty when there are none.

    Raises:
        DamagedTextError: it is of another type.
    """
    chunks: list[_TextOrBytes] = []
    for index in range(_COLUMNS):
        chunk = row.get(f"{name}{index}")
        if chunk is None:
            break
        if not isinstance(chunk, kind):
            raise DamagedTextError("its text is of another type")
        chunks.append(chunk)
    return kind().join(chunks)


def _inflated(data: bytes) -> str:
    inflater = zlib.decompressobj()
    try:
        # Never more than was ever written: a forged row must not fill the memory.
        plain = inflater.decompress(data, MAX_COMMIT_BYTES)
        if not inflater.eof or inflater.unused_data:
            raise DamagedTextError("its compressed text is cut or too long")
        return plain.decode()
    except (zlib.error, UnicodeDecodeError):
        raise DamagedTextError("its compressed text is damaged") from None
