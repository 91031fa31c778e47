"""A store that loses answers and a producer that fails, both on command."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from esazure.errors import AppendOutcomeUnknownError, DispatchError
from esazure.events import Commit, CommitRecord
from esazure.memory import InMemoryEventProducer, InMemoryStore
from esazure.ports import ViewRecord


class TroubledStore(InMemoryStore):
    """Each `insert` takes the next trouble: None, or an exception before or after the commit was stored."""

    def __init__(self, *troubles: str | BaseException | None) -> None:
        super().__init__()
        self.troubles = list(troubles)
        self.inserted: list[str] = []
        self.calls: list[str] = []
        self.began = asyncio.Event()

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        self.inserted.append(record.commit_id)
        self.calls.append("insert")
        self.began.set()
        trouble = self.troubles.pop(0) if self.troubles else None
        await asyncio.sleep(0)
        if isinstance(trouble, BaseException):
            raise trouble
        if trouble != "lost on the way there":
            await super().insert(record, outbox=outbox, views=views)
        if trouble is not None:
            raise AppendOutcomeUnknownError(record.stream, expected=record.expected_version, commit_id=record.commit_id)

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        self.calls.append("unpublished")
        return await super().unpublished(stream, before_version=before_version, limit=limit)


class TroubledProducer(InMemoryEventProducer):
    """Each `dispatch` takes the next trouble: None or an exception."""

    def __init__(self, *troubles: BaseException | None, max_message_bytes: int = 256_000) -> None:
        super().__init__(max_message_bytes=max_message_bytes)
        self.troubles = list(troubles)

    async def dispatch(self, commit: Commit[Any]) -> None:
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble is not None:
            raise trouble
        await super().dispatch(commit)

    @property
    def versions(self) -> list[int]:
        """The versions that were published, in order."""
        return [int(message.properties["version"]) for message in self.messages]


def broker_down() -> DispatchError:
    return DispatchError("the broker is away")
