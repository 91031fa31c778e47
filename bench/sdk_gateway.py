"""The gateway over `azure.data.tables` that `esazure.tables.rest` replaced; kept to be compared with."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError
from azure.data.tables import TableErrorCode, UpdateMode
from azure.data.tables.aio import TableClient

from esazure.errors import StoreError, StoreUnavailableError
from esazure.tables.columns import TAG, TIME, Row, StoredRow
from esazure.tables.gateway import (
    PAGE,
    ITableGateway,
    Operation,
    RowExistsError,
    RowMissingError,
    code_of,
    meaning,
    meaning_for_a_write,
)

_TRANSPORT = (AzureError, HTTPException, OSError, UnicodeError)
_ETAG = re.compile(r'(W/)?"[^"\r\n]+"')


class SdkTableGateway(ITableGateway):
    """Over `azure.data.tables`."""

    def __init__(self, client: TableClient, *, patience: float) -> None:
        self._client = client
        self._patience = patience

    @property
    def address(self) -> str:
        """See `ITableGateway.address`."""
        parts = urlsplit(self._client.url)
        return f"{parts.scheme}://{parts.netloc}/{self._client.table_name}"

    async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
        """See `ITableGateway.submit`; a transaction even for one row, because only its errors are exact."""
        sdk_operations = [_for_the_sdk(operation) for operation in operations]
        try:
            # The SDK would repeat a write by itself and then report our own row as a conflict.
            answers = await self._client.submit_transaction(sdk_operations, retry_total=0)
        except _TRANSPORT as error:
            meaning = meaning_for_a_write(error)
            if isinstance(meaning, RowMissingError) and not any(
                kind in ("delete", "replace") for kind, *_ in operations
            ):
                meaning = StoreError("nothing answers here as a table does: is the endpoint right?")
            raise meaning from error
        return [str(answer.get("etag") or "") for answer in answers]

    async def query(self, partition: str, low: str, high: str, top: int | None = None) -> list[StoredRow]:
        """See `ITableGateway.query`."""
        rows: list[StoredRow] = []
        size = PAGE if top is None else min(top, PAGE)
        async with aclosing(self.pages((partition, partition), (low, high), size=size)) as pages:
            async for page in pages:
                rows += page
                if top is not None and len(rows) >= top:
                    return rows[:top]
        return rows

    async def query_with_time(
        self, partition: str, low: str, high: str, top: int = PAGE
    ) -> tuple[list[StoredRow], datetime]:
        """See `ITableGateway.query_with_time`."""
        shown: list[str] = []
        pages = self._pages((partition, partition), (low, high), PAGE, lambda answer: shown.append(_date_of(answer)))
        rows = [row async for page in pages for row in page]
        try:
            return rows[:top], parsedate_to_datetime(shown[-1])
        except (ValueError, IndexError):
            raise StoreUnavailableError("Table Storage answered without the time: is a proxy in between?") from None

    def pages(
        self, partitions: tuple[str, str], keys: tuple[str, str] | None = None, *, size: int = PAGE
    ) -> AsyncGenerator[Sequence[StoredRow], None]:
        """See `ITableGateway.pages`."""
        return self._pages(partitions, keys, size)

    async def _pages(
        self,
        partitions: tuple[str, str],
        keys: tuple[str, str] | None,
        size: int,
        hook: Callable[[Any], None] | None = None,
    ) -> AsyncGenerator[Sequence[StoredRow], None]:
        condition, parameters = _selection(partitions, keys)
        options: dict[str, Any] = {} if hook is None else {"raw_response_hook": hook}
        pages = self._client.query_entities(
            condition, parameters=parameters, results_per_page=size, **options
        ).by_page()
        while True:
            try:
                # The SDK waits as long as a Retry-After says, and for as long as a byte trickles in now and then.
                async with asyncio.timeout(self._patience):
                    page = await anext(pages, None)
                    rows = [] if page is None else [row async for row in page]
            except _TRANSPORT as error:
                raise meaning(error) from error
            if page is None:
                return
            yield [{**row, TAG: str(row.metadata["etag"]), TIME: row.metadata["timestamp"].isoformat()} for row in rows]

    async def create_table(self) -> None:
        """See `ITableGateway.create_table`."""
        try:
            await self._client.create_table()
        except HttpResponseError as error:
            if code_of(error) != TableErrorCode.TABLE_ALREADY_EXISTS:
                raise meaning(error) from error
        except _TRANSPORT as error:
            raise meaning(error) from error

    async def open(self) -> None:
        """See `ITableGateway.open`."""
        await self._client.__aenter__()

    async def close(self) -> None:
        """See `ITableGateway.close`."""
        await self._client.close()


def _for_the_sdk(operation: Operation) -> tuple[str, Row, dict[str, Any]]:
    # Whole, because merging would keep columns of what was there.
    mode = {} if operation[0] in ("create", "delete") else {"mode": UpdateMode.REPLACE}
    if len(operation) == 2:  # noqa: PLR2004 - without a tag
        return (operation[0], operation[1], mode)
    if _ETAG.fullmatch(operation[2]) is None:
        raise RowExistsError  # no row ever had it
    only_if = {"etag": operation[2], "match_condition": MatchConditions.IfNotModified}
    return ("update" if operation[0] == "replace" else "delete", operation[1], {**mode, **only_if})


def _selection(partitions: tuple[str, str], keys: tuple[str, str] | None) -> tuple[str, dict[str, str]]:
    """The condition, in the one spelling the SDK fills in correctly, and what to fill in."""
    first, last = partitions
    condition, parameters = "PartitionKey eq @first", {"first": first}
    if first != last:
        condition, parameters = "PartitionKey ge @first and PartitionKey le @last", {"first": first, "last": last}
    if keys is None:
        return condition, parameters
    return f"{condition} and RowKey ge @low and RowKey le @high", {**parameters, "low": keys[0], "high": keys[1]}


def _date_of(answer: Any) -> str:
    return str(answer.http_response.headers.get("Date", ""))
