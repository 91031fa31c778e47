"""Snapshots: never trusted, never in the way, and equal to a full replay whatever happens."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from esazure import AggregateRoot, DomainEvent, EventsService, Snapshotted
from esazure.errors import CorruptStreamError
from esazure.events import CommitRecord
from esazure.memory import InMemoryStore
from esazure.snapshots import SnapshotCodec, snapshots_of
from esazure.state import state_of


class Paid(DomainEvent):
    amount: Decimal
    by: str = ""


class Closed(DomainEvent):
    pass


class PurseState(BaseModel):
    model_config = ConfigDict(extra="forbid")

    balance: Decimal
    payers: dict[str, int]
    is_closed: bool


class PlainPurse(AggregateRoot[Paid | Closed, str]):
    """Always replayed."""

    aggregate_type = "Purse"
    __qualname__ = "Purse"

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.balance = Decimal(0)
        self.payers: dict[str, int] = {}
        self.is_closed = False
        self.applied = 0

    def when(self, event: Paid | Closed) -> None:
        self.applied += 1
        match event:
            case Paid(amount=amount, by=by):
                self.balance += amount
                self.payers[by] = self.payers.get(by, 0) + 1
            case Closed():
                self.is_closed = True

    def pay(self, amount: int, by: str = "") -> None:
        self.record(Paid(amount=Decimal(amount) / 100, by=by))


class Purse(PlainPurse, Snapshotted[PurseState]):
    """The same stream with snapshots."""

    snapshot_every: ClassVar[int] = 3

    def snapshot(self) -> PurseState:
        return PurseState(balance=self.balance, payers=self.payers, is_closed=self.is_closed)

    def restore(self, state: PurseState) -> None:
        self.balance, self.payers, self.is_closed = state.balance, state.payers, state.is_closed


def state(purse: Any) -> tuple[int, Decimal, dict[str, int], bool]:
    return purse.version, purse.balance, purse.payers, purse.is_closed


def records(store: InMemoryStore, stream: str) -> list[CommitRecord]:
    return store._streams[stream]


payments = st.lists(st.tuples(st.integers(-10_000, 10_000), st.sampled_from(["", "ada", "g\u00e9"])), max_size=6)


@given(st.lists(payments, max_size=8), st.integers(1, 7), st.data())
async def test_any_history_is_loaded_at_every_version_as_by_a_full_replay(
    history: list[list[tuple[int, str]]], every: int, data: st.DataObject
) -> None:
    class Often(Purse):
        aggregate_type = "Purse"
        __qualname__ = "Purse"
        snapshot_every = every

    store = InMemoryStore()
    purses, plain = store.events(Often), store.events(PlainPurse)
    purse = Often("a")
    for commit in history:
        for amount, by in commit:
            purse.pay(amount, by)
        await purses.append(purse)
        if data.draw(st.booleans(), label="goes on with a loaded copy") and purse.version:
            purse = await purses.rehydrate("a")
    for version in range(1, purse.version + 1):
        found = await purses.rehydrate("a", version=version)
        assert state(found) == state(await plain.rehydrate("a", version=version))
        assert found.applied < max(every, *(len(commit) for commit in history)) + every


async def purse_of(store: InMemoryStore, purse_class: type[Purse] = Purse) -> CommitRecord:
    purse = purse_class("a")
    for _ in range(3):
        purse.pay(100)
    commit = await store.events(purse_class).append(purse)
    assert commit is not None
    return commit.record


async def test_a_commit_that_is_due_has_one_and_the_next_is_counted_from_there() -> None:
    store = InMemoryStore()
    purses = store.events(Purse)
    purse = Purse("a")
    due: list[int] = []
    for _ in range(10):
        purse.pay(1)
        commit = await purses.append(purse)
        assert commit is not None
        if commit.record.snapshot is not None:
            due.append(purse.version)
        purse = await purses.rehydrate("a")
        assert purse.applied == purse.version % 3
    assert due == [3, 6, 9]


async def test_a_version_that_was_asked_for_can_be_a_snapshots_and_stays_read_only() -> None:
    store = InMemoryStore()
    await purse_of(store)
    purse = await store.events(Purse).rehydrate("a", version=3)
    assert (purse.applied, purse.version, state_of(purse).read_only) == (0, 3, True)


async def test_a_repeated_command_and_a_conflict_go_on_with_the_true_state() -> None:
    store = InMemoryStore()
    service = EventsService(store.events(Purse))
    await purse_of(store)
    for _ in range(2):
        await service.update("a", lambda purse: purse.pay(100), command_id="once")
    assert state(await service.rehydrate("a")) == (4, Decimal(4), {"": 4}, False)


def changed(**changes: Any) -> type[Purse]:
    """The class in its next release."""
    return type("Purse", (Purse,), {"aggregate_type": "Purse", "__module__": __name__, **changes})


async def test_what_another_revision_has_made_is_stale() -> None:
    store = InMemoryStore()
    await purse_of(store)
    purse = await store.events(changed(snapshot_revision=2)).rehydrate("a")
    assert (purse.applied, purse.balance) == (3, 3)


async def test_the_same_code_in_a_subclass_without_changes_is_not_stale() -> None:
    store = InMemoryStore()
    await purse_of(store)
    assert (await store.events(changed()).rehydrate("a")).applied == 0


class PaidInCents(DomainEvent):
    """Reads what is stored differently."""

    event_type: ClassVar[str] = "Paid"
    amount: Decimal
    by: str = ""

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        return {**value, "amount": Decimal(value["amount"]) * 100}


def test_other_events_and_another_model_of_the_state_make_another_tag() -> None:
    class Renamed(PurseState):
        model_config = ConfigDict(title="PurseState")

        balance: Decimal = Field(alias="b")

    class OtherState(AggregateRoot[Paid | Closed, str], Snapshotted[Renamed]):
        __qualname__ = "Purse"
        when = Purse.when  # type: ignore[assignment]
        snapshot = Purse.snapshot  # type: ignore[assignment]
        restore = Purse.restore  # type: ignore[assignment]

    class SameState(AggregateRoot[Paid | Closed, str], Snapshotted[PurseState]):
        __qualname__ = "Purse"
        when = Purse.when  # type: ignore[assignment]
        snapshot = Purse.snapshot  # type: ignore[assignment]
        restore = Purse.restore  # type: ignore[assignment]

    class OtherEvents(AggregateRoot[PaidInCents | Closed, str], Snapshotted[PurseState]):
        __qualname__ = "Purse"
        when = Purse.when  # type: ignore[assignment]
        snapshot = Purse.snapshot  # type: ignore[assignment]
        restore = Purse.restore  # type: ignore[assignment]

    tags = {SnapshotCodec(each).tag for each in (SameState, OtherState, OtherEvents)}
    assert len(tags) == 3


class Odd:
    """Has no JSON schema."""


def test_a_state_without_a_json_schema_has_a_tag_as_well() -> None:
    class OddState(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)

        odd: Odd | None = None

    class OddPurse(Purse, Snapshotted[OddState]):  # type: ignore[misc]
        pass

    assert len(SnapshotCodec(OddPurse).tag) == 16


class Failing(Purse):
    """Each of them keeps a snapshot from being taken."""

    aggregate_type = "Purse"
    __qualname__ = "Purse"
    how: ClassVar[ContextVar[str]] = ContextVar("how", default="")  # of which the tag of the snapshots sees nothing

    def snapshot(self) -> PurseState:
        whole = super().snapshot()
        match self.how.get():
            case "raises":
                raise ValueError("payload-marker")
            case "forgets":
                return whole.model_copy(update={"balance": Decimal(0)})
            case "another model":
                return PurseState.model_construct(balance="payload-marker", payers={}, is_closed=False)
            case "too large":
                return whole.model_copy(update={"payers": {"payload-marker" + str(each): 1 for each in range(9_999)}})
            case _:
                return whole

    def restore(self, state: PurseState) -> None:
        super().restore(state)
        if self.how.get() == "restores half":
            self.balance = Decimal(0)
        if self.how.get() == "records":
            self.pay(1)
        if self.how.get() == "restore raises":
            raise RuntimeError("payload-marker")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("raises", "ValueError at "),
        ("another model", "balance: decimal_parsing"),
        ("too large", "another state|characters"),
        ("restores half", "another state"),
        ("records", "restore must not record"),
        ("restore raises", "RuntimeError at "),
    ],
)
async def test_what_cannot_be_kept_is_logged_and_the_commit_is_stored(
    how: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    Failing.how.set(how)
    store = InMemoryStore()
    purse = Failing("a")
    for _ in range(3):
        purse.pay(100)
    with caplog.at_level(logging.WARNING, "esazure"):
        commit = await store.events(Failing).append(purse)
    assert commit is not None
    assert (commit.record.snapshot, purse.version, purse.pending) == (None, 3, ())
    (logged,) = caplog.messages
    assert logged.startswith("Purse.a: no snapshot at version 3: ")
    assert re.search(why, logged)
    assert "payload-marker" not in caplog.text
    assert state(await store.events(PlainPurse).rehydrate("a")) == (3, Decimal(3), {"": 3}, False)


async def test_a_snapshot_that_is_refused_is_logged_and_the_events_are_replayed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = InMemoryStore()
    await purse_of(store, Failing)
    Failing.how.set("restore raises")
    with caplog.at_level(logging.WARNING, "esazure"):
        found = await store.events(Failing).rehydrate("a")
    assert (found.applied, found.balance) == (3, 3)
    assert "the snapshot of version 3 is not used: RuntimeError at " in caplog.text
    assert "payload-marker" not in caplog.text


async def test_a_snapshot_that_records_when_it_is_restored_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    store = InMemoryStore()
    await purse_of(store, Failing)
    Failing.how.set("records")
    with caplog.at_level(logging.WARNING, "esazure"):
        found = await store.events(Failing).rehydrate("a")
    assert (found.applied, found.balance, found.pending) == (3, 3, ())
    assert "the snapshot of version 3 is not used: restore must not record" in caplog.text


class Counting(AggregateRoot[Paid, str], Snapshotted[PurseState]):
    """Counts in a dict that has every key, and gets one back that has not."""

    snapshot_every = 2

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.payers: dict[str, int] = defaultdict(int)
        self.applied = 0

    def when(self, event: Paid) -> None:
        self.applied += 1
        self.payers[event.by] += 1

    def snapshot(self) -> PurseState:
        return PurseState(balance=Decimal(0), payers=self.payers, is_closed=False)

    def restore(self, state: PurseState) -> None:
        self.payers = state.payers


async def test_when_an_event_behind_a_snapshot_fails_every_event_is_replayed(caplog: pytest.LogCaptureFixture) -> None:
    store = InMemoryStore()
    counting = Counting("a")
    for payers in (["ada", "ada"], ["grace-payload-marker"]):
        for by in payers:
            counting.record(Paid(amount=Decimal(1), by=by))
        await store.events(Counting).append(counting)
    assert [record.snapshot is not None for record in records(store, "Counting.a")] == [True, False]
    with caplog.at_level(logging.WARNING, "esazure"):
        found = await store.events(Counting).rehydrate("a")
    assert (found.applied, found.payers) == (3, {"ada": 2, "grace-payload-marker": 1})
    assert "Counting.a: the snapshot is not used, for behind it: " in caplog.text
    assert "KeyError at test_snapshots.py" in caplog.text
    assert "payload-marker" not in caplog.text


async def test_a_damaged_event_behind_a_snapshot_is_reported_as_by_a_full_replay() -> None:
    store = InMemoryStore()
    purse = Purse("a")
    for _ in range(4):
        purse.pay(100)
        await store.events(Purse).append(purse)
    damaged = records(store, "Purse.a")
    damaged[3] = replace(damaged[3], payload="Paid {}")
    with pytest.raises(CorruptStreamError, match="version 4 is stored as Paid but cannot be read") as caught:
        await store.events(Purse).rehydrate("a")
    assert caught.value.__context__ is None


async def test_a_snapshot_never_shares_state_with_the_aggregate() -> None:
    store = InMemoryStore()
    record = await purse_of(store)
    first, second = [await store.events(Purse).rehydrate("a") for _ in range(2)]
    first.payers["ada"] = 5
    assert second.payers == {"": 3}
    assert replace(record).snapshot == records(store, record.stream)[0].snapshot


def test_a_class_says_what_its_state_is() -> None:
    class NoModel(AggregateRoot[Paid | Closed, str], Snapshotted):  # type: ignore[type-arg]
        when = Purse.when  # type: ignore[assignment]
        snapshot = Purse.snapshot  # type: ignore[assignment]
        restore = Purse.restore  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"NoModel must say .* Snapshotted\[AccountState\]"):
        snapshots_of(NoModel)


@pytest.mark.parametrize("every", [0, -1, 501, 1.5, True, "3"])
def test_snapshots_are_taken_every_so_many_events(every: Any) -> None:
    with pytest.raises(TypeError, match="a number of events from 1 to 500"):
        InMemoryStore().events(changed(snapshot_every=every))


def test_a_class_without_snapshots_has_none() -> None:
    assert snapshots_of(PlainPurse) is None


class DueState(BaseModel):
    version: int
    due: datetime


class Due(AggregateRoot[Paid, str], Snapshotted[DueState]):
    """Keeps a time, and the version it was of."""

    snapshot_every = 1
    zone: ClassVar[tzinfo] = UTC

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.due = datetime(2024, 1, 1, tzinfo=UTC)
        self.applied = 0
        self.versions: list[int] = []

    def when(self, event: Paid) -> None:
        self.applied += 1
        self.due = (self.due + timedelta(days=1)).astimezone(self.zone)

    def snapshot(self) -> DueState:
        return DueState(version=self.version, due=self.due)

    def restore(self, state: DueState) -> None:
        self.versions = [self.version, state.version]
        self.due = state.due


async def test_snapshots_know_the_version_they_are_of() -> None:
    store = InMemoryStore()
    due = Due("a")
    for _ in range(2):
        due.record(Paid(amount=Decimal(1)))
        await store.events(Due).append(due)
    found = await store.events(Due).rehydrate("a")
    assert (found.applied, found.versions, found.due) == (0, [2, 2], due.due)


async def test_a_time_in_a_zone_is_not_kept_because_it_would_go_on_differently(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Due, "zone", ZoneInfo("Europe/Paris"))
    store = InMemoryStore()
    due = Due("a")
    due.record(Paid(amount=Decimal(1)))
    commit = await store.events(Due).append(due)
    assert commit is not None
    assert commit.record.snapshot is None
    assert "no snapshot at version 1: due: it has a time in a zone such as Europe/Paris" in caplog.text


class Recording(Purse):
    """Must not."""

    aggregate_type = "Purse"
    __qualname__ = "Purse"

    def snapshot(self) -> PurseState:
        self.pay(100)
        return super().snapshot()


async def test_a_snapshot_that_records_is_none_and_nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    store = InMemoryStore()
    purse = Recording("a")
    for _ in range(3):
        purse.pay(100)
    commit = await store.events(Recording).append(purse)
    assert commit is not None
    assert (commit.record.snapshot, purse.pending, purse.balance) == (None, (), 3)
    assert "no snapshot at version 3: UnusableAggregateError" in caplog.text
    purse.pay(100)  # it goes on as if nothing had been
