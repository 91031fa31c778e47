"""Loads a stream by pages, oldest first, although its newest rows come first: one request for most streams.

The first page has the newest commits. It is all when it goes back to the first version, or to a snapshot. What is
before it is read from the beginning, window by window, so that a stream of any length takes the memory of a few pages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from esazure.events import CommitRecord
from esazure.tables.columns import StoredRow
from esazure.tables.gateway import PAGE, ITableGateway
from esazure.tables.rows import commits_range, records_of, rows_behind, rows_of_whole_commits

_GROWTH = 4
_MOST = 2 * PAGE
"""Rows in memory beside the newest page: what a width that was guessed too large may bring."""


async def load_commits(
    gateway: ITableGateway, partition: str, stream: str, to_version: int | None, tag: str, within: int
) -> AsyncGenerator[Sequence[CommitRecord], None]:
    """See `ICommitStore.load`. One request for each 1,000 commits, a few more when their sizes differ much.

    Raises:
        CorruptStreamError: a row cannot be what was written.
        StoreError: it could not be read.
    """
    # One more than the snapshot is away at most, for the commit that has it.
    size = min(within + 1, PAGE) if tag else PAGE
    rows = await _newest(gateway, partition, commits_range(stream, to_version=to_version), size)
    if not rows:
        return
    for number, row in enumerate(rows if tag else (), start=1):
        if str(row.get("s0")).startswith(f"{tag} "):
            records = records_of(stream, rows[: number + rows_behind(row)])
            if records[0].has_snapshot(tag, to_version):
                yield records
                return
    newest = records_of(stream, rows)
    end = newest[0].first_version - 1
    first = 1
    width = _width((newest[-1].last_version - end) / len(rows), PAGE)
    while first <= end:
        low, high = commits_range(stream, from_version=first, to_version=min(first + width - 1, end))
        rows = await gateway.query(partition, low, high, _MOST)
        if len(rows) == _MOST and width > 1:  # the oldest are missing, and would not fit beside these
            width = max(1, width // _GROWTH)
            continue
        records = records_of(stream, rows)
        if not records:
            break  # rows were removed: who replays this will find the gap
        yield records
        width = _width((records[-1].last_version + 1 - first) / len(rows), width)
        first = records[-1].last_version + 1
    yield newest


async def _newest(gateway: ITableGateway, partition: str, keys: tuple[str, str], size: int) -> Sequence[StoredRow]:
    """The newest commits, as many as a page has."""
    rows: list[StoredRow] = []
    async with aclosing(gateway.pages((partition, partition), keys, size=size)) as pages:
        async for page in pages:
            rows += page
            # A page can end within the rows of a large commit.
            if whole := rows_of_whole_commits(rows):
                return rows[:whole]
    return rows


def _width(events: float, before: int) -> int:
    """How many versions to ask for, so that their rows, of about so many events, fill a page."""
    return max(1, min(int(PAGE * events), _GROWTH * before))
