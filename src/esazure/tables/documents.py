"""Documents: reading one, listing a collection, clearing it. Read `store.py` next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import groupby

from esazure.documents import Document, DocumentPage, decode_token, encode_token
from esazure.errors import StoreUnavailableError
from esazure.tables.columns import MAX_ROWS, DamagedTextError, StoredRow, are_whole, parts_of, tag_of
from esazure.tables.document_rows import Place, damaged, document_of, key_of, ranges_behind
from esazure.tables.gateway import PAGE, ITableGateway, Operation, OutcomeUnknownError, RowExistsError, RowMissingError
from esazure.tables.pauses import FIRST_PAUSE, rest
from esazure.tables.reading import read_text_rows


async def read(gateway: ITableGateway, collection: str, key: str) -> Document | None:
    """See `IDocumentStore.read_document`. One request."""
    place = Place.of(collection, key)
    try:
        rows = await read_text_rows(gateway, place.partition, place.name)
        return document_of(key, rows) if rows else None
    except DamagedTextError as damage:
        raise damaged(collection, damage) from None


async def page(gateway: ITableGateway, collection: str, after: str | None, limit: int) -> DocumentPage:
    """See `IDocumentStore.list_documents`: by bucket, and in it by encoded key. One request for a small collection."""
    found: list[Document] = []
    async with aclosing(_listed(gateway, collection, decode_token(after), limit)) as documents:
        async for document in documents:
            if len(found) == limit:
                return DocumentPage(found, encode_token(found[-1].key))
            found.append(document)
    return DocumentPage(found, None)


async def clear(gateway: ITableGateway, collection: str, *, deadline: float) -> None:
    """See `IDocumentStore.clear_documents`. One request for each 1,000 rows, and one for each 100.

    Raises:
        StoreUnavailableError: `deadline` seconds without getting any further.
        StoreError: refused.
    """
    for partitions, keys in ranges_behind(collection, None):
        async with aclosing(gateway.pages(partitions, keys)) as pages:
            async for rows in pages:
                for _, same in groupby(rows, lambda row: str(row["PartitionKey"])):
                    bucket = list(same)
                    for start in range(0, len(bucket), MAX_ROWS):
                        await _erase(gateway, collection, bucket[start : start + MAX_ROWS], deadline)


async def _erase(gateway: ITableGateway, collection: str, rows: Sequence[StoredRow], deadline: float) -> None:
    """Delete some rows of one partition, as they are now; others may be doing so, too."""
    partition, low, high = str(rows[0]["PartitionKey"]), str(rows[0]["RowKey"]), str(rows[-1]["RowKey"])
    pause = FIRST_PAUSE
    try:
        async with asyncio.timeout(deadline):
            while rows:
                wait: float | None = None
                try:
                    # Under their tags, so that no copy that arrives late deletes what was written afterwards.
                    deletions: list[Operation] = [
                        ("delete", {"PartitionKey": partition, "RowKey": str(row["RowKey"])}, tag_of(row))
                        for row in rows
                    ]
                    await gateway.submit(deletions)
                except OutcomeUnknownError as unknown:
                    wait = unknown.retry_after
                except (RowExistsError, RowMissingError):
                    rows = await gateway.query(partition, low, high, MAX_ROWS)
                else:
                    return
                pause = await rest(pause, wait)
    except TimeoutError as error:
        raise StoreUnavailableError(f"{collection}: it could not be cleared wholly: do it again") from error


async def _listed(
    gateway: ITableGateway, collection: str, behind: str | None, limit: int
) -> AsyncGenerator[Document, None]:
    """Documents in the order of a listing; whoever wants no more of them stops."""
    try:
        for partitions, keys in ranges_behind(collection, behind):
            # One more than wanted tells whether there are more.
            pages = gateway.pages(partitions, keys, size=min(limit + 1, PAGE))
            async with aclosing(_by_document(collection, pages)) as documents:
                async for key, rows in documents:
                    # Rows of two writes, when there was one between two pages.
                    found = document_of(key, rows) if are_whole(rows) else await read(gateway, collection, key)
                    if found is not None:
                        yield found
    except DamagedTextError as damage:
        raise damaged(collection, damage) from None


async def _by_document(
    collection: str, pages: AsyncGenerator[Sequence[StoredRow], None]
) -> AsyncGenerator[tuple[str, Sequence[StoredRow]], None]:
    """The key and the rows of each document, as soon as all that it counts are there."""
    rows: list[StoredRow] = []
    of = ""
    async with aclosing(pages):
        async for found in pages:
            for row in found:
                key, part = key_of(collection, row)
                if rows and key != of:
                    yield of, rows
                    rows = []
                if not part or rows:  # else it is left from a longer text
                    of = key
                    rows.append(row)
                if rows and len(rows) > parts_of(rows[0]):
                    yield of, rows
                    rows = []
    if rows:
        yield of, rows
