"""How far a handler has come is never forgotten and never goes back, whoever dies or works on the same stream."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from tests.consumer.support import Documents, Noted, Opened, Recorder, deliver, deposits, outcome, store_events

from esazure.consumer import Consumer, ParkedStream
from esazure.consumer.positions import Place, Positions
from esazure.documents import IDocumentStore
from esazure.errors import CorruptStreamError, PoisonMessageError, RetryLaterError, StoreError, StoreUnavailableError
from esazure.memory import InMemoryStore


async def positions_of(store: IDocumentStore, stream: str = "Account.ada") -> dict[str, int]:
    document = await store.read_document("positions-worker", stream)
    return {} if document is None else json.loads(document.text)["positions"]


async def test_a_position_is_written_once_for_all_repeatable_handlers_of_a_message() -> None:
    store, documents = InMemoryStore(), Documents()
    handlers = [Recorder(f"view-{number}") for number in range(4)]
    consumer = Consumer("worker", handlers, positions=documents, source=store)
    await deliver(consumer, await deposits(store, "ada", 2))
    assert documents.calls == ["read positions-worker", *["write positions-worker"] * 3]


async def test_a_handler_with_effects_has_its_position_written_before_the_next_one_is_called() -> None:
    store, documents = InMemoryStore(), Documents()
    order: list[str] = []
    documents.after = lambda call, collection: order.append(call)
    handlers = []
    for name, repeatable in (("mail", False), ("view", True), ("sms", False)):
        handlers.append(Recorder(name, repeatable=repeatable, trouble=lambda envelope, name=name: order.append(name)))
    consumer = Consumer("worker", handlers, positions=documents, source=store)
    await deliver(consumer, await deposits(store, "ada", 0))
    assert order == ["read", "view", "mail", "write", "sms", "write"]


async def test_filling_a_gap_writes_after_each_effect_and_once_for_a_view() -> None:
    store = InMemoryStore()
    messages = await deposits(store, "ada", 4)
    for repeatable, writes in ((True, 1), (False, 5)):
        documents = Documents()
        consumer = Consumer("worker", [Recorder(repeatable=repeatable)], positions=documents, source=store)
        await deliver(consumer, messages[4:])
        assert documents.calls.count("write positions-worker") == writes


async def test_a_gap_without_anything_of_interest_is_not_read_again() -> None:
    store, recorder = InMemoryStore(), Recorder(wants=(Opened,))
    messages = await store_events(store, "ada", *[Noted()] * 5, Noted(), Noted())
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    await deliver(consumer, messages[4:5])
    assert await positions_of(store) == {"recorder": 5}
    await deliver(consumer, messages[5:6])
    assert consumer.metrics.filled == 4


async def test_when_the_write_after_an_effect_fails_the_lane_remembers_and_writes_later() -> None:
    store, documents = InMemoryStore(), Documents()
    recorder = Recorder(repeatable=False)
    lane = Consumer("worker", [recorder], positions=documents, source=store).lane()
    (message,) = await deposits(store, "ada", 0)
    documents.before = lambda call, collection: StoreUnavailableError("away") if call == "write" else None
    for _ in range(3):
        assert await outcome(lane, message) == "wait"
    documents.before = lambda call, collection: None
    assert await outcome(lane, message) == "done"
    assert recorder.calls == 1
    assert documents.calls.count("write positions-worker") == 4


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_crash_between_an_effect_and_its_position_repeats_it_once_with_the_same_id(repeatable: bool) -> None:  # noqa: FBT001
    store, documents = InMemoryStore(), Documents()

    class CrashError(BaseException):
        pass

    recorder = Recorder(repeatable=repeatable)
    consumer = Consumer("worker", [recorder], positions=documents, source=store)
    messages = await deposits(store, "ada", 2)
    await deliver(consumer, messages[:1])
    documents.before = lambda call, collection: CrashError() if call == "write" else None
    with pytest.raises(CrashError):
        await consumer.lane().handle(messages[1])
    documents.before = lambda call, collection: None
    await deliver(consumer, messages[1:])
    assert recorder.versions("ada") == [1, 2, 2, 3]
    assert recorder.envelopes[1].event_id == recorder.envelopes[2].event_id
    assert len({envelope.event_id for envelope in recorder.envelopes}) == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreUnavailableError("x"), StoreUnavailableError),
        (StoreError("x"), RetryLaterError),
        (CorruptStreamError("x"), PoisonMessageError),
    ],
)
async def test_positions_that_cannot_be_read_make_the_message_wait_unless_they_are_damaged(
    error: Exception, expected: type[Exception]
) -> None:
    store, documents, recorder = InMemoryStore(), Documents(), Recorder()
    documents.before = lambda call, collection: error
    consumer = Consumer("worker", [recorder], positions=documents, source=store, attempts=1)
    (message,) = await deposits(store, "ada", 0)
    with pytest.raises(expected):
        await consumer.lane().handle(message)
    assert recorder.seen == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"positions": {}}',
        '{"positions": [], "parked": {}}',
        '{"positions": {}, "parked": []}',
        '{"positions": {"a": "1"}, "parked": {}}',
        '{"positions": {"a": 1.5}, "parked": {}}',
        '{"positions": {"a": true}, "parked": {}}',
        '{"positions": {}, "parked": {"a": 1}}',
        '{"positions": {}, "parked": {"a": ["1", "why"]}}',
        '{"positions": {}, "parked": {}, "more": 1}',
        "[" * 100_000,
    ],
)
async def test_damaged_positions_set_the_message_aside_and_harm_no_other_stream(text: str) -> None:
    store, recorder = InMemoryStore(), Recorder()
    await store.write_document("positions-worker", "Account.ada", text, seen=None)
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    messages = [*await deposits(store, "ada", 0), *await deposits(store, "grace", 0)]
    assert await deliver(consumer, messages) == ["PositionsDamaged", "done"]
    assert recorder.seen == [("grace", 1)]


async def test_of_two_workers_on_one_stream_none_takes_a_position_back() -> None:
    store, slow, quick = InMemoryStore(), Recorder(), Recorder()
    messages = await deposits(store, "ada", 4)
    old = Consumer("worker", [slow], positions=store, source=store).lane()
    await old.handle(messages[0])
    await deliver(Consumer("worker", [quick], positions=store, source=store), messages)
    assert await positions_of(store) == {"recorder": 5}

    await old.handle(messages[1])  # as far as it knows, this is the next one

    assert await positions_of(store) == {"recorder": 5}
    assert slow.versions("ada") == [1, 2]
    for message in messages[2:]:
        await old.handle(message)
    assert slow.versions("ada") == [1, 2], "it has learnt from the conflict"


async def test_a_lane_that_is_told_to_distrust_repeats_nothing_another_worker_has_done() -> None:
    store, slow, quick = InMemoryStore(), Recorder(repeatable=False), Recorder(repeatable=False)
    messages = await deposits(store, "ada", 3)
    lane = Consumer("worker", [slow], positions=store, source=store).lane()
    await lane.handle(messages[0])
    await deliver(Consumer("worker", [quick], positions=store, source=store), messages[:3])
    lane.distrust()
    for message in messages[1:]:
        await lane.handle(message)
    assert slow.versions("ada") == [1, 4]
    assert quick.versions("ada") == [2, 3]


async def test_what_a_lane_distrusts_it_reads_once_and_trusts_again() -> None:
    store, documents = InMemoryStore(), Documents()
    messages = [*await deposits(store, "ada", 3), *await deposits(store, "grace", 0)]
    lane = Consumer("worker", [Recorder()], positions=documents, source=store).lane()
    for message in (messages[0], messages[1], messages[4]):
        await lane.handle(message)
    documents.calls.clear()
    lane.distrust()
    for message in (messages[2], messages[3], messages[4]):
        await lane.handle(message)
    assert [call.split()[0] for call in documents.calls] == ["read", "write", "write", "read"]


async def test_a_lane_distrusts_until_the_position_could_be_read() -> None:
    store, documents = InMemoryStore(), Documents()
    slow, quick = Recorder(repeatable=False), Recorder(repeatable=False)
    messages = await deposits(store, "ada", 1)
    lane = Consumer("worker", [slow], positions=documents, source=store).lane()
    await lane.handle(messages[0])
    await deliver(Consumer("worker", [quick], positions=documents.inner, source=store), messages)
    lane.distrust()
    documents.before = lambda call, collection: StoreUnavailableError("away")
    assert await outcome(lane, messages[1]) == "wait"
    documents.before = lambda call, collection: None
    assert await outcome(lane, messages[1]) == "done"
    assert slow.versions("ada") == [1]
    assert quick.versions("ada") == [2]


async def test_a_lane_that_distrusts_still_knows_what_it_has_done_and_could_not_write_down() -> None:
    store, documents, recorder = InMemoryStore(), Documents(), Recorder(repeatable=False)
    lane = Consumer("worker", [recorder], positions=documents, source=store).lane()
    messages = await deposits(store, "ada", 1)
    await lane.handle(messages[0])
    documents.before = lambda call, collection: StoreUnavailableError("away") if call == "write" else None
    assert await outcome(lane, messages[1]) == "wait"
    documents.before = lambda call, collection: None
    lane.distrust()
    assert await outcome(lane, messages[1]) == "done"
    assert recorder.versions("ada") == [1, 2]
    assert await positions_of(documents.inner) == {"recorder": 2}


async def test_a_worker_that_finds_a_gap_looks_first_whether_another_one_was_there() -> None:
    store, slow, quick = InMemoryStore(), Recorder(repeatable=False), Recorder(repeatable=False)
    messages = await deposits(store, "ada", 4)
    old = Consumer("worker", [slow], positions=store, source=store).lane()
    await old.handle(messages[0])
    await deliver(Consumer("worker", [quick], positions=store, source=store), messages[1:4])
    await old.handle(messages[4])
    assert slow.versions("ada") == [1, 5]
    assert quick.versions("ada") == [2, 3, 4]


async def test_a_worker_that_is_overtaken_while_it_catches_up_stops_repeating() -> None:
    store = InMemoryStore()
    messages = await deposits(store, "ada", 6)
    quick = Recorder(repeatable=False)
    other = Consumer("worker", [quick], positions=store, source=store)

    class Overtaken(Recorder):
        async def handle(self, stream: str, events: Sequence[Any]) -> int:
            reached = await super().handle(stream, events)
            if reached == 2:
                await deliver(other, messages)
            return reached

    slow = Overtaken(repeatable=False)
    await deliver(Consumer("worker", [slow], positions=store, source=store), messages[6:])
    assert slow.versions("ada") == [1, 2]
    assert quick.versions("ada") == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("seed", range(40))
async def test_two_workers_at_once_repeat_an_effect_once_at_most_and_skip_nothing(seed: int) -> None:
    """Both get all messages, each interleaving of their calls is another; every takeover costs one repeat at most."""
    dice = Random(seed)  # noqa: S311 - the same each time
    store = InMemoryStore()
    messages = await deposits(store, "ada", 5)
    recorders = [Recorder(repeatable=False), Recorder(repeatable=False)]

    async def work(recorder: Recorder) -> None:
        documents = Documents(store)
        lane = Consumer("worker", [recorder], positions=documents, source=store).lane()
        for message in messages:
            for _ in range(dice.randrange(12)):
                await asyncio.sleep(0)
            await lane.handle(message)

    await asyncio.gather(*[work(recorder) for recorder in recorders])

    together = Counter(recorders[0].versions("ada") + recorders[1].versions("ada"))
    assert set(together) == {1, 2, 3, 4, 5, 6}
    assert max(together.values()) <= 2
    for recorder in recorders:
        assert recorder.versions("ada") == sorted(set(recorder.versions("ada")))
    assert await positions_of(store) == {"recorder": 6}


async def test_handlers_of_two_workers_do_not_overwrite_each_other() -> None:
    """As while a new version is rolled out: one worker has a handler the other does not know."""
    store, old, new = InMemoryStore(), Recorder("old"), Recorder("new")
    messages = await deposits(store, "ada", 2)
    one = Consumer("worker", [old], positions=store, source=store).lane()
    two = Consumer("worker", [new], positions=store, source=store).lane()
    for message in messages:
        await one.handle(message)
        await two.handle(message)
    assert await positions_of(store) == {"old": 3, "new": 3}


async def test_what_could_not_be_written_down_outlives_what_another_worker_has_written() -> None:
    store, documents, mail = InMemoryStore(), Documents(), Recorder("mail", repeatable=False)
    (message,) = await deposits(store, "ada", 0)
    lane = Consumer("worker", [mail], positions=documents, source=store).lane()
    documents.before = lambda call, collection: StoreUnavailableError("away") if call == "write" else None
    assert await outcome(lane, message) == "wait"
    documents.before = lambda call, collection: None
    await deliver(Consumer("worker", [Recorder("view")], positions=documents.inner, source=store), [message])
    assert await outcome(lane, message) == "done"
    assert await positions_of(documents.inner) == {"mail": 1, "view": 1}
    assert mail.calls == 1


async def test_consumers_of_different_names_know_nothing_of_each_other() -> None:
    store, recorder = InMemoryStore(), Recorder()
    messages = await deposits(store, "ada", 0)
    for name in ("worker", "other"):
        await deliver(Consumer(name, [recorder], positions=store, source=store), messages)
    assert recorder.versions("ada") == [1, 1]


async def test_stream_names_too_long_for_a_key_have_a_position_of_their_own() -> None:
    store, recorder = InMemoryStore(), Recorder()
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    for account in ("/" * 150, "/" * 149 + "."):
        messages = await deposits(store, account, 1)
        await deliver(consumer, [*messages, *messages])
        assert recorder.versions(account) == [1, 2]


def place(positions: dict[str, int], **parked: int) -> Place:
    found = Place("Account.ada", "tag", dict(positions))
    for handler, version in parked.items():
        found.park(handler, version, "why")
    return found


@pytest.mark.parametrize(
    ("mine", "theirs", "positions", "parked"),
    [
        (place({"a": 3}), place({"a": 5}), {"a": 5}, {}),
        (place({"a": 5}), place({"a": 3}), {"a": 5}, {}),
        (place({"a": 3}), place({"b": 3}), {"a": 3, "b": 3}, {}),
        (place({"a": 3}, a=4), place({"a": 3}), {"a": 3}, {"a": 4}),
        (place({"a": 3}), place({"a": 3}, a=4), {"a": 3}, {"a": 4}),
        (place({"a": 3}, a=4), place({"a": 4}), {"a": 4}, {}),
        (place({"a": 4}), place({"a": 3}, a=4), {"a": 4}, {}),
        (place({"a": 3}, a=4), place({"a": 5}, a=6), {"a": 5}, {"a": 6}),
        (place({"a": 5}, a=6), place({"a": 3}, a=4), {"a": 5}, {"a": 6}),
        (place({"a": 3}, a=4), place({"b": 1}, b=2), {"a": 3, "b": 1}, {"a": 4, "b": 2}),
    ],
)
def test_what_two_workers_know_is_merged(
    mine: Place, theirs: Place, positions: dict[str, int], parked: dict[str, int]
) -> None:
    mine.merge(theirs)
    assert mine.positions == positions
    assert {handler: stuck.version for handler, stuck in mine.parked.items()} == parked
    assert mine.tag == theirs.tag


async def test_what_is_stored_comes_back_as_it_was() -> None:
    store = InMemoryStore()
    positions = Positions("worker", store)
    before = place({"a": 3, "b": 9_999_999_998}, a=4)
    before.tag = None
    await positions.save(before)
    after = await positions.load("Account.ada")
    assert (after.positions, after.parked, after.tag) == (before.positions, before.parked, before.tag)
    assert await positions.parked(10) == [ParkedStream("a", "Account.ada", 4, "why")]


async def test_one_that_another_worker_parks_again_at_that_moment_stays_in_the_list() -> None:
    documents = Documents()
    positions, others = Positions("worker", documents), Positions("worker", documents.inner)
    mine = place({"a": 3}, a=4)
    mine.tag = None
    await positions.save(mine)
    mine.reach("a", 4)
    write = documents.write_document

    async def write_and_be_overtaken(collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        tag = await write(collection, key, text, seen=seen)
        theirs = await others.load("Account.ada")
        theirs.park("a", 6, "why again")
        await others.save(theirs)
        return tag

    documents.write_document = write_and_be_overtaken
    await positions.save(mine)

    assert await positions.parked(10) == [ParkedStream("a", "Account.ada", 6, "why again")]


async def test_what_is_listed_and_no_longer_parked_is_not_shown() -> None:
    """As after a death between the two writes: the document of the stream decides."""
    documents = Documents()
    positions = Positions("worker", documents)
    mine = place({"a": 3, "b": 3}, a=4, b=4)
    mine.tag = None
    await positions.save(mine)
    mine.reach("a", 4)
    documents.before = lambda call, collection: StoreUnavailableError("away") if call == "delete" else None
    with pytest.raises(StoreUnavailableError):
        await positions.save(mine)
    assert len((await documents.inner.list_documents("parked-worker")).documents) == 2
    assert [parked.handler for parked in await positions.parked(10)] == ["b"]


async def test_a_stream_that_has_healed_costs_no_more_than_any_other() -> None:
    documents = Documents()
    positions = Positions("worker", documents)
    mine = place({"a": 3}, a=4)
    mine.tag = None
    await positions.save(mine)
    mine.reach("a", 4)
    await positions.save(mine)
    documents.calls.clear()
    mine.reach("a", 5)
    await positions.save(mine)
    assert documents.calls == ["write positions-worker"]


async def test_a_long_reason_is_cut() -> None:
    store = InMemoryStore()
    positions = Positions("worker", store)
    long = Place("Account.ada")
    long.park("a", 1, "x" * 10**6)
    await positions.save(long)
    assert len((await positions.parked(1))[0].reason) == 1_000
