"""What is stored: how commits, outbox rows and leases become keys and columns, and back. Pure functions, no I/O.

PartitionKey  one of N shards, a hash of the stream
RowKey        `<kind>.<stream>.<number>`, ten digits; read `append.py` next
    kind e    a commit; its number is 9999999999 - first version, so the newest comes first. Columns: `cid` commit id,
              `n` how many events, `at` time, `types` their names (for people), `meta` metadata, `cmd` the command's id
              and `req` the hash of what it asked for, if it has them, and its payload (`columns.py`), continued in
              rows `<key>.1`, `<key>.2`, ...; `s0`, `s1`, ... a snapshot of the state after it
    kind o    the outbox row of a commit that is not yet published; its number is the first version
    kind q    what was an outbox row, set aside because the broker will never take the commit: `reason`, `at`
    kind c    what became of a command, see `commands.py`
    `e.<stream>..` and a name, before the newest commit: an inline view, see `inline.py`
    `l.relay` in each shard: which relay works on it
    `s.<store id>` in each shard that has a stream: it is there for as long as the table is the same, see `layout.py`
Documents have partitions of their own, see `documents.py`. The row `meta`/`store` holds the layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from esazure.errors import CorruptStreamError
from esazure.events import CommitRecord
from esazure.keys import bucket_of
from esazure.ports import Lease, OutboxRow
from esazure.tables.columns import (
    DamagedTextError,
    Row,
    StoredRow,
    joined,
    parts_of,
    plain_columns,
    tag_of,
    text_columns,
    text_of,
    time_of,
)
from esazure.tables.gateway import Operation

LAYOUT = 2  # 1: claims were kept under other keys, so their values would seem free
META_KEY = ("meta", "store")
LEASE_KEY = "l.relay"
SWEEP_RANGE = ("l.", "o/")
"""Leases and outbox rows lie together: one query brings both. The slash follows the dot, so every `o.` row is in it."""

_LAST = 9_999_999_999
_DIGITS = 10
_TYPES_CHARACTERS = 1_024
_REASON_CHARACTERS = 4_096
_OUTBOX_KEY = re.compile(r"o\.(?P<stream>[^.]*\.[^.]*)\.(?P<number>\d{10})")
_COMMIT_KEY = re.compile(r"e\.(?P<stream>[^.]*\.[^.]*)\.(?P<number>\d{10})(?:\.(?P<part>[1-9]))?")


def partition_of(stream: str, shards: int) -> str:
    """The shard of a stream, in hexadecimal."""
    return f"{bucket_of(stream, shards):02x}"


def commit_key(stream: str, first_version: int) -> str:
    """The RowKey of the commit that begins at this version."""
    # No version beyond what a key holds, so that a range up to such a one is still a range.
    return f"e.{stream}.{_LAST - min(max(first_version, 0), _LAST):010d}"


def commits_range(stream: str, *, to_version: int | None = None, from_version: int = 0) -> tuple[str, str]:
    """The lowest and the highest RowKey of the commits that begin between two versions, both included."""
    newest = f"e.{stream}.0" if to_version is None else commit_key(stream, to_version)
    return newest, f"{commit_key(stream, from_version)}.9"


def view_key(stream: str, name: str) -> str:
    """The RowKey of an inline view, but for the number of its row; all are before the commits of the stream."""
    return f"e.{stream}..{name}"


def tag_for(first_version: int, etag: str) -> str:
    """What a stored commit is told from others by: where it is, and the ETag its row has while it is the newest."""
    return f"{first_version} {etag}"


def touch_of(partition: str, stream: str, tag: str) -> Operation | None:
    """What a transaction must hold so that it follows the commit of this tag; None when this never was a tag."""
    first, _, etag = tag.partition(" ")
    if not (etag and first.isdecimal()):
        return None
    row: Row = {"PartitionKey": partition, "RowKey": commit_key(stream, int(first))}
    return "touch", row, etag


def outbox_key(stream: str, first_version: int) -> str:
    """The RowKey of the outbox row of the commit that begins at this version."""
    return f"o.{stream}.{first_version:010d}"


def commit_rows(record: CommitRecord, partition: str, *, dense: bool = False) -> list[Row]:
    """The commit's row, and its continuation rows when one entity is not enough."""
    key = commit_key(record.stream, record.first_version)
    first, *more = text_columns(record.payload, dense=dense)
    row: Row = {
        "PartitionKey": partition,
        "RowKey": key,
        "cid": record.commit_id,
        "n": record.count,
        "at": record.occurred_at,
        "types": _types(record.payload),
        "meta": record.metadata,
        **first,
    }
    if record.command_id is not None:
        row["cmd"] = record.command_id
    if record.request is not None:
        row["req"] = record.request
    if record.snapshot is not None:
        row.update(plain_columns(record.snapshot, "s") or {})
    parts: list[Row] = [
        {"PartitionKey": partition, "RowKey": f"{key}.{number}", **columns}
        for number, columns in enumerate(more, start=1)
    ]
    return [row, *parts]


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


def outbox_row_of(row: StoredRow, now: datetime) -> OutboxRow | None:
    """The outbox row in a row of a sweep, its age by the service's own clock; None for a row of another kind."""
    match = _OUTBOX_KEY.fullmatch(str(row.get("RowKey")))
    stored_at = time_of(row)
    if match is None or stored_at is None:
        return None
    # The Date header has whole seconds: what it leaves out is added, or a fresh row would seem to be not yet stored.
    age = (now - stored_at).total_seconds() + 1.0
    return OutboxRow(match["stream"], int(match["number"]), max(age, 0.0))


def quarantine_row(record: CommitRecord, partition: str, reason: str, now: datetime) -> Row:
    """The row that says: this commit was set aside."""
    return outbox_row(record, partition) | {
        "RowKey": f"q.{record.stream}.{record.first_version:010d}",
        "reason": reason[:_REASON_CHARACTERS],
        "at": now.isoformat(),
    }


def lease_of(row: StoredRow) -> Lease:
    """The lease in its row."""
    return Lease(str(row.get("owner")), int(row.get("epoch", 0)), tag_of(row))


def stream_of_row(row: Mapping[str, object]) -> str | None:
    """The stream whose commits a row belongs to; None for an inline view.

    Raises:
        CorruptStreamError: it is no such row.
    """
    key = str(row.get("RowKey"))
    if ".." in key:  # no part of a stream's name is empty
        return None
    match = _COMMIT_KEY.fullmatch(key)
    if match is None:
        raise CorruptStreamError("a row between the streams was not written by this library: remove it")
    return match["stream"]


def last_version_of(stream: str, row: Mapping[str, object]) -> int:
    """The version of a stream after the commit whose first row this is.

    Raises:
        CorruptStreamError: it is no such row, or damaged.
    """
    first, _ = _parse(stream, row)
    count = row.get("n")
    if not isinstance(count, int):
        raise _corrupt(stream, first, "its count is not a positive number")
    return first + count - 1


def records_of(stream: str, rows: Iterable[StoredRow]) -> list[CommitRecord]:
    """The commits in rows as the service returns them (newest first), oldest first.

    Raises:
        CorruptStreamError: a row is foreign, damaged, or has lost its continuation.
    """
    commits: list[tuple[int, list[StoredRow]]] = []
    prefix = f"e.{stream}."
    for row in rows:
        key = str(row.get("RowKey"))
        number = key[len(prefix) :]
        # Nearly every row of a load is a whole commit, whose key a regular expression takes twice as long to read.
        is_whole = len(number) == _DIGITS and number.isdecimal() and number.isascii() and key.startswith(prefix)
        first, part = (_LAST - int(number), 0) if is_whole else _parse(stream, row)
        if not part:
            commits.append((first, [row]))
        elif commits and commits[-1][0] == first and len(commits[-1][1]) == part:
            commits[-1][1].append(row)
        else:
            raise _corrupt(stream, first, "a continuation row stands alone")
    records = [_record(stream, first, parts) for first, parts in reversed(commits)]
    if records:
        first, (row, *_) = commits[0]
        records[-1].tag = tag_for(first, tag_of(row))
    return records


def rows_of_whole_commits(rows: Sequence[Mapping[str, object]]) -> int:
    """How many of these rows there are without a last commit that has more rows than are here."""
    for number in range(len(rows) - 1, -1, -1):
        match = _COMMIT_KEY.fullmatch(str(rows[number].get("RowKey")))
        if match is None or match["part"] is None:
            return number if len(rows) <= number + rows_behind(rows[number]) else len(rows)
    return 0


def rows_behind(row: Mapping[str, object]) -> int:
    """How many continuation rows a commit says it has; none when that cannot be."""
    try:
        return parts_of(row)
    except DamagedTextError:
        return 0


def _record(stream: str, first: int, rows: Sequence[Mapping[str, object]]) -> CommitRecord:
    row = rows[0]
    get = row.get
    commit_id, count, at, metadata, command_id = get("cid"), get("n"), get("at"), get("meta"), get("cmd")
    request = get("req")
    if not (isinstance(commit_id, str) and isinstance(at, str) and isinstance(metadata, str)):
        raise _corrupt(stream, first, "a column is missing or of another type")
    if not isinstance(count, int) or count < 1:
        raise _corrupt(stream, first, "its count is not a positive number")
    if not isinstance(command_id, str | None) or not isinstance(request, str | None):
        raise _corrupt(stream, first, "its command id is of another type")
    try:
        if (len(rows) > 1 or "parts" in row) and len(rows) != parts_of(row) + 1:
            raise _corrupt(stream, first, "it has fewer or more continuation rows than it says")
        payload = text_of(rows)
    except DamagedTextError as damage:
        raise _corrupt(stream, first, str(damage)) from None
    snapshot = snapshot_of(row) if "s0" in row else None
    return CommitRecord(stream, commit_id, first, count, at, metadata, payload, command_id, snapshot, request)


def snapshot_of(row: Mapping[str, object]) -> str | None:
    """The snapshot beside a commit; None when there is none, or it is damaged: then it is of no use."""
    try:
        return joined(row, str, "s") or None
    except DamagedTextError:
        return None


def first_version_in(stream: str, row: Mapping[str, object]) -> int:
    """The version in the key of a commit's row.

    Raises:
        CorruptStreamError: it is no such row.
    """
    return _parse(stream, row)[0]


def _parse(stream: str, row: Mapping[str, object]) -> tuple[int, int]:
    """First version and part number, from the RowKey."""
    match = _COMMIT_KEY.fullmatch(str(row.get("RowKey")))
    if match is None or match["stream"] != stream:
        raise CorruptStreamError(f"{stream}: a row between its commits was not written by this library: remove it")
    return _LAST - int(match["number"]), int(match["part"] or 0)


def _types(payload: str) -> str:
    """The distinct event names, in order of appearance."""
    names = dict.fromkeys(line.partition(" ")[0] for line in payload.split("\n"))
    return ",".join(names)[:_TYPES_CHARACTERS]


def _corrupt(stream: str, first: int, what: str) -> CorruptStreamError:
    return CorruptStreamError(f"{stream}: the commit at version {first} is damaged: {what}")
