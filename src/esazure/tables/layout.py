"""The row that says how a store is laid out: read when it is opened, and written once. Read `store.py` next."""

from __future__ import annotations

import re
from contextlib import suppress
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
        StoreMismatchError: it has another number of shards, or a layout this version does not know.
        CorruptStreamError: its row is damaged.
        StoreError: it could not be read or created.
    """
    return await _read(gateway, wanted_shards) or await _create(gateway, wanted_shards)


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
