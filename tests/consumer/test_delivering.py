"""Every handler gets every event it wants, once and in order: duplicates are dropped, gaps are filled, others go on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.consumer.support import (
    Account,
    Customer,
    Deposited,
    Noted,
    Opened,
    Recorder,
    changed,
    deliver,
    deposits,
    fails_at,
    outcome,
    store_events,
)

from esazure import EventEnvelope, EventsService, IntegrationEvent, current_metadata, metadata
from esazure.consumer import Consumer
from esazure.consumer.lane import REMEMBERED, SLICE
from esazure.errors import HandlerFailedError, PoisonMessageError, RetryLaterError, StoreError, StoreUnavailableError
from esazure.handlers import EventHandlers
from esazure.integration import messages_of, thin, whole
from esazure.memory import InMemoryStore

KINDS = pytest.mark.parametrize("repeatable", [True, False])


@KINDS
async def test_each_event_of_interest_is_handled_once_and_in_order(repeatable: bool) -> None:  # noqa: FBT001
    store, recorder = InMemoryStore(), Recorder(repeatable=repeatable)
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    messages = await store_events(store, "ada", Opened(), Noted(), Deposited(amount=1), Noted(), Deposited(amount=2))

    assert await deliver(consumer, messages) == ["done"] * 5

    assert recorder.seen == [("ada", 1), ("ada", 3), ("ada", 5)]
    assert consumer.metrics.handled == 5
    assert consumer.metrics.filled == consumer.metrics.duplicates == consumer.metrics.failed == 0


async def test_the_envelope_says_what_the_stored_one_says() -> None:
    store, recorder = InMemoryStore(), Recorder()
    with metadata(correlation_id="request-7", user="ada", extra={"channel": "app"}):
        messages = await deposits(store, "Grace Hopper/7", 1)
    await deliver(Consumer("worker", [recorder], positions=store, source=store), messages[:1])
    filler = Recorder("filler")
    await deliver(Consumer("other", [filler], positions=store, source=store), messages[1:])

    stream = "Account.Grace_20Hopper_2F7"
    commits = [await store.events(Account)._commit_at(stream, version) for version in (1, 2)]
    stored = [envelope for commit in commits for envelope in commit.events]
    assert filler.envelopes == stored
    assert recorder.envelopes == stored[:1]
    assert dict(recorder.envelopes[0].metadata) == {"correlation_id": "request-7", "user": "ada", "channel": "app"}
    assert recorder.envelopes[0].event_id == stored[0].event_id


@KINDS
async def test_a_message_that_comes_again_is_dropped(repeatable: bool) -> None:  # noqa: FBT001
    store, recorder = InMemoryStore(), Recorder(repeatable=repeatable)
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    messages = await deposits(store, "ada", 2)
    await deliver(consumer, [*messages, *messages])
    await deliver(consumer, messages)  # another lane, as after a restart
    assert recorder.versions("ada") == [1, 2, 3]
    assert consumer.metrics.handled == 3
    assert consumer.metrics.duplicates == 6


async def test_what_no_message_has_brought_is_read_from_the_store() -> None:
    store, recorder = InMemoryStore(), Recorder()
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    messages = await deposits(store, "ada", 6)
    assert await deliver(consumer, [messages[0], messages[4], messages[2], messages[6]]) == ["done"] * 4
    assert recorder.versions("ada") == [1, 2, 3, 4, 5, 6, 7]
    assert consumer.metrics.filled == 4  # 2, 3, 4 and 6
    assert consumer.metrics.duplicates == 1


async def test_one_read_serves_all_handlers_from_the_one_furthest_behind() -> None:
    store = InMemoryStore()
    messages = await deposits(store, "ada", 9)
    reads: list[tuple[int, int | None]] = []

    class Watched(InMemoryStore):
        async def read(self, stream: str, *, from_version: int = 1, to_version: int | None = None) -> Any:
            reads.append((from_version, to_version))
            return await store.read(stream, from_version=from_version, to_version=to_version)

    first, second = Recorder("first"), Recorder("second")
    source = Watched()
    await deliver(Consumer("worker", [first], positions=store, source=source), messages[:4])
    await deliver(Consumer("worker", [first, second], positions=store, source=source), messages[8:9])
    assert reads == [(1, 9)]
    assert first.versions("ada") == second.versions("ada") == list(range(1, 10))


async def test_a_new_handler_gets_the_history_and_the_others_do_not_get_it_again() -> None:
    store, old, new = InMemoryStore(), Recorder("old"), Recorder("new")
    messages = await deposits(store, "ada", 4)
    await deliver(Consumer("worker", [old], positions=store, source=store), messages[:4])
    await deliver(Consumer("worker", [old, new], positions=store, source=store), messages[4:])
    assert old.versions("ada") == new.versions("ada") == [1, 2, 3, 4, 5]


async def test_a_long_history_is_read_in_slices() -> None:
    store, recorder = InMemoryStore(), Recorder()
    accounts = store.events(Account, outbox=True)
    account = Account("ada")
    count = 2 * SLICE + 7
    for number in range(count):  # 50 events a commit: a slice begins and ends within one
        account.record(Deposited(amount=number))
        if number % 50 == 49 or number == count - 1:
            commit = await accounts.append(account)
    assert commit is not None
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    await deliver(consumer, messages_of(commit, whole, 16)[-1:])
    assert recorder.versions("ada") == list(range(1, count + 1))
    assert recorder.calls == 3
    assert consumer.metrics.filled == count - 1


async def test_private_events_leave_gaps_that_are_filled() -> None:
    store, recorder = InMemoryStore(), Recorder(wants=(Opened, Deposited, Noted))

    def public(envelope: EventEnvelope[Any], payload: str) -> IntegrationEvent | None:
        return None if isinstance(envelope.event, Noted) else whole(envelope, payload)

    events = (Opened(), Noted(), Deposited(amount=1), Noted(), Noted(), Deposited(amount=2))
    messages = await store_events(store, "ada", *events, together=True, integration=public)
    assert len(messages) == 3
    await deliver(Consumer("worker", [recorder], positions=store, source=store), messages)
    assert recorder.versions("ada") == [1, 2, 3, 4, 5, 6]


async def test_without_a_source_what_did_not_arrive_is_passed_over() -> None:
    store, recorder = InMemoryStore(), Recorder()
    consumer = Consumer("worker", [recorder], positions=store, source=None)
    messages = await deposits(store, "ada", 4)
    assert await deliver(consumer, [messages[1], messages[0], messages[4], messages[3]]) == ["done"] * 4
    assert recorder.versions("ada") == [2, 5]
    assert consumer.metrics.duplicates == 2


async def test_without_positions_a_lane_goes_on_with_what_comes_first() -> None:
    store, recorder = InMemoryStore(), Recorder()
    consumer = Consumer("worker", [recorder], positions=None, source=None)
    messages = await deposits(store, "ada", 4)
    lane = consumer.lane()
    for message in (messages[2], messages[2], messages[3]):
        await lane.handle(message)
    assert recorder.versions("ada") == [3, 4]
    await consumer.lane().handle(messages[3])  # a new lane knows nothing
    assert recorder.versions("ada") == [3, 4, 4]


async def test_without_positions_gaps_within_a_lane_are_filled() -> None:
    store, recorder = InMemoryStore(), Recorder()
    messages = await deposits(store, "ada", 5)
    await deliver(Consumer("worker", [recorder], positions=None, source=store), [messages[1], messages[4]])
    assert recorder.versions("ada") == [2, 3, 4, 5]


async def test_streams_do_not_disturb_each_other() -> None:
    store, recorder = InMemoryStore(), Recorder()
    ada, grace = await deposits(store, "ada", 2), await deposits(store, "grace", 2)
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    await deliver(consumer, [ada[0], grace[0], grace[1], ada[1], grace[2], ada[2]])
    assert recorder.versions("ada") == recorder.versions("grace") == [1, 2, 3]


async def test_aggregates_nobody_wants_are_ignored_whatever_else_they_say() -> None:
    store, recorder = InMemoryStore(), Recorder()
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    (message,) = await deposits(store, "ada", 0)
    strange = changed(message, aggregate_type="Invoice", type=None, version="x", body="{")
    assert await deliver(consumer, [strange]) == ["done"]
    assert (consumer.metrics.ignored, recorder.seen) == (1, [])


async def test_events_of_no_interest_are_not_decoded_and_not_written_down() -> None:
    store, recorder = InMemoryStore(), Recorder(wants=(Opened,))
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    messages = await deposits(store, "ada", 3)
    await deliver(consumer, messages[:1])
    before = await store.read_document("positions-worker", "Account.ada")
    await deliver(consumer, [changed(message, body='{"amount": "not a number"}') for message in messages[1:]])
    assert before is not None
    assert await store.read_document("positions-worker", "Account.ada") == before
    assert recorder.seen == [("ada", 1)]


async def test_when_one_handler_fails_the_others_are_not_called_again() -> None:
    store = InMemoryStore()
    first, failing, last = Recorder("a"), Recorder("b", trouble=fails_at(1, times=2)), Recorder("c", repeatable=False)
    consumer = Consumer("worker", [first, failing, last], positions=store, source=store)
    (message,) = await deposits(store, "ada", 0)

    for attempt in (1, 2):
        with pytest.raises(HandlerFailedError) as caught:
            await consumer.lane().handle(message, attempt)  # a lane of its own: only what is stored helps
        assert (caught.value.handler, caught.value.stream, caught.value.version) == ("b", "Account.ada", 1)
        assert isinstance(caught.value.__cause__, ValueError)
        assert "ValueError at support.py:" in str(caught.value)
    await consumer.lane().handle(message, 3)

    assert first.seen == failing.seen == last.seen == [("ada", 1)]
    assert (first.calls, failing.calls, last.calls) == (1, 3, 1)
    assert consumer.metrics.failed == 2
    assert await consumer.parked() == []


async def test_what_an_error_of_a_handler_says_is_not_repeated() -> None:
    store = InMemoryStore()
    recorder = Recorder(trouble=fails_at(1, error=lambda: ValueError("secret of Ada")))
    (message,) = await deposits(store, "ada", 0)
    consumer = Consumer("worker", [recorder], positions=store, source=store, attempts=2)
    for attempt, error in ((1, HandlerFailedError), (2, PoisonMessageError)):
        with pytest.raises(error) as caught:
            await consumer.lane().handle(message, attempt)
        assert "secret" not in str(caught.value)
    assert "secret" not in (await consumer.parked())[0].reason


@pytest.mark.parametrize("error", [RetryLaterError("away"), StoreUnavailableError("away")])
async def test_something_that_is_away_makes_the_message_wait_and_counts_as_nothing(error: Exception) -> None:
    store, well = InMemoryStore(), Recorder("well", repeatable=False)
    waiting = Recorder("waiting", trouble=fails_at(1, times=9, error=lambda: error))
    consumer = Consumer("worker", [waiting, well], positions=store, source=store, attempts=1)
    (message,) = await deposits(store, "ada", 0)
    for _ in range(9):
        with pytest.raises(type(error), match="away"):
            await consumer.lane().handle(message, 7)
    await consumer.lane().handle(message, 7)
    assert waiting.seen == well.seen == [("ada", 1)]
    assert well.calls == 1
    assert consumer.metrics.failed == consumer.metrics.parked == 0


async def test_waiting_goes_before_failing_and_failing_before_parking() -> None:
    store = InMemoryStore()
    poisoned = Recorder("poisoned", trouble=fails_at(1, error=lambda: PoisonMessageError("Never")))
    failing = Recorder("failing", trouble=fails_at(1, times=2))
    waiting = Recorder("waiting", trouble=fails_at(1, times=1, error=lambda: RetryLaterError("away")))
    consumer = Consumer("worker", [poisoned, failing, waiting], positions=store, source=store)
    (message,) = await deposits(store, "ada", 0)
    lane = consumer.lane()
    assert await outcome(lane, message, 1) == "wait"
    assert [parked.handler for parked in await consumer.parked()] == ["poisoned"]  # the wait may last for days
    assert await outcome(lane, message, 1) == "again"
    assert await outcome(lane, message, 2) == "HandlerFailed"
    assert [parked.handler for parked in await consumer.parked()] == ["poisoned"]
    assert poisoned.calls == 1
    assert failing.seen == waiting.seen == [("ada", 1)]


async def test_a_source_that_refuses_makes_the_message_wait() -> None:
    store, recorder = InMemoryStore(), Recorder()
    messages = await deposits(store, "ada", 2)

    class Refusing(InMemoryStore):
        error: Exception | None = None

        async def read(self, stream: str, *, from_version: int = 1, to_version: int | None = None) -> Any:
            if self.error is not None:
                raise self.error
            return await store.read(stream, from_version=from_version, to_version=to_version)

    source = Refusing()
    lane = Consumer("worker", [recorder], positions=store, source=source, attempts=1).lane()
    for error, expected in ((StoreUnavailableError("x"), StoreUnavailableError), (StoreError("x"), RetryLaterError)):
        source.error = error
        with pytest.raises(expected):
            await lane.handle(messages[2])
    source.error = None
    await lane.handle(messages[2])
    assert recorder.versions("ada") == [1, 2, 3]


async def test_a_handler_whose_own_task_was_cancelled_has_failed() -> None:
    store = InMemoryStore()
    recorder = Recorder(trouble=fails_at(1, times=1, error=asyncio.CancelledError))
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    (message,) = await deposits(store, "ada", 0)
    with pytest.raises(HandlerFailedError, match="CancelledError"):
        await consumer.lane().handle(message)
    await consumer.lane().handle(message, 2)
    assert recorder.seen == [("ada", 1)]


async def test_cancelling_the_lane_cancels_the_handler_and_the_message_can_come_again() -> None:
    store, handlers, begun, got = InMemoryStore(), EventHandlers("mail"), asyncio.Event(), []

    @handlers.on(Account, Opened)
    async def slow(envelope: EventEnvelope[Opened]) -> None:
        begun.set()
        await asyncio.sleep(0 if got else 60)
        got.append(envelope.version)

    consumer = Consumer("worker", [handlers], positions=store, source=store)
    (message,) = await deposits(store, "ada", 0)
    task = asyncio.create_task(consumer.lane().handle(message))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.read_document("positions-worker", "Account.ada") is None
    got.append(0)
    await consumer.lane().handle(message)
    assert got == [0, 1]


async def test_a_handler_that_says_it_went_back_has_failed() -> None:
    class Backwards(Recorder):
        async def handle(self, stream: str, events: Any) -> int:
            return events[0].version - 1

    store = InMemoryStore()
    consumer = Consumer("worker", [Backwards()], positions=store, source=store)
    with pytest.raises(HandlerFailedError, match="RuntimeError"):
        await consumer.lane().handle((await deposits(store, "ada", 0))[0])


async def test_a_handler_that_went_further_is_not_given_what_it_has_seen() -> None:
    class Reloading(Recorder):
        async def handle(self, stream: str, events: Any) -> int:
            return max(3, await super().handle(stream, events))

    store, recorder = InMemoryStore(), Reloading()
    messages = await deposits(store, "ada", 3)
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    assert await deliver(consumer, messages) == ["done"] * 4
    assert recorder.versions("ada") == [1, 4]
    assert consumer.metrics.duplicates == 2


async def test_thin_messages_take_every_event_from_the_store() -> None:
    store, recorder = InMemoryStore(), Recorder()

    def public(envelope: EventEnvelope[Any], payload: str) -> IntegrationEvent | None:
        return IntegrationEvent("account-changed", '{"nothing": 1}')

    messages = await store_events(store, "ada", Opened(), Noted(), Deposited(amount=7), integration=public)
    messages += await store_events(store, "ada", Deposited(amount=8), integration=thin)
    consumer = Consumer("worker", [recorder], positions=store, source=store, thin=True)
    assert await deliver(consumer, messages) == ["done"] * 4
    assert recorder.versions("ada") == [1, 3, 4]
    assert [envelope.event for envelope in recorder.envelopes[1:]] == [Deposited(amount=7), Deposited(amount=8)]
    assert consumer.metrics.filled == 0


async def test_a_body_the_class_refuses_is_replaced_by_the_stored_event() -> None:
    store, recorder = InMemoryStore(), Recorder()
    messages = await deposits(store, "ada", 1)
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    assert await deliver(consumer, [messages[0], changed(messages[1], body='{"sum": 1}')]) == ["done", "done"]
    assert recorder.envelopes[1].event == Deposited(amount=1)


async def test_events_before_since_are_passed_over() -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC)
    hours_ago = [0]
    store = InMemoryStore(clock=lambda: now - timedelta(hours=hours_ago[0]))
    handlers, got = EventHandlers("mail", since=now), []

    @handlers.on(Account, Opened)
    @handlers.on(Account, Deposited)
    def note(envelope: EventEnvelope[Opened | Deposited]) -> None:
        got.append(envelope.version)

    for hours_ago[0] in (48, 24, 0, 1, 0):
        messages = await store_events(store, "ada", Deposited(amount=1))
    await deliver(Consumer("worker", [handlers], positions=store, source=store), messages)
    assert got == [3, 5]


async def test_a_long_history_before_since_is_written_down_once() -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC)
    store, handlers = InMemoryStore(clock=lambda: now - timedelta(days=1)), EventHandlers("mail", since=now)
    handlers.on(Account, Deposited)(print)
    messages = await deposits(store, "ada", 50)
    writes = 0

    class Counting(InMemoryStore):
        async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
            nonlocal writes
            writes += 1
            return await super().write_document(collection, key, text, seen=seen)

    await deliver(Consumer("worker", [handlers], positions=Counting(), source=store), messages[-1:])
    assert writes <= 2


@pytest.mark.parametrize("correlation_id", [None, "request-7", "x" * 1_024, "x" * 1_025])
async def test_handlers_run_in_a_context_that_names_the_cause(correlation_id: str | None) -> None:
    store, handlers, seen = InMemoryStore(), EventHandlers("mail"), []

    @handlers.on(Account, Opened)
    @handlers.on(Account, Deposited)
    async def note(envelope: EventEnvelope[Opened | Deposited]) -> None:
        await asyncio.sleep(0)
        seen.append((envelope, dict(current_metadata())))

    with metadata(correlation_id=correlation_id, user="ada"):
        messages = await deposits(store, "ada", 1)
    strange = changed(messages[1], **{"Diagnostic-Id": "00-af", "x-opt": "1", "aggregate_id": "?"})
    await deliver(Consumer("worker", [handlers], positions=store, source=store), [messages[0], strange])

    assert len(seen) == 2
    for envelope, context in seen:
        carried = {} if correlation_id is None or len(correlation_id) > 1_024 else {"correlation_id": correlation_id}
        assert context == {"causation_id": str(envelope.event_id), **carried}
    assert dict(current_metadata()) == {}


async def test_what_a_handler_persists_carries_the_cause_of_each_event() -> None:
    store, handlers = InMemoryStore(), EventHandlers("process")
    customers = EventsService(store.events(Customer, outbox=True))

    @handlers.on(Account, Opened)
    @handlers.on(Account, Deposited)
    async def open_customer(envelope: EventEnvelope[Opened | Deposited]) -> None:
        customer = Customer(f"{envelope.aggregate_id}-{envelope.version}")
        customer.record(Opened())
        await customers.persist(customer)

    with metadata(correlation_id="request-7"):
        messages = await deposits(store, "ada", 1)
    await deliver(Consumer("worker", [handlers], positions=store, source=store), messages[1:])  # both from the store

    causes = []
    for version in (1, 2):
        (record,) = await store.read(f"Customer.ada-{version}")
        causes.append(record.metadata)
    assert len(set(causes)) == 2
    assert all('"correlation_id":"request-7"' in cause and "causation_id" in cause for cause in causes)


async def test_a_lane_remembers_a_bounded_number_of_streams() -> None:
    store, recorder = InMemoryStore(), Recorder()
    lane = Consumer("worker", [recorder], positions=None, source=None).lane()
    (message,) = await deposits(store, "ada", 0)
    for number in range(REMEMBERED + 10):
        await lane.handle(changed(message, aggregate=f"a{number}"))
        if number % 1_000 == 0:
            await lane.handle(changed(message, aggregate="a0"))  # in use all the time, so not forgotten
    assert len(lane._places) == REMEMBERED
    for kept in (0, REMEMBERED + 9):
        await lane.handle(changed(message, aggregate=f"a{kept}"))
    assert len(recorder.seen) == REMEMBERED + 10
    await lane.handle(changed(message, aggregate="a1"))
    assert recorder.versions("a1") == [1, 1]
