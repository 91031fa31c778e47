"""Replacing a document: the three outcomes of `append.py`, where what is replaced may change hands.

Every write is conditional on an ETag, or creates a row that was never there: a deleted document leaves its row behind,
without text, unless it is erased. So an attempt that arrives late, when its twin has succeeded, can never change
anything. Whoever lost an answer finds the id of the write in the row, even when others have written since. Read
`documents.py` next.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum
from typing import NamedTuple
from uuid import uuid4

from esazure.errors import StoreError, StoreUnavailableError
from esazure.tables.columns import TAG, DamagedTextError
from esazure.tables.document_rows import Place, Version, damaged, operations_for, removal_of, rows_for
from esazure.tables.gateway import ITableGateway, OutcomeUnknownError, RowExistsError, RowMissingError
from esazure.tables.pauses import FIRST_PAUSE, rest


class _Verdict(Enum):
    DONE, CONFLICT, AGAIN, IN_DOUBT = range(4)


class _Found(NamedTuple):
    verdict: _Verdict
    there: Version | None


async def put(
    gateway: ITableGateway, place: Place, text: str | None, tag: str | None, *, deadline: float
) -> str | None:
    """Write a text, or that there is none any more, in the place of what was seen under a tag (None: nothing).

    Returns the new tag, or None when it is not what was seen. One request, and a look when one to create is there.

    Raises:
        StoreUnavailableError: it is unknown whether it was written.
        StoreError: refused, and no earlier attempt can have been written.
    """
    seen = None if tag is None else Version.parse(tag)
    if seen is None and tag is not None:
        return None
    write_id = uuid4().hex[:12]
    ambiguous = False
    last: BaseException | None = None
    pause = FIRST_PAUSE
    with suppress(TimeoutError):
        async with asyncio.timeout(deadline):
            while True:
                wait: float | None = None
                rows = rows_for(place, text, write_id, seen)
                try:
                    etags = await gateway.submit(operations_for(place, rows, seen))
                    return Version.of({**rows[0], TAG: etags[0]}).tag
                except OutcomeUnknownError as unknown:
                    ambiguous, last, wait = True, unknown.__cause__ or unknown, unknown.retry_after
                except (RowExistsError, RowMissingError):
                    if seen is not None and not ambiguous:
                        return None
                    verdict, seen = await _look(gateway, place, write_id, seen, ambiguous=ambiguous)
                    if verdict in (_Verdict.DONE, _Verdict.CONFLICT):
                        return None if seen is None else seen.tag
                    if verdict is _Verdict.IN_DOUBT:
                        break
                except StoreError as error:
                    if not ambiguous:
                        raise
                    last = error
                    break
                pause = await rest(pause, wait)
    in_doubt = f"{place.collection}: it is unknown whether a document was changed: read it again"
    raise StoreUnavailableError(in_doubt) from last


async def remove(gateway: ITableGateway, place: Place, tag: str, *, deadline: float) -> bool:
    """Remove what was seen under a tag, and leave nothing. One request.

    False when it is not what was seen any more. After a lost answer, one that is gone counts as removed by this call.

    Raises:
        StoreUnavailableError: it is unknown whether it was removed.
        StoreError: refused, and no earlier attempt can have removed it.
    """
    seen = Version.parse(tag)
    if seen is None:
        return False
    last: BaseException | None = None
    pause = FIRST_PAUSE
    with suppress(TimeoutError):
        async with asyncio.timeout(deadline):
            while True:
                try:
                    await gateway.submit(removal_of(place, seen))
                except OutcomeUnknownError as unknown:
                    last = unknown.__cause__ or unknown
                    pause = await rest(pause, unknown.retry_after)
                except RowExistsError:
                    return False
                except RowMissingError:
                    return last is not None
                except StoreError as error:
                    if last is None:
                        raise
                    last = error
                    break
                else:
                    return True
    in_doubt = f"{place.collection}: it is unknown whether a document was changed: read it again"
    raise StoreUnavailableError(in_doubt) from last


async def _look(
    gateway: ITableGateway, place: Place, write_id: str, seen: Version | None, *, ambiguous: bool
) -> _Found:
    """What has come of a write that did not find what it was to replace."""
    try:
        rows = await gateway.query(place.partition, f"{place.name}.0", f"{place.name}.0")
        there = Version.of(rows[0]) if rows else None
    except StoreError:
        return _Found(_Verdict.AGAIN, seen)
    except DamagedTextError as damage:
        raise damaged(place.collection, damage) from None
    if there is not None and write_id in there.writes:
        # When others have written since there is no ETag for it, and nothing can be done with its tag.
        return _Found(_Verdict.DONE, there if there.writes[0] == write_id else there._replace(etag=""))
    if there == seen:
        return _Found(_Verdict.AGAIN, seen)
    if ambiguous and there is not None and not there.follows(seen):
        return _Found(_Verdict.IN_DOUBT, None)
    if seen is None and rows[0].get("gone"):
        return _Found(_Verdict.AGAIN, there)
    return _Found(_Verdict.CONFLICT, None)
