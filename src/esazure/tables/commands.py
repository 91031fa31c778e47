"""What became of a command: one row for each, in the partition of its stream.

RowKey  `c.<stream>.<24 hexadecimal digits of the command id>`, created in the transaction of the commit, so there is no
second commit with the same id. Columns: `cid` commit id, `first` its first version, `req` the hash of what it asked
for, if known. The same row without a commit keeps any commit with this id out for good: with `at`, the version at which
there was nothing to store for it, or `forbidden`. A row of this kind never changes. Read `append.py` next.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import NamedTuple

from esazure.errors import CorruptStreamError, StoreUnavailableError
from esazure.events import CommandRecord, CommitRecord
from esazure.keys import command_key
from esazure.tables.columns import Row, StoredRow
from esazure.tables.gateway import ITableGateway, OutcomeUnknownError, RowExistsError, RowMissingError
from esazure.tables.layout import Layout, presence, settle
from esazure.tables.pauses import FIRST_PAUSE, rest

_VERSION = re.compile(r"\d{10}")


class Handled(NamedTuple):
    """What a row says."""

    commit_id: str | None
    record: CommandRecord


def row_key(stream: str, command_id: str) -> str:
    """The RowKey of a command."""
    return f"c.{stream}.{command_key(command_id)}"


def command_rows(record: CommitRecord, partition: str) -> list[Row]:
    """The row of a commit's command, if it has one."""
    if record.command_id is None:
        return []
    key = row_key(record.stream, record.command_id)
    # As text: an Int32 does not hold every version.
    row: Row = {
        "PartitionKey": partition,
        "RowKey": key,
        "cid": record.commit_id,
        "first": f"{record.first_version:010d}",
    }
    if record.request is not None:
        row["req"] = record.request
    return [row]


async def read(gateway: ITableGateway, partition: str, stream: str, command_id: str) -> Handled | None:
    """What became of a command; None when nobody knows of it. One request.

    Raises:
        CorruptStreamError: its row is damaged.
        StoreError: it could not be read.
    """
    key = row_key(stream, command_id)
    rows = await gateway.query(partition, key, key)
    return _handled(stream, rows[0]) if rows else None


async def note(
    gateway: ITableGateway,
    layout: Layout,
    partition: str,
    stream: str,
    command_id: str,
    wanted: CommandRecord,
    *,
    deadline: float,
) -> CommandRecord:
    """Say that a command has no commit, unless something is known of it: then that. One request, or two.

    Three more when it is the first row of its shard.

    Raises:
        StoreUnavailableError: no definite answer in time.
        StoreError: refused; StoreMismatchError when the table is not the one that was opened.
    """
    row: Row = {"PartitionKey": partition, "RowKey": row_key(stream, command_id)}
    if wanted.answered_at is None:
        row["forbidden"] = True
    else:
        row["at"] = f"{wanted.answered_at:010d}"
    if wanted.request is not None:
        row["req"] = wanted.request
    last: BaseException | None = None
    pause = FIRST_PAUSE
    with suppress(TimeoutError):
        async with asyncio.timeout(deadline):
            while True:
                wait: float | None = None
                try:
                    await gateway.submit([("create", row), ("touch", presence(layout, partition))])
                except RowMissingError:
                    await settle(gateway, layout, partition)
                except RowExistsError:
                    # What is there is what holds: there is no need to tell an own attempt from others.
                    with suppress(StoreUnavailableError):
                        if (handled := await read(gateway, partition, stream, command_id)) is not None:
                            return handled.record
                except OutcomeUnknownError as unknown:
                    last, wait = unknown.__cause__ or unknown, unknown.retry_after
                else:
                    return wanted
                pause = await rest(pause, wait)
    raise StoreUnavailableError(f"{stream}: it is unknown whether a command was answered: ask again") from last


def _handled(stream: str, row: StoredRow) -> Handled:
    if row.get("forbidden") is True:
        return Handled(None, CommandRecord())
    commit_id, first, at, request = row.get("cid"), row.get("first"), row.get("at"), row.get("req")
    if request is None or isinstance(request, str):
        if commit_id is None and isinstance(at, str) and _VERSION.fullmatch(at):
            return Handled(None, CommandRecord(answered_at=int(at), request=request))
        if isinstance(commit_id, str) and isinstance(first, str) and _VERSION.fullmatch(first):
            return Handled(commit_id, CommandRecord(int(first), request=request))
    raise CorruptStreamError(f"{stream}: the row of a command is damaged")
