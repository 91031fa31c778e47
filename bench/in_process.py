"""Aggregates over memory: loading and saving as text, without any server or disk. Read `sqlite.py` next."""

from __future__ import annotations

from bench.domain import Account, FloorAccount, FloorStore, account_of, check, store
from bench.measuring import Settings, Work, race
from bench.peers import EsAccount, Eventsourcing, PyAccount, eventsource_in_memory
from bench.report import Report
from esazure.memory import InMemoryStore

EVENTS = 1_000


async def run(report: Report, settings: Settings) -> None:
    """All of it."""
    await load(report, settings)
    await growth(report, settings)
    await save(report, settings)


async def load(report: Report, settings: Settings) -> None:
    """Rebuild an aggregate from stored text."""
    ours, singly = InMemoryStore().events(Account), InMemoryStore().events(Account)
    floor, es, py = FloorStore(), Eventsourcing(), eventsource_in_memory()
    account = await store(Account, ours.append, EVENTS)
    alone = await store(Account, singly.append, EVENTS, step=1)
    by_hand = account_of(FloorAccount, EVENTS)
    floor.save(by_hand)
    es_account = account_of(EsAccount, EVENTS)
    es.save(es_account)
    py_account = account_of(PyAccount, EVENTS)
    await py.save(py_account)

    async def esazure() -> None:
        check((await ours.rehydrate(account.id)).state, EVENTS - 1)

    async def esazure_singly() -> None:
        check((await singly.rehydrate(alone.id)).state, EVENTS - 1)

    async def hand() -> None:
        check(floor.load(by_hand.id).state, EVENTS - 1)

    async def eventsourcing() -> None:
        found: EsAccount = es.repository.get(es_account.id)
        check(found.state, EVENTS - 1)

    async def eventsource() -> None:
        check((await py.load(py_account.aggregate_id)).current, EVENTS - 1)

    contenders: dict[str, Work] = {
        "by hand": hand,
        "esazure": esazure,
        "esazure, commits of 1": esazure_singly,
        "eventsource-py": eventsource,
        "eventsourcing": eventsourcing,
    }
    result = await race(contenders, settings)
    title, spent = "load 1,000 events from text in memory", f"CPU ms: {result.milliseconds()}"
    report.at_least(7, f"{title}: eventsourcing / esazure", result.ratio("eventsourcing", "esazure"), spent)
    report.at_least(2.5, f"{title}: eventsource-py / esazure", result.ratio("eventsource-py", "esazure"), "")
    report.at_most(1.25, f"{title}: esazure / by hand", result.ratio("esazure", "by hand"), "")
    report.shown(f"{title}, commits of 1: esazure / by hand", result.ratio("esazure, commits of 1", "by hand"), "")
    report.chart("Load 1,000 events from text in memory", result)


async def growth(report: Report, settings: Settings) -> None:
    """Whether an event costs more in a longer stream."""
    repository = InMemoryStore().events(Account)
    short = await store(Account, repository.append, EVENTS)
    long = await store(Account, repository.append, 10 * EVENTS)

    async def load_short() -> None:
        check((await repository.rehydrate(short.id)).state, EVENTS - 1)

    async def load_long() -> None:
        check((await repository.rehydrate(long.id)).state, 10 * EVENTS - 1)

    result = await race({"1,000": load_short, "10,000": load_long}, settings)
    measure = "an event of a stream of 10,000 / of a stream of 1,000"
    report.at_most(1.15, measure, result.ratio("10,000", "1,000") / 10, f"CPU ms: {result.milliseconds()}")


async def save(report: Report, settings: Settings) -> None:
    """Make an aggregate, decide ten times, and save it as text."""
    ours = InMemoryStore().events(Account)
    floor, es, py = FloorStore(), Eventsourcing(), eventsource_in_memory()

    async def esazure() -> None:
        await ours.append(account_of(Account, 11))

    async def hand() -> None:
        floor.save(account_of(FloorAccount, 11))

    async def hand_and_read_back() -> None:
        floor.save(account_of(FloorAccount, 11), read_back=True)

    async def eventsourcing() -> None:
        es.save(account_of(EsAccount, 11))

    async def eventsource() -> None:
        await py.save(account_of(PyAccount, 11))

    contenders: dict[str, Work] = {
        "by hand": hand,
        "by hand, read back": hand_and_read_back,
        "esazure": esazure,
        "eventsource-py": eventsource,
        "eventsourcing": eventsourcing,
    }
    result = await race(contenders, settings)
    title, spent = "open, deposit 10 times, save as text in memory", f"CPU ms: {result.milliseconds()}"
    report.at_least(3.5, f"{title}: eventsourcing / esazure", result.ratio("eventsourcing", "esazure"), spent)
    report.at_least(2, f"{title}: eventsource-py / esazure", result.ratio("eventsource-py", "esazure"), "")
    report.at_most(1.6, f"{title}: esazure / by hand", result.ratio("esazure", "by hand"), "")
    report.shown(f"{title}: esazure / by hand, read back", result.ratio("esazure", "by hand, read back"), "")
    report.chart("Open, deposit 10 times, save as text in memory", result)
