"""The outbox of one repository: what its store has kept of unpublished commits, decoded when it is looked at.

Read `repository.py` next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from esazure.events import Commit, CommitRecord
from esazure.ports import ICommitStore, IOutbox


class StreamOutbox(IOutbox):
    """The outbox of one repository: decodes what the store hands out."""

    def __init__(self, store: ICommitStore, decode: Callable[[CommitRecord], Commit[Any]]) -> None:
        self._store = store
        self._decode = decode

    async def unpublished(self, stream: str, *, before_version: int, limit: int | None = None) -> Sequence[Commit[Any]]:
        """See `IOutbox.unpublished`."""
        return _Decoded(await self._store.unpublished(stream, before_version=before_version, limit=limit), self._decode)

    async def mark_published(self, commit: Commit[Any]) -> None:
        """See `IOutbox.mark_published`."""
        await self._store.mark_published(commit.record)


class _Decoded(Sequence[Commit[Any]]):
    """Commits decoded one at a time, when asked for: one that is damaged must not hold back those before it."""

    def __init__(self, records: Sequence[CommitRecord], decode: Callable[[CommitRecord], Commit[Any]]) -> None:
        self._records = records
        self._decode = decode

    @overload
    def __getitem__(self, index: int) -> Commit[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Commit[Any]]: ...
    def __getitem__(self, index: int | slice) -> Commit[Any] | Sequence[Commit[Any]]:
        if isinstance(index, slice):
            return _Decoded(self._records[index], self._decode)
        return self._decode(self._records[index])

    def __iter__(self) -> Iterator[Commit[Any]]:
        # Not by index, as a sequence does by default: an IndexError of the user's own would look like the end.
        return map(self._decode, self._records)

    def __len__(self) -> int:
        return len(self._records)
