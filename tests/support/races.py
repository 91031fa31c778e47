"""A store in memory in which everybody overtakes everybody, by a seed: every call gives way before it is carried out
and before its answer is heard. Read `claims.py` next, which makes the calls fail, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from esazure.documents import Document
from esazure.errors import AppendOutcomeUnknownError, StoreUnavailableError
from esazure.events import CommandRecord, CommitRecord
from esazure.memory import InMemoryStore
from esazure.ports import ViewRecord

T = TypeVar("T")


class RacyStore(InMemoryStore):
    """Each seed is another interleaving of the tasks that use it."""

    def __init__(self, seed: int = 0, *, turns: int = 4) -> None:
        super().__init__()
        self.chance = Random(seed)  # noqa: S311 - not a secret
        self._turns = turns
        self.calls: list[str] = []

    async def call(self, method: str, action: Callable[[], Awaitable[T]], silence: Exception) -> T:
        """Make a call; `silence` is what its caller would hear instead of an answer."""
        self.calls.append(method)
        await self._others_first()
        try:
            return await action()
        finally:
            await self._others_first()

    async def _others_first(self) -> None:
        for _ in range(self.chance.randrange(self._turns)):
            await asyncio.sleep(0)

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        inner = super()
        expected, commit_id = record.expected_version, record.commit_id
        silence = AppendOutcomeUnknownError(record.stream, expected=expected, commit_id=commit_id)
        await self.call("insert", lambda: inner.insert(record, outbox=outbox, views=views), silence)

    async def _plain(self, method: str, action: Callable[[], Awaitable[T]]) -> T:
        return await self.call(method, action, StoreUnavailableError("no answer"))

    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        inner = super()
        return await self._plain("read", lambda: inner.read(stream, from_version=from_version, to_version=to_version))

    async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> CommandRecord | None:
        inner = super()
        return await self._plain("find_command", lambda: inner.find_command(stream, command_id, forbid=forbid))

    async def remember_command(
        self, stream: str, command_id: str, *, version: int, request: str | None = None
    ) -> CommandRecord:
        inner = super()
        return await self._plain(
            "remember_command", lambda: inner.remember_command(stream, command_id, version=version, request=request)
        )

    async def read_view(self, stream: str, name: str) -> ViewRecord | None:
        inner = super()
        return await self._plain("read_view", lambda: inner.read_view(stream, name))

    async def write_view(self, stream: str, view: ViewRecord, *, seen: ViewRecord | None) -> bool:
        inner = super()
        return await self._plain("write_view", lambda: inner.write_view(stream, view, seen=seen))

    async def read_document(self, collection: str, key: str) -> Document | None:
        inner = super()
        return await self._plain("read_document", lambda: inner.read_document(collection, key))

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        inner = super()
        return await self._plain("write_document", lambda: inner.write_document(collection, key, text, seen=seen))

    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:
        inner = super()
        return await self._plain(
            "delete_document", lambda: inner.delete_document(collection, key, seen=seen, erase=erase)
        )
