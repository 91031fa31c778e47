"""A table in memory behind a real `TableStore`: the service's rules for transactions and ranges, without the wire.

For runs that need many operations and little time. That the rules are the service's is shown by the same tests running
on Azurite.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from typing import Any

from tests.support.table_faults import Dice

from esazure.tables import TableStore
from esazure.tables.columns import MAX_ROWS, TAG, TIME, StoredRow, tag_of
from esazure.tables.gateway import (
    PAGE,
    ITableGateway,
    Operation,
    OutcomeUnknownError,
    RowExistsError,
    RowMissingError,
    StoreUnavailableError,
)
from esazure.testing.azurite import Azurite


class FakeTable:
    """The rows, shared by all gateways to it."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], StoredRow] = {}
        self.requests = 0
        self._tags = count()

    def apply(self, operations: Sequence[Operation]) -> list[str]:
        """All or nothing, as an entity group transaction."""
        self.requests += 1
        keys = {_key(operation[1]) for operation in operations}
        assert len({partition for partition, _ in keys}) == 1, "a transaction is about one partition"
        assert len(keys) == len(operations) <= MAX_ROWS, "and about a hundred different rows at most"
        for kind, row, *tag in operations:
            stored = self.rows.get(_key(row))
            if kind == "create" and stored is not None:
                raise RowExistsError
            if kind in ("delete", "replace", "touch") and stored is None:
                raise RowMissingError
            if tag and stored is not None and tag != [tag_of(stored)]:
                raise RowExistsError
        return [self._put(operation[0], operation[1]) for operation in operations]

    def range(self, partitions: tuple[str, str], keys: tuple[str, str] | None) -> list[StoredRow]:
        """The rows between two keys, in the order of the service: keys are ASCII."""
        first, last = partitions
        return [
            row
            for (pk, rk), row in sorted(self.rows.items())
            if first <= pk <= last and (keys is None or keys[0] <= rk <= keys[1])
        ]

    def _put(self, kind: str, row: Mapping[str, Any]) -> str:
        if kind == "delete":
            del self.rows[_key(row)]
            return ""
        before = self.rows[_key(row)] if kind == "touch" else {}
        stored = {**before, **row, TAG: f'W/"{next(self._tags)}"', TIME: datetime.now(UTC).isoformat()}
        self.rows[_key(row)] = stored
        return tag_of(stored)


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["PartitionKey"], row["RowKey"]


class FakeGateway(ITableGateway):
    """One client's way to a table; with dice, a way on which requests and answers are lost."""

    def __init__(self, table: FakeTable, dice: Dice | None = None) -> None:
        self._table = table
        self._dice = dice or Dice(0, share=0.0)

    async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
        """See `ITableGateway.submit`."""
        await asyncio.sleep(0)  # the way there
        what, _, when = (self._dice.roll() or "").partition(" ")
        if what == "late":

            async def deliver() -> None:
                with suppress(RowExistsError, RowMissingError):  # nobody hears how this one ends
                    self._table.apply(operations)

            self._dice.send_late(deliver)
            raise OutcomeUnknownError
        if what == "delay":
            await asyncio.sleep(self._dice.delay())
        tags: list[str] = []
        if when != "before":
            try:
                tags = self._table.apply(operations)
            except (RowExistsError, RowMissingError):
                if what in ("", "delay"):
                    await asyncio.sleep(0)
                    raise
        await asyncio.sleep(self._dice.hang if what == "hang" else 0)  # the way back
        if what not in ("", "delay"):
            raise OutcomeUnknownError
        return tags

    async def query(self, partition: str, low: str, high: str, top: int | None = None) -> list[StoredRow]:
        """See `ITableGateway.query`."""
        return (await self._answer((partition, partition), (low, high)))[:top]

    async def query_two(
        self, partition: str, low: str, high: str, name: str, columns: Sequence[str]
    ) -> list[StoredRow]:
        """See `ITableGateway.query_two`."""
        found = await self._answer((partition, partition), (low, high))
        wanted = {"PartitionKey", "RowKey", TAG, TIME, *columns}
        return [
            {column: value for column, value in row.items() if column in wanted}
            for row in found
            if row.get("name") == name or row.get("n", 0) >= 1
        ][:2]

    async def query_with_time(
        self, partition: str, low: str, high: str, top: int = PAGE
    ) -> tuple[list[StoredRow], datetime]:
        """See `ITableGateway.query_with_time`."""
        return (await self._answer((partition, partition), (low, high)))[:top], datetime.now(UTC)

    async def pages(
        self, partitions: tuple[str, str], keys: tuple[str, str] | None = None, *, size: int = PAGE
    ) -> AsyncGenerator[Sequence[StoredRow], None]:
        """See `ITableGateway.pages`; each page shows the rows of its own moment."""
        behind: tuple[str, str] | None = None
        while True:
            found = await self._answer(partitions, keys)
            page = [row for row in found if behind is None or _key(row) > behind][:size]
            yield page
            if len(page) < size:
                return
            behind = _key(page[-1])

    async def _answer(self, partitions: tuple[str, str], keys: tuple[str, str] | None) -> list[StoredRow]:
        self._table.requests += 1
        await asyncio.sleep(0)
        what = (self._dice.roll() or "").partition(" ")[0]
        if what == "delay":
            await asyncio.sleep(self._dice.delay())
        elif what:
            raise StoreUnavailableError("no answer")
        found = self._table.range(partitions, keys)
        await asyncio.sleep(0)
        return found

    @property
    def address(self) -> str:
        """Where it is."""
        return "memory"

    async def create_table(self) -> None:
        """It is there."""

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""


def fake_store(
    table: FakeTable, dice: Dice | None = None, *, store_class: type[TableStore] = TableStore, **options: Any
) -> TableStore:
    """A store on a fake table; opened as any other."""
    gateway = FakeGateway(table, dice)
    # Whatever way to the service the store makes for itself, it gets this one.
    instead = property(lambda _: gateway, lambda *_: None)
    fake_class: type[TableStore] = type("FakeTableStore", (store_class,), {"_gateway": instead})
    return fake_class.from_connection_string(Azurite().connection_string, **options)
