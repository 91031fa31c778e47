"""One relay, one sweep at a time: what goes out, in which order, and what waits."""

from __future__ import annotations

import asyncio
import logging
from bisect import insort
from pathlib import Path

import pytest
from tests.relay.support import Diary, Letter, Noted, Producer, Store, broker_away, too_large, until

from esazure.aggregate import AggregateRoot
from esazure.errors import CorruptStreamError, StoreError, StoreUnavailableError
from esazure.keys import stream_name
from esazure.memory import InMemoryEventProducer
from esazure.relay import Alert, OutboxRelay
from esazure.relay.relay import BATCH, TRIES
from esazure.service import EventsService
from esazure.sqlite import SqliteStore

A, B, C = (stream_name("Diary", name) for name in "abc")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def producer() -> Producer:
    return Producer()


@pytest.fixture
def alerts() -> list[Alert]:
    return []


@pytest.fixture
def relay(store: Store, producer: Producer, alerts: list[Alert]) -> OutboxRelay:
    return OutboxRelay(store, {Diary: producer}, grace=0, attempts=3, alert=alerts.append)


class TestOrder:
    async def test_what_a_crashed_process_left_goes_out_in_order_and_waits_no_more(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        await store.put("a", "1")
        await store.put("b", "1", "2", "3")
        metrics = await relay.run_once()
        assert [name for name in producer.published if name.startswith("b")] == ["b/1", "b/2", "b/3"]
        assert sorted(producer.published) == ["a/1", "b/1", "b/2", "b/3"]
        assert store.waiting() == []
        assert (metrics.published, metrics.repeated, metrics.failed) == (4, 0, 0)

    async def test_real_messages_are_what_the_dead_process_would_have_sent(self, store: Store) -> None:
        direct, later = InMemoryEventProducer(), InMemoryEventProducer()
        diary = Diary("a")
        diary.record(Noted(text="1"))
        await EventsService(store.events(Diary, outbox=True)).persist(diary)
        (commit,) = await store.events(Diary).outbox.unpublished(A, before_version=2)  # type: ignore[union-attr]
        await direct.dispatch(commit)
        await OutboxRelay(store, {Diary: later}, grace=0).run_once()
        assert later.messages == direct.messages

    async def test_an_empty_outbox_costs_a_request_for_each_partition_and_no_lease(self, producer: Producer) -> None:
        store = Store(partitions=4)
        await OutboxRelay(store, {Diary: producer}).run_once()
        assert sorted(store.calls) == [("sweep", str(number)) for number in range(4)]

    async def test_a_long_backlog_is_read_in_batches(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        await store.put("a", *["x"] * (2 * BATCH + 1))
        await relay.run_once()
        assert producer.published == [f"a/{version}" for version in range(1, 2 * BATCH + 2)]
        assert len(store.called("unpublished")) == 3

    async def test_what_others_publish_meanwhile_is_counted_as_repeated(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        await store.put("a", "1", "2")
        producer.gate = asyncio.Event()
        sweeping = asyncio.create_task(relay.run_once())
        await until(lambda: producer.tried != [])
        store._outbox.clear()  # as a writer's own dispatch does
        producer.gate.set()
        metrics = await sweeping
        assert (metrics.published, metrics.repeated) == (2, 2)

    async def test_what_others_published_before_it_was_read_is_left_alone(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        await store.put("a", "1")

        async def others(call: str) -> None:
            if call == "unpublished":
                store._outbox.clear()

        store.before = others
        await relay.run_once()
        assert producer.tried == []


class TestGrace:
    async def test_a_row_is_left_to_its_writer_until_its_grace_is_over(self, store: Store, producer: Producer) -> None:
        relay = OutboxRelay(store, {Diary: producer}, grace=10)
        await store.put("a", "1")
        store.manual_clock.advance(9.9)
        await relay.run_once()
        assert (producer.tried, store.called("write_lease")) == ([], [])
        store.manual_clock.advance(0.1)
        await relay.run_once()
        assert producer.published == ["a/1"]

    async def test_an_older_commit_goes_out_and_a_younger_one_of_its_stream_does_not(
        self, store: Store, producer: Producer
    ) -> None:
        diary = Diary("a")
        for _ in range(3):
            diary.record(Noted(text="x"))
            await store.events(Diary, outbox=True).append(diary)
            store.manual_clock.advance(6)
        relay = OutboxRelay(store, {Diary: producer}, grace=10)
        metrics = await relay.run_once()
        assert producer.published == ["a/1", "a/2"]
        assert store.waiting() == [(A, 3)]
        assert (metrics.pending, metrics.oldest_age) == (3, 18.0)


class TestFailures:
    async def test_a_stream_stops_at_its_first_failure_and_the_others_go_on(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        for name in "abc":
            await store.put(name, "1", "2", "3")
        producer.refuse["b/2"] = broker_away()
        metrics = await relay.run_once()
        assert "b/3" not in producer.tried
        assert store.waiting() == [(B, 2), (B, 3)]
        assert (metrics.published, metrics.failed) == (7, 1)
        producer.refuse.clear()
        await relay.run_once()
        assert [name for name in producer.published if name.startswith("b")] == ["b/1", "b/2", "b/3"]
        assert store.waiting() == []

    async def test_a_broker_that_is_away_costs_a_sweep_a_few_tries_and_the_next_sweep_tries_again(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        for number in range(20):
            await store.put(f"{number}", "1")
        producer.refuse["*"] = broker_away()
        await relay.run_once()
        assert len(producer.tried) == TRIES
        await relay.run_once()
        assert len(producer.tried) == 2 * TRIES
        producer.refuse.clear()
        await relay.run_once()
        assert store.waiting() == []

    async def test_failures_with_successes_between_them_do_not_add_up(self, store: Store, producer: Producer) -> None:
        relay = OutboxRelay(store, {Diary: producer}, grace=0)
        for number in range(40):
            await store.put(f"{number}", "1", "2")
            producer.refuse[f"{number}/2"] = broker_away()
        await relay.run_once()
        assert len(producer.published) == 40

    async def test_another_destination_is_served_while_one_broker_is_away(self, store: Store) -> None:
        away, fine = Producer(refuse={"*": broker_away()}), Producer()
        for number in range(10):
            await store.put(f"{number}", "1")
            await store.put(f"{number}", "1", kind=Letter)
        await OutboxRelay(store, {Diary: away, Letter: fine}, grace=0).run_once()
        assert (len(away.tried), len(fine.published)) == (TRIES, 10)

    async def test_each_class_goes_to_its_own_producer(self, store: Store) -> None:
        diaries, letters = Producer(), Producer()
        await store.put("d", "1")
        await store.put("l", "1", kind=Letter)
        await OutboxRelay(store, {Diary: diaries, Letter: letters}, grace=0).run_once()
        assert (diaries.published, letters.published) == (["d/1"], ["l/1"])

    async def test_a_dispatch_that_hangs_is_cut_off_before_others_take_over(
        self, store: Store, producer: Producer
    ) -> None:
        await store.put("a", "1")
        producer.gate = asyncio.Event()
        async with asyncio.timeout(5):
            metrics = await OutboxRelay(store, {Diary: producer}, grace=0, lease=0.1).run_once()
        assert (metrics.failed, producer.running, store.waiting()) == (1, 0, [(A, 1)])

    async def test_a_stream_that_takes_all_of_the_time_does_not_keep_others_waiting_for_ever(
        self, store: Store
    ) -> None:
        await store.put("a", "1")
        await store.put("b", "1")
        producer = Producer(gate=asyncio.Event(), held=frozenset({"a/1"}))
        relay = OutboxRelay(store, {Diary: producer}, grace=0, lease=0.05)
        for _ in range(40):
            await relay.run_once()
            if producer.published == ["b/1"]:
                return
        pytest.fail("b never had its turn")

    async def test_the_text_of_a_foreign_exception_never_reaches_the_log(
        self,
        store: Store,
        producer: Producer,
        relay: OutboxRelay,
        alerts: list[Alert],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        await store.put("a", "payload-marker")
        for call in ("sweep", "write_lease", "unpublished", "mark_published"):
            store.failures[call] = [KeyError("payload-marker")]
            await relay.run_once()
        producer.refuse["a/1"] = RuntimeError("payload-marker")
        await store.put("c", "payload-marker")
        await relay.run_once()
        assert "payload-marker" not in caplog.text
        assert caplog.text.count("KeyError") == 4
        assert "RuntimeError" in caplog.text
        assert all(record.exc_info is None for record in caplog.records)
        assert alerts == []

    async def test_a_commit_that_was_published_and_could_not_be_marked_goes_out_again(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        await store.put("a", "1", "2")
        store.failures["mark_published"] = [StoreUnavailableError("throttled")]
        metrics = await relay.run_once()
        assert (metrics.published, metrics.failed, store.waiting()) == (1, 1, [(A, 1), (A, 2)])
        await relay.run_once()
        assert producer.published == ["a/1", "a/1", "a/2"]

    @pytest.mark.parametrize(
        "error", [StoreError("refused"), CorruptStreamError("damaged"), OSError("broken"), IndexError()]
    )
    async def test_a_partition_that_cannot_be_swept_keeps_no_other_waiting(
        self, producer: Producer, error: Exception
    ) -> None:
        store = Store(partitions=4)
        for number in range(30):
            await store.put(f"{number}", "1")
        store.failures["sweep"] = [error]
        relay = OutboxRelay(store, {Diary: producer}, grace=0, concurrency=1)
        metrics = await relay.run_once()
        assert metrics.failed == 1
        assert len({store.partition_of(stream) for stream, _ in store.waiting()}) == 1
        await relay.run_once()
        assert store.waiting() == []

    async def test_a_stream_the_store_refuses_keeps_no_other_waiting(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        for name in "abc":
            await store.put(name, "1")
        store.failures["unpublished"] = [StoreError("refused")]
        metrics = await relay.run_once()
        assert (metrics.failed, len(producer.published), len(store.waiting())) == (1, 2, 1)

    async def test_a_store_that_is_away_is_left_alone_and_the_lease_is_given_up(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        for name in "abc":
            await store.put(name, "1")
        store.failures["unpublished"] = [StoreUnavailableError("away")]
        metrics = await relay.run_once()
        assert len(store.called("unpublished")) == 1
        assert (metrics.failed, producer.tried) == (1, [])
        assert [lease.owner == "" for lease in store.lease_writes] == [False, True]

    async def test_a_relay_whose_lease_could_not_be_given_up_works_on_at_the_next_sweep(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        await store.put("a", "1")
        store.failures["write_lease"] = [None, StoreUnavailableError("away")]
        await relay.run_once()
        await store.put("b", "1")
        await relay.run_once()
        assert producer.published == ["a/1", "b/1"]
        assert [lease.epoch for lease in store.lease_writes] == [1, 2, 2]


class TestWhatNobodyCanPublish:
    async def test_a_class_without_producer_is_reported_once_and_left_in_place(
        self,
        store: Store,
        producer: Producer,
        relay: OutboxRelay,
        alerts: list[Alert],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        await store.put("a", "1")
        for name in "xyz":
            await store.put(name, "1", kind=Letter)
        for _ in range(3):
            await relay.run_once()
        (alert,) = alerts
        assert (alert.stream, alert.first_version, alert.set_aside) == (stream_name("Letter", "x"), 1, False)
        assert "Letter" in alert.reason
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert producer.published == ["a/1"]
        assert len(store.waiting()) == 3
        assert len(store.called("write_lease")) == 2, "what cannot be published is no reason to take a lease"

    async def test_a_stream_whose_name_is_nonsense_harms_nobody(
        self, store: Store, producer: Producer, relay: OutboxRelay, alerts: list[Alert]
    ) -> None:
        await store.put("a", "1")
        for name in ("", "_", "no-dot", "_ZZ.b", "Diary_"):
            store._outbox[name] = {1: store.clock()}
            insort(store._waiting, name)
        await relay.run_once()
        assert producer.published == ["a/1"]
        assert len(alerts) == 5

    @pytest.mark.parametrize("damage", ["Burned {}", "nonsense", 'Noted {"text":1}', 'Noted {"text":"a"}\nNoted {}'])
    async def test_an_unreadable_commit_blocks_only_its_stream_and_nothing_before_it(
        self, store: Store, producer: Producer, relay: OutboxRelay, alerts: list[Alert], damage: str
    ) -> None:
        for name in "abc":
            await store.put(name, "1", "2", "3", "4")
        store.damage(B, 3, damage)
        for _ in range(2):
            await relay.run_once()
        assert store.waiting() == [(B, 3), (B, 4)]
        assert [name for name in producer.published if name.startswith("b")] == ["b/1", "b/2"]
        assert [(alert.stream, alert.first_version) for alert in alerts] == [(B, 3)]
        assert relay.metrics.failed == 2

    async def test_a_stream_that_was_repaired_goes_on(
        self, store: Store, producer: Producer, relay: OutboxRelay, alerts: list[Alert]
    ) -> None:
        await store.put("a", "1", "2")
        store.damage(A, 1, "nonsense")
        await relay.run_once()
        store.damage(A, 1, 'Noted {"text":"1"}')
        await relay.run_once()
        assert producer.published == ["a/1", "a/2"]
        assert len(alerts) == 1

    async def test_a_damaged_row_in_a_file_blocks_only_its_stream_and_nothing_before_it(self, tmp_path: Path) -> None:
        producer, alerts = Producer(), list[Alert]()
        async with SqliteStore(tmp_path / "store.db") as store:
            for name in "ab":
                diary = Diary(name)
                for text in "123":
                    diary.record(Noted(text=text))
                    await store.events(Diary, outbox=True).append(diary)
            assert store._writer is not None
            damage = f"UPDATE commits SET payload = x'00' WHERE stream = '{A}' AND first_version = 2"  # noqa: S608
            await store._writer.run(None, lambda db: db.execute(damage))
            relay = OutboxRelay(store, {Diary: producer}, grace=0, alert=alerts.append)
            await relay.run_once()
            assert sorted(producer.published) == ["a/1", "b/1", "b/2", "b/3"]
            assert [(alert.stream, alert.first_version) for alert in alerts] == [(A, 2)]

    async def test_a_poisonous_commit_blocks_its_stream_and_is_reported_once_after_its_attempts(
        self,
        store: Store,
        producer: Producer,
        relay: OutboxRelay,
        alerts: list[Alert],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        await store.put("a", "1", "2")
        producer.refuse["a/1"] = too_large()
        for sweep in range(1, 7):
            await relay.run_once()
            assert len(alerts) == (sweep >= 3)
        assert alerts == [Alert(A, 1, "DispatchError: a message is too large", set_aside=False)]
        assert producer.tried == ["a/1"] * 6
        assert store.waiting() == [(A, 1), (A, 2)]
        assert store.quarantine == {}
        assert (relay.metrics.quarantined, relay.metrics.failed) == (0, 6)
        assert [record.levelname for record in caplog.records].count("ERROR") == 1

    async def test_a_poisonous_commit_that_may_be_skipped_is_set_aside_and_its_stream_goes_on(
        self, store: Store, producer: Producer, alerts: list[Alert]
    ) -> None:
        relay = OutboxRelay(store, {Diary: producer}, grace=0, attempts=2, poison="skip", alert=alerts.append)
        await store.put("a", "1", "2", "3")
        producer.refuse["a/2"] = too_large()
        await relay.run_once()
        assert (producer.published, alerts) == (["a/1"], [])
        await relay.run_once()
        assert producer.published == ["a/1", "a/3"]
        assert store.waiting() == []
        assert store.quarantine == {(A, 2): "DispatchError: a message is too large"}
        assert alerts == [Alert(A, 2, "DispatchError: a message is too large", set_aside=True)]
        assert (relay.metrics.quarantined, relay.metrics.published) == (1, 2)
        assert len((await store.events(Diary).rehydrate("a")).pending) == 0

    async def test_only_what_is_refused_for_good_counts_as_an_attempt(
        self, store: Store, producer: Producer, alerts: list[Alert]
    ) -> None:
        relay = OutboxRelay(store, {Diary: producer}, grace=0, attempts=1, poison="skip", alert=alerts.append)
        await store.put("a", "1")
        for error in (broker_away(), RuntimeError("odd"), TimeoutError()):
            producer.refuse["a/1"] = error
            await relay.run_once()
        assert (alerts, store.quarantine, store.waiting()) == ([], {}, [(A, 1)])

    async def test_poison_does_not_count_against_the_broker(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        for number in range(10):
            await store.put(f"{number}", "1")
        producer.refuse["*"] = too_large()
        await relay.run_once()
        assert len(producer.tried) == 10

    async def test_when_setting_aside_fails_it_is_reported_as_waiting_and_tried_again(
        self, store: Store, producer: Producer, alerts: list[Alert]
    ) -> None:
        relay = OutboxRelay(store, {Diary: producer}, grace=0, attempts=1, poison="skip", alert=alerts.append)
        await store.put("a", "1", "2")
        producer.refuse["a/1"] = too_large()
        store.failures["set_aside"] = [StoreError("refused"), StoreError("refused")]
        for _ in range(2):
            await relay.run_once()
            assert [alert.set_aside for alert in alerts] == [False]
            assert (store.waiting(), relay.metrics.quarantined) == ([(A, 1), (A, 2)], 0)
        await relay.run_once()
        assert [alert.set_aside for alert in alerts] == [False, True]
        assert (producer.published, relay.metrics.quarantined) == (["a/2"], 1)

    async def test_an_alert_that_fails_harms_nobody_and_is_not_repeated(
        self, store: Store, producer: Producer, caplog: pytest.LogCaptureFixture
    ) -> None:
        heard: list[Alert] = []

        def alert(what: Alert) -> None:
            heard.append(what)
            raise RuntimeError("payload-marker")

        relay = OutboxRelay(store, {Diary: producer}, grace=0, attempts=1, poison="skip", alert=alert)
        await store.put("a", "1", "2")
        await store.put("l", "1", kind=Letter)
        producer.refuse["a/1"] = too_large()
        for _ in range(2):
            await relay.run_once()
        assert (producer.published, len(heard)) == (["a/2"], 2)
        assert "payload-marker" not in caplog.text
        assert "alert failed: RuntimeError" in caplog.text

    async def test_without_alert_the_log_says_it(
        self, store: Store, producer: Producer, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.put("a", "1")
        producer.refuse["a/1"] = too_large()
        await OutboxRelay(store, {Diary: producer}, grace=0, attempts=1).run_once()
        assert f"{A}: version 1 cannot be published, its stream waits: DispatchError" in caplog.text

    async def test_troubles_are_forgotten_with_the_commits_they_were_about(
        self, store: Store, producer: Producer, relay: OutboxRelay
    ) -> None:
        for number in range(50):
            await store.put(f"{number}", "1")
        producer.refuse["*"] = too_large()
        for _ in range(3):
            await relay.run_once()
        assert sum(map(len, relay._troubles.values())) == 50
        producer.refuse.clear()
        for _ in range(2):
            await relay.run_once()
        assert not any(relay._troubles.values())


class TestMetrics:
    async def test_numbers_of_a_partition_that_cannot_be_read_stay_as_they_were(self, producer: Producer) -> None:
        store = Store(partitions=2)
        for number in range(8):
            await store.put(f"{number}", "1")
        store.manual_clock.advance(30)
        relay = OutboxRelay(store, {Diary: Producer(refuse={"*": broker_away()})}, grace=0)
        metrics = await relay.run_once()
        assert (metrics.pending, metrics.oldest_age, metrics.sweeps) == (8, 30.0, 1)
        store.failures["sweep"] = [StoreUnavailableError("away")] * 2
        metrics = await relay.run_once()
        assert (metrics.pending, metrics.oldest_age, metrics.sweeps) == (8, 30.0, 2), (
            "an outage must not look like peace"
        )

    async def test_what_was_published_is_gone_from_the_numbers_at_the_next_sweep(
        self, store: Store, relay: OutboxRelay
    ) -> None:
        await store.put("a", "1", "2")
        store.manual_clock.advance(7)
        metrics = await relay.run_once()
        assert (metrics.pending, metrics.oldest_age, metrics.published) == (2, 7.0, 2)
        metrics = await relay.run_once()
        assert (metrics.pending, metrics.oldest_age, metrics.published) == (0, 0.0, 2)
        assert metrics is relay.metrics

    async def test_an_age_is_never_negative(self, store: Store, relay: OutboxRelay) -> None:
        await store.put("a", "1")
        store._outbox[A][1] = store.clock().replace(year=2100)
        assert (await relay.run_once()).oldest_age == 0.0


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [{"interval": 0}, {"lease": 0}, {"grace": -1}, {"concurrency": 0}, {"attempts": 0}, {"interval": -1}],
    )
    def test_numbers_below_sense_are_refused(self, store: Store, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="must be"):
            OutboxRelay(store, {}, **options)  # type: ignore[arg-type]

    def test_two_classes_of_one_stored_name_are_refused(self, store: Store) -> None:
        class Other(AggregateRoot[Noted, str]):
            aggregate_type = "Diary"

            def when(self, event: Noted) -> None: ...

        with pytest.raises(ValueError, match="stored as Diary"):
            OutboxRelay(store, {Diary: Producer(), Other: Producer()})

    async def test_partitions_are_swept_in_another_order_each_time(self, producer: Producer) -> None:
        store = Store(partitions=16)
        relay = OutboxRelay(store, {Diary: producer}, concurrency=1)
        for _ in range(3):
            await relay.run_once()
        order = store.called("sweep")
        assert len({tuple(order[start : start + 16]) for start in (0, 16, 32)}) > 1
        assert sorted(order[:16]) == sorted(store.partitions)

    @pytest.mark.parametrize("concurrency", [1, 3, 8])
    async def test_concurrency_bounds_how_many_partitions_are_worked_on(self, concurrency: int) -> None:
        store, producer = Store(partitions=16), Producer(pause=0.005)
        for number in range(60):
            await store.put(f"{number}", "1")
        sweeping = most = 0

        async def count(call: str) -> None:
            nonlocal sweeping, most
            if call == "sweep":
                sweeping += 1
                most = max(most, sweeping)
                await asyncio.sleep(0.002)
                sweeping -= 1

        store.before = count
        await OutboxRelay(store, {Diary: producer}, grace=0, concurrency=concurrency).run_once()
        assert (producer.most, most) == (concurrency, concurrency)
        assert store.waiting() == []
