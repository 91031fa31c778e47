"""The only place that talks to Table Storage: transactions, range queries, and what their failures mean.

SDK exceptions are translated here, by code and type, never by text. For a write there are three answers: it returned
(applied), `RowExistsError`, `RowMissingError` or a `StoreError` (not applied), `OutcomeUnknownError` (nobody knows).
Read `append.py` next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
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
from azure.data.tables import TableEntity, TableErrorCode, UpdateMode
from azure.data.tables.aio import TableClient

from esazure.errors import StoreError, StoreUnavailableError
from esazure.tables.rows import Row

Operation = tuple[Literal["create", "delete", "upsert"], Row] | tuple[Literal["update"], Row, Mapping[str, Any]]

# What a request that never becomes an SDK exception can fail with: a malformed reply, a socket.
_TRANSPORT = (AzureError, HTTPException, OSError, UnicodeError)
_CONFLICT, _PRECONDITION, _NOT_FOUND, _UNAUTHORIZED, _FORBIDDEN = 409, 412, 404, 401, 403
_TAKEN = (None, TableErrorCode.ENTITY_ALREADY_EXISTS, TableErrorCode.UPDATE_CONDITION_NOT_SATISFIED)


class RowExistsError(Exception):
    """A row of the transaction is already there; nothing of it was applied now (it may have been, earlier)."""


class RowMissingError(Exception):
    """A row to delete is not there; nothing was applied."""


class OutcomeUnknownError(Exception):
    """Nobody knows whether the transaction was applied, or will be; `retry_after` is the wait the service asked for."""

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__("no definite answer")
        self.retry_after = retry_after


class ITableGateway(Protocol):
    """What the store needs of the service."""

    async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
        """Apply all or nothing; one attempt. Returns the ETag of each row, empty for a deleted one."""
        raise NotImplementedError

    async def query(self, partition: str, low: str, high: str, top: int | None = None) -> Sequence[Mapping[str, Any]]:
        """The rows of a closed RowKey range, in order, at most the first `top`; one request for each 1,000."""
        raise NotImplementedError


class SdkTableGateway(ITableGateway):
    """Over `azure.data.tables`."""

    def __init__(self, client: TableClient, *, patience: float) -> None:
        self._client = client
        self._patience = patience

    @property
    def address(self) -> str:
        """Where it is, without any credential."""
        parts = urlsplit(self._client.url)
        return f"{parts.scheme}://{parts.netloc}/{self._client.table_name}"

    async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
        """See `ITableGateway.submit`; a transaction even for one row, because only its errors are exact."""
        try:
            # The SDK would repeat a write by itself and then report our own row as a conflict.
            answers = await self._client.submit_transaction(operations, retry_total=0)
        except _TRANSPORT as error:
            raise _meaning_for_a_write(error) from error
        return [str(answer.get("etag") or "") for answer in answers]

    async def query(self, partition: str, low: str, high: str, top: int | None = None) -> list[TableEntity]:
        """See `ITableGateway.query`."""
        return await self._rows(partition, low, high, top)

    async def query_with_time(self, partition: str, low: str, high: str) -> tuple[list[TableEntity], datetime]:
        """The same, and what the service's clock showed when it answered: ages are never measured by other clocks."""
        shown: list[str] = []
        rows = await self._rows(partition, low, high, None, lambda answer: shown.append(_date_of(answer)))
        try:
            return rows, parsedate_to_datetime(shown[-1])
        except (ValueError, IndexError):
            raise StoreUnavailableError("Table Storage answered without the time: is a proxy in between?") from None

    async def _rows(
        self, partition: str, low: str, high: str, top: int | None, hook: Callable[[Any], None] | None = None
    ) -> list[TableEntity]:
        options: dict[str, Any] = {} if hook is None else {"raw_response_hook": hook}
        pages = self._client.query_entities(
            "PartitionKey eq @partition and RowKey ge @low and RowKey le @high",
            parameters={"partition": partition, "low": low, "high": high},
            results_per_page=top,
            **options,
        ).by_page()
        rows: list[TableEntity] = []
        try:
            while top is None or len(rows) < top:  # a page may be empty and still not be the last
                # The SDK waits as long as a Retry-After says, and for as long as a byte trickles in now and then.
                async with asyncio.timeout(self._patience):
                    page = await anext(pages, None)
                    if page is None:
                        break
                    rows.extend([row async for row in page])
        except _TRANSPORT as error:
            raise _meaning(error) from error
        return rows if top is None else rows[:top]

    async def create_table(self) -> None:
        """Create the table unless it exists."""
        try:
            await self._client.create_table()
        except HttpResponseError as error:
            if _code(error) != TableErrorCode.TABLE_ALREADY_EXISTS:
                raise _meaning(error) from error
        except _TRANSPORT as error:
            raise _meaning(error) from error

    async def open(self) -> None:
        """Open the connection pool."""
        await self._client.__aenter__()

    async def close(self) -> None:
        """Close it."""
        await self._client.close()


def replacing(row: Row, tag: str) -> Operation:
    """Replace a row, if it is still the one that was seen."""
    only_if = {"etag": tag, "match_condition": MatchConditions.IfNotModified, "mode": UpdateMode.REPLACE}
    return ("update", row, only_if)


class TableMissingError(StoreError):
    """The table does not exist."""


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
