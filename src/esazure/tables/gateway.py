"""What the store needs of Table Storage, transactions and range queries, and what their failures mean.

Failures are translated here, by code and type, never by text. For a write there are three answers: it returned
(applied), `RowExistsError`, `RowMissingError` or a `StoreError` (not applied), `OutcomeUnknownError` (nobody knows).

The way there is `rest.py`; read `append.py` next.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Literal, Protocol

from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.data.tables import TableErrorCode

from esazure.errors import StoreError, StoreUnavailableError
from esazure.tables.columns import Row, StoredRow
from esazure.tables.pipeline import SKEW, NotSentError, off_by

Operation = (
    tuple[Literal["create", "upsert", "delete", "touch"], Row] | tuple[Literal["replace", "delete", "touch"], Row, str]
)
"""What to do with a row: `create` it, if it is not there; `upsert`, put it there whatever was there; `replace` it,
whole, `delete` it or `touch` it, which changes no column, if it is there and, where a tag is given, still has it."""

PAGE = 1_000
"""Rows the service gives in one answer, at most."""

_CONFLICT, _PRECONDITION, _NOT_FOUND, _UNAUTHORIZED, _FORBIDDEN = 409, 412, 404, 401, 403
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)
_TAKEN = (None, TableErrorCode.ENTITY_ALREADY_EXISTS, TableErrorCode.UPDATE_CONDITION_NOT_SATISFIED)


class RowExistsError(Exception):
    """A row to create is there, or one has another tag; nothing of it was applied now (it may have been, earlier)."""


class RowMissingError(Exception):
    """A row to delete, to replace or to touch is not there; nothing was applied now."""


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

    async def query_two(
        self, partition: str, low: str, high: str, name: str, columns: Sequence[str]
    ) -> Sequence[StoredRow]:
        """Of the rows of a closed range that are called `name` or count events (`n`), these columns of the first two.

        One request. As for `query`.
        """
        raise NotImplementedError

    async def query_with_time(
        self, partition: str, low: str, high: str, top: int = PAGE
    ) -> tuple[Sequence[StoredRow], datetime]:
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


class TableMissingError(StoreError):
    """The table does not exist."""


def meaning_for_a_write(error: Exception) -> Exception:
    """Only an answer from the service itself that blames the request says: not applied, and never will be."""
    status = getattr(error, "status_code", None)
    if isinstance(error, NotSentError):
        return meaning(error)
    if not isinstance(error, HttpResponseError) or status is None or not _is_refusal(status):
        return OutcomeUnknownError(_retry_after(error))
    code = code_of(error)
    if status in (_CONFLICT, _PRECONDITION) and code in _TAKEN:
        return RowExistsError()
    if status == _NOT_FOUND and code != TableErrorCode.TABLE_NOT_FOUND:
        return RowMissingError()
    return meaning(error)


def meaning(error: Exception) -> StoreError:
    """For a read, or a write that was definitely refused."""
    status = getattr(error, "status_code", None)
    code = code_of(error)
    if isinstance(error, NotSentError):
        return _meaning_of_no_token(error)
    if code == TableErrorCode.TABLE_NOT_FOUND:
        return TableMissingError("the table does not exist: create it in the deployment, or check its name")
    if code == TableErrorCode.TABLE_BEING_DELETED:
        return StoreUnavailableError("the table is being deleted: wait for half a minute, or use another name")
    if not isinstance(error, HttpResponseError) or status is None or not _is_refusal(status):
        return StoreUnavailableError(f"Table Storage did not answer ({_short(error)}): try again later")
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        skew: float = getattr(error, "skew", 0.0)
        what = "check the account, the credential and its roles"
        return StoreError(
            f"Table Storage refused ({_short(error)}): {what if abs(skew) <= SKEW else off_by(skew) + ', correct it'}"
        )
    return StoreError(f"Table Storage refused a request it should accept ({_short(error)}): is the endpoint right?")


def _meaning_of_no_token(error: NotSentError) -> StoreError:
    if error.away:
        return StoreUnavailableError(f"no token could be had, {error}: what issues them is away, try again later")
    return StoreError(f"no token or signature could be made, {error}: check the credential")


def _is_refusal(status: int) -> bool:
    """Whether a status blames the request. Anything else may follow a request that was carried out."""
    return 400 <= status < 500 and status not in (408, 429)  # noqa: PLR2004 - statuses


def _short(error: Exception) -> str:
    """Type, status and code; the service's text can quote keys. When nothing answered, the pipeline's own text."""
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return str(error)
    parts = [type(error).__name__, getattr(error, "status_code", None), code_of(error)]
    return ", ".join(str(part) for part in parts if part is not None)


def code_of(error: Exception) -> str | None:
    """The service's code for an error, if it gave one."""
    code = getattr(error, "error_code", None)
    return None if code is None else str(getattr(code, "value", code))


def _retry_after(error: Exception) -> float | None:
    asked = getattr(error, "retry_after", None)
    return float(asked) if asked is not None and _SECONDS.fullmatch(asked) else None
