"""`TableGateway`: transactions and range queries as requests of the service's REST interface, over azure-core.

The SDK (`azure.data.tables`) understands connection strings and credentials, and sends nothing: a request made here
takes a tenth of its work, and keeps the deadline. Read `append.py` next.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

from azure.core.exceptions import AzureError, HttpResponseError
from azure.data.tables import TableErrorCode
from azure.data.tables.aio import TableClient

from esazure.errors import StoreError, StoreUnavailableError
from esazure.tables import multipart
from esazure.tables.columns import TIME, StoredRow, time_of
from esazure.tables.entities import METADATA, MalformedReplyError, code_in, decode_rows
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
from esazure.tables.pipeline import OPTIONS, Pipeline, Reply, skew_of

# What a request can fail with that is nobody's mistake here; whatever else it is says that nobody knows.
_TRANSPORT = (AzureError, MalformedReplyError, OSError, ValueError)
_OK, _ACCEPTED, _REDIRECTION = 200, 202, 300
_ETAG = re.compile(r'(W/)?"[^"\r\n]+"')


class TableGateway(ITableGateway):
    """One table of one account, as a client of the SDK names it, which itself sends nothing.

    What is sent and what comes back: `multipart.py` and `entities.py`.
    """

    def __init__(self, client: TableClient, *, patience: float, options: Mapping[str, Any] = OPTIONS) -> None:
        self._client = client
        self._patience = patience
        self._pipeline = Pipeline(client.url, client.credential, options)
        self._tables = f"{client.url}/Tables"
        self._table = f"{client.url}/{client.table_name}"
        self._batch = f"{client.url}/$batch"
        self._name = str(uuid4())
        self._write = {"Content-Type": multipart.content_type(self._name), "Accept": "application/json"}
        self._read = {"Accept": METADATA}

    @property
    def address(self) -> str:
        """See `ITableGateway.address`."""
        parts = urlsplit(self._table)
        return f"{parts.scheme}://{parts.netloc}/{self._client.table_name}"

    async def open(self) -> None:
        """See `ITableGateway.open`."""
        await self._pipeline.open()

    async def close(self) -> None:
        """See `ITableGateway.close`."""
        try:
            await self._pipeline.close()
        finally:
            await self._client.close()

    async def create_table(self) -> None:
        """See `ITableGateway.create_table`."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Prefer": "return-no-content"}
        try:
            async with asyncio.timeout(self._patience):
                # To repeat it is harmless: it is there then.
                content = json.dumps({"TableName": self._client.table_name}).encode()
                reply = await self._pipeline.post(self._tables, headers, content, repeat=True)
            if not _OK <= reply.status < _REDIRECTION:
                refusal = UnexpectedAnswerError(reply)
                if code_of(refusal) != TableErrorCode.TABLE_ALREADY_EXISTS:
                    raise refusal
        except _TRANSPORT as error:
            raise meaning(error) from error

    async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
        """See `ITableGateway.submit`; a transaction even for one row, because only its errors are exact."""
        if any(len(operation) > 2 and _ETAG.fullmatch(operation[2]) is None for operation in operations):  # noqa: PLR2004 - with a tag
            raise RowExistsError  # no row ever had it
        content = multipart.encode(operations, self._table, self._name)
        try:
            # A byte now and then is no answer.
            async with asyncio.timeout(self._patience):
                reply = await self._pipeline.post(self._batch, self._write, content)
            return _tags(reply, len(operations))
        except _TRANSPORT as error:
            found = meaning_for_a_write(error)
            if isinstance(found, RowMissingError) and all(kind in ("create", "upsert") for kind, *_ in operations):
                found = StoreError("nothing answers here as a table does: is the endpoint right?")
            raise found from error

    async def query(self, partition: str, low: str, high: str, top: int | None = None) -> list[StoredRow]:
        """See `ITableGateway.query`."""
        size = PAGE if top is None else min(top, PAGE)
        page = await self._pages_as_one(self._url((partition, partition), (low, high), size), top)
        return page.rows[:top]

    async def query_two(
        self, partition: str, low: str, high: str, name: str, columns: Sequence[str]
    ) -> list[StoredRow]:
        """See `ITableGateway.query_two`; keys and tags come along."""
        also = f" and (name eq {_literal(name)} or n ge 1)"
        url = self._url((partition, partition), (low, high), 2, also)
        page = await self._pages_as_one(f"{url}&$select=PartitionKey,RowKey,{TIME},{','.join(columns)}", 2)
        # A column that is asked for and not there is null.
        return [{column: value for column, value in row.items() if value is not None} for row in page.rows[:2]]

    async def query_with_time(
        self, partition: str, low: str, high: str, top: int = PAGE
    ) -> tuple[list[StoredRow], datetime]:
        """See `ITableGateway.query_with_time`."""
        page = await self._pages_as_one(self._url((partition, partition), (low, high), min(top, PAGE)), top)
        if page.time is None or any(time_of(row) is None for row in page.rows):
            raise StoreUnavailableError("Table Storage answered without the time: is a proxy in between?")
        return page.rows[:top], page.time

    async def pages(
        self, partitions: tuple[str, str], keys: tuple[str, str] | None = None, *, size: int = PAGE
    ) -> AsyncGenerator[Sequence[StoredRow], None]:
        """See `ITableGateway.pages`."""
        url = self._url(partitions, keys, size)
        page = await self._page(url)
        yield page.rows
        while page.following:
            page = await self._page(url, page.following)
            yield page.rows

    def _url(self, partitions: tuple[str, str], keys: tuple[str, str] | None, size: int, also: str = "") -> str:
        top = f"&$top={size}" if size < PAGE else ""
        return f"{self._table}()?$filter={quote(_condition(partitions, keys) + also, safe='')}{top}"

    async def _pages_as_one(self, url: str, top: int | None = None) -> _Page:
        """The last page, with the rows of those before it; as many pages as have `top` rows."""
        page = await self._page(url)
        rows = page.rows
        while page.following and (top is None or len(rows) < top):
            page = await self._page(url, page.following)
            rows += page.rows
        page.rows = rows
        return page

    async def _page(self, url: str, following: str = "") -> _Page:
        try:
            # The pipeline waits as long as a Retry-After says, and for as long as a byte trickles in now and then.
            async with asyncio.timeout(self._patience):
                reply = await self._pipeline.get(url + following, self._read)
            if reply.status != _OK:
                raise UnexpectedAnswerError(reply)
            page = _Page(reply)
            if page.following and page.following == following:
                raise MalformedReplyError("the same page again")
        except _TRANSPORT as error:
            raise meaning(error) from error
        else:
            return page


class UnexpectedAnswerError(HttpResponseError):
    """An answer that is not good news; only its numbers and its code, because its text can quote keys."""

    def __init__(self, reply: Reply | multipart.Answer) -> None:
        headers = reply.headers if isinstance(reply, Reply) else {}
        code = code_in(reply.body) or headers.get("x-ms-error-code")
        super().__init__(f"status {reply.status}, code {code}")
        self.status_code = reply.status
        self.error_code = code
        self.retry_after = headers.get("Retry-After")
        self.skew = skew_of(headers)


class _Page:
    """A page of rows, what to add to the address for the next one, and what the service's clock showed."""

    def __init__(self, reply: Reply) -> None:
        headers = reply.headers
        if not headers.get("Content-Type", "").startswith("application/json"):
            raise MalformedReplyError("not a page of rows")
        self.rows = decode_rows(reply.body)
        self.following = ""
        for name in ("NextPartitionKey", "NextRowKey"):
            token = headers.get(f"x-ms-continuation-{name}")
            if token is not None:
                self.following += f"&{name}={quote(token, safe='')}"
        self._date = headers.get("Date", "")

    @property
    def time(self) -> datetime | None:
        try:
            time = parsedate_to_datetime(self._date)
        except (ValueError, TypeError, OverflowError):
            return None
        return time if time.tzinfo is not None else None


def _tags(reply: Reply, count: int) -> list[str]:
    """The tags in the reply to a transaction of so many operations."""
    if reply.status != _ACCEPTED:
        raise UnexpectedAnswerError(reply)
    answers = multipart.decode(reply.headers.get("Content-Type", ""), reply.body)
    for answer in answers:
        if not _OK <= answer.status < _REDIRECTION:
            raise UnexpectedAnswerError(answer)
    if len(answers) != count:
        raise MalformedReplyError("too few or too many answers")
    return [answer.tag for answer in answers]


def _condition(partitions: tuple[str, str], keys: tuple[str, str] | None) -> str:
    first, last = map(_literal, partitions)
    condition = f"PartitionKey eq {first}" if first == last else f"PartitionKey ge {first} and PartitionKey le {last}"
    if keys is not None:
        low, high = map(_literal, keys)
        condition += f" and RowKey ge {low} and RowKey le {high}"
    return condition


def _literal(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
