"""The three outcomes of an append: stored, conflict, unknown.

A request without an answer may have been carried out, or may still be on its way. So the *same rows with the same
commit id* are sent again until the service gives a definite answer, and when a row turns out to be there, the commit id
stored in it tells our own write from somebody else's. Read `store.py` next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from esazure.errors import AppendOutcomeUnknownError, CommandHandledError, ConcurrencyError, StoreError
from esazure.events import CommitRecord
from esazure.tables import commands
from esazure.tables.gateway import ITableGateway, Operation, OutcomeUnknownError, RowExistsError
from esazure.tables.pauses import FIRST_PAUSE, rest
from esazure.tables.rows import commit_key


async def append(
    gateway: ITableGateway, record: CommitRecord, partition: str, operations: Sequence[Operation], *, deadline: float
) -> None:
    """Carry out an append until its outcome is known, for at most `deadline` seconds.

    Raises:
        CommandHandledError: its command belongs to another commit, or to none, for good.
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
                except StoreError as error:
                    last = error
                    if ambiguous:
                        break
                    raise
                else:
                    return
                pause = await rest(pause, wait)
    except TimeoutError:
        pass
    unknown_outcome = AppendOutcomeUnknownError(
        record.stream, expected=record.expected_version, commit_id=record.commit_id
    )
    raise unknown_outcome from last


async def _is_ours(gateway: ITableGateway, record: CommitRecord, partition: str) -> bool:
    """Whether the rows that are there are this very commit; False when they could not be read.

    Raises:
        CommandHandledError: the row of its command is somebody else's, and never changes hands.
        ConcurrencyError: the slot holds another commit, and neither does that.
        AppendOutcomeUnknownError: it is empty; rows of this store are never removed, so somebody erased the stream.
    """
    key = commit_key(record.stream, record.first_version)
    try:
        # The command first: it was there before the slot when both are another's, and decides.
        if record.command_id is not None:
            handled = await commands.read(gateway, partition, record.stream, record.command_id)
            if handled is not None:
                if handled.commit_id != record.commit_id:
                    raise CommandHandledError(record.stream, handled.first_version)
                return True  # one transaction stored it with its commit
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
