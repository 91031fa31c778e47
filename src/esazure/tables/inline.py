"""Inline views: what is known of one aggregate, written in the transaction of each of its commits.

RowKey  `v.<stream>.<name>.0`, continued in `.1`, `.2`, ... when it is large, in the partition of the stream. Columns:
`w` the commit (or the repair) that wrote it, `shape`, `version`, and its text (`columns.py`). A shorter view leaves
rows of the longer one before it behind; what it does not count is not read. Read `store.py` next.
"""

from __future__ import annotations

import re
from uuid import uuid4

from esazure.documents import check_document
from esazure.errors import CommitTooLargeError, CorruptStreamError
from esazure.ports import ViewRecord
from esazure.tables.columns import DamagedTextError, Row, tag_of, text_of, text_rows
from esazure.tables.gateway import ITableGateway, Operation, OutcomeUnknownError, RowExistsError, RowMissingError
from esazure.tables.reading import read_text_rows

_VERSION = re.compile(r"\d{10}")


def view_rows(partition: str, stream: str, view: ViewRecord, write_id: str, *, dense: bool = False) -> list[Row]:
    """The row of a view, and its continuation rows."""
    # As text: an Int32 does not hold every version.
    columns = {"shape": view.shape, "version": f"{view.version:010d}"}
    return text_rows(partition, _name(stream, view.name), view.text, write_id, columns, dense=dense)


async def read(gateway: ITableGateway, partition: str, stream: str, name: str) -> ViewRecord | None:
    """The view as it was last written. One request.

    Raises:
        CorruptStreamError: its row is damaged.
        StoreError: it could not be read.
    """
    why = "a column is missing or of another type"
    try:
        rows = await read_text_rows(gateway, partition, _name(stream, name))
        if not rows:
            return None
        shape, version = rows[0].get("shape"), rows[0].get("version")
        if isinstance(shape, str) and isinstance(version, str) and _VERSION.fullmatch(version):
            return ViewRecord(name, shape, int(version), text_of(rows), tag_of(rows[0]))
    except DamagedTextError as damage:
        why = str(damage)
    raise CorruptStreamError(f"{stream}: the view {name} is damaged: {why}")


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


def _name(stream: str, view: str) -> str:
    return f"v.{stream}.{view}"
