"""The SQL of streams, commands and inline views: functions that run in a worker's thread, on its connection.

The calls of `ICommitStore` and `IStreamSource`, one transaction each. Read `outbox.py` next.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import product
from uuid import uuid4

from esazure.errors import (
    AppendOutcomeUnknownError,
    ConcurrencyError,
    CorruptStreamError,
    StoreUnavailableError,
)
from esazure.events import CommandRecord, CommitRecord
from esazure.keys import MAX_VERSION, encode_part
from esazure.ports import ViewRecord
from esazure.sqlite.transactions import fetch, transaction, without_fsync

PAGE = 1_000
"""Commits that are loaded at a time."""

SELECT = (
    "SELECT first_version, count, commit_id, occurred_at, metadata, payload, command_id, request,"
    # A snapshot is never trusted: what is no text is none.
    " CASE typeof(snapshot) WHEN 'text' THEN snapshot END FROM"
)
"""What `records` understands."""

_MAYBE: tuple[type, type] = (str, type(None))
_KINDS = {(int, int, str, str, str, str, *maybe) for maybe in product(_MAYBE, repeat=3)}
_FIRST = "coalesce((SELECT max(first_version) FROM commits WHERE stream = ? AND first_version <= ?), 0)"
_READ = f"{SELECT} commits WHERE stream = ? AND first_version >= {_FIRST} ORDER BY first_version"
_READ_TO = (
    f"{SELECT} commits WHERE stream = ? AND first_version >= {_FIRST} AND first_version <= ? ORDER BY first_version"
)
_PAGE = (
    f"{SELECT} commits WHERE stream = ? AND first_version > ? AND first_version <= ? ORDER BY first_version"
    f" LIMIT {PAGE}"
)
_SNAPSHOT = """
    SELECT first_version FROM (
        SELECT first_version, count, snapshot FROM commits WHERE stream = :stream AND first_version <= :last
        ORDER BY first_version DESC LIMIT :within)
    WHERE first_version + count - 1 <= :last AND substr(snapshot, 1, length(:tag)) = :tag
    ORDER BY first_version DESC LIMIT 1"""
_COMMAND = """
    SELECT first_version, NULL, request FROM commits WHERE stream = ? AND command_id = ?
    UNION ALL SELECT NULL, answered_at, request FROM commands WHERE stream = ? AND command_id = ?"""
_COMMAND_KINDS: set[tuple[type, ...]] = {
    *((int, type(None), request) for request in _MAYBE),
    *((type(None), answered_at, request) for answered_at in (int, type(None)) for request in _MAYBE),
}
_VIEW = """
    SELECT shape, version, text, tag, coalesce((
        SELECT first_version + count - 1 FROM commits WHERE stream = ? ORDER BY first_version DESC LIMIT 1), 0)
    FROM views WHERE stream = ? AND name = ?"""
# From name to name, and not through all rows of each.
_STREAMS = """
    WITH RECURSIVE streams (name) AS (
        SELECT min(stream) FROM commits WHERE stream > :after AND stream < :end
        UNION ALL SELECT (SELECT min(stream) FROM commits WHERE stream > name AND stream < :end) FROM streams
        WHERE name IS NOT NULL)
    SELECT name FROM streams WHERE name IS NOT NULL LIMIT :at_once"""
_STREAMS_AT_ONCE = 100
_CHARACTERS_AT_ONCE = 1_000_000
"""After which a batch of streams ends: loads wait behind it."""


def insert(db: sqlite3.Connection, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord]) -> None:
    """Store the commit; its outbox row and its views with it."""
    key = record.stream, record.first_version
    in_doubt = AppendOutcomeUnknownError(record.stream, expected=record.expected_version, commit_id=record.commit_id)
    with transaction(db, in_doubt=in_doubt):
        version, last = _head(db, record.stream)
        follows = version == record.expected_version and record.after in ("", last)
        if version != record.expected_version:
            stored = db.execute("SELECT commit_id FROM commits WHERE stream = ? AND first_version = ?", key).fetchone()
            if stored == (record.commit_id,):
                return
        if record.command_id is not None:
            handled = _find_command(db, record.stream, record.command_id)
            if handled is not None:
                raise handled.as_error(record.stream)
        if not follows:
            raise ConcurrencyError(record.stream, expected=record.expected_version, actual=version)
        values = record.count, record.commit_id, record.occurred_at, record.command_id, record.request, record.metadata
        db.execute(
            "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*key, *values, record.snapshot, record.payload),
        )
        if outbox:
            db.execute("INSERT INTO outbox VALUES (?, ?, julianday('now'))", key)
        for view in views:
            row = record.stream, view.name, view.shape, view.version, uuid4().hex, view.text
            db.execute("INSERT OR REPLACE INTO views VALUES (?, ?, ?, ?, ?, ?)", row)


def _head(db: sqlite3.Connection, stream: str) -> tuple[int, object]:
    """The version of a stream, and the id of its last commit."""
    query = "SELECT first_version, count, commit_id FROM commits WHERE stream = ? ORDER BY first_version DESC LIMIT 1"
    first_version, count, commit_id = db.execute(query, (stream,)).fetchone() or (1, 0, "")
    if type(first_version) is not int or type(count) is not int:
        raise CorruptStreamError(f"{stream}: the row of its last version is damaged")
    return first_version + count - 1, commit_id


def find_command(db: sqlite3.Connection, stream: str, command_id: str) -> CommandRecord | None:
    """What became of a command; None also when it is forbidden."""
    found = _find_command(db, stream, command_id)
    return None if found is None or found.is_forbidden else found


def forbid_command(db: sqlite3.Connection, stream: str, command_id: str) -> CommandRecord | None:
    """The same; and when it was not answered, it never will be."""
    found = _settle_command(db, stream, command_id, CommandRecord())
    return None if found.is_forbidden else found


def remember_command(
    db: sqlite3.Connection, stream: str, command_id: str, version: int, request: str | None
) -> CommandRecord:
    """There was nothing to store for it, unless something is known of it."""
    found = _settle_command(db, stream, command_id, CommandRecord(answered_at=version, request=request))
    if found.is_forbidden:
        raise found.as_error(stream)
    return found


def _settle_command(db: sqlite3.Connection, stream: str, command_id: str, wanted: CommandRecord) -> CommandRecord:
    in_doubt = StoreUnavailableError(f"{stream}: it is unknown whether a command was answered: ask again")
    with transaction(db, in_doubt=in_doubt):
        found = _find_command(db, stream, command_id)
        if found is None:
            row = stream, command_id, wanted.answered_at, wanted.request
            db.execute("INSERT INTO commands VALUES (?, ?, ?, ?)", row)
    return found or wanted


def _find_command(db: sqlite3.Connection, stream: str, command_id: str) -> CommandRecord | None:
    key = stream, command_id
    for row in fetch(
        db, _COMMAND, (*key, *key), _COMMAND_KINDS, lambda _: f"{stream}: the row of a command is damaged"
    ):
        return CommandRecord(*row)
    return None


def read(db: sqlite3.Connection, stream: str, from_version: int, to_version: int | None) -> list[CommitRecord]:
    """The commits of a stream without a gap, oldest first."""
    # From the last one that begins by then, even if it ends before: only so a gap behind it is seen.
    until = () if to_version is None else (to_version,)
    before = max(from_version, 1) - 1
    found = records(db, _READ_TO if until else _READ, (stream, stream, from_version, *until), before)
    version = min(found[0].first_version - 1, before) if found else before
    for record in found:
        if record.first_version != version + 1:
            raise CorruptStreamError(
                f"{stream}: after version {version} comes {record.first_version}: rows were removed"
            )
        version = record.last_version
    return [record for record in found if record.last_version >= from_version]


def records(
    db: sqlite3.Connection, query: str, parameters: tuple[str, *tuple[str | int, ...]], before: int = 0
) -> list[CommitRecord]:
    """The commits a query of `SELECT` finds behind version `before`; the stream is its first parameter."""
    stream = parameters[0]

    def damaged(rows: Sequence[tuple[int, int]]) -> str:
        return f"{stream}: the row after version {rows[-1][0] + rows[-1][1] - 1 if rows else before} is damaged"

    return [
        CommitRecord(
            stream, commit_id, first_version, count, occurred_at, metadata, payload, command_id, snapshot, request
        )
        for first_version, count, commit_id, occurred_at, metadata, payload, command_id, request, snapshot in fetch(
            db, query, parameters, _KINDS, damaged
        )
    ]


def load(db: sqlite3.Connection, stream: str, to_version: int | None, tag: str, within: int) -> list[CommitRecord]:
    """The first page of a load."""
    last = MAX_VERSION if to_version is None else to_version
    searched = {"stream": stream, "last": last, "within": within, "tag": f"{tag} "}
    row = db.execute(_SNAPSHOT, searched).fetchone() if tag else None
    before = row[0] - 1 if row is not None else 0
    return records(db, _PAGE, (stream, before, last), before)


def page(db: sqlite3.Connection, after: CommitRecord, to_version: int | None) -> list[CommitRecord]:
    """The next page, behind a commit."""
    last = MAX_VERSION if to_version is None else to_version
    return records(db, _PAGE, (after.stream, after.first_version, last), after.last_version)


def scan(db: sqlite3.Connection, aggregate_type: str, after: str | None) -> list[list[CommitRecord]]:
    """The next streams of a type, each whole; none when there are no more."""
    beginning = encode_part(aggregate_type)
    end = f"{beginning}/"  # which is the character after the dot
    searched = {"after": max(after or "", f"{beginning}."), "end": end, "at_once": _STREAMS_AT_ONCE}
    found: list[list[CommitRecord]] = []
    characters = 0
    for (stream,) in db.execute(_STREAMS, searched).fetchall():
        try:
            found.append(read(db, stream, 1, None))
        except CorruptStreamError:
            if not found:
                raise
            break  # first those before it; it is met again
        characters += sum(len(record.payload) for record in found[-1])
        if characters > _CHARACTERS_AT_ONCE:
            break
    return found


def read_view(db: sqlite3.Connection, stream: str, name: str) -> ViewRecord | None:
    """The view as it was left, and the version of its stream."""
    kinds: set[tuple[type, ...]] = {(str, int, str, str, int)}
    for shape, version, text, tag, latest in fetch(
        db, _VIEW, (stream, stream, name), kinds, lambda _: f"{stream}: the view {name} is damaged"
    ):
        return ViewRecord(name, shape, version, text, tag, latest)
    return None


def write_view(db: sqlite3.Connection, stream: str, view: ViewRecord, seen: ViewRecord | None) -> bool:
    """Compare and swap, in one statement."""
    row = view.shape, view.version, uuid4().hex, view.text, stream, view.name
    with without_fsync(db):  # if the power fails now, it is computed once more
        if seen is None:
            done = db.execute(
                "INSERT INTO views (shape, version, tag, text, stream, name) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                row,
            )
        else:
            done = db.execute(
                "UPDATE views SET shape = ?, version = ?, tag = ?, text = ? WHERE stream = ? AND name = ? AND tag = ?",
                (*row, seen.tag),
            )
    return done.rowcount > 0
