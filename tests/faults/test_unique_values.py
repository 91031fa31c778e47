"""No two customers with one e-mail address: whoever dies, comes back, comes late, or has a clock that is wrong.

Every call of a claim broken in every way; hundreds of rounds in which everybody wants the same address, each fixed by
its seed; any order of the protocol's steps. And the same with a guard removed, which has to be found.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.support.claims import Line, Sea
from tests.support.customers import Customer, owners
from tests.support.simulation import simulate

from esazure import EventsService
from esazure.errors import CommandHandledError, ConcurrencyError, EsAzureError, ValueTakenError
from esazure.memory import InMemoryStore
from esazure.repository import EventsRepository
from esazure.testing import ManualClock
from esazure.testing.faults import Kind, World, crash_everywhere
from esazure.unique import Reservation, UniqueValues

T = TypeVar("T")


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Every lost answer is logged, rightly, and pytest would keep them all."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


EMAIL, OTHER = "ada@example.com", "countess@example.com"
EXPIRY = 30.0

# Every call, broken in every way.


def store_with_a_clock() -> InMemoryStore:
    return InMemoryStore(clock=ManualClock())


async def create(world: World, id: str, command_id: str) -> None:
    service = EventsService(world.events(Customer), world.producer)
    emails = world.store.unique_values("email", expiry=EXPIRY)
    await emails.persist(service, Customer.create(id, EMAIL), EMAIL, command_id=command_id)


async def owner_of(world: World, email: str) -> str | None:
    return await world.store.unique_values("email").owner(email)


async def emails_of(world: World, *ids: str) -> list[str]:
    stored = [each for each in ids if await world.store.read(f"Customer.{each}")]
    return [(await world.events(Customer).rehydrate(each)).email for each in stored]


async def test_who_comes_back_with_the_same_command_gets_the_value_and_is_stored_once() -> None:
    async def ada(world: World) -> None:
        await create(world, "ada", "create-ada")

    async def check(world: World) -> None:
        assert await owner_of(world, EMAIL) == "Customer.ada"
        assert (await world.events(Customer).rehydrate("ada")).version == 1
        with pytest.raises(ValueTakenError):
            await create(world, "grace", "create-grace")

    report = await crash_everywhere(ada, check=check)
    methods = ["write_document", "insert", "dispatch", "mark_published", "write_document"]
    assert [point.method for point in report.points] == methods
    assert report.runs > len(methods) * (len(Kind) - 1)


async def test_who_never_comes_back_has_the_value_or_is_succeeded_and_nothing_of_his_arrives_later() -> None:
    outcomes: Counter[str] = Counter()

    async def ada_and_then_grace(world: World) -> None:
        clock = world.store.clock
        assert isinstance(clock, ManualClock)
        ada_is_dead = clock() > ManualClock()()
        clock.advance(EXPIRY)
        if not ada_is_dead:
            await create(world, "ada", "create-ada")
            return
        try:
            await create(world, "grace", "create-grace")
        except ValueTakenError:
            outcomes["ada had it"] += 1
        else:
            outcomes["grace has it"] += 1

    async def check(world: World) -> None:
        assert await emails_of(world, "ada", "grace") == [EMAIL]
        owner = await owner_of(world, EMAIL)
        assert owner is not None
        assert await world.store.read(owner)

    await crash_everywhere(ada_and_then_grace, check=check, store=store_with_a_clock)
    assert min(outcomes["ada had it"], outcomes["grace has it"]) > 5, outcomes


async def test_a_changed_value_is_the_streams_and_the_old_one_too_or_free() -> None:
    async def given(world: World) -> None:
        await create(world, "ada", "create-ada")

    async def change(world: World) -> None:
        service = EventsService(world.events(Customer), world.producer)
        emails = world.store.unique_values("email", expiry=EXPIRY)
        ada = await service.rehydrate("ada")
        old = ada.email
        ada.change_email(OTHER)
        await emails.persist(service, ada, OTHER, command_id="change-ada", instead_of=old)

    async def check(world: World) -> None:
        emails = world.store.unique_values("email", expiry=EXPIRY)
        assert await emails.owner(OTHER) == "Customer.ada"
        assert await emails.owner(EMAIL) in ("Customer.ada", None)
        await emails.release(EMAIL, await world.events(Customer).rehydrate("ada"))
        await create(world, "grace", "create-grace")
        assert await emails_of(world, "ada", "grace") == [OTHER, EMAIL]

    report = await crash_everywhere(change, given=given, check=check)
    methods = [point.method for point in report.points]
    assert methods[:3] == ["read", "write_document", "insert"]
    assert methods[-4:] == ["write_document", "read_document", "forbid_command", "delete_document"]


# Everybody wants the same, in simulated time.


def rounds(scenario: str, seeds: range, **broken: Any) -> Counter[str]:
    """What happened; or the assertion that failed, and with which seed."""
    done: Counter[str] = Counter()
    for seed in seeds:
        sea = Sea(seed, clients=32 if scenario == "race" else 6, **broken)
        simulate(seed, sea.race() if scenario == "race" else sea.wander())
        assert not sea.found, f"seed {seed}: {sea.found[:3]}"
        done += sea.done
    return done


@pytest.mark.parametrize("scenario", ["race", "wander"])
def test_an_address_has_one_customer_at_a_time(scenario: str) -> None:
    done = rounds(scenario, range(12))
    assert min(done["Commit"], done["Crash"], done["ValueTakenError"]) > 10, "little was done, this proves nothing"


@pytest.mark.long
@pytest.mark.parametrize("portion", range(10))
@pytest.mark.parametrize("scenario", ["race", "wander"])
def test_an_address_has_one_customer_at_a_time_with_many_seeds(
    scenario: str, portion: int, pytestconfig: pytest.Config
) -> None:
    size = 20 * pytestconfig.getoption("--soak", 1)
    done = rounds(scenario, range(1_000 + portion * size, 1_000 + (portion + 1) * size))
    assert min(done["Commit"], done["Crash"], done["ValueTakenError"]) > 10, "little was done, this proves nothing"
    assert done["fenced"], "nobody was too late, this proves little"


def test_a_seed_replays_exactly() -> None:
    assert rounds("race", range(3)) == rounds("race", range(3))


# Negative controls: each guard is needed, and its absence is found.


class Unfenced(Line):
    """Looks whether the command was stored, and does not forbid it."""

    async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> int | None:
        return await super().find_command(stream, command_id)


class AdoptsUnnoticed(UniqueValues):
    """Finds the reservation of its own command and leaves it as it is, for its maker to abandon."""

    async def _succeed(self, key: str, held: Any, tag: str, mine: Any) -> Reservation | None:
        if (held.stream, held.command_id) == (mine.stream, mine.command_id):
            return Reservation(key, mine.stream, mine.command_id, held.confirmed, new=False, tag=tag)
        return await super()._succeed(key, held, tag, mine)


class AbandonsWhatItFound(UniqueValues):
    """Takes back a reservation that a twin may be about to use."""

    async def abandon(self, reservation: Reservation) -> None:
        await super().abandon(replace(reservation, new=True))


class LeavesItsOwnAlone(UniqueValues):
    """Has the value already, and does not say by which command it is going to claim it again."""

    async def _succeed(self, key: str, held: Any, tag: str, mine: Any) -> Reservation | None:
        if held.stream == mine.stream and held.confirmed:
            return Reservation(key, mine.stream, mine.command_id, confirmed=True, new=False, tag=tag)
        return await super()._succeed(key, held, tag, mine)


class ReleasesWhatWasClaimedAgain(UniqueValues):
    """Does not look at when the value was claimed."""

    async def _release(self, key: str, stream: str, version: int) -> bool:
        return await super()._release(key, stream, 10**9)


def is_found(scenario: str, seeds: int, **broken: Any) -> bool:
    try:
        rounds(scenario, range(seeds), **broken)
    except AssertionError as error:
        return "is the address of" in str(error)
    return False


@pytest.mark.parametrize("scenario", ["race", "wander"])
def test_without_the_fence_two_customers_get_one_address(scenario: str) -> None:
    assert is_found(scenario, 200, line=Unfenced)


@pytest.mark.long
@pytest.mark.parametrize("broken", [AdoptsUnnoticed, AbandonsWhatItFound, LeavesItsOwnAlone])
def test_without_a_guard_two_customers_get_one_address(broken: type[UniqueValues]) -> None:
    assert is_found("wander", 400, values=broken)


def test_without_a_look_at_versions_two_customers_get_one_address() -> None:
    assert is_found("wander", 200, values=ReleasesWhatWasClaimedAgain)


# Any order of the protocol's steps.

IDS, VALUES = ("a", "b"), ("x", "y")


@dataclass
class Process:
    """One that has reserved a value, and goes on or dies."""

    customer: Customer
    reservation: Reservation
    stored: bool | None = None


class Steps(RuleBasedStateMachine):
    """Reserve, store, confirm, abandon and release, each a step of its own; requests of the dead arrive later."""

    values: type[UniqueValues] = UniqueValues

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.store = InMemoryStore(clock=self.clock)
        self.customers: EventsRepository[Customer, str] = self.store.events(Customer)
        self.emails = self.values("email", self.store, clock=self.clock, expiry=EXPIRY)
        self.processes: list[Process] = []
        self.on_their_way: list[Process] = []
        self.looks: list[Customer] = []
        self.commands = 0

    def load(self, id: str) -> Customer:
        try:
            return _now(self.customers.rehydrate(id))
        except EsAzureError:
            return Customer(id)

    def reserve(self, id: str, value: str, command_id: str) -> Process | None:
        customer = self.load(id)
        customer.change_email(value)
        if not customer.pending:
            return None
        try:
            return Process(customer, _now(self.emails.reserve(value, customer, command_id)))
        except ValueTakenError:
            return None

    def append(self, process: Process) -> None:
        try:
            _now(self.customers.append(process.customer, command_id=process.reservation.command_id))
        except (ConcurrencyError, CommandHandledError):
            process.stored = False
        else:
            # With events left, an earlier commit of the command was found.
            process.stored = not process.customer.pending or not process.reservation.new

    def finish(self, process: Process) -> None:
        _now((self.emails.confirm if process.stored else self.emails.abandon)(process.reservation))

    @rule(id=st.sampled_from(IDS), value=st.sampled_from(VALUES), at_once=st.booleans())
    def somebody_wants_a_value(self, id: str, value: str, *, at_once: bool) -> None:
        self.commands += 1
        process = self.reserve(id, value, f"{id} {value} {self.commands}")
        if process is not None and at_once:
            self.append(process)
            self.finish(process)
        elif process is not None:
            self.processes.append(process)

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def a_command_is_sent_again(self, data: st.DataObject) -> None:
        command_id = data.draw(st.sampled_from(self.processes)).reservation.command_id
        process = self.reserve(*command_id.split()[:2], command_id)
        if process is not None:
            self.processes.append(process)

    @precondition(lambda self: any(each.stored is None for each in self.processes))
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "refused", "dies meanwhile"]))
    def a_process_stores(self, data: st.DataObject, outcome: str) -> None:
        process = data.draw(st.sampled_from([each for each in self.processes if each.stored is None]))
        if outcome == "answered":
            self.append(process)
        elif outcome == "refused":
            process.stored = False
        else:
            self.processes.remove(process)
            self.on_their_way.append(process)

    @precondition(lambda self: self.on_their_way)
    @rule(data=st.data())
    def a_request_of_the_dead_arrives(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.on_their_way))
        self.on_their_way.remove(process)
        self.append(process)

    @precondition(lambda self: any(each.stored is not None for each in self.processes))
    @rule(data=st.data(), dies=st.booleans())
    def a_process_confirms_or_abandons_or_dies(self, data: st.DataObject, *, dies: bool) -> None:
        process = data.draw(st.sampled_from([each for each in self.processes if each.stored is not None]))
        self.processes.remove(process)
        if not dies:
            self.finish(process)

    @rule(id=st.sampled_from(IDS))
    def somebody_looks(self, id: str) -> None:
        self.looks.append(self.load(id))

    @precondition(lambda self: self.looks)
    @rule(data=st.data(), value=st.sampled_from(VALUES))
    def what_was_not_there_at_a_look_is_released(self, data: st.DataObject, value: str) -> None:
        customer = data.draw(st.sampled_from(self.looks))
        if customer.email != value:
            _now(self.emails.release(value, customer))

    @rule()
    def time_passes(self) -> None:
        self.clock.advance(EXPIRY)

    @invariant()
    def a_value_has_one_customer_and_its_claim_says_so(self) -> None:
        for value, streams in owners(self.store).items():
            assert len(streams) == 1, f"{value} is the address of {streams}"
            assert _now(self.emails.owner(value)) == streams[0]


def _now(work: Coroutine[Any, Any, T]) -> T:
    """In memory nothing waits."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


def test_in_any_order_of_steps_a_value_has_one_customer() -> None:
    run_state_machine_as_test(Steps, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))


def test_the_steps_find_a_release_that_frees_too_much() -> None:
    class Careless(Steps):
        values = ReleasesWhatWasClaimedAgain

    generated = settings(
        max_examples=400, stateful_step_count=40, deadline=None, phases=[Phase.generate], derandomize=True
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Careless, settings=generated)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("portion", range(4))
def test_in_any_order_of_many_steps_a_value_has_one_customer(portion: int) -> None:
    run_state_machine_as_test(Steps, settings=settings(max_examples=400, stateful_step_count=60, deadline=None))
