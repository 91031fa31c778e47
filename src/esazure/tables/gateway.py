"""The only place that talks to Table Storage: transactions, range queries, and what their failures mean.

SDK exceptions are translated here, by code and type, never by text. For a write there are three answers: it returned
(applied), `RowExistsError`, `RowMissingError` or a `StoreError` (not applied), `OutcomeUnknownError` (nobody knows).
Read `append.py` next.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.data.tables import TableErrorCode, UpdateMode
from azure.data.tables.aio import TableClient

from esazure.errors import StoreError, StoreUnavailableError
from esazure.tables.columns import Row, StoredRow

Operation = tuple[Literal["create", "upsert", "delete"], Row] | tuple[Literal["replace", "delete"], Row, str]
"""What to do with a row: `create` it, if it is not there; `upsert`, put it there whatever was there; `replace` it,
whole, or `delete` it, if it is there and, where a tag is given, still has it."""

PAGE = 1_000
"""Rows the service gives in one answer, at most."""

# What a request that never becomes an SDK exception can fail with: a malformed reply, a socket.
_TRANSPORT = (AzureError, HTTPException, OSError, UnicodeError)
_CONFLICT, _PRECONDITION, _NOT_FOUND, _UNAUTHORIZED, _FORBIDDEN = 409, 412, 404, 401, 403
_ETAG = re.compile(r'(W/)?"[^"\r\n]+"')
_TAKEN = (None, TableErrorCode.ENTITY_ALREADY_EXISTS, TableErrorCode.UPDATE_CONDITION_NOT_SATISFIED)


class RowExistsError(Exception):
    """A row to create is there, or one has another tag; nothing of it was applied now (it may have been, earlier)."""


class RowMissingError(Exception):
    """A row to delete or to replace is not there; nothing was applied now."""


class OutcomeUnknownError(Exception):
    """Nobody knows whether the transaction was applied, or will be; `retry_after` is the wait the service asked for."""

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__("no definite answer")
        self.retry_after = retry_after


class ITableGateway(Protocol):
    """What the store needs of the service. Every failure is one of the errors named here, and none quotes a row."""

    @property
    def address(self) -> str:
        """Where the table is, without any credential; also before it was opened."""
        raise NotImplementedError

    async def open(self) -> None:
        """Get ready; called once, before everything below."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of every connection; called once, after everything else, also when `open` failed."""
        raise NotImplementedError

    async def create_table(self) -> None:
        """Create the table unless it exists.

        Raises:
            StoreError: it could not be created.
        """
        raise NotImplementedError

    async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
        """Apply all of them or none, in one attempt: 1 to 100 different rows of one partition.

        Returns the tag each row has now, empty for a deleted one.

        Raises:
            RowExistsError, RowMissingError: see there.
            OutcomeUnknownError: it may be applied already, later or never.
            StoreError: refused, and never applied; TableMissingError when there is no table.
        """
        raise NotImplementedError

    async def query(self, partition: str, low: str, high: str, top: int | None = None) -> Sequence[StoredRow]:
        """The rows of a closed RowKey range, in order, at most the first `top`; one request for each 1,000.

        Reads the primary, so it shows every write that was answered. More than one request is no snapshot.

        Raises:
            StoreUnavailableError: no answer, however often it was asked within the time this gateway takes.
            StoreError: refused; TableMissingError when there is no table.
        """
        raise NotImplementedError

    async def query_with_time(self, partition: str, low: str, high: str) -> tuple[Sequence[StoredRow], datetime]:
        """The same, and what the service's clock showed when it answered: ages are never measured by other clocks."""
        raise NotImplementedError

    def pages(
        self, partitions: tuple[str, str], keys: tuple[str, str] | None = None, *, size: int = PAGE
    ) -> AsyncGenerator[Sequence[StoredRow], None]:
        """The rows of all partitions from the first to the last one, in order; of each only those in a range of keys.

        Both ranges are closed. One request for each page, which is made when the page is asked for and has `size` rows
        at most; it may have fewer, or none, and not be the last.

        Raises:
            StoreError: as for `query`.
        """
        raise NotImplementedError


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
            meaning = _meaning_for_a_write(error)
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

    async def query_with_time(self, partition: str, low: str, high: str) -> tuple[list[StoredRow], datetime]:
        """See `ITableGateway.query_with_time`."""
        shown: list[str] = []
        pages = self._pages((partition, partition), (low, high), PAGE, lambda answer: shown.append(_date_of(answer)))
        rows = [row async for page in pages for row in page]
        try:
            return rows, parsedate_to_datetime(shown[-1])
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
                raise _meaning(error) from error
            if page is None:
                return
            yield [StoredRow(row, tag=str(row.metadata["etag"]), stored_at=row.metadata["timestamp"]) for row in rows]

    async def create_table(self) -> None:
        """See `ITableGateway.create_table`."""
        try:
            await self._client.create_table()
        except HttpResponseError as error:
            if _code(error) != TableErrorCode.TABLE_ALREADY_EXISTS:
                raise _meaning(error) from error
        except _TRANSPORT as error:
            raise _meaning(error) from error

    async def open(self) -> None:
        """See `ITableGateway.open`."""
        await self._client.__aenter__()

    async def close(self) -> None:
        """See `ITableGateway.close`."""
        await self._client.close()


class TableMissingError(StoreError):
    """The table does not exist."""


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


def _meaning_for_a_write(error: Exception) -> Exception:
    """Only an answer from the service itself that blames the request says: not applied, and never will be."""
    status = getattr(error, "status_code", None)
    if _never_sent(error):
        return _meaning(error)
    if not isinstance(error, HttpResponseError) or status is None or not _is_refusal(status):
        return OutcomeUnknownError(_retry_after(error))
    code = _code(error)
    if status in (_CONFLICT, _PRECONDITION) and code in _TAKEN:
        return RowExistsError()
    if status == _NOT_FOUND and code != TableErrorCode.TABLE_NOT_FOUND:
        return RowMissingError()
    return _meaning(error)


def _meaning(error: Exception) -> StoreError:
    """For a read, or a write that was definitely refused."""
    status = getattr(error, "status_code", None)
    code = _code(error)
    if _never_sent(error):
        return StoreError(f"no token or signature could be made ({_short(error)}): check the credential")
    if code == TableErrorCode.TABLE_NOT_FOUND or (code is None and isinstance(error, ResourceNotFoundError)):
        return TableMissingError("the table does not exist: create it in the deployment, or check its name")
    if code == TableErrorCode.TABLE_BEING_DELETED:
        return StoreUnavailableError("the table is being deleted: wait for half a minute, or use another name")
    if not isinstance(error, HttpResponseError) or status is None or not _is_refusal(status):
        return StoreUnavailableError(f"Table Storage did not answer ({_short(error)}): try again later")
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        return StoreError(f"Table Storage refused ({_short(error)}): check the account, the credential and its roles")
    return StoreError(f"Table Storage refused a request it should accept ({_short(error)}): is the endpoint right?")


def _never_sent(error: Exception) -> bool:
    """Whether the credential failed before anything left this process."""
    return isinstance(error, ClientAuthenticationError) and error.status_code is None


def _is_refusal(status: int) -> bool:
    """Whether a status blames the request. Anything else may follow a request that was carried out."""
    return 400 <= status < 500 and status not in (408, 429)  # noqa: PLR2004 - statuses


def _short(error: Exception) -> str:
    """Type, status and code; the service's text can quote keys."""
    parts = [type(error).__name__, getattr(error, "status_code", None), _code(error)]
    return ", ".join(str(part) for part in parts if part is not None)


def _date_of(answer: Any) -> str:
    return str(answer.http_response.headers.get("Date", ""))


def _code(error: Exception) -> str | None:
    code = getattr(error, "error_code", None)
    return None if code is None else str(getattr(code, "value", code))


def _retry_after(error: Exception) -> float | None:
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After") if response is not None else None
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None
