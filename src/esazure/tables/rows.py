"""What is stored: how a commit becomes keys and columns, and back. Pure functions; nothing here does I/O.

PartitionKey  one of N shards, a hash of the stream
RowKey        `<kind>.<stream>.<number>`, ten digits; read `append.py` next
    kind e    a commit; its number is 9999999999 - first version, so the newest comes first. Columns: `cid` commit id,
    `n` how
              many events, `at` time, `types` their names (for people), `meta` metadata, `d0`, `d1`, ... the payload;
              `z` when it is compressed; `parts` when rows `<key>.1`, `<key>.2`, ... carry more of it
    kind o    the outbox row of a commit that is not yet published; its number is the first version
    kind q    what was an outbox row, set aside because the broker will never take the commit: `reason`, `at`
    `l.relay` in each shard: which relay works on it
The row `meta`/`store` holds the layout. Sizes: a string column takes 32,768 UTF-16 units, a binary one 65,536 bytes, an
entity 1 MiB, a transaction 4 MiB of HTTP body (Table Storage service limits).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TypeVar

from azure.data.tables import TableEntity

from esazure.errors import CorruptStreamError
from esazure.events import CommitRecord
from esazure.keys import MAX_COMMIT_BYTES, bucket_of
from esazure.ports import Lease, OutboxRow

Row = dict[str, str | bytes | int | bool]

LAYOUT = 1
META_KEY = ("meta", "store")
LEASE_KEY = "l.relay"
SWEEP_RANGE = ("l.", "o/")
"""Leases and outbox rows lie together: one query brings both. The slash follows the dot, so every `o.` row is in it."""

_TextOrBytes = TypeVar("_TextOrBytes", str, bytes)

_LAST = 9_999_999_999
_STRING_UNITS = 32_768
_BINARY_BYTES = 65_536
_COLUMNS = 15  # 15 x 64 KiB leave room for keys and metadata in an entity of 1 MiB
_ROW_BYTES = _COLUMNS * _BINARY_BYTES
_TYPES_CHARACTERS = 1_024
_REASON_CHARACTERS = 4_096
_OUTBOX_KEY = re.compile(r"o\.(?P<stream>[^.]*\.[^.]*)\.(?P<number>\d{10})")
_COMMIT_KEY = re.compile(r"e\.(?P<stream>[^.]*\.[^.]*)\.(?P<number>\d{10})(?:\.(?P<part>[1-9]))?")


def partition_of(stream: str, shards: int) -> str:
    """The shard of a stream, in hexadecimal."""
    return f"{bucket_of(stream, shards):02x}"


def commit_key(stream: str, first_version: int) -> str:
    """The RowKey of the commit that begins at this version."""
    return f"e.{stream}.{_LAST - first_version:010d}"


def commits_range(stream: str, *, to_version: int | None = None, from_version: int = 0) -> tuple[str, str]:
    """The lowest and the highest RowKey of the commits that begin between two versions, both included."""
    newest = f"e.{stream}." if to_version is None else commit_key(stream, to_version)
    return newest, f"{commit_key(stream, from_version)}.9"


def outbox_key(stream: str, first_version: int) -> str:
    """The RowKey of the outbox row of the commit that begins at this version."""
    return f"o.{stream}.{first_version:010d}"


def commit_rows(record: CommitRecord, partition: str) -> list[Row]:
    """The commit's row, and its continuation rows when one entity is not enough."""
    key = commit_key(record.stream, record.first_version)
    row: Row = {
        "PartitionKey": partition,
        "RowKey": key,
        "cid": record.commit_id,
        "n": record.count,
        "at": record.occurred_at,
        "types": _types(record.payload),
        "meta": record.metadata,
    }
    text = _text_columns(record.payload)
    if text is not None:
        return [row | text]
    data = zlib.compress(record.payload.encode())
    chunks = [data[start : start + _ROW_BYTES] for start in range(0, len(data), _ROW_BYTES)]
    row |= {"z": True} | _binary_columns(chunks[0])
    if len(chunks) > 1:
        row["parts"] = len(chunks) - 1
    more: list[Row] = [
        {"PartitionKey": partition, "RowKey": f"{key}.{number}", **_binary_columns(chunk)}
        for number, chunk in enumerate(chunks[1:], start=1)
    ]
    return [row, *more]


def outbox_row(record: CommitRecord, partition: str) -> Row:
    """The row that says: this commit is not yet published."""
    key = outbox_key(record.stream, record.first_version)
    return {"PartitionKey": partition, "RowKey": key, "cid": record.commit_id, "n": record.count}


def first_version_of(row: Mapping[str, object]) -> int:
    """The number in the key of an outbox row.

    Raises:
        CorruptStreamError: the key has no such number.
    """
    match = _OUTBOX_KEY.fullmatch(str(row.get("RowKey")))
    if match is None:
        raise CorruptStreamError("a row of the outbox was not written by this library: remove it")
    return int(match["number"])


def outbox_row_of(row: TableEntity, now: datetime) -> OutboxRow | None:
    """The outbox row in a row of a sweep, its age by the service's own clock; None for a row of another kind."""
    match = _OUTBOX_KEY.fullmatch(str(row.get("RowKey")))
    stored = row.metadata["timestamp"]
    if match is None or stored is None:
        return None
    # The Date header has whole seconds, so a row can seem to be stored up to a second from now; the order is kept.
    return OutboxRow(match["stream"], int(match["number"]), (now - stored).total_seconds())


def quarantine_row(record: CommitRecord, partition: str, reason: str, now: datetime) -> Row:
    """The row that says: this commit was set aside."""
    return outbox_row(record, partition) | {
        "RowKey": f"q.{record.stream}.{record.first_version:010d}",
        "reason": reason[:_REASON_CHARACTERS],
        "at": now.isoformat(),
    }


def lease_of(row: TableEntity) -> Lease:
    """The lease in its row."""
    return Lease(str(row.get("owner")), int(row.get("epoch", 0)), str(row.metadata["etag"]))


def records_of(stream: str, rows: Iterable[Mapping[str, object]]) -> list[CommitRecord]:
    """The commits in rows as the service returns them (newest first), oldest first.

    Raises:
        CorruptStreamError: a row is foreign, damaged, or has lost its continuation.
    """
    records: list[CommitRecord] = []
    remaining = iter(rows)
    for row in remaining:
        number, part = _parse(stream, row)
        if part:
            raise _corrupt(stream, number, "a continuation row stands alone")
        records.append(_record(stream, number, row, remaining))
    records.reverse()
    return records


def _record(
    stream: str, first: int, row: Mapping[str, object], following: Iterator[Mapping[str, object]]
) -> CommitRecord:
    commit_id, count, at, metadata = row.get("cid"), row.get("n"), row.get("at"), row.get("meta")
    if not (isinstance(commit_id, str) and isinstance(at, str) and isinstance(metadata, str)):
        raise _corrupt(stream, first, "a column is missing or of another type")
    if not isinstance(count, int) or count < 1:
        raise _corrupt(stream, first, "its count is not a positive number")
    if "z" in row:
        data = _joined(stream, first, row, bytes)
        parts = row.get("parts", 0)
        for expected in range(1, parts + 1 if isinstance(parts, int) else 1):
            more = next(following, None)
            if more is None or _parse(stream, more) != (first, expected):
                raise _corrupt(stream, first, f"its continuation row {expected} is missing")
            data += _joined(stream, first, more, bytes)
        payload = _inflated(stream, first, data)
    else:
        payload = _joined(stream, first, row, str)
    return CommitRecord(stream, commit_id, first, count, at, metadata, payload)


def _parse(stream: str, row: Mapping[str, object]) -> tuple[int, int]:
    """First version and part number, from the RowKey."""
    match = _COMMIT_KEY.fullmatch(str(row.get("RowKey")))
    if match is None or match["stream"] != stream:
        raise CorruptStreamError(f"{stream}: a row between its commits was not written by this library: remove it")
    return _LAST - int(match["number"]), int(match["part"] or 0)


def _text_columns(payload: str) -> Row | None:
    """Columns of plain text, for as long as one entity holds them: people can read those."""
    if len(payload) > _COLUMNS * _STRING_UNITS:
        return None
    # A character beyond the basic plane takes two units, so half as many always fit.
    step = _STRING_UNITS if payload.isascii() or max(payload) <= "\uffff" else _STRING_UNITS // 2
    chunks = [payload[start : start + step] for start in range(0, len(payload), step)]
    if len(chunks) > _COLUMNS:
        return None
    return {f"d{index}": chunk for index, chunk in enumerate(chunks)}


def _binary_columns(data: bytes) -> Row:
    starts = range(0, len(data), _BINARY_BYTES)
    return {f"d{index}": data[start : start + _BINARY_BYTES] for index, start in enumerate(starts)}


def _types(payload: str) -> str:
    """The distinct event names, in order of appearance."""
    names = dict.fromkeys(line.partition(" ")[0] for line in payload.split("\n"))
    return ",".join(names)[:_TYPES_CHARACTERS]


def _joined(stream: str, first: int, row: Mapping[str, object], kind: type[_TextOrBytes]) -> _TextOrBytes:
    chunks: list[_TextOrBytes] = []
    for index in range(_COLUMNS):
        chunk = row.get(f"d{index}")
        if chunk is None:
            break
        if not isinstance(chunk, kind):
            raise _corrupt(stream, first, "its payload is of another type")
        chunks.append(chunk)
    return kind().join(chunks)


def _inflated(stream: str, first: int, data: bytes) -> str:
    inflater = zlib.decompressobj()
    try:
        # Never more than was ever written: a forged row must not fill the memory.
        plain = inflater.decompress(data, MAX_COMMIT_BYTES)
        if not inflater.eof or inflater.unused_data:
            raise _corrupt(stream, first, "its compressed payload is cut or too long")
        return plain.decode()
    except (zlib.error, UnicodeDecodeError):
        raise _corrupt(stream, first, "its compressed payload is damaged") from None


def _corrupt(stream: str, first: int, what: str) -> CorruptStreamError:
    return CorruptStreamError(f"{stream}: the commit at version {first} is damaged: {what}")
