"""Much that waits: it is read page by page, and what cannot be published keeps nothing else waiting."""

from __future__ import annotations

import pytest
from tests.relay.support import Diary, Letter, Producer, Store, broker_away, too_large

from esazure.keys import stream_name
from esazure.relay import Alert, OutboxRelay
from esazure.relay import relay as relay_module
from esazure.testing._counter import commit_of

NAMES = "abcdefgh"


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "PAGE", 3)


@pytest.fixture
async def store() -> Store:
    store = Store()
    for name in NAMES:
        await store.put(name, "1", "2")
    return store


async def test_one_sweep_goes_through_all_pages_and_keeps_the_order(store: Store) -> None:
    producer = Producer()
    metrics = await OutboxRelay(store, {Diary: producer}, grace=0).run_once()
    assert sorted(producer.published) == [f"{name}/{version}" for name in NAMES for version in (1, 2)]
    for name in NAMES:
        assert producer.published.index(f"{name}/1") < producer.published.index(f"{name}/2")
    assert metrics.pending == 16
    assert len(store.lease_writes) == 2, "it takes one turn, and gives it up"


async def test_what_nobody_publishes_is_passed_over_and_costs_one_page(store: Store) -> None:
    letter = stream_name("Letter", "z")
    await store.insert(commit_of(letter, 1, "a"), outbox=True)
    producer = Producer()
    relay = OutboxRelay(store, {Letter: producer}, grace=0)
    await relay.run_once()
    assert producer.tried == ["z/1"]
    assert len(store.called("sweep")) == 2


async def test_a_broker_that_is_away_costs_one_page_and_holds_up_no_other_class(store: Store) -> None:
    await store.insert(commit_of(stream_name("Letter", "z"), 1, "a"), outbox=True)
    away, fine = Producer(), Producer()
    for name in NAMES:
        away.refuse[f"{name}/1"] = broker_away()
    relay = OutboxRelay(store, {Diary: away, Letter: fine}, grace=0)
    for _ in range(2):
        await relay.run_once()
    assert fine.published == ["z/1"]
    assert len(store.called("sweep")) < 2 * len(NAMES)


async def test_when_the_turn_is_over_the_next_sweep_goes_on_there(store: Store) -> None:
    producer = Producer(pause=0.15)
    for name in NAMES:
        producer.refuse[f"{name}/1"] = too_large()
    relay = OutboxRelay(store, {Diary: producer}, grace=0, lease=0.2, attempts=99)
    for _ in range(6):
        await relay.run_once()
    assert len({name.partition("/")[0] for name in producer.tried}) >= 4, "not the first ones again and again"


async def test_what_was_reported_on_a_later_page_is_not_reported_again(store: Store) -> None:
    producer = Producer()
    producer.refuse["h/1"] = too_large()
    alerts: list[Alert] = []
    relay = OutboxRelay(store, {Diary: producer}, grace=0, attempts=1, alert=alerts.append)
    for _ in range(3):
        await relay.run_once()
    assert [alert.stream for alert in alerts] == [stream_name("Diary", "h")]
    assert relay._troubles["0"]
    await store.mark_published((await store.read(stream_name("Diary", "h")))[0])
    await store.mark_published((await store.read(stream_name("Diary", "h")))[1])
    await relay.run_once()
    assert not relay._troubles.get("0"), "what is gone is forgotten"
