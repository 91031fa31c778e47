"""One commit as one transaction: its rows, its outbox row, the row of its command, its inline views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from esazure.errors import CommitTooLargeError
from esazure.events import CommitRecord
from esazure.ports import ViewRecord
from esazure.tables.columns import MAX_BODY, MAX_ROWS, Row, body_size, is_over
from esazure.tables.commands import command_rows
from esazure.tables.gateway import Operation
from esazure.tables.inline import view_rows
from esazure.tables.rows import commit_rows, outbox_row

_PLAIN_BODY = 3_000_000  # any one text that fits a row of plain columns is below


def insertion(record: CommitRecord, partition: str, views: Sequence[ViewRecord], *, outbox: bool) -> list[Operation]:
    """The operations of an append; everything is created, and only views replace what was there.

    Raises:
        CommitTooLargeError: more rows or more bytes than a transaction holds.
    """
    # What each would be allowed to take alone may be too much together.
    dense = is_over(_PLAIN_BODY, [record.payload, record.snapshot or "", *(view.text for view in views)])
    if dense:
        record = replace(record, snapshot=None)  # which is never worth a refusal
    created = commit_rows(record, partition, dense=dense)
    if outbox:
        created.append(outbox_row(record, partition))
    created += command_rows(record, partition)
    replaced: list[Row] = []
    for view in views:
        replaced += view_rows(partition, record.stream, view, record.commit_id, dense=dense)
    # One more row is touched: see `append.py`.
    if len(created) + len(replaced) >= MAX_ROWS or (dense and body_size([*created, *replaced]) > MAX_BODY):
        raise CommitTooLargeError(
            f"{record.stream}: a commit of {record.count} events and {len(views)} inline views is more than one "
            "transaction holds: persist more often, or make the views smaller"
        )
    return [*[("create", row) for row in created], *[("upsert", row) for row in replaced]]
