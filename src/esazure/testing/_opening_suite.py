"""What every store promises that has to be opened: no call works before and after, streams and documents alike."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import pytest

from esazure.documents import IDocumentStore
from esazure.errors import StoreError, StoreUnavailableError
from esazure.ports import IOutboxStore, IStreamSource, ViewRecord
from esazure.repository import CommitStore
from esazure.testing._binding import StoreBinding
from esazure.testing._counter import Counter, commit_of, counter_with

_STREAM = "Counter.a"
_COMMIT = commit_of(_STREAM, 1, "a")
_VIEW = ViewRecord("card", "shape", 1, "{}")

Call = Callable[[Any], Awaitable[object]]


async def _all_of(found: AsyncIterator[object]) -> list[object]:
    return [each async for each in found]


async def _got(value: object) -> object:
    return value


CALLS: dict[str, Call] = {
    "store_id": lambda store: _got(store.store_id),
    "insert": lambda store: store.insert(_COMMIT, outbox=True),
    "read": lambda store: store.read(_STREAM),
    "load": lambda store: _all_of(store.load(_STREAM)),
    "find_command": lambda store: store.find_command(_STREAM, "pay-1", forbid=True),
    "read_view": lambda store: store.read_view(_STREAM, "card"),
    "write_view": lambda store: store.write_view(_STREAM, _VIEW, seen=None),
    "unpublished": lambda store: store.unpublished(_STREAM, before_version=9),
    "mark_published": lambda store: store.mark_published(_COMMIT),
    "partitions": lambda store: _got(store.partitions),
    "sweep": lambda store: store.sweep("00"),
    "write_lease": lambda store: store.write_lease("00", None, owner="me", epoch=1),
    "set_aside": lambda store: store.set_aside(_COMMIT, "why"),
    "scan": lambda store: _all_of(store.scan("00", "Counter")),
    "read_document": lambda store: store.read_document("notes", "a"),
    "write_document": lambda store: store.write_document("notes", "a", "text", seen=None),
    "delete_document": lambda store: store.delete_document("notes", "a", seen="0:a:b"),
    "list_documents": lambda store: store.list_documents("notes"),
    "clear_documents": lambda store: store.clear_documents("notes"),
}
"""One of each call of the ports; that none is missing is a test, too."""

ABOVE: dict[str, Call] = {
    "rehydrate": lambda store: store.events(Counter).rehydrate("a"),
    "append": lambda store: store.events(Counter).append(counter_with("a")),
    "find_command of a repository": lambda store: store.events(Counter).find_command("a", "pay-1"),
    "a value claimed": lambda store: store.unique_values("emails").reserve("a", counter_with("a"), "pay-1"),
    "a value's owner": lambda store: store.unique_values("emails").owner("a"),
}
"""What is made of them."""

_NOT_OPENED = {"partitions"}  # which may be known without


@pytest.mark.asyncio
class OpeningPromises(StoreBinding):
    """A binding gives `store` and `another`."""

    async def test_every_call_of_the_ports_is_tried(self) -> None:
        ports: tuple[type[Protocol], ...] = (IOutboxStore, IStreamSource, IDocumentStore)  # type: ignore[valid-type]
        public = {name for port in ports for name in dir(port) if not name.startswith("_")}
        assert public == set(CALLS)

    @pytest.mark.parametrize("when", ["never opened", "closed"])
    async def test_a_store_that_is_not_open_says_so_at_every_call(self, store: CommitStore, when: str) -> None:
        other: Any = self.another(store)
        if not isinstance(other, CommitStore):
            pytest.skip("this binding has nothing to open")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if when == "closed":
                async with other:
                    await other.read(_STREAM)
            for name, call in (CALLS | ABOVE).items():
                if name in _NOT_OPENED or (name == "store_id" and when == "closed"):
                    continue
                with pytest.raises(StoreError, match="not open") as caught:
                    await call(other)
                assert not isinstance(caught.value, StoreUnavailableError), f"{name}: nothing to be tried again"
            del other
            gc.collect()
        assert list(await store.read(_STREAM)) == []
