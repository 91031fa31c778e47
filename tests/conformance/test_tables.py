"""Table Storage keeps every promise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest
from tests.support import table_rows

from esazure.events import CommitRecord
from esazure.tables import TableStore
from esazure.testing.conformance import CommitStoreConformance


@pytest.mark.azurite
class TestTableStore(CommitStoreConformance):
    @pytest.fixture(autouse=True)
    def account(self, tables: str) -> None:
        self.tables = tables

    @pytest.fixture
    async def store(self, tables: str) -> AsyncIterator[TableStore]:
        async with TableStore.from_connection_string(tables, table=f"t{uuid4().hex}") as store:
            yield store
            await store._gateway._client.delete_table()

    async def fill(self, store: TableStore, records: Sequence[CommitRecord]) -> None:
        await table_rows.fill(store, records)

    async def overwrite(self, store: TableStore, record: CommitRecord) -> None:
        await table_rows.overwrite(store, record)

    async def remove(self, store: TableStore, record: CommitRecord) -> None:
        await table_rows.remove(store, record)

    def another(self, store: TableStore) -> TableStore:
        return TableStore.from_connection_string(self.tables, table=store._gateway._client.table_name)
