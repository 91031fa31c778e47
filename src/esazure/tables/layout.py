"""The row that says how a store is laid out: read when it is opened, and written once.

A table can be deleted and created again, or cleared, while a store is open. What the store wrote then would be where
the next one does not look. So each shard with a stream has a row with the id of the store in its key, which is made
once the layout row was seen, and every transaction that does not follow a commit touches it. Read `store.py` next.
"""

from __future__ import annotations

import re
from contextlib import aclosing, suppress
from typing import NamedTuple
from uuid import UUID, uuid4

from esazure.errors import CorruptStreamError, StoreMismatchError, StoreUnavailableError
from esazure.tables.columns import Row
from esazure.tables.gateway import ITableGateway, OutcomeUnknownError, RowExistsError, TableMissingError
from esazure.tables.rows import LAYOUT, META_KEY

SHARDS = 64
MAX_SHARDS = 256

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
            async with aclosing(gateway.pages(partitions, size=1)) as pages:
                async for rows in pages:
                    if rows:
                        return True
    return False


def presence(layout: Layout, partition: str) -> Row:
    """The row of a shard that is there for as long as the table is the same."""
    return {"PartitionKey": partition, "RowKey": f"s.{layout.store_id}"}


async def settle(gateway: ITableGateway, layout: Layout, partition: str) -> None:
    """Put the row of `presence` there, if the table still is the one that was opened. Two requests.

    No matter if the second one is lost: whoever misses the row does it again.

    Raises:
        StoreMismatchError: it is another table, or an empty one.
        StoreError: it could not be read or written.
    """
    if await _read(gateway, None) != layout:
        raise StoreMismatchError(
            f"{gateway.address} was deleted and created again, or cleared, since this store was opened: "
            "nothing was stored; open the store again"
        )
    with suppress(RowExistsError, OutcomeUnknownError):
        await gateway.submit([("create", presence(layout, partition))])


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
            f"{gateway.address} has layout {layout}, this version of esazure reads layout {LAYOUT}"
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
    partition, key = META_KEY
    row: Row = {
        "PartitionKey": partition,
        "RowKey": key,
        "layout": LAYOUT,
        "shards": wanted_shards or SHARDS,
        "sid": str(uuid4()),
    }
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
