"""One of each call that a store understands, for tests of what none of them may do. Read `_opening_suite.py` next."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from esazure.ports import ViewRecord
from esazure.testing._counter import Counter, commit_of, counter_with

STREAM = "Counter.a"
_COMMIT = commit_of(STREAM, 1, "a")
_VIEW = ViewRecord("card", "shape", 1, "{}")

Call = Callable[[Any], Awaitable[object]]


async def _all_of(found: AsyncIterator[object]) -> list[object]:
    return [each async for each in found]


async def _got(value: object) -> object:
    return value


CALLS: dict[str, Call] = {
    "store_id": lambda store: _got(store.store_id),
    "insert": lambda store: store.insert(_COMMIT, outbox=True),
    "read": lambda store: store.read(STREAM),
    "load": lambda store: _all_of(store.load(STREAM)),
    "find_command": lambda store: store.find_command(STREAM, "pay-1", forbid=True),
    "remember_command": lambda store: store.remember_command(STREAM, "pay-1", version=0),
    "read_view": lambda store: store.read_view(STREAM, "card"),
    "write_view": lambda store: store.write_view(STREAM, _VIEW, seen=None),
    "unpublished": lambda store: store.unpublished(STREAM, before_version=9),
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
