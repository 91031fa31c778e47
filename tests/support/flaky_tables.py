"""A table in memory on a way that loses what a test tells it to lose; for losses by chance see `table_faults.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Literal

from tests.support.fake_tables import FakeGateway, FakeTable

from esazure.tables.gateway import Operation, OutcomeUnknownError, RowExistsError, RowMissingError

Fate = Literal["before", "after", "late"]
"""Lost on the way there, or on the way back, or told lost while it is still on its way."""


class FlakyGateway(FakeGateway):
    """The first writes meet their fates, one each; the others arrive."""

    def __init__(
        self, table: FakeTable, *fates: Fate, meanwhile: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        super().__init__(table)
        self._fates = list(fates)
        self._meanwhile = meanwhile
        self._late: list[Sequence[Operation]] = []
        self.sent: list[Sequence[Operation]] = []

    async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
        """See `ITableGateway.submit`; after the first loss `meanwhile` happens."""
        self.sent.append(operations)
        if not self._fates:
            return await super().submit(operations)
        fate = self._fates.pop(0)
        if fate == "late":
            self._late.append(operations)
        elif fate == "after":
            with suppress(RowExistsError, RowMissingError):
                await super().submit(operations)
        if self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            await meanwhile()
        raise OutcomeUnknownError

    async def deliver(self) -> int:
        """What was late arrives; how many of these change anything."""
        applied = 0
        for operations in self._late:
            with suppress(RowExistsError, RowMissingError):
                await super().submit(operations)
                applied += 1
        self._late.clear()
        return applied
