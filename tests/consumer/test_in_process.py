"""The outbox is the queue: nothing is lost in a crash, processes share the work, and `drain` says what is left."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.consumer.support import Account, Customer, Deposited, Greeted, Opened, Recorder, fails_at, store_events

from esazure import AggregateRoot, EventEnvelope, EventsService, inprocess
from esazure.consumer import Consumer
from esazure.errors import RetryLaterError, StoreError, StoreUnavailableError
from esazure.handlers import EventHandlers, IHandlerSet, Reactions
from esazure.inprocess import LONGEST_PAUSE, InProcessSubscription
from esazure.memory import InMemoryStore
from esazure.projection import Projection
from esazure.relay import OutboxRelay
from esazure.sqlite import SqliteStore
from esazure.store import Store

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield InMemoryStore()
    else:
        async with SqliteStore(tmp_path / "bank.db") as opened:
            yield opened


def subscribe(
    store: Store, *handlers: IHandlerSet, attempts: int = 3, lease: float = 8.0
) -> tuple[InProcessSubscription, Consumer]:
    consumer = Consumer("worker", handlers, positions=store, source=store, attempts=attempts)
    return InProcessSubscription(store, [Account, Customer], consumer, lease=lease), consumer


async def waiting(store: Store) -> int:
    return sum([len((await store.sweep(partition)).rows) for partition in store.partitions])


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - several things may make it true
            await asyncio.sleep(0.005)


async def deposit(store: Store, id: str = "ada", count: int = 1, *, together: bool = False) -> None:
    await store_events(store, id, *[Deposited(amount=1)] * count, together=together)


async def test_drain_delivers_everything_in_order(store: Store) -> None:
    recorder = Recorder(repeatable=False)
    subscription, _ = subscribe(store, recorder)
    for account in ("ada", "grace"):
        await deposit(store, account, 3)
        await deposit(store, account, 4, together=True)
    assert await subscription.drain() == 0
    assert recorder.versions("ada") == recorder.versions("grace") == [1, 2, 3, 4, 5, 6, 7]
    assert await waiting(store) == 0
    assert subscription.metrics.published == 8


async def test_draining_when_nothing_waits_is_nothing(store: Store) -> None:
    subscription, consumer = subscribe(store, Recorder())
    assert await subscription.drain() == 0
    assert consumer.metrics.handled == 0


async def test_drain_includes_what_reactions_commit(store: Store) -> None:
    """A chain: an account's event changes a customer, and that changes another customer."""
    customers = EventsService(store.events(Customer, outbox=True))
    reactions, recorder = Reactions("chain"), Recorder()

    @reactions.on(Account, Deposited, changes=customers, id=lambda envelope: "ada")
    def first(customer: Customer, envelope: EventEnvelope[Deposited]) -> None:
        customer.record(Greeted(account=envelope.aggregate_id, version=envelope.version))

    @reactions.on(Customer, Greeted, changes=customers, id=lambda envelope: f"{envelope.aggregate_id}a")
    def next_one(customer: Customer, envelope: EventEnvelope[Greeted]) -> None:
        if len(customer.id) < 8:
            customer.record(envelope.event)

    for length in range(3, 9):
        customer = Customer("ad" + "a" * (length - 2))
        customer.record(Opened())
        await customers.persist(customer)
    await deposit(store, "account", 2)
    subscription, consumer = subscribe(store, reactions, recorder)

    assert await subscription.drain() == 0

    for length in range(3, 8):
        assert (await customers.rehydrate("ad" + "a" * (length - 2))).greeted == [("account", 1), ("account", 2)]
    assert (await customers.rehydrate("ad" + "a" * 6)).greeted == []
    assert await consumer.parked() == []


async def test_drain_tries_a_failing_handler_until_its_stream_is_parked_without_pausing(store: Store) -> None:
    failing, well = Recorder("failing", trouble=fails_at(2)), Recorder("well")
    subscription, consumer = subscribe(store, failing, well, attempts=4)
    await deposit(store, "ada", 3)
    began = time.monotonic()
    assert await subscription.drain() == 0
    assert time.monotonic() - began < 5
    assert failing.versions("ada") == [1]
    assert well.versions("ada") == [1, 2, 3]
    assert [(parked.handler, parked.version) for parked in await consumer.parked()] == [("failing", 2)]
    assert failing.calls == 1 + 4 + 1  # the last for version 3
    failing.trouble = None
    assert await consumer.resume("failing", "Account.ada") == 3


async def test_drain_tries_as_often_as_it_takes(store: Store) -> None:
    recorder = Recorder(trouble=fails_at(1, times=2))
    subscription, consumer = subscribe(store, recorder, attempts=3)
    await deposit(store)
    assert await subscription.drain() == 0
    assert (recorder.calls, recorder.seen, await consumer.parked()) == (3, [("ada", 1)], [])


async def test_drain_goes_on_when_its_turn_was_over_before_anything_was_tried() -> None:
    class SlowOnce(InMemoryStore):
        pause = 0.6

        async def write_lease(self, *args: Any, **options: Any) -> Any:
            found = await super().write_lease(*args, **options)
            pause, self.pause = self.pause, 0.0
            await asyncio.sleep(pause)  # longer than the turn lasts
            return found

    store, letters = SlowOnce(), Recorder()
    await deposit(store)
    subscription, _ = subscribe(store, letters, lease=1.0)
    assert await subscription.drain() == 0
    assert len(letters.seen) == 1


@pytest.mark.parametrize("error", [RetryLaterError, StoreUnavailableError])
async def test_drain_says_what_has_to_wait(store: Store, error: type[Exception]) -> None:
    waits, well = Recorder("waits", trouble=fails_at(1, error=lambda: error("away"))), Recorder("well")
    waits.trouble = lambda envelope: error("away") if envelope.aggregate_id == "ada" else None
    subscription, consumer = subscribe(store, waits, well, attempts=1)
    await deposit(store, "ada", 2)
    await deposit(store, "grace", 2)
    assert await subscription.drain() == await waiting(store) == 2
    assert waits.versions("grace") == [1, 2]
    assert await consumer.parked() == []
    waits.trouble = None
    assert await subscription.drain() == 0
    assert waits.versions("ada") == [1, 2]
    assert well.versions("ada") == [1, 2]


async def test_a_class_that_was_not_named_waits_and_drain_says_so(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = Consumer("worker", [Recorder()], positions=store, source=store)
    subscription = InProcessSubscription(store, [Customer], consumer)
    await deposit(store, "ada", 3)
    assert await subscription.drain() == 3
    assert "no producer was given for Account" in caplog.text


async def test_a_commit_that_cannot_be_read_waits_and_drain_says_so() -> None:
    store, recorder = InMemoryStore(), Recorder()
    subscription, _ = subscribe(store, recorder)
    await deposit(store, "ada", 3)
    await deposit(store, "grace", 1)
    object.__setattr__(store._streams["Account.ada"][1], "payload", 'Deposited {"sum": 1}')
    assert await subscription.drain() == 2
    assert sorted(recorder.seen) == [("ada", 1), ("grace", 1)]


async def test_a_store_that_cannot_be_read_makes_drain_raise() -> None:
    class Away(InMemoryStore):
        async def sweep(self, partition: str, *, after: tuple[str, int] | None = None, limit: int = 1_000) -> Any:
            raise StoreUnavailableError("away")

    subscription, _ = subscribe(Away(), Recorder())
    with pytest.raises(StoreUnavailableError):
        await subscription.drain()


async def test_a_store_that_is_not_open_makes_everything_raise(tmp_path: Path) -> None:
    subscription, _ = subscribe(SqliteStore(tmp_path / "bank.db"), Recorder())
    for work in (subscription.drain, subscription.run_once, subscription.run):
        with pytest.raises(StoreError, match="is not open"):
            await work()


async def test_a_consumer_that_cannot_serve_what_was_registered_later_makes_everything_raise() -> None:
    class Balance(BaseModel):
        amount: int = 0

    store = InMemoryStore()
    projection = Projection(store.views(Balance))
    consumer = Consumer("worker", [projection], positions=store, source=None)
    subscription = InProcessSubscription(store, [Account], consumer)
    projection.fold(Account, Deposited)(lambda view, envelope: view)
    await deposit(store)
    for work in (subscription.drain, subscription.run_once, subscription.run):
        with pytest.raises(ValueError, match="balance folds events"):
            await asyncio.wait_for(work(), 5)
    assert await waiting(store) == 1


async def test_run_delivers_until_it_is_stopped(store: Store) -> None:
    recorder = Recorder()
    subscription, _ = subscribe(store, recorder)
    running = asyncio.create_task(subscription.run())
    for number in range(1, 4):
        await deposit(store)
        await until(lambda number=number: len(recorder.seen) == number)
    subscription.stop()
    await asyncio.wait_for(running, 10)
    await deposit(store)
    assert await waiting(store) == 1
    assert recorder.versions("ada") == [1, 2, 3]


async def test_drain_may_be_called_while_it_runs(store: Store) -> None:
    recorder = Recorder(repeatable=False, trouble=fails_at(2, times=1))
    subscription, _ = subscribe(store, recorder)
    running = asyncio.create_task(subscription.run())
    for _ in range(3):
        await deposit(store, "ada", 2)
        assert await subscription.drain() == 0
    subscription.stop()
    await asyncio.wait_for(running, 10)
    assert recorder.versions("ada") == [1, 2, 3, 4, 5, 6]


async def test_a_sweep_of_run_does_not_slow_down_a_drain() -> None:
    class Slow(InMemoryStore):
        async def sweep(self, partition: str, *, after: tuple[str, int] | None = None, limit: int = 1_000) -> Any:
            await asyncio.sleep(0.01)
            return await super().sweep(partition, after=after, limit=limit)

    store, recorder = Slow(), Recorder(trouble=fails_at(1, 2, 3, times=9))
    consumer = Consumer("worker", [recorder], positions=store, source=store, attempts=10)
    subscription = InProcessSubscription(store, [Account], consumer, interval=0.001)
    running = asyncio.create_task(subscription.run())
    await deposit(store, "ada", 3)
    began = time.monotonic()
    assert await subscription.drain() == 0
    assert time.monotonic() - began < 3
    subscription.stop()
    await running
    assert recorder.versions("ada") == [1, 2, 3]


async def test_a_failing_stream_rests_longer_each_time_and_others_go_on() -> None:
    store, recorder = InMemoryStore(), Recorder()
    tried: list[float] = []

    def trouble(envelope: EventEnvelope[Any]) -> BaseException | None:
        if envelope.aggregate_id != "ada":
            return None
        tried.append(time.monotonic())
        return ValueError()

    recorder.trouble = trouble
    subscription, consumer = subscribe(store, recorder, attempts=3)
    running = asyncio.create_task(subscription.run())
    await deposit(store, "ada")
    for number in range(10):
        await deposit(store, f"other-{number}")
    await until(lambda: consumer.metrics.parked == 1)
    await until(lambda: len(recorder.seen) == 10)
    subscription.stop()
    await running
    first, second = tried[1] - tried[0], tried[2] - tried[1]
    assert 0.2 <= first < 2
    assert 0.8 <= second < 5
    assert LONGEST_PAUSE > 4 * 0.8
    assert await waiting(store) == 0


async def test_attempts_are_counted_for_each_message_of_a_commit(store: Store) -> None:
    """Two messages of one commit fail twice each: neither is tried a third time in vain, so nothing is parked."""
    left = {2: 2, 3: 2}

    def trouble(envelope: EventEnvelope[Any]) -> BaseException | None:
        if left.get(envelope.version, 0) == 0:
            return None
        left[envelope.version] -= 1
        return ValueError()

    recorder = Recorder(repeatable=False, trouble=trouble)
    subscription, consumer = subscribe(store, recorder, attempts=3)
    await deposit(store, "ada", 4, together=True)
    assert await subscription.drain() == 0
    assert recorder.versions("ada") == [1, 2, 3, 4]
    assert await consumer.parked() == []


async def test_what_of_a_commit_is_done_is_not_handled_again_even_without_positions(store: Store) -> None:
    recorder = Recorder(repeatable=False, trouble=fails_at(3, times=2))
    well = Recorder("well", repeatable=False)
    consumer = Consumer("worker", [recorder, well], positions=None, source=None)
    subscription = InProcessSubscription(store, [Account], consumer)
    await deposit(store, "ada", 4, together=True)
    assert await subscription.drain() == 0
    assert recorder.versions("ada") == well.versions("ada") == [1, 2, 3, 4]


async def test_a_message_that_is_passed_over_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    store = InMemoryStore()
    await store.write_document("positions-worker", "Account.ada", "damaged", seen=None)
    subscription, _ = subscribe(store, Recorder())
    await deposit(store)
    assert await subscription.drain() == 0
    assert [(record.levelno, record.name) for record in caplog.records] == [(logging.ERROR, "esazure.inprocess")]


async def test_a_handler_that_outlasts_its_turn_is_not_cut_off_and_not_called_twice(store: Store) -> None:
    handlers, calls, done = EventHandlers("slow"), [], []
    slowly = Recorder("view")

    @handlers.on(Account, Deposited)
    async def slow(envelope: EventEnvelope[Deposited]) -> None:
        calls.append(envelope.version)
        await asyncio.sleep(0.9 if envelope.version == 1 else 0)
        done.append(envelope.version)

    subscription, _ = subscribe(store, handlers, slowly, lease=0.4)
    running = asyncio.create_task(subscription.run())
    await deposit(store, "ada", 2)
    await until(lambda: len(done) == 2)
    subscription.stop()
    await asyncio.wait_for(running, 10)
    assert calls == done == [1, 2]
    assert await waiting(store) == 0


async def test_drain_waits_for_a_handler_that_outlasts_its_turn(store: Store) -> None:
    handlers, done = EventHandlers("slow"), []

    @handlers.on(Account, Deposited)
    async def slow(envelope: EventEnvelope[Deposited]) -> None:
        await asyncio.sleep(0.6)
        done.append(envelope.version)

    subscription, _ = subscribe(store, handlers, lease=0.3)
    await deposit(store)
    assert await subscription.drain() == 0
    assert done == [1]


async def test_a_handler_that_outlasted_its_turns_is_not_kept_waiting_when_it_is_done(store: Store) -> None:
    handlers, go_on = EventHandlers("slow"), asyncio.Event()

    @handlers.on(Account, Deposited)
    async def slow(envelope: EventEnvelope[Deposited]) -> None:
        await go_on.wait()

    subscription, consumer = subscribe(store, handlers, lease=0.1)
    running = asyncio.create_task(subscription.run())
    await deposit(store)
    await until(lambda: any(work.troubles == 3 for work in subscription._hands._begun.values()))
    go_on.set()  # it would rest for more than three seconds now
    async with asyncio.timeout(2):
        while await waiting(store):  # noqa: ASYNC110 - the subscription makes it true
            await asyncio.sleep(0.01)
    subscription.stop()
    await asyncio.wait_for(running, 10)
    assert consumer.metrics.handled == 1


async def test_while_a_handler_hangs_other_streams_are_served(store: Store) -> None:
    handlers, served, forever = EventHandlers("hang"), [], asyncio.Event()

    @handlers.on(Account, Deposited)
    async def hang(envelope: EventEnvelope[Deposited]) -> None:
        if envelope.aggregate_id == "ada":
            await forever.wait()
        served.append(envelope.aggregate_id)

    subscription, _ = subscribe(store, handlers, lease=0.3)
    running = asyncio.create_task(subscription.run())
    await deposit(store, "ada")
    for number in range(5):
        await deposit(store, f"other-{number}")
    await until(lambda: len(served) == 5)
    subscription.stop()
    await asyncio.wait_for(running, 10)  # not for ever
    assert await waiting(store) == 1


async def test_cancelling_run_cancels_the_handler_and_leaves_the_row(store: Store) -> None:
    handlers, begun, cancelled = EventHandlers("slow"), asyncio.Event(), []

    @handlers.on(Account, Deposited)
    async def slow(envelope: EventEnvelope[Deposited]) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(envelope.version)
            raise

    subscription, _ = subscribe(store, handlers)
    running = asyncio.create_task(subscription.run())
    await deposit(store)
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cancelled == [1]
    assert await waiting(store) == 1


class CrashError(BaseException):
    """The process dies here."""


class Dying(SqliteStore):
    """Dies at one of its calls."""

    dies_at = ""

    async def read_document(self, collection: str, key: str) -> Any:
        self._die("before the handler")
        return await super().read_document(collection, key)

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        self._die("before the position")
        return await super().write_document(collection, key, text, seen=seen)

    async def mark_published(self, record: Any) -> bool:
        self._die("before the row goes")
        return await super().mark_published(record)

    def _die(self, here: str) -> None:
        if here == self.dies_at:
            raise CrashError


@pytest.mark.parametrize("when", ["before the handler", "in the handler", "before the position", "before the row goes"])
async def test_wherever_a_process_dies_the_next_one_goes_on(tmp_path: Path, when: str) -> None:
    """Two store objects on one file; what the first one was doing is cut off, and its lease stays behind."""
    file, first, second = tmp_path / "bank.db", Recorder("mail", repeatable=False), Recorder("mail", repeatable=False)
    if when == "in the handler":
        first.trouble = fails_at(1, error=CrashError)
    async with Dying(file) as dying:
        dying.dies_at = when
        await deposit(dying, "ada", 2)
        with pytest.raises(BaseExceptionGroup):
            await subscribe(dying, first, lease=1.0)[0].run_once()
        assert await waiting(dying) == 2

    async with SqliteStore(file) as store:
        began = time.monotonic()
        assert await subscribe(store, second, lease=1.0)[0].drain() == 0
        assert time.monotonic() - began < 10

    assert second.versions("ada") == ([2] if when == "before the row goes" else [1, 2])
    assert first.versions("ada") == ([1] if when in ("before the position", "before the row goes") else [])


async def test_processes_on_one_file_share_the_work_and_repeat_nothing(tmp_path: Path) -> None:
    file = tmp_path / "bank.db"
    async with SqliteStore(file) as one, SqliteStore(file) as two:
        recorders = [Recorder(repeatable=False), Recorder(repeatable=False)]
        subscriptions = [subscribe(store, recorder)[0] for store, recorder in zip((one, two), recorders, strict=True)]
        running = [asyncio.create_task(subscription.run()) for subscription in subscriptions]
        for _ in range(10):
            for account in ("ada", "grace", "joan"):
                await deposit(one, account)
            await asyncio.sleep(0.02)
        await until(lambda: sum(len(recorder.seen) for recorder in recorders) >= 30)
        for subscription in subscriptions:
            subscription.stop()
        await asyncio.gather(*running)
        assert await waiting(one) == 0
    together = recorders[0].seen + recorders[1].seen
    assert sorted(together) == [(account, version) for account in ("ada", "grace", "joan") for version in range(1, 11)]
    for recorder in recorders:
        assert recorder.versions("ada") == sorted(recorder.versions("ada"))


async def test_what_another_process_has_finished_is_not_mixed_up_with_what_came_after(tmp_path: Path) -> None:
    file = tmp_path / "bank.db"
    mine, theirs = Recorder("mail", trouble=fails_at(1)), Recorder("mail")
    async with SqliteStore(file) as one, SqliteStore(file) as two:
        await deposit(one)
        subscription, _ = subscribe(one, mine)
        await subscription.run_once()  # fails, and is to be tried again
        assert await subscribe(two, theirs)[0].drain() == 0
        await deposit(one)
        assert await subscription.drain() == 0
    assert theirs.versions("ada") == [1]
    assert mine.versions("ada") == [2]


async def test_what_another_process_did_before_it_died_is_not_done_again(store: Store) -> None:
    mine, theirs = Recorder("mail", repeatable=False, trouble=fails_at(1, times=1)), Recorder("mail", repeatable=False)
    subscription, _ = subscribe(store, mine)
    (message,) = await store_events(store, "ada", Opened())
    await subscription.run_once()  # fails, and is to be tried again
    other = Consumer("worker", [theirs], positions=store, source=store)
    await other.lane().handle(message)  # and the commit stays in the outbox
    assert await subscription.drain() == 0
    assert theirs.versions("ada") == [1]
    assert mine.versions("ada") == []


async def test_a_handler_that_outlasts_its_turn_is_waited_for_when_another_process_has_finished_its_commit(
    store: Store,
) -> None:
    handlers, calls, go_on = EventHandlers("slow"), [], asyncio.Event()

    @handlers.on(Account, Deposited)
    async def slow(envelope: EventEnvelope[Deposited]) -> None:
        calls.append(f"{envelope.version} begins")
        if envelope.version == 1:
            await go_on.wait()
        calls.append(f"{envelope.version} ends")

    subscription, _ = subscribe(store, handlers, lease=0.2)
    await deposit(store)
    async with asyncio.timeout(20):
        while not calls:
            await subscription.run_once()  # the turn is over, and it is still at work
    (record,) = await store.unpublished("Account.ada", before_version=9)
    await store.mark_published(record)  # as another process does when it is done
    await deposit(store)
    draining = asyncio.create_task(subscription.drain())
    await asyncio.sleep(0.3)
    assert calls == ["1 begins"]
    go_on.set()
    assert await asyncio.wait_for(draining, 20) == 0
    assert calls == ["1 begins", "1 ends", "2 begins", "2 ends"]


async def test_however_many_streams_fail_each_rests_and_is_tried_as_often_as_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inprocess, "_REMEMBERED", 3)
    store, recorder = InMemoryStore(), Recorder(trouble=fails_at(1))
    subscription, consumer = subscribe(store, recorder, attempts=3)
    for number in range(10):
        await deposit(store, f"a{number}")
    for _ in range(3):
        await subscription.run_once()
    assert recorder.calls == 10
    assert await subscription.drain() == 0
    assert recorder.calls == 10 * 3
    assert len(await consumer.parked()) == 10


async def test_streams_that_another_process_has_finished_are_forgotten_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inprocess, "_REMEMBERED", 3)
    file = tmp_path / "bank.db"
    async with SqliteStore(file) as one, SqliteStore(file) as two:
        subscription, _ = subscribe(one, Recorder("mail", trouble=fails_at(1)))
        hands = subscription._hands
        for number in range(5):
            await deposit(one, f"a{number}")
        await subscription.run_once()
        assert await subscribe(two, Recorder("mail"))[0].drain() == 0
        for name in ("soon", "late"):
            await deposit(one, name)
            await subscription.run_once()
            hands._remembered = 3  # or it would look again when there are twice as many
            assert len(hands._begun) == (6 if name == "soon" else 2)
            for work in hands._begun.values():
                if work is not hands._begun["Account.soon"]:
                    work.rests_until -= 2 * inprocess._FORGOTTEN_AFTER
    assert set(hands._begun) == {"Account.soon", "Account.late"}


async def test_a_stream_whose_handler_is_at_work_is_not_forgotten_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inprocess, "_REMEMBERED", 1)
    store, handlers, go_on, calls = InMemoryStore(), EventHandlers("slow"), asyncio.Event(), []

    @handlers.on(Account, Deposited)
    async def slow(envelope: EventEnvelope[Deposited]) -> None:
        calls.append(envelope.aggregate_id)
        if envelope.aggregate_id == "ada":
            await go_on.wait()

    subscription, consumer = subscribe(store, handlers, lease=0.3)
    await deposit(store, "ada")
    await subscription.run_once()  # its turn is over
    work = subscription._hands._begun["Account.ada"]
    work.rests_until -= 2 * inprocess._FORGOTTEN_AFTER
    await deposit(store, "grace")
    await subscription.run_once()
    assert subscription._hands._begun["Account.ada"] is work
    go_on.set()
    assert await subscription.drain() == 0
    assert sorted(calls) == ["ada", "grace"]
    assert (consumer.metrics.handled, consumer.metrics.duplicates) == (2, 0)


async def test_drain_waits_for_the_other_process(tmp_path: Path) -> None:
    file, entered, leave = tmp_path / "bank.db", asyncio.Event(), asyncio.Event()
    handlers = EventHandlers("mail")

    @handlers.on(Account, Deposited)
    async def wait(envelope: EventEnvelope[Deposited]) -> None:
        entered.set()
        await leave.wait()

    async with SqliteStore(file) as one, SqliteStore(file) as two:
        await deposit(one)
        other = asyncio.create_task(subscribe(one, handlers)[0].run_once())
        await entered.wait()
        mine = Recorder("mail")
        draining = asyncio.create_task(subscribe(two, mine)[0].drain())
        await asyncio.sleep(0.2)
        assert not draining.done()
        leave.set()
        assert await draining == 0
        await other
    assert mine.seen == []


async def test_the_outbox_is_the_queue_of_one_relay_only(store: Store) -> None:
    """What makes the subscription a relay: it holds the lease while it works, and gives it up."""
    subscription, _ = subscribe(store, Recorder())
    assert isinstance(subscription._relay, OutboxRelay)
    await deposit(store)
    await subscription.drain()
    lease = (await store.sweep(store.partitions[0])).lease
    assert lease is not None
    assert lease.owner == ""


@pytest.mark.parametrize("bad", [{"interval": 0}, {"interval": -1}, {"lease": 0}])
def test_numbers_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    consumer = Consumer("worker", [], positions=None, source=None)
    with pytest.raises(ValueError, match="above 0"):
        InProcessSubscription(InMemoryStore(), [Account], consumer, **bad)


def test_two_classes_of_one_name_are_refused() -> None:
    class Other(AggregateRoot[Opened, str]):
        aggregate_type = "Account"

        def when(self, event: Opened) -> None: ...

    with pytest.raises(ValueError, match="two classes are stored as Account"):
        InProcessSubscription(InMemoryStore(), [Account, Other], Consumer("w", [], positions=None, source=None))


async def start(file: Path, log: Path) -> asyncio.subprocess.Process:
    process = await create_subprocess_exec(sys.executable, str(WORKER), str(file), str(log), stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


def effects(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


@pytest.mark.long
async def test_when_a_process_is_killed_another_one_takes_over_within_ten_seconds(tmp_path: Path) -> None:
    file, log = tmp_path / "bank.db", tmp_path / "effects.log"
    async with SqliteStore(file) as store:
        workers: Sequence[asyncio.subprocess.Process] = [await start(file, log) for _ in range(2)]
        try:
            await deposit(store, "ada", 5)
            await until(lambda: len(effects(log)) >= 2)
            victim = next(worker for worker in workers if str(worker.pid) == effects(log)[-1].split(":")[0])
            victim.kill()  # in the midst of its turn: each effect takes a while
            await victim.wait()
            killed = time.monotonic()
            await deposit(store, "grace", 5)
            await until(lambda: len({effect.split(":")[1] for effect in effects(log)}) == 10, seconds=30)
            assert time.monotonic() - killed < 12
            async with asyncio.timeout(10):
                while await waiting(store):  # noqa: ASYNC110 - another process makes it true
                    await asyncio.sleep(0.05)
        finally:
            for worker in workers:
                with suppress(ProcessLookupError):
                    worker.kill()
                await worker.communicate()
    events = [effect.split(":")[1] for effect in effects(log)]
    assert len(events) - len(set(events)) <= 1
    assert all(events.index(f"ada@{version}") < events.index(f"ada@{version + 1}") for version in range(1, 5))
