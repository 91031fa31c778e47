"""The only place that talks to Table Storage: transactions, range queries, and what their failures mean.

SDK exceptions are translated here, by code and type, never by text. For a write there are three answers: it returned
(applied), `RowExistsError`, `RowMissingError` or a `StoreError` (not applied), `OutcomeUnknownError` (nobody knows).
Read `append.py` next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.data.tables import TableErrorCode
from azure.data.tables.aio import TableClient

from esazure.errors import StoreError, StoreUnavailableError
from esazure.tables.rows import Row

Operation = tuple[Literal["create", "delete"], Row]

# Answers after which the request may have been carried out all the same, and after which it is worth repeating.
_AMBIGUOUS = frozenset({408, 429, 500, 502, 503, 504})
# What a request that never becomes an SDK exception can fail with: a malformed reply, a socket.
_TRANSPORT = (AzureError, HTTPException, OSError)
_CONFLICT, _PRECONDITION, _NOT_FOUND = 409, 412, 404


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

    async def submit(self, operations: Sequence[Operation]) -> None:
        """Apply all or nothing; one attempt."""

    async def query(self, partition: str, low: str, high: str) -> list[Mapping[str, Any]]:
        """The rows of a closed RowKey range, in order; one request for each 1,000."""
        raise NotImplementedError


class SdkTableGateway(ITableGateway):
    """Over `azure.data.tables`."""

    def __init__(self, client: TableClient) -> None:
        self._client = client

    @property
    def address(self) -> str:
        """Where it is, without any credential."""
        parts = urlsplit(self._client.url)
        return f"{parts.scheme}://{parts.netloc}/{self._client.table_name}"

    async def submit(self, operations: Sequence[Operation]) -> None:
        """See `ITableGateway.submit`; a transaction even for one row, because only its errors are exact."""
        try:
            # The SDK would repeat a write by itself and then report our own row as a conflict.
            await self._client.submit_transaction(operations, retry_total=0)
        except _TRANSPORT as error:
            raise _meaning_for_a_write(error) from error

    async def query(self, partition: str, low: str, high: str) -> list[Mapping[str, Any]]:
        """See `ITableGateway.query`."""
        pages = self._client.query_entities(
            "PartitionKey eq @partition and RowKey ge @low and RowKey le @high",
            parameters={"partition": partition, "low": low, "high": high},
        )
        try:
            return [row async for row in pages]
        except _TRANSPORT as error:
            raise _meaning(error) from error

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


class TableMissingError(StoreError):
    """The table does not exist."""


def _meaning_for_a_write(error: Exception) -> Exception:
    status = getattr(error, "status_code", None)
    if not isinstance(error, HttpResponseError) or status is None or status in _AMBIGUOUS:
        return OutcomeUnknownError(_retry_after(error))
    code = _code(error)
    if code in (TableErrorCode.TABLE_BEING_DELETED, TableErrorCode.TABLE_NOT_FOUND):
        return _meaning(error)
    if status in (_CONFLICT, _PRECONDITION):
        return RowExistsError()
    if status == _NOT_FOUND:
        return RowMissingError()
    return _meaning(error)


def _meaning(error: Exception) -> StoreError:
    """For a read, or a write that was definitely refused."""
    status = getattr(error, "status_code", None)
    code = _code(error)
    if code == TableErrorCode.TABLE_NOT_FOUND or (code is None and isinstance(error, ResourceNotFoundError)):
        return TableMissingError("the table does not exist: create it in the deployment, or check its name")
    if code == TableErrorCode.TABLE_BEING_DELETED:
        return StoreUnavailableError("the table is being deleted: wait for half a minute, or use another name")
    if not isinstance(error, HttpResponseError) or status is None or status in _AMBIGUOUS:
        return StoreUnavailableError(f"Table Storage did not answer ({_short(error)}): try again later")
    return StoreError(
        f"Table Storage refused the request ({_short(error)}): check the account, the credential and its roles"
    )


def _short(error: Exception) -> str:
    """Type, status and code; the service's text can quote keys."""
    parts = [type(error).__name__, getattr(error, "status_code", None), _code(error)]
    return ", ".join(str(part) for part in parts if part is not None)


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
