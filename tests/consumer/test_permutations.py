"""Six messages, two of them delivered twice, in any order: the outcome is that of the right order.

All 720 orders of six messages are tried, and with each of them all 15 choices of the two that come twice. Where the
second copies fall is drawn with a fixed seed: every place as well would be 151,200 deliveries of eight for a single
stream, ten times as many, and the places that matter (before, between, behind the others) are met thousands of times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from random import Random
from typing import Any

import pytest
from tests.consumer.support import Noted, Recorder, deposits, store_events

from esazure import EventEnvelope
from esazure.consumer import Consumer
from esazure.documents import Document, DocumentPage, IDocumentStore
from esazure.integration import IntegrationMessage
from esazure.memory import InMemoryStore

pytestmark = pytest.mark.long


class Shelf(IDocumentStore):
    """The quickest document store there is."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.tags = 0

    async def read_document(self, collection: str, key: str) -> Document | None:
        return self.documents.get(key)

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        self.tags += 1
        self.documents[key] = Document(key, text, str(self.tags))
        return str(self.tags)

    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:
        raise NotImplementedError

    async def list_documents(self, collection: str, *, after: str | None = None, limit: int = 100) -> DocumentPage:
        raise NotImplementedError

    async def clear_documents(self, collection: str) -> None:
        raise NotImplementedError


def schedules(messages: Sequence[IntegrationMessage], seed: int) -> Iterator[list[IntegrationMessage]]:
    dice = Random(seed)  # noqa: S311 - the same each time
    twice = list(combinations(messages, 2))
    for order in permutations(messages):
        for pair in twice:
            schedule = list(order)
            for message in pair:
                schedule.insert(dice.randint(0, len(schedule)), message)
            yield schedule


class Quick(Recorder):
    """Without giving way to others, of whom there are none here."""

    async def handle(self, stream: str, events: Sequence[EventEnvelope[Any]]) -> int:
        handled = events if self.repeatable else events[:1]
        self.seen += [(envelope.aggregate_id, envelope.version) for envelope in handled]
        return handled[-1].version


async def check_all(store: InMemoryStore, messages: Sequence[IntegrationMessage], right: dict[str, list[int]]) -> int:
    """With one lane throughout, or a new one before some of the messages."""
    projection, effects, shelf = Quick("projection"), Quick("effects", repeatable=False), Shelf()
    consumer = Consumer("worker", [projection, effects], positions=shelf, source=store)
    dice, count = Random(7), 0  # noqa: S311 - the same each time
    for schedule in schedules(messages, seed=42):
        shelf.documents.clear()
        lane, restart = consumer.lane(), dice.randrange(16)
        for number, message in enumerate(schedule):
            if number == restart:
                lane = consumer.lane()
            await lane.handle(message)
        for recorder in (projection, effects):
            assert {account: recorder.versions(account) for account in right} == right, schedule
            recorder.seen.clear()
        count += 1
    return count


async def test_of_one_stream() -> None:
    store = InMemoryStore()
    messages = await deposits(store, "ada", 5)
    assert await check_all(store, messages, {"ada": [1, 2, 3, 4, 5, 6]}) == 720 * 15


async def test_of_three_streams_one_of_which_has_an_event_of_no_interest() -> None:
    store = InMemoryStore()
    messages = [*await deposits(store, "ada", 2), *await deposits(store, "grace", 1)]
    messages += await store_events(store, "joan", Noted())
    assert await check_all(store, messages, {"ada": [1, 2, 3], "grace": [1, 2], "joan": []}) == 720 * 15


async def test_without_a_source_nothing_is_handled_twice_or_out_of_order() -> None:
    store, recorder, shelf = InMemoryStore(), Quick(), Shelf()
    messages = await deposits(store, "ada", 5)
    consumer = Consumer("worker", [recorder], positions=shelf, source=None)
    for schedule in schedules(messages, seed=43):
        shelf.documents.clear()
        recorder.seen.clear()
        lane = consumer.lane()
        for message in schedule:
            await lane.handle(message)
        higher: list[int] = []  # than all before
        for message in schedule:
            version = int(message.properties["version"])
            if version > max(higher, default=0):
                higher.append(version)
        assert recorder.versions("ada") == higher, schedule
