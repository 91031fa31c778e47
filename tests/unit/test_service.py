"""Persisting: append, then publish what the stream still owes, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from tests.unit.doubles import TroubledProducer, TroubledStore, broker_down

from esazure import (
    AppendOutcomeUnknownError,
    CommitTooLargeError,
    ConcurrencyError,
    DispatchError,
    EventsService,
    StoreError,
    StoreUnavailableError,
)
from esazure.aggregate import stream_of
from esazure.events import CommitRecord
from esazure.memory import InMemoryEventProducer, InMemoryStore
from esazure.ports import ViewRecord
from esazure.relay import OutboxRelay
from esazure.service import BACKLOG
from esazure.testing._counter import Counter, commit_of, counter_with


async def waiting(store: InMemoryStore, counter: Counter) -> list[int]:
    """The first versions of the commits in the outbox."""
    records = await store.unpublished(stream_of(counter), before_version=10**6)
    return [record.first_version for record in records]


async def test_persisting_stores_publishes_and_empties_the_outbox() -> None:
    store, producer = TroubledStore(), TroubledProducer()
    service = EventsService(store.events(Counter), producer)
    counter = counter_with("a", "b")
    commit = await service.persist(counter)
    assert commit is not None
    assert commit.last_version == 2
    assert producer.versions == [1, 2]
    assert await waiting(store, counter) == []
    assert service.undispatched == 0
    assert (await service.rehydrate(counter.id)).notes == ["a", "b"]
    assert (await service.rehydrate(counter.id, version=1)).notes == ["a"]


async def test_with_nothing_pending_nothing_happens() -> None:
    store, producer = TroubledStore(), TroubledProducer()
    assert await EventsService(store.events(Counter), producer).persist(Counter("c")) is None
    assert (store.calls, producer.messages) == ([], [])


@pytest.mark.parametrize(
    ("outbox", "has_producer", "waits"),
    [(None, True, True), (None, False, False), (True, True, True), (True, False, True), (False, False, False)],
)
async def test_a_commit_leaves_an_outbox_row_when_somebody_is_going_to_publish_it(
    *, outbox: bool | None, has_producer: bool, waits: bool
) -> None:
    store, producer = TroubledStore(), TroubledProducer()
    producer.troubles = [DispatchError("away")] * 2
    service = EventsService(store.events(Counter, outbox=outbox), producer if has_producer else None)
    counter = counter_with("a")
    await service.persist(counter)
    counter.note("b")
    await service.persist(counter)
    assert await waiting(store, counter) == ([1, 2] if waits else [])


async def test_a_commit_sent_again_leaves_a_row_as_before() -> None:
    store, producer = TroubledStore(), TroubledProducer()
    producer.troubles = [DispatchError("away")]
    counter = counter_with("a")
    store.troubles = ["lost on the way there"]
    service = EventsService(store.events(Counter), producer)
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await service.persist(counter)
    await caught.value.retry()
    assert await waiting(store, counter) == [1]


@pytest.mark.parametrize("relay_first", [True, False])
async def test_commits_that_somebody_waits_for_in_vain_are_refused(*, relay_first: bool) -> None:
    store, counter = TroubledStore(), counter_with("a")
    service = EventsService(store.events(Counter))
    if not relay_first:
        await service.persist(counter)
        with pytest.raises(ValueError, match="outbox=True"):
            OutboxRelay(store, {Counter: InMemoryEventProducer()})
        counter.note("b")
        await service.persist(counter)  # nobody waits: the relay was not made
        return
    OutboxRelay(store, {Counter: InMemoryEventProducer()})
    with pytest.raises(ValueError, match="outbox=True"):
        await service.persist(counter)
    assert len(counter.pending) == 1
    assert store.calls == []
    OutboxRelay(store, {Counter: InMemoryEventProducer()})  # nothing was stored without a row
    await EventsService(store.events(Counter, outbox=True)).persist(counter)
    assert await waiting(store, counter) == [1]


async def test_who_says_that_nobody_publishes_is_believed() -> None:
    store = TroubledStore()
    OutboxRelay(store, {Counter: InMemoryEventProducer()})
    await EventsService(store.events(Counter, outbox=False)).persist(counter_with("a"))


async def test_a_failed_dispatch_is_a_warning_a_count_and_an_outbox_row_and_the_next_persist_publishes_both(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, producer = TroubledStore(), TroubledProducer(broker_down(), broker_down())
    service = EventsService(store.events(Counter), producer)
    counter = counter_with("payload-marker")

    with caplog.at_level(logging.DEBUG):
        commit = await service.persist(counter)
        assert commit is not None
        counter.note("b")
        await service.persist(counter)

    assert counter.pending == ()
    assert service.undispatched == 2
    assert producer.versions == []
    assert await waiting(store, counter) == [1, 2]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.name for record in warnings] == ["esazure.service"] * 2
    assert commit.stream in warnings[0].getMessage()
    assert "the broker is away" in warnings[0].getMessage()
    assert "payload-marker" not in caplog.text

    counter.note("c")
    await service.persist(counter)
    assert producer.versions == [1, 2, 3]
    assert await waiting(store, counter) == []


async def test_publishing_stops_at_the_first_failure_and_skips_nothing() -> None:
    store, producer = TroubledStore(), TroubledProducer(broker_down(), None, broker_down())
    service = EventsService(store.events(Counter), producer)
    counter = Counter("c")
    for note in "abc":
        counter.note(note)
        await service.persist(counter)
    # 1 fails; then 1 succeeds and 2 fails; then 2 and 3 succeed
    assert producer.versions == [1, 2, 3]
    assert service.undispatched == 2


async def test_the_text_of_a_foreign_exception_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    store, producer = TroubledStore(), TroubledProducer(RuntimeError("payload-marker"))
    with caplog.at_level(logging.DEBUG):
        await EventsService(store.events(Counter), producer).persist(counter_with("a"))
    assert "RuntimeError" in caplog.text
    assert "payload-marker" not in caplog.text


async def test_an_outbox_that_cannot_be_read_does_not_fail_what_is_stored() -> None:
    class Blind(TroubledStore):
        async def unpublished(self, stream: str, *, before_version: int) -> Any:
            raise StoreError("no")

    store, producer = Blind(), TroubledProducer()
    service = EventsService(store.events(Counter), producer)
    counter = counter_with("a")
    await service.persist(counter)
    counter.note("b")
    assert await service.persist(counter) is not None
    assert producer.versions == [1], "what is owed before is unknown, so nothing may overtake it"
    assert service.undispatched == 1


async def test_without_an_outbox_a_failed_dispatch_is_an_error() -> None:
    store, producer = TroubledStore(), TroubledProducer(broker_down())
    service = EventsService(store.events(Counter, outbox=False), producer)
    counter = counter_with("a")
    with pytest.raises(DispatchError):
        await service.persist(counter)
    assert counter.pending == ()
    counter.note("b")
    await service.persist(counter)
    assert producer.versions == [2]
    assert "unpublished" not in store.calls


async def test_a_new_stream_asks_for_no_earlier_commits_and_an_existing_one_asks_once() -> None:
    store, producer = TroubledStore(), TroubledProducer()
    service = EventsService(store.events(Counter), producer)
    counter = counter_with("a")
    await service.persist(counter)
    assert store.calls == ["insert"]
    counter.note("b")
    await service.persist(counter)
    assert sorted(store.calls[1:]) == ["insert", "unpublished"]


async def test_what_could_never_be_published_is_refused_before_any_request() -> None:
    store, producer = TroubledStore(), TroubledProducer(max_message_bytes=2_000)
    service = EventsService(store.events(Counter), producer)
    counter = counter_with("a")
    await service.persist(counter)
    before = list(store.calls)
    counter.note("payload-marker" * 200)
    with pytest.raises(CommitTooLargeError) as caught:
        await service.persist(counter)
    assert store.calls == before
    assert len(counter.pending) == 1
    assert "payload-marker" not in str(caught.value)


async def test_a_conflict_publishes_nothing_and_leaves_no_task_behind() -> None:
    store, producer = TroubledStore(), TroubledProducer()
    service = EventsService(store.events(Counter), producer)
    counter = counter_with("a")
    await service.persist(counter)
    stale = await service.rehydrate(counter.id)
    counter.note("b")
    await service.persist(counter)
    stale.note("c")
    with pytest.raises(ConcurrencyError):
        await service.persist(stale)
    assert producer.versions == [1, 2]
    assert len(stale.pending) == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_refused_append_does_not_wait_for_the_look_at_earlier_commits() -> None:
    class Slow(TroubledStore):
        async def unpublished(self, stream: str, *, before_version: int) -> Any:
            await asyncio.Event().wait()

    service = EventsService(Slow(None, StoreError("no")).events(Counter), TroubledProducer())
    counter = counter_with("a")
    await service.persist(counter)
    counter.note("b")
    with pytest.raises(StoreError):
        await service.persist(counter)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("lost", ["lost on the way there", "lost on the way back"])
async def test_the_retry_of_a_service_publishes_too(lost: str) -> None:
    store, producer = TroubledStore(None, lost), TroubledProducer()
    service = EventsService(store.events(Counter), producer)
    counter = counter_with("a")
    await service.persist(counter)
    counter.note("b")
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await service.persist(counter)
    assert producer.versions == [1]
    commit = await caught.value.retry()
    assert commit.commit_id == caught.value.commit_id
    assert producer.versions == [1, 2]
    assert await waiting(store, counter) == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_commit_whose_answer_was_lost_is_published_by_the_next_writer_in_order() -> None:
    store, producer = TroubledStore(None, "lost on the way back"), TroubledProducer()
    service = EventsService(store.events(Counter), producer)
    counter = counter_with("a")
    await service.persist(counter)
    counter.note("b")
    with pytest.raises(AppendOutcomeUnknownError):
        await service.persist(counter)
    await service.update(counter.id, lambda it: it.note("c"))
    assert producer.versions == [1, 2, 3]


async def test_cancelling_a_persist_leaves_no_task_behind_and_loses_nothing() -> None:
    store, producer = TroubledStore(), TroubledProducer()
    service = EventsService(store.events(Counter), producer)
    counter = counter_with("a")
    await service.persist(counter)
    counter.note("b")
    store.began.clear()
    task = asyncio.create_task(service.persist(counter))
    await store.began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await service.persist(counter)
    assert producer.versions == [1, 2]
    assert len(set(store.inserted)) == 2


async def test_cancelling_a_dispatch_leaves_the_outbox_row() -> None:
    began = asyncio.Event()

    class Endless(TroubledProducer):
        async def dispatch(self, commit: Any) -> None:
            began.set()
            await asyncio.Event().wait()

    store = TroubledStore()
    service = EventsService(store.events(Counter), Endless())
    counter = counter_with("a")
    task = asyncio.create_task(service.persist(counter))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counter.pending == ()
    assert await waiting(store, counter) == [1]


class Contested(TroubledStore):
    """Before each of the next `rivals` inserts, another writer is faster."""

    rivals = 0

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        if self.rivals:
            self.rivals -= 1
            await super().insert(commit_of(record.stream, record.first_version, "rival"), outbox=outbox)
        await super().insert(record, outbox=outbox, views=views)


async def contested(rivals: int) -> tuple[Contested, EventsService[Counter, str], str]:
    store = Contested()
    service = EventsService(store.events(Counter))
    counter = counter_with("created")
    await service.persist(counter)
    store.rivals = rivals
    return store, service, counter.id


@pytest.mark.parametrize("rivals", [0, 1, 2])
async def test_update_decides_again_on_fresh_copies_after_conflicts(rivals: int) -> None:
    _, service, key = await contested(rivals)
    seen: list[list[str]] = []

    def change(counter: Counter) -> None:
        seen.append(list(counter.notes))
        counter.note("mine")

    updated = await service.update(key, change)

    assert seen == [["created", *["rival"] * lost] for lost in range(rivals + 1)]
    assert updated.notes == ["created", *["rival"] * rivals, "mine"]
    assert updated.pending == ()
    assert (await service.rehydrate(key)).notes == updated.notes


async def test_update_gives_up_when_its_time_is_over_and_not_before() -> None:
    store, service, key = await contested(2)
    with pytest.raises(ConcurrencyError):
        await service.update(key, lambda counter: counter.note("mine"), timeout=0)
    assert store.rivals == 1, "there is always one attempt"
    assert (await service.update(key, lambda counter: counter.note("mine"))).version == 4

    store, service, key = await contested(100)
    assert (await service.update(key, lambda counter: counter.note("mine"), timeout=3600)).version == 102


@pytest.mark.parametrize("seconds", [-1, -0.001, float("nan")])
async def test_update_needs_a_time_that_can_be(seconds: float) -> None:
    store, service, key = await contested(0)
    store.calls.clear()
    with pytest.raises(ValueError, match="at least 0"):
        await service.update(key, lambda counter: counter.note("mine"), timeout=seconds)
    assert store.calls == []


async def test_update_without_an_event_stores_nothing() -> None:
    store, service, key = await contested(0)
    store.calls.clear()
    assert (await service.update(key, lambda counter: counter.notes)).version == 1
    assert store.calls == []


async def test_an_error_of_the_change_stores_nothing_and_is_not_retried() -> None:
    _, service, key = await contested(0)
    calls: list[str] = []

    def change(counter: Counter) -> None:
        calls.append("called")
        counter.note("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await service.update(key, change)
    assert calls == ["called"]
    assert (await service.rehydrate(key)).version == 1


async def test_an_unknown_outcome_is_not_retried_by_update() -> None:
    store, service, key = await contested(0)
    store.troubles = ["lost on the way back"]
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await service.update(key, lambda counter: counter.note("mine"))
    await caught.value.retry()
    assert (await service.rehydrate(key)).notes == ["created", "mine"]


async def test_an_asynchronous_change_is_refused_and_stores_nothing() -> None:
    async def change(counter: Counter) -> None:
        counter.note("never")

    _, service, key = await contested(0)
    with pytest.raises(TypeError, match="do I/O before it"):
        await service.update(key, change)
    assert (await service.rehydrate(key)).version == 1


async def test_a_long_backlog_is_not_one_callers_to_publish(caplog: pytest.LogCaptureFixture) -> None:
    store, producer = InMemoryStore(), InMemoryEventProducer()
    counters = store.events(Counter, outbox=True)
    counter = counter_with("0")
    for number in range(1, BACKLOG + 2):
        await counters.append(counter)
        counter.note(str(number))
    service = EventsService(counters, producer)

    await service.persist(counter)

    assert [message.properties["version"] for message in producer.messages] == [str(n) for n in range(1, BACKLOG + 1)]
    assert service.undispatched == 1
    assert f"more than {BACKLOG} earlier commits wait" in caplog.text
    counter.note("last")
    await service.persist(counter)
    assert [int(message.properties["version"]) for message in producer.messages] == list(range(1, counter.version + 1))


async def test_an_outbox_row_that_stays_after_publishing_is_not_called_undispatched(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Sticky(InMemoryStore):
        async def mark_published(self, record: CommitRecord) -> bool:
            raise StoreUnavailableError("away")

    producer = InMemoryEventProducer()
    service = EventsService(Sticky().events(Counter), producer)
    await service.persist(counter_with("a"))
    assert len(producer.messages) == 1
    assert service.undispatched == 0
    assert "published, but an outbox row remains" in caplog.text
