"""A store in memory whose every call gives way to others, is counted, and can fail or be a process's last.

Two instances made with `another` hold the same data: what outlives a process.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from esazure.documents import Document, DocumentPage
from esazure.errors import StoreUnavailableError
from esazure.events import CommitRecord
from esazure.memory import InMemoryStore

T = TypeVar("T")


class Died(BaseException):
    """The process died at this call. Not an error: nothing may survive it by accident."""


class WatchedStore(InMemoryStore):
    """Everything a process can reach."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        """What was called, as `method subject`."""
        self.turns: Callable[[], int] = lambda: 1
        """How many turns of the event loop others get before and after a call."""
        self.dies_before: int | None = None
        """Counts calls from 1."""
        self.dies_after: int | None = None
        self.loses_answer: int | None = None
        """This call is carried out, and nobody hears so."""
        self.hooks: dict[str, Callable[[], Awaitable[object]]] = {}
        """What happens just before a call is carried out, by the beginning of its entry in `calls`; once each."""

    def another(self) -> WatchedStore:
        """The same data, for another process."""
        twin = copy.copy(self)
        twin.calls, twin.hooks = [], {}
        twin.dies_before = twin.dies_after = twin.loses_answer = None
        return twin

    def count(self, beginning: str) -> int:
        """How often something was called."""
        return sum(call.startswith(beginning) for call in self.calls)

    async def _call(self, entry: str, action: Callable[[], Awaitable[T]]) -> T:
        self._check_alive()
        self.calls.append(entry)
        number = len(self.calls)
        for _ in range(self.turns()):
            await asyncio.sleep(0)
        if number == self.dies_before:
            self.dies_after = 0
        self._check_alive()
        for beginning in [each for each in self.hooks if entry.startswith(each)]:
            await self.hooks.pop(beginning)()
        answer = await action()
        if number == self.dies_after:
            self.dies_after = 0
        self._check_alive()
        if number == self.loses_answer:
            raise StoreUnavailableError("no answer")
        for _ in range(self.turns()):
            await asyncio.sleep(0)
        self._check_alive()
        return answer

    def _check_alive(self) -> None:
        if self.dies_after == 0:
            raise Died

    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        inner = super()
        return await self._call(
            f"read {stream}", lambda: inner.read(stream, from_version=from_version, to_version=to_version)
        )

    async def scan(
        self, partition: str, aggregate_type: str, *, after: str | None = None
    ) -> AsyncIterator[Sequence[CommitRecord]]:
        streams = super().scan(partition, aggregate_type, after=after)

        async def following() -> Sequence[CommitRecord] | None:
            return await anext(streams, None)

        while (records := await self._call(f"scan {aggregate_type}", following)) is not None:
            yield records

    async def read_document(self, collection: str, key: str) -> Document | None:
        inner = super()
        return await self._call(f"read_document {collection}/{key}", lambda: inner.read_document(collection, key))

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        inner = super()
        return await self._call(
            f"write_document {collection}/{key}", lambda: inner.write_document(collection, key, text, seen=seen)
        )

    async def list_documents(self, collection: str, *, after: str | None = None, limit: int = 100) -> DocumentPage:
        inner = super()
        return await self._call(
            f"list_documents {collection}", lambda: inner.list_documents(collection, after=after, limit=limit)
        )

    async def clear_documents(self, collection: str) -> None:
        inner = super()
        await self._call(f"clear_documents {collection}", lambda: inner.clear_documents(collection))

    def texts(self, collection: str) -> dict[str, str]:
        """What is stored in a collection, seen from the side."""
        return {key: document.text for key, document in self._documents.get(collection, {}).items()}

    def collections(self) -> set[str]:
        """Those that are not empty."""
        return {name for name, documents in self._documents.items() if documents}

    async def put(self, collection: str, key: str, text: str) -> None:
        """Write whatever was there."""
        found: Any = self._documents.get(collection, {}).get(key)
        await super().write_document(collection, key, text, seen=None if found is None else found.tag)
