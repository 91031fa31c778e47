"""Inline views: what is known of one aggregate, written in the transaction of each of its commits.

RowKey  `e.<stream>..<name>.0`, continued in `.1`, `.2`, ... when it is large: directly before the newest commit of the
stream, so that one query brings the view and the version of the stream. Columns: `w` the commit (or the repair) that
wrote it, `name`, `shape`, `version`, and its text (`columns.py`) as `v0`, `v1`, ..., so that the query can leave out
the payload of the commit. A shorter view leaves rows of the longer one before it behind; what it does not count is not
read. Read `store.py` next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from uuid import uuid4

from esazure.documents import check_document
from esazure.errors import CommitTooLargeError, CorruptStreamError
from esazure.ports import ViewRecord
from esazure.tables.columns import DamagedTextError, Row, StoredRow, are_whole, parts_of, tag_of, text_of, text_rows
from esazure.tables.gateway import ITableGateway, Operation, OutcomeUnknownError, RowExistsError, RowMissingError
from esazure.tables.rows import commits_range, last_version_of, view_key

_LETTER = "v"
_COLUMNS = ("name", "w", "shape", "version", "z", "parts", "n", *(f"{_LETTER}{number}" for number in range(15)))
_READS = 3
_VERSION = re.compile(r"\d{10}")


def view_rows(partition: str, stream: str, view: ViewRecord, write_id: str, *, dense: bool = False) -> list[Row]:
    """The row of a view, and its continuation rows."""
    # As text: an Int32 does not hold every version.
    columns = {"name": view.name, "shape": view.shape, "version": f"{view.version:010d}"}
    key = view_key(stream, view.name)
    return text_rows(partition, key, view.text, write_id, columns, dense=dense, letter=_LETTER)


async def read(gateway: ITableGateway, partition: str, stream: str, name: str) -> ViewRecord | None:
    """The view as it was last written, and the version of its stream. One request; two for a view of several rows.

    Raises:
        CorruptStreamError: its row is damaged, or that of the last commit.
        StoreError: it could not be read.
    """
    why = "a column is missing or of another type"
    try:
        rows, commits = await _read_rows(gateway, partition, stream, name)
        if not rows:
            return None
        shape, version = rows[0].get("shape"), rows[0].get("version")
        if isinstance(shape, str) and isinstance(version, str) and _VERSION.fullmatch(version):
            latest = last_version_of(stream, commits[0]) if commits else 0
            return ViewRecord(name, shape, int(version), text_of(rows, _LETTER), tag_of(rows[0]), latest)
    except DamagedTextError as damage:
        why = str(damage)
    raise CorruptStreamError(f"{stream}: the view {name} is damaged: {why}")


async def _read_rows(
    gateway: ITableGateway, partition: str, stream: str, name: str
) -> tuple[Sequence[StoredRow], Sequence[StoredRow]]:
    """The rows of the view, all of the same write, and the row of the newest commit; either may be missing."""
    key = view_key(stream, name)
    for _ in range(_READS):
        found = await gateway.query_two(partition, f"{key}.0", commits_range(stream)[1], name, _COLUMNS)
        rows, commits = found[:1], found[1:]
        if not rows or rows[0]["RowKey"] != f"{key}.0":
            return (), found
        if not parts_of(rows[0]):
            return rows, commits
        more = await gateway.query(partition, f"{key}.0", f"{key}.9")
        if more and more[0].get("w") == rows[0].get("w") and are_whole(more):
            return more, commits
        # Somebody has written it between the two requests.
    raise DamagedTextError("its rows do not belong together")


async def write(gateway: ITableGateway, partition: str, stream: str, view: ViewRecord, seen: ViewRecord | None) -> bool:
    """Put a view in the place of the one that was seen. One request; it is not repeated, for a view is a copy.

    Raises:
        StoreError: refused.
    """
    try:
        check_document("", view.text)
    except CommitTooLargeError:  # it could not be read back
        return False
    row, *more = view_rows(partition, stream, view, uuid4().hex)
    first: Operation = ("create", row) if seen is None else ("replace", row, seen.tag)
    try:
        await gateway.submit([first, *[("upsert", part) for part in more]])
    except (RowExistsError, RowMissingError, OutcomeUnknownError):
        return False
    return True
