"""The three outcomes of an append: stored, conflict, unknown.

A request without an answer may have been carried out, or may still be on its way. So the *same rows with the same
commit id* are sent again until the service gives a definite answer, and when a row turns out to be there, the commit id
stored in it tells our own write from somebody else's.

A row that is not there yet says nothing of what is before it. So the transaction also touches the row of the commit it
follows, under the ETag this row was seen with: whatever else is there by now, or nothing, keeps the commit out. The
first commit of a stream touches the row of `layout.py` instead. Read `store.py` next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from esazure.errors import AppendOutcomeUnknownError, ConcurrencyError, StoreError
from esazure.events import CommitRecord
from esazure.tables import commands
from esazure.tables.columns import Row, tag_of
from esazure.tables.gateway import ITableGateway, Operation, OutcomeUnknownError, RowExistsError, RowMissingError
from esazure.tables.layout import Layout, presence, settle
from esazure.tables.pauses import FIRST_PAUSE, rest
from esazure.tables.rows import commit_key, commits_range, first_version_in, tag_for, touch_of


async def append(
    gateway: ITableGateway,
    layout: Layout,
    record: CommitRecord,
    partition: str,
    operations: Sequence[Operation],
    *,
    deadline: float,
) -> None:
    """Carry out an append until its outcome is known, for at most `deadline` seconds; then the record has its tag.

    The first of the operations creates the commit's row.

    Raises:
        CommandHandledError: its command belongs to another commit, or to none, for good.
        ConcurrencyError: the slot belongs to another commit, or what it follows is not there, for good.
        AppendOutcomeUnknownError: no definite answer in time; the commit may be stored, or still arrive.
        StoreMismatchError: the table is not the one that was opened.
        StoreError: refused, and no earlier attempt can have been stored.
    """
    touch = _touch(layout, record, partition)
    ambiguous = refused = False
    last: BaseException | None = None
    pause = FIRST_PAUSE
    with suppress(TimeoutError):
        async with asyncio.timeout(deadline):
            while True:
                wait: float | None = None
                try:
                    if touch is None:
                        touch = await _look(gateway, layout, record, partition, first=not refused)
                        if touch is None:
                            return
                        if refused:  # for what reason is not known then
                            pause = await rest(pause)
                    tags = await _submit(gateway, layout, partition, [*operations, touch])
                    record.tag = tag_for(record.first_version, tags[0])
                except (RowExistsError, RowMissingError):
                    refused, touch = True, None
                    continue
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
    unknown_outcome = AppendOutcomeUnknownError(
        record.stream, expected=record.expected_version, commit_id=record.commit_id
    )
    raise unknown_outcome from last


def _touch(layout: Layout, record: CommitRecord, partition: str) -> Operation | None:
    """What keeps a commit out unless it follows what it is after; None when nobody said what that is."""
    if record.expected_version:
        return touch_of(partition, record.stream, record.after)
    return "touch", presence(layout, partition)


async def _submit(
    gateway: ITableGateway, layout: Layout, partition: str, operations: Sequence[Operation]
) -> Sequence[str]:
    """One attempt; the first time that a shard gets a stream it takes another one."""
    try:
        return await gateway.submit(operations)
    except RowMissingError:
        if operations[-1] != ("touch", presence(layout, partition)):
            raise
    await settle(gateway, layout, partition)
    return await gateway.submit(operations)


async def _look(
    gateway: ITableGateway, layout: Layout, record: CommitRecord, partition: str, *, first: bool
) -> Operation | None:
    """What there is where this commit goes: None when it is this very commit, else what it has to touch.

    Raises:
        OutcomeUnknownError: it could not be read.
        CommandHandledError: the row of its command is somebody else's, and never changes hands.
        ConcurrencyError: the slot holds another commit, or what this one follows is not there; neither does that.
        CorruptStreamError: a row was not written by this library.
    """
    stream, expected = record.stream, record.expected_version
    try:
        # The command first: it was there before the slot when both are another's, and decides.
        if record.command_id is not None:
            handled = await commands.read(gateway, partition, stream, record.command_id)
            if handled is not None and handled.commit_id != record.commit_id:
                raise handled.record.as_error(stream)
        newest_first = commit_key(stream, record.first_version), commits_range(stream)[1]
        rows = await gateway.query(partition, *newest_first, 1)
    except StoreError as error:
        raise OutcomeUnknownError from error
    if not rows:
        if expected:
            raise ConcurrencyError(stream, expected=expected, actual=0)
        return "touch", presence(layout, partition)
    begins, commit_id, count = first_version_in(stream, rows[0]), rows[0].get("cid"), rows[0].get("n")
    tag = tag_for(begins, tag_of(rows[0]))
    if begins == record.first_version and commit_id == record.commit_id:
        record.tag = tag
        return None
    # At least: how far the stream has got beyond this commit would take another request to know.
    version = begins + count - 1 if isinstance(count, int) else None
    if version == expected and record.after in ("", tag, commit_id):
        before: Row = {"PartitionKey": partition, "RowKey": commit_key(stream, begins)}
        return "touch", before, tag_of(rows[0])
    if first and record.command_id is not None:  # the other commit of its command may have come between two queries
        return await _look(gateway, layout, record, partition, first=False)
    raise ConcurrencyError(stream, expected=expected, actual=version)
