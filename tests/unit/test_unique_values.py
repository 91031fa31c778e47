"""Unique values: reserve, persist, confirm; and what becomes of a reservation when that is interrupted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.support.customers import Customer, owners
from tests.support.races import RacyStore
from tests.unit.doubles import TroubledProducer, broker_down

from esazure import (
    AppendOutcomeUnknownError,
    Commit,
    CommitTooLargeError,
    ConcurrencyError,
    CorruptStreamError,
    DispatchError,
    EventsService,
    InvalidIdError,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
    UnusableAggregateError,
)
from esazure.aggregate import stream_of
from esazure.commands import Command
from esazure.errors import AggregateNotFoundError, CommandHandledError, ValueTakenError
from esazure.memory import InMemoryStore
from esazure.sqlite import SqliteStore
from esazure.store import Store
from esazure.testing import ManualClock
from esazure.testing.faults import Crash, Fault, Faults, FaultyStore, Kind
from esazure.unique import UniqueValues

EMAIL, OTHER = "ada-payload-marker@example.com", "grace-payload-marker@example.com"
COLLECTION = "unique-email"
EXPIRY = 30.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    made = InMemoryStore(clock=clock) if request.param == "memory" else SqliteStore(tmp_path / "a.db", clock=clock)
    async with made as opened:
        yield opened


@pytest.fixture
def memory(clock: ManualClock) -> InMemoryStore:
    return InMemoryStore(clock=clock)


class Client:
    """One process: a service and the e-mail addresses, over a store of its own or a shared one."""

    def __init__(self, store: Store, faults: dict[int, Kind] | None = None, producer: Any = None) -> None:
        planned = {number: Fault(kind) for number, kind in (faults or {}).items()}
        self.faults = Faults(planned)
        self.store: Store = store if faults is None else FaultyStore(store, self.faults)
        self.service = EventsService(self.store.events(Customer), producer)
        self.emails = self.store.unique_values("email", expiry=EXPIRY)

    async def create(self, id: str, email: str = EMAIL, command_id: str | None = None) -> Commit[Any] | None:
        return await self.emails.persist(self.service, Customer.create(id, email), email, command_id=command_id)

    async def change(self, id: str, email: str, command_id: str | None = None) -> Commit[Any] | None:
        customer = await self.service.rehydrate(id)
        old = customer.email
        customer.change_email(email)
        return await self.emails.persist(self.service, customer, email, command_id=command_id, instead_of=old)

    @property
    def methods(self) -> list[str]:
        return [point.method for point in self.faults.points]


def key_of(store: Store, email: str = EMAIL) -> str:
    return store.unique_values("email")._key(email)


async def claim(store: Store) -> dict[str, Any] | None:
    document = await store.read_document(COLLECTION, key_of(store))
    return None if document is None else json.loads(document.text)


async def is_free(store: Store, email: str = EMAIL) -> bool:
    return await store.read_document(COLLECTION, key_of(store, email)) is None


# Nothing goes wrong.


async def test_a_value_belongs_to_who_stored_it_first(store: Store) -> None:
    client = Client(store)
    commit = await client.create("ada")
    assert commit is not None
    assert commit.last_version == 1
    grace = Customer.create("grace", EMAIL)
    with pytest.raises(ValueTakenError, match="email: this value is taken") as caught:
        await client.emails.persist(client.service, grace, EMAIL)
    assert caught.value.name == "email"
    assert len(grace.pending) == 1
    assert await store.read("Customer.grace") in ([], ())
    assert await client.emails.owner(EMAIL) == "Customer.ada"
    assert await client.emails.owner(OTHER) is None
    await client.create("grace", OTHER)
    assert await client.emails.owner(OTHER) == "Customer.grace"


async def test_a_claim_costs_three_requests_and_one_more_with_a_command_id_and_a_taken_value_two(
    memory: InMemoryStore,
) -> None:
    client = Client(memory, faults={})
    await client.create("ada")
    assert client.methods == ["write_document", "write_document", "insert", "write_document"]
    client.faults.points.clear()
    await client.create("ken", OTHER, "create-1")
    assert client.methods == ["write_document", "find_command", "write_document", "insert", "write_document"]
    client.faults.points.clear()
    with pytest.raises(ValueTakenError):
        await client.create("grace")
    assert client.methods == ["write_document", "read_document", "find_command"]


async def test_a_claim_names_stream_and_version_and_never_the_value(store: Store, clock: ManualClock) -> None:
    await Client(store).create("ada", command_id="create-1")
    assert await claim(store) == {
        "stream": "Customer.ada",
        "version": 1,
        "command_id": None,
        "asked": True,
        "reserved_at": clock().isoformat().replace("+00:00", "Z"),
    }


async def test_two_sets_of_values_know_nothing_of_each_other(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    names = store.unique_values("name")
    assert await names.owner(EMAIL) is None
    await names.persist(client.service, Customer.create("grace", OTHER), EMAIL)
    assert await names.owner(EMAIL) == "Customer.grace"


async def test_values_are_compared_as_they_are(store: Store) -> None:
    client = Client(store)
    for number, value in enumerate(["é", "e\u0301", "É", " é", ""]):
        await client.create(f"c{number}", value)
    assert await client.emails.owner("e\u0301") == "Customer.c1"


async def test_with_nothing_pending_nothing_is_claimed(store: Store) -> None:
    client = Client(store)
    assert await client.emails.persist(client.service, Customer("ada"), EMAIL) is None
    assert await is_free(store)


class Hashed(NamedTuple):
    """A request with a hash of its own."""

    hash: str

    def digest(self, command_id: str) -> str:
        return self.hash


class Unhashable(Command):
    value: Any


@pytest.mark.parametrize(
    ("request_", "command_id", "error"),
    [
        (Hashed("hash"), None, "under the same command_id: give that, too"),
        (Hashed("h" * 65), "c", r"Hashed\.digest gives 1 to 64 characters, not 65"),
        (Hashed(""), "c", "not 0"),
        (Unhashable(value=object()), "c", "^value: a object cannot be hashed"),
    ],
    ids=["without an id", "too long", "empty", "unknown"],
)
async def test_a_request_that_cannot_be_hashed_is_refused_before_any_request(
    memory: InMemoryStore, request_: Any, command_id: str | None, error: str
) -> None:
    client = Client(memory, faults={})
    customer = Customer.create("ada", EMAIL)
    for refused in (
        client.emails.persist(client.service, customer, EMAIL, command_id=command_id, request=request_),
        client.service.persist(customer, command_id=command_id, request=request_),
        client.service.update("ada", lambda it: it.change_email(OTHER), command_id=command_id, request=request_),
        client.service.find_command("ada", command_id, request=request_),
    ):
        with pytest.raises((ValueError, TypeError), match=error):
            await refused
    assert client.methods == []
    await client.emails.persist(client.service, customer, EMAIL)  # as it was


async def test_a_value_that_is_no_unicode_is_refused_before_any_request(memory: InMemoryStore) -> None:
    client = Client(memory, faults={})
    customer = Customer.create("ada", EMAIL)
    for refused in (
        client.emails.persist(client.service, customer, "\ud800payload-marker"),
        client.emails.persist(client.service, customer, EMAIL, instead_of="\ud800payload-marker"),
        client.emails.reserve("\ud800payload-marker", customer, "c"),
        client.emails.release("\ud800payload-marker", customer),
        client.emails.owner("\ud800payload-marker"),
    ):
        with pytest.raises(InvalidIdError, match="well-formed Unicode"):
            await refused
    with pytest.raises(InvalidIdError, match="command id"):
        await client.emails.persist(client.service, customer, EMAIL, command_id="")
    assert client.methods == []


@pytest.mark.parametrize("expiry", [0, -1, float("nan")])
def test_an_expiry_is_above_zero(memory: InMemoryStore, expiry: float) -> None:
    with pytest.raises(ValueError, match="expiry must be above 0"):
        memory.unique_values("email", expiry=expiry)


@pytest.mark.parametrize("name", ["", "E-Mail", "a b", "x" * 94])
def test_a_name_that_cannot_be_a_collections_is_refused(memory: InMemoryStore, name: str) -> None:
    with pytest.raises(ValueError, match="collection"):
        memory.unique_values(name)


@pytest.mark.parametrize("command_id", [None, "create-1"])
async def test_a_service_of_another_store_is_refused_before_anything_is_reserved_or_stored(
    memory: InMemoryStore, command_id: str | None
) -> None:
    elsewhere = EventsService(InMemoryStore().events(Customer))
    emails = memory.unique_values("email")
    ada = Customer.create("ada", EMAIL)
    with pytest.raises(ValueError, match="kept in another store"):
        await emails.persist(elsewhere, ada, EMAIL, command_id=command_id)
    assert ada.pending
    with pytest.raises(AggregateNotFoundError):
        await elsewhere.rehydrate("ada")
    await emails.persist(EventsService(memory.events(Customer)), Customer.create("grace", EMAIL), EMAIL)


async def test_what_an_aggregate_of_another_store_has_is_neither_claimed_nor_released(memory: InMemoryStore) -> None:
    """The same id in another store is another stream, at another version."""
    elsewhere, here = EventsService(InMemoryStore().events(Customer)), EventsService(memory.events(Customer))
    emails = memory.unique_values("email")
    await emails.persist(here, Customer.create("ada", EMAIL), EMAIL)
    await elsewhere.persist(Customer.create("ada", "another"))
    ada = await elsewhere.rehydrate("ada")
    with pytest.raises(StoreMismatchError, match="belongs to the store"):
        await emails.release(EMAIL, ada)
    with pytest.raises(StoreMismatchError, match="belongs to the store"):
        await emails.reserve(OTHER, ada, "change-1")
    ada.change_email(EMAIL)
    with pytest.raises(StoreMismatchError, match="belongs to the store"):
        await emails.persist(here, ada, OTHER)
    assert [await emails.owner(value) for value in (EMAIL, OTHER)] == ["Customer.ada", None]
    await emails.persist(here, Customer.create("grace", OTHER), OTHER)


# The same command again.


async def test_a_repeated_command_gets_the_first_commit(store: Store) -> None:
    client = Client(store)
    first = await client.create("ada", command_id="create-1")
    again = await client.create("ada", command_id="create-1")
    assert again == first
    assert await client.emails.owner(EMAIL) == "Customer.ada"


async def test_a_repeated_command_gets_the_first_commit_also_when_its_value_is_somebody_elses_by_now(
    store: Store,
) -> None:
    client = Client(store)
    first = await client.create("ada", command_id="create-1")
    await client.change("ada", OTHER)
    await client.create("grace")
    assert await client.create("ada", command_id="create-1") == first
    assert await client.emails.owner(EMAIL) == "Customer.grace"


async def test_a_repeated_command_does_not_claim_again_what_was_given_up_since(store: Store) -> None:
    client = Client(store)
    first = await client.create("ada", command_id="create-1")
    await client.change("ada", OTHER)
    assert await client.create("ada", command_id="create-1") == first
    assert await is_free(store)


async def test_an_id_that_is_used_for_two_commands_claims_nothing_for_the_second(store: Store) -> None:
    client = Client(store)
    first = await client.create("ada", command_id="create-1")
    assert await client.create("ada", OTHER, command_id="create-1") == first
    assert await is_free(store, OTHER)


async def test_a_command_that_died_after_storing_is_confirmed_by_its_repeat(memory: InMemoryStore) -> None:
    with pytest.raises(Crash, match="at point 5"):
        await Client(memory, {5: Kind.CRASH_BEFORE}).create("ada", command_id="create-1")
    assert (await claim(memory) or {})["version"] == 0
    assert await Client(memory).emails.owner(EMAIL) == "Customer.ada"
    await Client(memory).create("ada", command_id="create-1")
    assert (await claim(memory) or {})["version"] == 1


# Somebody else has reserved it.


async def test_what_is_being_claimed_at_this_moment_is_taken(store: Store, clock: ManualClock) -> None:
    client = Client(store)
    await client.emails.reserve(EMAIL, "Customer.ada", "create-1")
    clock.advance(EXPIRY - 0.001)
    with pytest.raises(ValueTakenError):
        await client.create("grace")
    assert await client.emails.owner(EMAIL) is None
    await client.create("ada", command_id="create-1")
    assert await client.emails.owner(EMAIL) == "Customer.ada"


async def test_who_never_came_back_is_succeeded_and_cannot_store_any_more(store: Store, clock: ManualClock) -> None:
    client = Client(store)
    await client.emails.reserve(EMAIL, "Customer.ada", "create-1")
    clock.advance(EXPIRY)
    await client.create("grace")
    assert await client.emails.owner(EMAIL) == "Customer.grace"
    with pytest.raises(CommandHandledError):
        await client.service.persist(Customer.create("ada", EMAIL), command_id="create-1")
    with pytest.raises(ValueTakenError):
        await client.create("ada", command_id="create-1")


async def test_who_died_after_storing_is_confirmed_by_who_wants_the_value(
    memory: InMemoryStore, clock: ManualClock
) -> None:
    with pytest.raises(Crash, match="at point 4"):
        await Client(memory, {4: Kind.CRASH_BEFORE}).create("ada")
    client = Client(memory)
    with pytest.raises(ValueTakenError):
        await client.create("grace")
    assert (await claim(memory) or {})["version"] == 0
    clock.advance(EXPIRY)
    with pytest.raises(ValueTakenError):
        await client.create("grace")
    assert (await claim(memory) or {})["version"] == 1
    assert await client.emails.owner(EMAIL) == "Customer.ada"


async def test_a_reservation_from_the_future_expires_too(memory: InMemoryStore, clock: ManualClock) -> None:
    fast = ManualClock(clock())
    fast.advance(365 * 24 * 3600)
    await UniqueValues("email", memory, clock=fast, expiry=EXPIRY).reserve(EMAIL, "Customer.ada", "create-1")
    await Client(memory).create("grace")
    assert await Client(memory).emails.owner(EMAIL) == "Customer.grace"


async def test_only_one_succeeds_an_expired_reservation() -> None:
    for seed in range(100):
        store, clock = RacyStore(seed), ManualClock()
        store.clock = clock
        client = Client(store)
        await client.emails.reserve(EMAIL, "Customer.ada", "create-1")
        clock.advance(EXPIRY)
        answers = await asyncio.gather(*(client.create(f"c{n}") for n in range(5)), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["Commit", *["ValueTakenError"] * 4]
        assert len(owners(store)[EMAIL]) == 1, f"seed {seed}"


# The same stream has reserved it for another command.


async def test_another_command_of_the_stream_succeeds_at_once_and_the_first_cannot_be_stored(store: Store) -> None:
    client = Client(store)
    await client.emails.reserve(EMAIL, "Customer.ada", "create-1")
    await client.create("ada", command_id="create-2")
    assert (await claim(store) or {})["version"] == 1
    with pytest.raises(CommandHandledError):
        await client.service.persist(
            await client.service.rehydrate("ada"), command_id="create-1"
        ) or await client.service.persist(Customer.create("ada", EMAIL), command_id="create-1")


async def test_another_command_of_the_stream_finds_out_that_the_first_was_stored(memory: InMemoryStore) -> None:
    with pytest.raises(Crash, match="at point 5"):
        await Client(memory, {5: Kind.CRASH_BEFORE}).create("ada", command_id="create-1")
    client = Client(memory)
    with pytest.raises(ConcurrencyError):
        await client.create("ada", command_id="create-2")
    assert (await claim(memory) or {})["version"] == 1, "the value is not lost with the second command"
    assert await client.emails.owner(EMAIL) == "Customer.ada"


async def test_a_stream_may_persist_with_a_value_it_has(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    customer = await client.service.rehydrate("ada")
    customer.change_email(OTHER)
    customer.change_email(EMAIL)
    await client.emails.persist(client.service, customer, EMAIL)
    assert await client.emails.owner(EMAIL) == "Customer.ada"


# It fails.


class RefusingError(StoreError):
    """The disk is full."""


async def fails(client: Client, error: type[Exception], customer: Customer) -> None:
    with pytest.raises(error):
        await client.emails.persist(client.service, customer, EMAIL, command_id="create-1")


async def test_after_a_conflict_the_value_is_free_at_once(store: Store) -> None:
    client = Client(store)
    await client.create("ada", OTHER)
    await fails(client, ConcurrencyError, Customer.create("ada", EMAIL))
    assert await is_free(store)
    await client.create("grace")


async def test_after_a_refusal_the_value_is_free_at_once(store: Store) -> None:
    client = Client(store)
    await fails(client, CommitTooLargeError, Customer.create("ada", "x" * 4_000_000))
    assert await is_free(store)


async def test_after_a_refusal_of_the_store_the_value_is_free_at_once(memory: InMemoryStore) -> None:
    await fails(Client(memory, {4: Kind.REFUSED}), StoreUnavailableError, Customer.create("ada", EMAIL))
    assert await is_free(memory)
    await Client(memory).create("ada", command_id="create-1")


async def test_after_a_copy_that_cannot_be_persisted_the_value_is_free_at_once(memory: InMemoryStore) -> None:
    client = Client(memory)
    customer = Customer.create("ada", OTHER)
    await client.service.persist(customer, command_id="create-1")
    repeated = Customer.create("ada", OTHER)
    await client.service.persist(repeated, command_id="create-1")
    with pytest.raises(UnusableAggregateError):
        await client.emails.persist(client.service, repeated, EMAIL)
    assert await is_free(memory)


async def test_a_reservation_that_cannot_be_given_back_does_not_hide_the_error(
    memory: InMemoryStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await Client(memory).create("ada", OTHER)
    with caplog.at_level(logging.DEBUG):
        await fails(Client(memory, {5: Kind.REFUSED}), ConcurrencyError, Customer.create("ada", EMAIL))
    assert "Customer.ada: its claim in unique-email is not up to date (StoreUnavailableError" in caplog.text
    with pytest.raises(ValueTakenError):
        await Client(memory).create("grace")
    clock.advance(EXPIRY)
    await Client(memory).create("grace")


@pytest.mark.parametrize("lost", [Kind.LOST_REQUEST, Kind.LOST_ANSWER])
async def test_without_an_answer_the_value_stays_reserved_and_the_retry_confirms_it(
    memory: InMemoryStore, lost: Kind
) -> None:
    client = Client(memory, {3: lost, 5: lost})
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await client.create("ada")
    with pytest.raises(ValueTakenError):
        await Client(memory).create("grace")
    with pytest.raises(StoreError):
        await caught.value.retry()
    commit = await caught.value.retry()
    assert isinstance(commit, Commit)
    assert (await claim(memory) or {})["version"] == 1


@pytest.mark.parametrize("lost", [Kind.LOST_REQUEST, Kind.LOST_ANSWER])
async def test_the_copy_in_doubt_may_be_persisted_again_without_an_id(memory: InMemoryStore, lost: Kind) -> None:
    client = Client(memory, {3: lost})
    customer = Customer.create("ada", EMAIL)
    with pytest.raises(AppendOutcomeUnknownError):
        await client.emails.persist(client.service, customer, EMAIL)
    before = (await claim(memory) or {})["command_id"]
    commit = await client.emails.persist(client.service, customer, EMAIL)
    assert commit is not None
    assert commit.command_id == before
    assert owners(memory) == {EMAIL: ["Customer.ada"]}


async def test_a_copy_in_doubt_whose_value_went_to_somebody_else_stays_out(
    memory: InMemoryStore, clock: ManualClock
) -> None:
    client = Client(memory, {3: Kind.LATE})
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await client.create("ada")
    clock.advance(EXPIRY)
    await Client(memory).create("grace")
    await client.faults.settle()
    with pytest.raises(ValueTakenError):
        await caught.value.retry()
    assert owners(memory) == {EMAIL: ["Customer.grace"]}


async def test_a_copy_that_is_in_doubt_of_its_own_claims_nothing(memory: InMemoryStore) -> None:
    """Its commit has no command id, so nobody could forbid it."""
    client = Client(memory, {1: Kind.LOST_REQUEST})
    customer = Customer.create("ada", EMAIL)
    with pytest.raises(AppendOutcomeUnknownError):
        await client.service.persist(customer)
    with pytest.raises(UnusableAggregateError, match="of another command"):
        await client.emails.persist(client.service, customer, EMAIL)
    assert await is_free(memory)


async def test_cancelling_leaves_the_value_reserved(memory: InMemoryStore, clock: ManualClock) -> None:
    class Endless(InMemoryStore):
        async def insert(self, *_: Any, **__: Any) -> None:
            await asyncio.Event().wait()

    store = Endless(clock=clock)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Client(store).create("ada"), 0.01)
    assert (await claim(store) or {})["stream"] == "Customer.ada"


async def test_what_is_stored_and_not_dispatched_keeps_its_value(memory: InMemoryStore, clock: ManualClock) -> None:
    client = Client(memory)
    client.service = EventsService(memory.events(Customer, outbox=False), TroubledProducer(broker_down()))
    with pytest.raises(DispatchError):
        await client.create("ada", command_id="create-1")
    clock.advance(EXPIRY)
    with pytest.raises(ValueTakenError):
        await client.create("grace")


@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.LOST_REQUEST, Kind.LOST_ANSWER])
async def test_a_persist_succeeds_although_it_cannot_be_confirmed(
    memory: InMemoryStore, clock: ManualClock, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert await Client(memory, {4: kind}).create("ada") is not None
    assert "Customer.ada: its claim in unique-email is not up to date (StoreUnavailableError" in caplog.text
    clock.advance(EXPIRY)
    with pytest.raises(ValueTakenError):
        await Client(memory).create("grace")


async def test_the_text_of_a_foreign_exception_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(InMemoryStore):
        async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
            if '"command_id":null' in text:
                raise RuntimeError("payload-marker")
            return await super().write_document(collection, key, text, seen=seen)

    with caplog.at_level(logging.DEBUG):
        await Client(Broken()).create("ada")
    assert "RuntimeError" in caplog.text
    assert "payload-marker" not in caplog.text


# Twins.


async def test_who_made_a_reservation_does_not_abandon_it_under_a_twin_who_has_found_it(store: Store) -> None:
    client = Client(store)
    emails = client.emails
    first = await emails.reserve(EMAIL, "Customer.ada", "create-1")
    second = await emails.reserve(EMAIL, "Customer.ada", "create-1")
    assert (first.new, second.new) == (True, False)
    await emails.abandon(first)
    assert not await is_free(store)
    await emails.abandon(second)
    assert not await is_free(store), "who has found it abandons nothing: its maker may be about to store"
    await client.service.persist(Customer.create("ada", EMAIL), command_id="create-1")
    await emails.confirm(first)
    await emails.confirm(second)
    assert (await claim(store) or {})["version"] == 1


async def test_twins_get_the_same_commit_however_they_interleave() -> None:
    for seed in range(200):
        store = RacyStore(seed)
        client = Client(store)
        answers = await asyncio.gather(*(client.create("ada", command_id="create-1") for _ in range(3)))
        assert len({answer.commit_id for answer in answers if answer is not None}) == 1, f"seed {seed}"
        assert (await claim(store) or {})["version"] == 1, f"seed {seed}"


async def test_many_who_want_one_value_get_it_once_however_they_interleave() -> None:
    for seed in range(200):
        store = RacyStore(seed)
        client = Client(store)
        answers = await asyncio.gather(*(client.create(f"c{n}") for n in range(8)), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["Commit", *["ValueTakenError"] * 7]
        assert len(owners(store)[EMAIL]) == 1, f"seed {seed}"


# Too slow.


def too_slow(memory: InMemoryStore, clock: ManualClock, times: int) -> Client:
    """Between reserving and storing, the reservation expires and another asks for the value and dies."""

    class Slow(InMemoryStore):
        left = times

        async def insert(self, record: Any, **kwargs: Any) -> None:
            if self.left:
                self.left -= 1
                clock.advance(EXPIRY)
                other = Client(memory).emails
                await other.abandon(await other.reserve(EMAIL, "Customer.grace", f"create-{self.left}"))
            await super().insert(record, **kwargs)

    slow = Slow(clock=clock)
    vars(slow).update({name: value for name, value in vars(memory).items() if name != "left"})
    return Client(slow)


async def test_who_was_too_slow_and_gave_no_id_is_sent_again_as_another_command_once(
    memory: InMemoryStore, clock: ManualClock
) -> None:
    assert await too_slow(memory, clock, 1).create("ada") is not None
    assert await Client(memory).emails.owner(EMAIL) == "Customer.ada"


async def test_who_is_too_slow_twice_is_told(memory: InMemoryStore, clock: ManualClock) -> None:
    with pytest.raises(CommandHandledError, match="send it again as a new command"):
        await too_slow(memory, clock, 2).create("ada")
    assert owners(memory) == {}
    assert await is_free(memory)


async def test_who_was_too_slow_and_gave_an_id_is_told(memory: InMemoryStore, clock: ManualClock) -> None:
    client = too_slow(memory, clock, 1)
    with pytest.raises(CommandHandledError, match="send it again as a new command"):
        await client.create("ada", command_id="create-1")
    assert owners(memory) == {}
    with pytest.raises(CommandHandledError):
        await client.create("ada", command_id="create-1")
    await client.create("ada", command_id="create-2")


# Giving values up.


async def test_a_changed_value_is_claimed_and_the_old_one_is_free(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    await client.change("ada", OTHER)
    assert await client.emails.owner(OTHER) == "Customer.ada"
    assert await is_free(store)
    await client.create("grace")


async def test_a_change_to_a_taken_value_changes_nothing(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    await client.create("grace", OTHER)
    with pytest.raises(ValueTakenError):
        await client.change("ada", OTHER)
    assert (await client.service.rehydrate("ada")).email == EMAIL
    assert await client.emails.owner(EMAIL) == "Customer.ada"


async def test_a_value_that_replaces_itself_is_kept(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    customer = await client.service.rehydrate("ada")
    customer.change_email(OTHER)
    customer.change_email(EMAIL)
    await client.emails.persist(client.service, customer, EMAIL, instead_of=EMAIL)
    assert await client.emails.owner(EMAIL) == "Customer.ada"


async def test_a_repeat_of_a_change_gives_nothing_up(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    await client.change("ada", OTHER, command_id="change-1")
    customer = await client.service.rehydrate("ada")
    customer.change_email(EMAIL)
    await client.emails.persist(client.service, customer, EMAIL, command_id="change-1", instead_of=OTHER)
    assert await client.emails.owner(OTHER) == "Customer.ada"
    assert await is_free(store)


@pytest.mark.parametrize("kind", [Kind.CRASH_BEFORE, Kind.REFUSED])
async def test_a_value_that_could_not_be_given_up_stays_with_its_stream_until_it_is_released(
    memory: InMemoryStore, clock: ManualClock, kind: Kind
) -> None:
    await Client(memory).create("ada")
    crashing = Client(memory, {6: kind})  # read, write, write, insert, write, and now the old value is read
    with suppress(Crash):
        await crashing.change("ada", OTHER)
    assert crashing.methods[-1] == "read_document"
    client = Client(memory)
    clock.advance(10 * EXPIRY)
    with pytest.raises(ValueTakenError):
        await client.create("grace")
    assert await client.emails.release(EMAIL, await client.service.rehydrate("ada"))
    await client.create("grace")


async def test_releasing_twice_or_what_is_not_ones_own_does_nothing(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    await client.create("grace", OTHER)
    ada = await client.service.rehydrate("ada")
    assert not await client.emails.release(OTHER, ada)
    assert not await client.emails.release("nobody's", ada)
    assert await client.emails.release(EMAIL, ada)
    assert not await client.emails.release(EMAIL, ada)
    assert await client.emails.owner(OTHER) == "Customer.grace"


async def test_a_late_release_does_not_free_what_was_claimed_again(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    customer = await client.service.rehydrate("ada")
    customer.change_email(OTHER)
    await client.emails.persist(client.service, customer, OTHER)  # and the old value is not released
    late = await client.service.rehydrate("ada", version=2)
    await client.change("ada", EMAIL)
    assert not await client.emails.release(EMAIL, late)
    assert await client.emails.owner(EMAIL) == "Customer.ada"
    with pytest.raises(ValueTakenError):
        await client.create("grace")


async def test_a_release_forbids_a_command_that_is_about_to_claim_the_value_again(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    customer = await client.service.rehydrate("ada")
    customer.change_email(OTHER)
    await client.emails.persist(client.service, customer, OTHER)
    back = await client.service.rehydrate("ada")
    back.change_email(EMAIL)
    await client.emails.reserve(EMAIL, back, "change-back")
    assert await client.emails.release(EMAIL, await client.service.rehydrate("ada"))
    await client.create("grace")
    with pytest.raises(CommandHandledError):
        await client.service.persist(back, command_id="change-back")
    assert await client.emails.owner(EMAIL) == "Customer.grace"


async def test_pending_events_are_not_what_a_release_goes_by(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    customer = await client.service.rehydrate("ada")
    customer.change_email(OTHER)
    await client.emails.persist(client.service, customer, OTHER)
    late = await client.service.rehydrate("ada")
    late.change_email("third")  # loaded at 2, and so pending at 3
    await client.change("ada", EMAIL)  # stored at 3
    assert not await client.emails.release(EMAIL, late)


# Step by step.


async def test_several_values_are_claimed_by_one_command(store: Store) -> None:
    client = Client(store)
    names = store.unique_values("name")
    ada = Customer.create("ada", EMAIL)
    reserved = [await client.emails.reserve(EMAIL, ada, "create-1"), await names.reserve("Ada", ada, "create-1")]
    await client.service.persist(ada, command_id="create-1")
    await client.emails.confirm(reserved[0])
    await names.confirm(reserved[1])
    assert await client.emails.owner(EMAIL) == await names.owner("Ada") == stream_of(ada)


async def test_streams_that_are_older_than_the_rule_are_claimed_for(store: Store) -> None:
    client = Client(store)
    await client.service.persist(Customer.create("ada", EMAIL))
    ada = await client.service.rehydrate("ada")
    for _ in range(2):
        await client.emails.confirm(await client.emails.reserve(EMAIL, ada, "before there was a rule"))
    with pytest.raises(ValueTakenError):
        await client.create("grace")
    await client.change("ada", OTHER)
    assert await is_free(store)


async def test_a_confirmation_that_comes_late_changes_nothing(store: Store, clock: ManualClock) -> None:
    client = Client(store)
    late = await client.emails.reserve(EMAIL, "Customer.ada", "create-1")
    clock.advance(EXPIRY)
    await client.create("grace")
    await client.emails.confirm(late)
    assert await client.emails.owner(EMAIL) == "Customer.grace"
    await client.emails.release(EMAIL, await client.service.rehydrate("grace"))
    await client.emails.confirm(late)
    assert await is_free(store)


async def test_what_is_no_stream_cannot_reserve(memory: InMemoryStore) -> None:
    with pytest.raises(ValueError, match="not a stream name"):
        await Client(memory).emails.reserve(EMAIL, "ada", "create-1")
    with pytest.raises(InvalidIdError, match="command id"):
        await Client(memory).emails.reserve(EMAIL, "Customer.ada", "x" * 257)
    assert await is_free(memory)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"payload-marker'])
async def test_a_damaged_claim_is_reported_without_what_is_in_it(store: Store, text: str) -> None:
    await store.write_document(COLLECTION, key_of(store), text, seen=None)
    client = Client(store)
    with pytest.raises(CorruptStreamError, match=f"unique-email: the document {key_of(store)}") as caught:
        await client.create("ada")
    assert caught.value.__context__ is None
    with pytest.raises(CorruptStreamError):
        await client.emails.owner(EMAIL)


# What a claim remembers.


async def test_a_late_release_frees_nothing_that_was_claimed_again_whatever_command_names_itself_since(
    store: Store,
) -> None:
    client = Client(store)
    await client.create("ada")
    await client.change("ada", OTHER)
    await client.change("ada", EMAIL)
    late = await client.service.rehydrate("ada", version=2)
    await client.emails.reserve(EMAIL, await client.service.rehydrate("ada"), "one that is under way")
    assert not await client.emails.release(EMAIL, late)
    with pytest.raises(ConcurrencyError):
        await client.create("ada", command_id="one that failed")
    assert not await client.emails.release(EMAIL, late)
    assert await client.emails.owner(EMAIL) == "Customer.ada"


async def test_a_value_that_a_commit_gives_up_and_takes_back_is_not_freed_from_its_middle(store: Store) -> None:
    client = Client(store)
    await client.create("ada")
    customer = await client.service.rehydrate("ada")
    for email in (OTHER, EMAIL):
        customer.change_email(email)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UniqueValues, "_confirm", lambda *_: asyncio.sleep(0))  # as if the process had died before it
        await client.emails.persist(client.service, customer, EMAIL)
    middle = await client.service.rehydrate("ada", version=2)
    assert middle.email == OTHER
    assert not await client.emails.release(EMAIL, middle)
    assert await client.emails.owner(EMAIL) == "Customer.ada"


@pytest.mark.parametrize("times", [1, 2])
async def test_an_old_command_that_is_sent_again_and_dies_blocks_nothing(
    store: Store, clock: ManualClock, times: int
) -> None:
    client = Client(store)
    await client.create("ada", command_id="create-1")
    await client.change("ada", OTHER)
    for _ in range(times):
        reservation = await client.emails.reserve(EMAIL, Customer("ada"), "create-1")
        assert reservation.tag is None
    assert await is_free(store)
    await client.emails.confirm(reservation)
    await client.emails.abandon(reservation)
    assert await is_free(store)
    await client.create("grace")


async def test_a_repeat_that_dies_while_it_asks_blocks_the_value_for_the_expiry(
    memory: InMemoryStore, clock: ManualClock
) -> None:
    client = Client(memory)
    await client.create("ada", command_id="create-1")
    await client.change("ada", OTHER)
    with pytest.raises(Crash):
        await Client(memory, {2: Kind.CRASH_BEFORE}).create("ada", command_id="create-1")
    assert await client.emails.owner(EMAIL) is None
    with pytest.raises(ValueTakenError):
        await client.create("grace")
    clock.advance(EXPIRY)
    await client.create("grace")


async def test_a_confirmation_that_comes_late_does_not_take_a_repeat_for_its_own(memory: InMemoryStore) -> None:
    client = Client(memory)
    ada = Customer.create("ada", EMAIL)
    late = await client.emails.reserve(EMAIL, ada, "create-1")
    await client.service.persist(ada, command_id="create-1")
    await client.change("ada", OTHER)
    with pytest.raises(Crash):  # a repeat has named itself, and not asked yet
        await Client(memory, {2: Kind.CRASH_BEFORE}).create("ada", command_id="create-1")
    await client.emails.confirm(late)
    assert await client.emails.owner(EMAIL) is None


async def test_a_stream_older_than_the_rule_keeps_its_value_when_an_older_version_is_released(store: Store) -> None:
    client = Client(store)
    await client.service.persist(Customer.create("ada", EMAIL))
    for email in (OTHER, EMAIL):
        customer = await client.service.rehydrate("ada")
        customer.change_email(email)
        await client.service.persist(customer)
    await client.emails.confirm(await client.emails.reserve(EMAIL, "Customer.ada", "before there was a rule"))
    assert not await client.emails.release(EMAIL, await client.service.rehydrate("ada", version=2))
    assert await client.emails.owner(EMAIL) == "Customer.ada"


async def test_what_was_never_stored_cannot_be_confirmed(store: Store) -> None:
    client = Client(store)
    reservation = await client.emails.reserve(EMAIL, "Customer.ada", "create-1")
    with pytest.raises(ValueError, match=r"Customer\.ada: nothing is stored"):
        await client.emails.confirm(reservation)


async def test_the_same_value_has_another_key_in_each_store(memory: InMemoryStore) -> None:
    assert key_of(memory) != key_of(InMemoryStore())
    assert key_of(memory) != sha256(EMAIL.encode()).hexdigest()


async def test_a_value_is_bounded_before_it_is_used(memory: InMemoryStore) -> None:
    emails = memory.unique_values("email")
    await emails.owner("x" * 4_096)
    with pytest.raises(InvalidIdError, match="at most 4,096 characters, not 10,000,000"):
        await emails.owner("x" * 10_000_000)


# Nothing stays.


class Erasing(InMemoryStore):
    """Refuses to delete in the way that leaves a key behind on Table Storage."""

    erased = 0

    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:
        assert erase
        self.erased += 1
        return await super().delete_document(collection, key, seen=seen, erase=erase)


async def test_what_is_released_abandoned_or_a_repeat_is_erased() -> None:
    store = Erasing()
    client = Client(store)
    await client.create("ada", command_id="create-1")
    await client.change("ada", OTHER)
    await client.create("ada", command_id="create-1")
    with pytest.raises(ConcurrencyError):
        await client.create("ada")
    assert store.erased == 3
    assert store._documents["unique-email"].keys() == {key_of(store, OTHER)}


async def test_a_released_value_is_not_in_the_file_any_more(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "a.db") as store:
        client = Client(store)
        for number in range(50):
            await client.create(f"c{number}", f"{number}")
        hashes = [key_of(store, str(number)) for number in range(50)]
        for number in range(1, 50):
            await client.emails.release(f"{number}", await client.service.rehydrate(f"c{number}"))
    assert [each for each in hashes if each.encode() in _content(tmp_path)] == hashes[:1]


def _content(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())
