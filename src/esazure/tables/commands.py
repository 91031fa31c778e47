"""Which commit carried out a command: one row for each, in the partition of its stream.

RowKey  `c.<stream>.<24 hexadecimal digits of the command id>`, created in the transaction of the commit, so there is no
second commit with the same id. Columns: `cid` commit id, `first` its first version. The same row without a commit,
`forbidden`, keeps any commit with this id out for good. A row of this kind never changes. Read `append.py` next.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import NamedTuple

from esazure.errors import CorruptStreamError, StoreUnavailableError
from esazure.events import CommitRecord
from esazure.keys import command_key
from esazure.tables.columns import Row, StoredRow
from esazure.tables.gateway import ITableGateway, OutcomeUnknownError, RowExistsError, RowMissingError
from esazure.tables.layout import Layout, presence, settle
from esazure.tables.pauses import FIRST_PAUSE, rest

_VERSION = re.compile(r"\d{10}")


class Handled(NamedTuple):
    """What a row says; both are None when the command was forbidden."""

    commit_id: str | None
    first_version: int | None


def row_key(stream: str, command_id: str) -> str:
    """The RowKey of a command."""
    return f"c.{stream}.{command_key(command_id)}"


def command_rows(record: CommitRecord, partition: str) -> list[Row]:
    """The row of a commit's command, if it has one."""
    if record.command_id is None:
        return []
    key = row_key(record.stream, record.command_id)
    # As text: an Int32 does not hold every version.
    first = f"{record.first_version:010d}"
    return [{"PartitionKey": partition, "RowKey": key, "cid": record.commit_id, "first": first}]


async def read(gateway: ITableGateway, partition: str, stream: str, command_id: str) -> Handled | None:
    """What became of a command; None when nobody knows of it. One request.

    Raises:
        CorruptStreamError: its row is damaged.
        StoreError: it could not be read.
    """
    key = row_key(stream, command_id)
    rows = await gateway.query(partition, key, key)
    return _handled(stream, rows[0]) if rows else None


async def forbid(
    gateway: ITableGateway, layout: Layout, partition: str, stream: str, command_id: str, *, deadline: float
) -> int | None:
    """Keep out every commit with this id, unless one is stored: then its first version. One request, or two.

    Three more when it is the first row of its shard.

    Raises:
        StoreUnavailableError: no definite answer in time.
        StoreError: refused; StoreMismatchError when the table is not the one that was opened.
    """
    row: Row = {"PartitionKey": partition, "RowKey": row_key(stream, command_id), "forbidden": True}
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
                    # Whoever forbade it, it is forbidden: there is no need to tell an own attempt from others.
                    with suppress(StoreUnavailableError):
                        if (handled := await read(gateway, partition, stream, command_id)) is not None:
                            return handled.first_version
                except OutcomeUnknownError as unknown:
                    last, wait = unknown.__cause__ or unknown, unknown.retry_after
                else:
                    return None
                pause = await rest(pause, wait)
    raise StoreUnavailableError(f"{stream}: it is unknown whether a command is forbidden now: ask again") from last


def _handled(stream: str, row: StoredRow) -> Handled:
    if row.get("forbidden") is True:
        return Handled(None, None)
    commit_id, first = row.get("cid"), row.get("first")
    if not isinstance(commit_id, str) or not isinstance(first, str) or not _VERSION.fullmatch(first):
        raise CorruptStreamError(f"{stream}: the row of a command is damaged")
    return Handled(commit_id, int(first))
