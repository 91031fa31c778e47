"""The three outcomes of an append: stored, conflict, unknown.

A request without an answer may have been carried out, or may still be on its way. So the *same rows with the same
commit id* are sent again until the service gives a definite answer, and when a slot turns out to be taken, the commit
id stored there tells our own write from somebody else's. Read `store.py` next.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from esazure.errors import AppendOutcomeUnknownError, ConcurrencyError, StoreError
from esazure.events import CommitRecord
from esazure.tables.gateway import ITableGateway, Operation, OutcomeUnknownError, RowExistsError, RowMissingError
from esazure.tables.rows import commit_key

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0


async def append(
    gateway: ITableGateway, record: CommitRecord, partition: str, operations: Sequence[Operation], *, deadline: float
) -> None:
    """Carry out an append until its outcome is known, for at most `deadline` seconds.

    Raises:
        ConcurrencyError: the slot belongs to another commit, for good.
        AppendOutcomeUnknownError: no definite answer in time; the commit may be stored, or still arrive.
        StoreError: refused, and no earlier attempt can have been stored.
    """
    ambiguous = False
    last: BaseException | None = None
    pause = FIRST_PAUSE
    try:
        async with asyncio.timeout(deadline):
            while True:
                wait: float | None = None
                try:
                    await gateway.submit(operations)
                except RowExistsError:
                    if await _is_ours(gateway, record, partition):
                        return
                    ambiguous = True  # the slot is taken, but who has it could not be read
                except OutcomeUnknownError as unknown:
                    ambiguous, last = True, unknown.__cause__ or unknown
                    wait = unknown.retry_after
                except (StoreError, RowMissingError) as error:
                    last = error
                    if ambiguous:
                        break
                    if isinstance(error, StoreError):
                        raise
                    raise StoreError(
                        f"{record.stream}: nothing answers here as a table does: is the endpoint right?"
                    ) from error
                else:
                    return
                # Jitter, also on top of the wait the service asks for: writers that failed together must not come back
                # together.
                await asyncio.sleep((wait or 0.0) + random.uniform(0, pause))  # noqa: S311 - not a secret
                pause = min(2 * pause, LONGEST_PAUSE)
    except TimeoutError:
        pass
    unknown_outcome = AppendOutcomeUnknownError(
        record.stream, expected=record.expected_version, commit_id=record.commit_id
    )
    raise unknown_outcome from last


async def _is_ours(gateway: ITableGateway, record: CommitRecord, partition: str) -> bool:
    """Whether the taken slot holds this very commit; False when it could not be read.

    Raises:
        ConcurrencyError: it holds another one, and a slot never changes hands.
        AppendOutcomeUnknownError: it is empty; rows of this store are never removed, so somebody erased the stream.
    """
    key = commit_key(record.stream, record.first_version)
    try:
        rows = await gateway.query(partition, key, key)
    except StoreError:
        return False
    if not rows:
        raise AppendOutcomeUnknownError(record.stream, expected=record.expected_version, commit_id=record.commit_id)
    stored, count = rows[0].get("cid"), rows[0].get("n")
    if stored == record.commit_id:
        return True
    # At least: how far the stream has got beyond this commit would take another request to know.
    actual = record.expected_version + count if isinstance(count, int) else None
    raise ConcurrencyError(record.stream, expected=record.expected_version, actual=actual)
