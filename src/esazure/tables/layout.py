"""The row that says how a store is laid out: read when it is opened, and written where it is missing.

A table can be deleted and created again, or cleared, while a store is open. What the store wrote then would be where
the next one does not look. So each shard with a stream has a row with the id of the store in its key, which is made
once the layout row was seen, and every transaction that does not follow a commit touches it. A store that misses both
rows in an empty table writes both again. Read `store.py` next.
"""

from __future__ import annotations

import logging
import re
from contextlib import aclosing, suppress
from typing import NamedTuple
from uuid import UUID, uuid4

from esazure.errors import CorruptStreamError, StoreMismatchError, StoreUnavailableError
from esazure.tables.columns import Row
from esazure.tables.gateway import ITableGateway, OutcomeUnknownError, RowExistsError, TableMissingError
from esazure.tables.rows import LAYOUT, LEASE_KEY, META_KEY

SHARDS = 16
"""Of a new store. By Azure's targets a partition takes 2,000 requests a second, and an account 20,000."""
MAX_SHARDS = 256

_LOOK = 100

_log = logging.getLogger("esazure.tables")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Layout(NamedTuple):
    """What never changes."""

    store_id: UUID
    shards: int


def are_shards(shards: int) -> bool:
    """Whether there can be so many: two hexadecimal digits name each, and a power of two spreads evenly."""
    return 1 <= shards <= MAX_SHARDS and not shards & (shards - 1)


async def open_layout(gateway: ITableGateway, wanted_shards: int | None) -> Layout:
    """The layout of the store; a new one is created where there is none.

    Raises:
        StoreMismatchError: it has another number of shards, or a layout this version does not know, or has lost it.
        CorruptStreamError: its row is damaged.
        StoreError: it could not be read or created.
    """
    layout = await _read(gateway, wanted_shards)
    if layout is not None:
        return layout
    if await _has_streams(gateway):
        raise StoreMismatchError(
            f"{gateway.address} has streams, and has lost the row that says where they are: put the row meta/store "
            "back as it was, or use another table"
        )
    return await _create(gateway, wanted_shards)


async def _has_streams(gateway: ITableGateway) -> bool:
    with suppress(TableMissingError):
        for partitions in (("00", "cf"), ("d0", "ff")):  # documents, which need no layout, are in between
            async with aclosing(gateway.pages(partitions, size=_LOOK)) as pages:
                async for rows in pages:
                    if any(_is_missed(row["RowKey"]) for row in rows):
                        return True
    return False


def _is_missed(key: str) -> bool:
    """Whether somebody would miss a row: nobody a lease, nor an inline view, which has two dots in its key."""
    return key != LEASE_KEY and ".." not in key


def presence(layout: Layout, partition: str) -> Row:
    """The row of a shard that is there for as long as the table is the same."""
    return {"PartitionKey": partition, "RowKey": f"s.{layout.store_id}"}


async def settle(gateway: ITableGateway, layout: Layout, partition: str) -> None:
    """Put the row of `presence` there, if the table still is the one that was opened. Two requests.

    A table that was emptied meanwhile becomes what it was, with nothing in it; that takes four more. No matter if the
    last one is lost: whoever misses the row does it again.

    Raises:
        StoreMismatchError: it is another table, or has lost its layout row alone.
        OutcomeUnknownError: the layout row may be written.
        StoreError: the rows could not be read or written.
    """
    found = await _read(gateway, None)
    if found is None and not await _has_streams(gateway):
        await _write_again(gateway, layout)
        found = await _read(gateway, None)  # what counts is what is there
    if found != layout:
        raise StoreMismatchError(
            f"{gateway.address} was deleted and created again, or cleared, since this store was opened: "
            "nothing was stored; open the store again"
        )
    with suppress(RowExistsError, OutcomeUnknownError):
        await gateway.submit([("create", presence(layout, partition))])


async def _write_again(gateway: ITableGateway, layout: Layout) -> None:
    # The table itself is not created: who deleted it may want it gone.
    try:
        await gateway.submit([("create", _row_of(layout))])
    except RowExistsError:
        return  # whoever wrote it says so
    except OutcomeUnknownError:
        _warn(gateway)
        raise
    _warn(gateway)


def _warn(gateway: ITableGateway) -> None:
    _log.warning(
        "%s was emptied while it was open: what it held is gone, and its layout was written again", gateway.address
    )


async def _read(gateway: ITableGateway, wanted_shards: int | None) -> Layout | None:
    partition, key = META_KEY
    try:
        rows = await gateway.query(partition, key, key)
    except TableMissingError:
        return None
    if not rows:
        return None
    layout, shards, store_id = rows[0].get("layout"), rows[0].get("shards"), rows[0].get("sid")
    if layout != LAYOUT:
        raise StoreMismatchError(
            f"{gateway.address} has layout {layout!r:.20}, this version of esazure uses {LAYOUT}: "
            "open it with the version that created it, or use another table"
        )
    if type(shards) is not int or not are_shards(shards) or not _UUID.fullmatch(str(store_id)):
        raise CorruptStreamError(f"{gateway.address}: its layout row is damaged")
    if wanted_shards not in (None, shards):
        raise StoreMismatchError(
            f"{gateway.address} was created with {shards} shards and cannot be opened with {wanted_shards}: "
            "streams would not be found; leave `shards` out"
        )
    return Layout(UUID(str(store_id)), shards)


async def _create(gateway: ITableGateway, wanted_shards: int | None) -> Layout:
    row = _row_of(Layout(uuid4(), wanted_shards or SHARDS))
    # What counts is the row that is there in the end: another process may create it at the same moment. The table
    # itself only when it is missing: who may write rows may not always create tables.
    with suppress(RowExistsError, OutcomeUnknownError):
        try:
            await gateway.submit([("create", row)])
        except TableMissingError:
            await gateway.create_table()
            await gateway.submit([("create", row)])
    created = await _read(gateway, wanted_shards)
    if created is None:
        raise StoreUnavailableError(f"{gateway.address} could not be created: try again")
    return created


def _row_of(layout: Layout) -> Row:
    partition, key = META_KEY
    return {
        "PartitionKey": partition,
        "RowKey": key,
        "layout": LAYOUT,
        "shards": layout.shards,
        "sid": str(layout.store_id),
    }
