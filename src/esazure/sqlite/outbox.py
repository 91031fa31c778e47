"""The SQL of the outbox: what waits, and who works on it. The calls of `IOutboxStore`. Read `documents.py` next."""

from __future__ import annotations

import sqlite3
from uuid import uuid4

from esazure.errors import CorruptStreamError
from esazure.events import CommitRecord
from esazure.ports import Lease, OutboxRow, Swept
from esazure.sqlite.commits import SELECT, records
from esazure.sqlite.transactions import snapshot, transaction, without_fsync

# LEFT, because an outbox row without its commit has to be reported: skipping it would break the order.
_UNPUBLISHED = (
    f"{SELECT} outbox LEFT JOIN commits USING (stream, first_version) "
    "WHERE stream = ? AND first_version < ? ORDER BY first_version LIMIT ?"
)
# Ages are measured by the clock that stamped the rows, and never by the one that is given to a store.
_WAITING = (
    "SELECT stream, first_version, (julianday('now') - stored_at) * 86400.0 FROM outbox"
    " WHERE (stream, first_version) > (?, ?) ORDER BY stream, first_version LIMIT ?"
)
_DELETE_WAITING = "DELETE FROM outbox WHERE stream = ? AND first_version = ?"
_QUARANTINE = "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
_REASON_CHARACTERS = 4_096
_ALL = -1  # in LIMIT


def unpublished(db: sqlite3.Connection, stream: str, before_version: int, limit: int | None) -> list[CommitRecord]:
    """The commits of a stream that wait, oldest first."""
    return records(db, _UNPUBLISHED, (stream, before_version, _ALL if limit is None else limit))


def mark_published(db: sqlite3.Connection, record: CommitRecord) -> bool:
    """Remove the outbox row; whether it was there."""
    with without_fsync(db):  # if the power fails now, the row is back and its commit is published again, as promised
        return db.execute(_DELETE_WAITING, (record.stream, record.first_version)).rowcount > 0


def sweep(db: sqlite3.Connection, partition: str, after: tuple[str, int], limit: int) -> Swept:
    """Outbox rows and the lease, as of one moment."""
    with snapshot(db):
        lease = db.execute("SELECT owner, epoch, tag FROM leases WHERE partition = ?", (partition,)).fetchone()
        rows = [_outbox_row(*row) for row in db.execute(_WAITING, (*after, limit + 1))]
    return Swept(rows[:limit], None if lease is None else Lease(*lease), more=len(rows) > limit)


def _outbox_row(stream: object, first_version: object, age: object) -> OutboxRow:
    if not (isinstance(stream, str) and type(first_version) is int and isinstance(age, float)):
        raise CorruptStreamError("a row of the table outbox is damaged: restore the file from a backup")
    return OutboxRow(stream, first_version, max(age, 0.0))  # this clock may be set back


def write_lease(db: sqlite3.Connection, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
    """Compare and swap, in one statement."""
    lease = Lease(owner, epoch, uuid4().hex)
    written = (lease.owner, lease.epoch, lease.tag, partition)
    with without_fsync(db):  # whoever lost power does not hold a lease any more
        if seen is None:
            done = db.execute(
                "INSERT INTO leases (owner, epoch, tag, partition) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", written
            )
        else:
            done = db.execute(
                "UPDATE leases SET owner = ?, epoch = ?, tag = ? WHERE partition = ? AND tag = ?", (*written, seen.tag)
            )
    return lease if done.rowcount > 0 else None


def set_aside(db: sqlite3.Connection, record: CommitRecord, reason: str) -> None:
    """From the outbox into the quarantine; nothing when it is not in the outbox."""
    key = record.stream, record.first_version
    with transaction(db):
        if db.execute(_DELETE_WAITING, key).rowcount > 0:
            db.execute(_QUARANTINE, (*key, reason[:_REASON_CHARACTERS]))
