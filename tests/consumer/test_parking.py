"""A handler that fails for good parks its stream: said once, nothing skipped, and it heals when the cause is gone."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import pytest
from tests.consumer.support import (
    Account,
    Deposited,
    Documents,
    Opened,
    Recorder,
    changed,
    deliver,
    deposits,
    fails_at,
    outcome,
    store_events,
)

import esazure.consumer.lane as lane_module
from esazure.consumer import Consumer, ParkedStream
from esazure.documents import IDocumentStore
from esazure.errors import HandlerFailedError, PoisonMessageError, RetryLaterError, StoreUnavailableError
from esazure.handlers import EventHandlers
from esazure.memory import InMemoryStore

KINDS = pytest.mark.parametrize("repeatable", [True, False])


def setting(*recorders: Recorder, with_source: bool = True, attempts: int = 3) -> tuple[InMemoryStore, Consumer]:
    store = InMemoryStore()
    return store, Consumer(
        "worker", recorders, positions=store, source=store if with_source else None, attempts=attempts
    )


async def parked_documents(store: InMemoryStore) -> int:
    return len((await store.list_documents("parked-worker")).documents)


@KINDS
async def test_at_the_last_attempt_the_stream_is_parked_and_the_message_set_aside_once(repeatable: bool) -> None:  # noqa: FBT001
    failing, well = Recorder("failing", trouble=fails_at(2), repeatable=repeatable), Recorder("well")
    store, consumer = setting(failing, well)
    messages = await deposits(store, "ada", 2)
    lane = consumer.lane()

    assert [await outcome(lane, messages[0])] == ["done"]
    assert [await outcome(lane, messages[1], attempt) for attempt in (1, 2, 3)] == ["again", "again", "HandlerFailed"]
    assert [await outcome(lane, messages[2])] == ["done"]
    assert [await outcome(lane, messages[1])] == ["done"]  # a second copy of it

    assert failing.versions("ada") == [1]
    assert well.versions("ada") == [1, 2, 3]
    (parked,) = await consumer.parked()
    assert (parked.handler, parked.stream, parked.version) == ("failing", "Account.ada", 2)
    assert parked.reason.startswith("ValueError at support.py:")
    assert consumer.metrics.parked == 1


async def test_the_dead_letter_says_which_handler_and_which_error_at_which_version() -> None:
    one, two = Recorder("one", trouble=fails_at(1)), Recorder("two", trouble=fails_at(1, error=KeyError))
    store, consumer = setting(one, two, attempts=1)
    with pytest.raises(PoisonMessageError) as caught:
        await consumer.lane().handle((await deposits(store, "ada", 0))[0])
    assert caught.value.reason == "HandlerFailed"
    assert caught.value.description == "one: ValueError at version 1; two: KeyError at version 1"


async def test_parking_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    store, consumer = setting(Recorder("mail", trouble=fails_at(1)), attempts=1)
    with caplog.at_level(logging.WARNING):
        await deliver(consumer, await deposits(store, "ada", 3))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "mail failed at version 1 of Account.ada with ValueError" in caplog.text


async def test_a_poison_error_of_a_handler_parks_at_once() -> None:
    never = Recorder("never", trouble=fails_at(1, error=lambda: PoisonMessageError("TooOld", "before the merger")))
    store, consumer = setting(never)
    assert await outcome(consumer.lane(), (await deposits(store, "ada", 0))[0], 1) == "HandlerFailed"
    assert (await consumer.parked())[0].reason == "PoisonMessageError: TooOld: before the merger"
    assert never.calls == 1


def beside_one_that_waits(failing: Recorder, *, attempts: int = 3) -> tuple[InMemoryStore, Consumer, Recorder]:
    """A handler beside `failing` that makes messages wait, until it has no trouble any more."""
    waiting = Recorder("waiting", trouble=fails_at(1, 2, error=lambda: RetryLaterError("away")))
    store, consumer = setting(failing, waiting, attempts=attempts)
    return store, consumer, waiting


@KINDS
async def test_while_another_one_waits_tries_are_counted_though_the_broker_does_not_count_them(
    repeatable: bool,  # noqa: FBT001
) -> None:
    failing = Recorder("failing", trouble=fails_at(1), repeatable=repeatable)
    store, consumer, _ = beside_one_that_waits(failing)
    (message,) = await deposits(store, "ada", 0)
    lane = consumer.lane()
    for tries in (1, 2, 3, 3, 3, 3):
        assert await outcome(lane, message, 1) == "wait"
        assert failing.calls == tries
        assert [parked.handler for parked in await consumer.parked()] == (["failing"] if tries == 3 else [])
    assert consumer.metrics.parked == 1


async def test_what_was_parked_while_another_one_waited_sets_the_message_aside_once_in_the_end() -> None:
    failing = Recorder("failing", trouble=fails_at(1))
    store, consumer, waiting = beside_one_that_waits(failing)
    (message,) = await deposits(store, "ada", 0)
    lane = consumer.lane()
    for _ in range(5):
        await outcome(lane, message, 1)
    waiting.trouble = None
    with pytest.raises(PoisonMessageError) as caught:
        await lane.handle(message, 1)
    assert (caught.value.reason, caught.value.description) == ("HandlerFailed", "failing: ValueError at version 1")
    assert failing.calls == 3
    assert waiting.versions("ada") == [1]
    failing.trouble = None
    assert await outcome(lane, message, 1) == "done"  # as a dead letter that was sent again


@KINDS
async def test_what_was_parked_while_another_one_waited_goes_on_with_the_next_message(repeatable: bool) -> None:  # noqa: FBT001
    failing = Recorder("failing", trouble=fails_at(1), repeatable=repeatable)
    store, consumer, waiting = beside_one_that_waits(failing)
    messages = await deposits(store, "ada", 1)
    lane = consumer.lane()
    for _ in range(3):
        await outcome(lane, messages[0], 1)
    waiting.trouble = failing.trouble = None
    assert await outcome(lane, messages[0], 1) == "HandlerFailed"
    assert failing.seen == []

    assert await outcome(lane, messages[1], 1) == "done"

    assert failing.versions("ada") == waiting.versions("ada") == [1, 2]
    assert await consumer.parked() == []


async def test_tries_while_another_one_waited_and_attempts_of_the_broker_are_one_count() -> None:
    failing = Recorder("failing", trouble=fails_at(1))
    store, consumer, waiting = beside_one_that_waits(failing)
    (message,) = await deposits(store, "ada", 0)
    lane = consumer.lane()
    assert await outcome(lane, message, 1) == "wait"
    waiting.trouble = None
    assert [await outcome(lane, message, attempt) for attempt in (1, 2)] == ["again", "HandlerFailed"]
    assert failing.calls == 3


async def test_each_message_that_has_to_wait_is_tried_as_often() -> None:
    failing = Recorder("failing")
    store, consumer, waiting = beside_one_that_waits(failing)
    lane = consumer.lane()
    for message in await deposits(store, "ada", 1):
        failing.trouble, waiting.trouble = fails_at(1, 2), fails_at(1, 2, error=lambda: RetryLaterError("away"))
        assert [await outcome(lane, message, 1) for _ in range(2)] == ["wait", "wait"]
        failing.trouble = waiting.trouble = None
        assert await outcome(lane, message, 1) == "done"
    assert failing.versions("ada") == waiting.versions("ada") == [1, 2]
    assert consumer.metrics.parked == 0


async def test_a_message_that_waits_is_not_set_aside_for_one_that_was_resumed_meanwhile() -> None:
    failing = Recorder("failing", trouble=fails_at(1), repeatable=False)
    store, consumer, waiting = beside_one_that_waits(failing, attempts=1)
    (message,) = await deposits(store, "ada", 0)
    lane = consumer.lane()
    assert await outcome(lane, message, 1) == "wait"
    waiting.trouble = failing.trouble = None
    assert await consumer.resume("failing", "Account.ada") == 1
    lane.distrust()
    assert await outcome(lane, message, 1) == "done"
    assert failing.versions("ada") == waiting.versions("ada") == [1]


@KINDS
async def test_when_the_cause_is_gone_the_next_message_lets_it_catch_up(repeatable: bool) -> None:  # noqa: FBT001
    failing = Recorder("failing", trouble=fails_at(2), repeatable=repeatable)
    store, consumer = setting(failing)
    messages = await deposits(store, "ada", 4)
    await deliver(consumer, messages[:4], attempts=3)
    assert len(await consumer.parked()) == await parked_documents(store) == 1
    failing.trouble = None

    assert await deliver(consumer, messages[4:]) == ["done"]

    assert failing.versions("ada") == [1, 2, 3, 4, 5]
    assert await consumer.parked() == []
    assert await parked_documents(store) == 0


async def test_a_parked_stream_is_tried_once_for_each_message() -> None:
    failing = Recorder("failing", trouble=fails_at(2))
    store, consumer = setting(failing)
    messages = await deposits(store, "ada", 4)
    await deliver(consumer, messages[:2], attempts=3)
    calls = failing.calls
    await deliver(consumer, messages[2:])
    assert failing.calls == calls + 3
    assert consumer.metrics.failed == 6


async def test_other_streams_of_the_handler_go_on() -> None:
    failing = Recorder("failing")
    failing.trouble = lambda envelope: ValueError() if envelope.aggregate_id == "ada" else None
    store, consumer = setting(failing, attempts=1)
    messages = [*await deposits(store, "ada", 0), *await deposits(store, "grace", 3)]
    await deliver(consumer, messages)
    assert failing.versions("grace") == [1, 2, 3, 4]
    assert [parked.stream for parked in await consumer.parked()] == ["Account.ada"]


async def test_a_handler_that_got_further_and_fails_again_is_treated_as_new() -> None:
    failing = Recorder("failing", trouble=fails_at(1), repeatable=False)
    store, consumer = setting(failing)
    messages = await deposits(store, "ada", 3)
    await deliver(consumer, messages[:1], attempts=3)
    failing.trouble = fails_at(3)
    lane = consumer.lane()
    assert [await outcome(lane, messages[2], attempt) for attempt in (1, 2, 3)] == ["again", "again", "HandlerFailed"]
    assert failing.versions("ada") == [1, 2]
    assert [parked.version for parked in await consumer.parked()] == [3]


async def test_stuck_again_elsewhere_the_record_moves_on() -> None:
    failing = Recorder("failing", trouble=fails_at(2), repeatable=False)
    store, consumer = setting(failing, attempts=1)
    messages = await deposits(store, "ada", 3)
    assert await deliver(consumer, messages[:2], attempts=1) == ["done", "HandlerFailed"]
    failing.trouble = fails_at(2, error=KeyError)
    assert await deliver(consumer, messages[2:3], attempts=1) == ["done"]
    (parked,) = await consumer.parked()
    assert (parked.version, parked.reason[:8]) == (2, "KeyError")


async def test_something_that_is_away_does_not_make_messages_of_a_parked_stream_wait() -> None:
    failing = Recorder("failing", trouble=fails_at(1))
    store, consumer = setting(failing, attempts=1)
    messages = await deposits(store, "ada", 1)
    await deliver(consumer, messages[:1])
    failing.trouble = fails_at(1, error=lambda: RetryLaterError("away"))
    assert await deliver(consumer, messages[1:]) == ["done"]
    (parked,) = await consumer.parked()
    assert parked.reason.startswith("ValueError")


@KINDS
async def test_resume_lets_it_catch_up_without_a_message(repeatable: bool) -> None:  # noqa: FBT001
    failing = Recorder("failing", trouble=fails_at(2), repeatable=repeatable)
    store, consumer = setting(failing)
    messages = await deposits(store, "ada", 2)
    await deliver(consumer, messages, attempts=3)
    await store_events(store, "ada", Deposited(amount=1))  # its message has not arrived
    failing.trouble = None

    assert await consumer.resume("failing", "Account.ada") == 4

    assert failing.versions("ada") == [1, 2, 3, 4]
    assert list(await consumer.parked()) == []
    assert await parked_documents(store) == 0
    assert await deliver(consumer, messages) == ["done"] * 3
    assert failing.versions("ada") == [1, 2, 3, 4]


async def test_a_lane_at_work_learns_what_was_resumed() -> None:
    failing = Recorder("failing", trouble=fails_at(2), repeatable=False)
    store, consumer = setting(failing, attempts=1)
    messages = await deposits(store, "ada", 3)
    lane = consumer.lane()
    for message in messages[:2]:
        await outcome(lane, message)
    failing.trouble = None
    await consumer.resume("failing", "Account.ada")
    for message in messages[1:]:
        await lane.handle(message)
    assert failing.versions("ada") == [1, 2, 3, 4]


async def test_resume_says_when_it_fails_again() -> None:
    failing = Recorder("failing", trouble=fails_at(2), repeatable=False)
    store, consumer = setting(failing)
    await deliver(consumer, await deposits(store, "ada", 3), attempts=3)
    failing.trouble = fails_at(3)
    with pytest.raises(HandlerFailedError, match=r"failing failed at version 3 of Account\.ada with ValueError"):
        await consumer.resume("failing", "Account.ada")
    assert [(parked.version) for parked in await consumer.parked()] == [3]
    failing.trouble = fails_at(3, error=lambda: StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        await consumer.resume("failing", "Account.ada")
    assert len(await consumer.parked()) == 1


async def test_resuming_what_is_not_parked_changes_nothing() -> None:
    recorder = Recorder()
    store, consumer = setting(recorder)
    await deliver(consumer, await deposits(store, "ada", 1))
    assert await consumer.resume("recorder", "Account.ada") == 2
    assert await consumer.resume("recorder", "Account.nobody") == 0
    assert recorder.versions("ada") == [1, 2]


@KINDS
async def test_resume_serves_what_was_missed_unless_a_message_with_its_effect_may_be_on_its_way(
    repeatable: bool,  # noqa: FBT001
) -> None:
    recorder = Recorder(repeatable=repeatable)
    store, consumer = setting(recorder)
    messages = await deposits(store, "ada", 3)
    await deliver(consumer, messages[:2])  # the others are on their way
    calls = recorder.calls

    assert await consumer.resume("recorder", "Account.ada") == (4 if repeatable else 2)

    assert recorder.calls - calls == (1 if repeatable else 0)
    assert await deliver(consumer, messages[2:]) == ["done", "done"]
    assert recorder.versions("ada") == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("handler", "stream"), [("other", "Account.ada"), ("recorder", "Invoice.1"), ("recorder", "Account"), ("", "")]
)
async def test_resuming_what_cannot_be_is_refused(handler: str, stream: str) -> None:
    _, consumer = setting(Recorder())
    with pytest.raises(ValueError, match=r"no handler|not a stream name"):
        await consumer.resume(handler, stream)


async def test_resuming_takes_positions_and_a_source() -> None:
    store = InMemoryStore()
    for positions, source in ((None, store), (store, None)):
        consumer = Consumer("worker", [Recorder()], positions=positions, source=source)
        with pytest.raises(ValueError, match="takes positions and a source"):
            await consumer.resume("recorder", "Account.ada")


async def remembered(store: InMemoryStore, stream: str = "Account.ada") -> dict[str, list[str]]:
    """Of which handlers the document of a stream says something."""
    document = await store.read_document("positions-worker", stream)
    said = {} if document is None else json.loads(document.text)
    return {what: sorted(handlers) for what, handlers in said.items()}


async def with_one_gone(documents: IDocumentStore, store: InMemoryStore) -> Consumer:
    """Its handler `new` has seen two events; `old` got to the first, and was parked at the second before it went."""
    messages = await deposits(store, "ada", 1)
    old, new = Recorder("old", trouble=fails_at(2)), Recorder("new")
    before = Consumer("worker", [old, new], positions=documents, source=store, attempts=1)
    assert await deliver(before, messages, attempts=1) == ["done", "HandlerFailed"]
    return Consumer("worker", [new], positions=documents, source=store, attempts=1)


async def test_of_a_handler_that_is_gone_position_and_parking_can_be_forgotten() -> None:
    store = InMemoryStore()
    consumer = await with_one_gone(store, store)
    assert await remembered(store) == {"positions": ["new", "old"], "parked": ["old"]}

    await consumer.forget("old", "Account.ada")

    assert await remembered(store) == {"positions": ["new"], "parked": []}
    assert await consumer.parked() == []
    assert await parked_documents(store) == 0


async def test_a_forgotten_handler_that_comes_back_begins_with_the_first_event_and_no_other_does() -> None:
    store = InMemoryStore()
    await (await with_one_gone(store, store)).forget("old", "Account.ada")
    old, new = Recorder("old"), Recorder("new")
    again = Consumer("worker", [old, new], positions=store, source=store)
    assert await deliver(again, await store_events(store, "ada", Deposited(amount=1))) == ["done"]
    assert old.versions("ada") == [1, 2, 3]
    assert new.versions("ada") == [3]


async def test_a_handler_that_is_there_is_not_forgotten() -> None:
    store, consumer = setting(Recorder("failing", trouble=fails_at(2)), attempts=1)
    await deliver(consumer, await deposits(store, "ada", 1))
    with pytest.raises(ValueError, match="worker still has the handler 'failing': resume it instead"):
        await consumer.forget("failing", "Account.ada")
    assert await remembered(store) == {"positions": ["failing"], "parked": ["failing"]}
    assert await parked_documents(store) == 1


async def test_to_forget_takes_a_stream_name_and_positions() -> None:
    _, consumer = setting(Recorder())
    with pytest.raises(ValueError, match="not a stream name"):
        await consumer.forget("old", "Account")
    forgetful = Consumer("worker", [Recorder()], positions=None, source=None)
    with pytest.raises(ValueError, match="without positions: there is nothing to forget"):
        await forgetful.forget("old", "Account.ada")


@pytest.mark.parametrize(("handler", "stream"), [("nobody", "Account.ada"), ("old", "Account.nobody")])
async def test_forgetting_what_is_not_remembered_changes_nothing(handler: str, stream: str) -> None:
    store = InMemoryStore()
    consumer = await with_one_gone(store, store)
    before = await store.read_document("positions-worker", "Account.ada")
    await consumer.forget(handler, stream)
    assert await store.read_document("positions-worker", "Account.ada") == before
    assert await store.read_document("positions-worker", "Account.nobody") is None
    assert await parked_documents(store) == 1


async def test_what_is_only_listed_any_more_is_struck_off_as_well() -> None:
    """As after a death between the two writes."""
    documents = Documents(store := InMemoryStore())
    consumer = await with_one_gone(documents, store)
    documents.before = lambda call, collection: StoreUnavailableError("away") if call == "delete" else None
    with pytest.raises(StoreUnavailableError):
        await consumer.forget("old", "Account.ada")
    assert (await remembered(store), await parked_documents(store)) == ({"positions": ["new"], "parked": []}, 1)
    documents.before = lambda call, collection: None
    await consumer.forget("old", "Account.ada")
    assert await parked_documents(store) == 0


async def test_what_another_worker_writes_meanwhile_outlives_the_forgetting() -> None:
    documents = Documents(store := InMemoryStore())
    consumer = await with_one_gone(documents, store)
    (message,) = await store_events(store, "ada", Deposited(amount=1))
    other = Recorder("other")
    write = documents.write_document

    async def write_second(collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        documents.write_document = write
        await deliver(Consumer("worker", [other], positions=store, source=store), [message])
        return await write(collection, key, text, seen=seen)

    documents.write_document = write_second
    await consumer.forget("old", "Account.ada")

    assert await remembered(store) == {"positions": ["new", "other"], "parked": []}
    await deliver(Consumer("worker", [other], positions=store, source=store), [message])
    assert other.versions("ada") == [1, 2, 3]
    assert await consumer.parked() == []


async def test_a_lane_at_work_does_not_bring_back_what_was_forgotten() -> None:
    """As while a projection is rebuilt: the lane has served the generation that is gone."""
    store = InMemoryStore()
    messages = await deposits(store, "ada", 2)
    old, new = Recorder("old", trouble=fails_at(2)), Recorder("new")
    current = [old, new]
    generations = Recorder("generations")
    generations.handlers = lambda: tuple(current)
    consumer = Consumer("worker", [generations], positions=store, source=store, attempts=1)
    lane = consumer.lane()
    for message in messages[:2]:
        await outcome(lane, message)
    current.remove(old)
    await consumer.forget("old", "Account.ada")

    assert await outcome(lane, messages[2]) == "done"

    assert await remembered(store) == {"positions": ["new"], "parked": []}


async def test_resuming_does_not_bring_back_what_was_forgotten_meanwhile() -> None:
    documents = Documents(store := InMemoryStore())
    consumer = await with_one_gone(documents, store)
    await store_events(store, "ada", Deposited(amount=1))
    write = documents.write_document

    async def write_second(collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        documents.write_document = write
        await consumer.forget("old", "Account.ada")
        return await write(collection, key, text, seen=seen)

    documents.write_document = write_second
    assert await consumer.resume("new", "Account.ada") == 3
    assert await remembered(store) == {"positions": ["new"], "parked": []}


async def test_many_parked_streams_are_listed_up_to_a_limit() -> None:
    store, consumer = setting(Recorder(trouble=fails_at(1)), attempts=1)
    for number in range(130):
        await deliver(consumer, await deposits(store, f"a{number}", 0))
    assert {parked.stream for parked in await consumer.parked()} == {f"Account.a{number}" for number in range(130)}
    assert len(await consumer.parked(limit=7)) == 7


async def test_a_damaged_entry_of_the_list_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    store, consumer = setting(Recorder(trouble=fails_at(1)), attempts=1)
    await deliver(consumer, await deposits(store, "ada", 0))
    for number, text in enumerate(["{", "[]", '{"handler": 1}', "[" * 100_000]):
        await store.write_document("parked-worker", f"!{number}", text, seen=None)
    assert [parked.stream for parked in await consumer.parked()] == ["Account.ada"]
    assert caplog.text.count("is damaged") == 4


async def test_names_too_long_for_a_key_are_parked_as_well() -> None:
    store, consumer = setting(Recorder(trouble=fails_at(1), name="h" * 80), attempts=1)
    slashes = "/" * 150  # 450 characters once encoded, and more once encoded again
    await deliver(consumer, await deposits(store, slashes, 0))
    (parked,) = await consumer.parked()
    assert parked == ParkedStream("h" * 80, "Account." + "_2F" * 150, 1, parked.reason)


async def test_without_a_source_the_messages_behind_are_set_aside_to_be_sent_again_in_order() -> None:
    failing = Recorder("failing", trouble=fails_at(2))
    well = Recorder("well")
    store, consumer = setting(failing, well, with_source=False)
    messages = await deposits(store, "ada", 4)
    assert await deliver(consumer, messages[:4], attempts=3) == [
        "done",
        "HandlerFailed",
        "StreamParked",
        "StreamParked",
    ]
    assert well.versions("ada") == [1, 2, 3, 4]
    failing.trouble = None

    assert await deliver(consumer, messages[1:]) == ["done"] * 4

    assert failing.versions("ada") == [1, 2, 3, 4, 5]
    assert well.versions("ada") == [1, 2, 3, 4, 5]
    assert await consumer.parked() == []


async def test_without_a_source_what_fails_again_is_set_aside_again() -> None:
    failing = Recorder("failing", trouble=fails_at(2))
    store, consumer = setting(failing, with_source=False)
    messages = await deposits(store, "ada", 1)
    assert await deliver(consumer, [messages[0], messages[1], messages[1]], attempts=3) == [
        "done",
        "HandlerFailed",
        "HandlerFailed",
    ]
    assert len(await consumer.parked()) == 1


async def test_without_positions_parking_lasts_as_long_as_the_lane() -> None:
    failing, store = Recorder("failing", trouble=fails_at(2)), InMemoryStore()
    consumer = Consumer("worker", [failing], positions=None, source=store, attempts=1)
    messages = await deposits(store, "ada", 4)
    assert await deliver(consumer, messages[:3], attempts=1) == ["done", "HandlerFailed", "done"]
    assert await consumer.parked() == []
    await consumer.lane().handle(messages[3])
    assert failing.versions("ada") == [1, 4]


async def test_an_event_that_cannot_be_read_parks_those_who_want_it_and_no_others() -> None:
    store = InMemoryStore()
    openings, all_events = Recorder("openings", wants=(Opened,)), Recorder("all")
    messages = await store_events(store, "ada", Opened(), Deposited(amount=1), Opened())
    stream = store._streams["Account.ada"]
    object.__setattr__(stream[1], "payload", 'Deposited {"sum": "damaged"}')
    consumer = Consumer("worker", [openings, all_events], positions=store, source=store, attempts=1)
    assert await deliver(consumer, messages[2:], attempts=1) == ["HandlerFailed"]
    assert openings.versions("ada") == [1, 3]
    assert all_events.versions("ada") == [1]
    (parked,) = await consumer.parked()
    assert (parked.handler, parked.version) == ("all", 2)
    assert parked.reason.startswith("CorruptStreamError: Account.ada: version 2 is stored as Deposited")


async def test_a_stored_event_whose_name_nobody_declares_is_not_passed_over() -> None:
    store, openings = InMemoryStore(), Recorder("openings", wants=(Opened,))
    messages = await store_events(store, "ada", Opened(), Deposited(amount=1), Opened())
    object.__setattr__(store._streams["Account.ada"][1], "payload", 'Renamed {"owner": "x"}')
    consumer = Consumer("worker", [openings], positions=store, source=store, attempts=1)
    assert await deliver(consumer, messages[2:], attempts=1) == ["HandlerFailed"]
    (parked,) = await consumer.parked()
    assert (parked.version, parked.reason.partition(":")[0]) == (2, "UnknownEventTypeError")
    assert openings.versions("ada") == [1]


@pytest.mark.parametrize("damage", ["gap", "payloads", "missing"])
async def test_a_damaged_stream_parks_it(damage: str) -> None:
    store, recorder = InMemoryStore(), Recorder()
    messages = await deposits(store, "ada", 4)
    stream = store._streams["Account.ada"]
    if damage == "gap":
        del stream[1]
    elif damage == "payloads":
        object.__setattr__(stream[4], "payload", stream[4].payload + "\nDeposited {}")
    else:
        del stream[0]
    consumer = Consumer("worker", [recorder], positions=store, source=store, attempts=1)
    assert await deliver(consumer, messages[4:], attempts=1) == ["HandlerFailed"]
    (parked,) = await consumer.parked()
    assert (parked.version, parked.reason.partition(":")[0]) == (1, "CorruptStreamError")


async def test_a_version_the_store_does_not_hold_is_set_aside_and_harms_nothing() -> None:
    store, recorder = InMemoryStore(), Recorder()
    messages = await deposits(store, "ada", 2)
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    lane = consumer.lane()
    for version in ("9", "5000000000", "9999999998"):
        assert await outcome(lane, changed(messages[0], version=version)) == "NoSuchVersion"
    assert await outcome(lane, changed(messages[0], aggregate="nobody", version="2")) == "NoSuchVersion"
    assert recorder.seen == []
    assert await deliver(consumer, messages) == ["done"] * 3
    assert recorder.versions("ada") == [1, 2, 3]
    assert await consumer.parked() == []


async def test_what_was_served_before_a_version_the_store_does_not_hold_is_not_served_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane_module, "SLICE", 2)
    store, recorder = InMemoryStore(), Recorder()
    *_, last = await deposits(store, "ada", 4)
    lane = Consumer("worker", [recorder], positions=store, source=store).lane()
    assert await outcome(lane, changed(last, version="9")) == "NoSuchVersion"
    assert recorder.versions("ada") == [1, 2, 3, 4]
    another = Recorder()
    assert await deliver(Consumer("worker", [another], positions=store, source=store), [last]) == ["done"]
    assert another.versions("ada") == [5]


@KINDS
async def test_waiting_is_no_try(repeatable: bool) -> None:  # noqa: FBT001
    recorder = Recorder(trouble=fails_at(1, error=lambda: RetryLaterError("away")), repeatable=repeatable)
    store, consumer = setting(recorder, attempts=3)
    (message,) = await deposits(store, "ada", 0)
    lane = consumer.lane()
    for _ in range(5):
        assert await outcome(lane, message, 1) == "wait"
    recorder.trouble = fails_at(1)
    assert [await outcome(lane, message, attempt) for attempt in (1, 2, 3)] == ["again", "again", "HandlerFailed"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_whatever_call_for_documents_is_lost_parking_and_healing_come_to_the_same(when: str) -> None:
    """One call fails, before or after it did its work; everything is delivered again, as a broker would."""
    number = calls = 1
    while number <= calls:
        store = InMemoryStore()
        documents, failing = Documents(store), Recorder("failing", trouble=fails_at(2, times=3))
        consumer = Consumer("worker", [failing], positions=documents, source=store, attempts=3)
        messages = await deposits(store, "ada", 3)

        def away(call: str, collection: str, documents: Documents = documents, at: int = number) -> Exception | None:
            return StoreUnavailableError("away") if len(documents.calls) == at else None

        setattr(documents, when, away)
        became = await deliver(consumer, messages, attempts=9)
        calls = len(documents.calls)
        setattr(documents, when, lambda call, collection: None)
        assert became[2:] == ["done", "done"], number
        assert failing.versions("ada") == [1, 2, 3, 4], number
        assert await consumer.parked() == [], number
        number += 1
    assert number > 8


async def test_a_handler_with_effects_stays_parked_at_the_very_event() -> None:
    store, handlers, sent = InMemoryStore(), EventHandlers("mail"), []
    broken = [True]

    @handlers.on(Account, Deposited)
    def send(envelope: object) -> None:
        if broken[0] and len(sent) == 2:
            raise OSError
        sent.append(getattr(envelope, "version", 0))

    consumer = Consumer("worker", [handlers], positions=store, source=store, attempts=1)
    messages: Sequence = await deposits(store, "ada", 5)
    assert await deliver(consumer, messages[5:], attempts=1) == ["HandlerFailed"]
    assert [(parked.version) for parked in await consumer.parked()] == [4]
    broken[0] = False
    assert await consumer.resume("mail", "Account.ada") == 6
    assert sent == [2, 3, 4, 5, 6]
