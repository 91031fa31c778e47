"""No two customers with one e-mail address: whoever dies, comes back, comes late, or has a clock that is wrong.

Every call of a claim broken in every way; thousands of histories in which anything happens in any order, each fixed by
its seed. And the same with a guard removed, which has to be found.
"""

from __future__ import annotations

import inspect
import logging
import sys
import types
from collections import Counter
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from tests.support.claims import Broken, History
from tests.support.customers import Customer

from esazure import EventsService, unique
from esazure.errors import ValueTakenError
from esazure.memory import InMemoryStore
from esazure.testing import ManualClock
from esazure.testing.faults import Kind, World, crash_everywhere
from esazure.unique import UniqueValues


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
    methods = ["write_document", "find_command", "write_document", "insert", "dispatch", "mark_published"]
    methods.append("write_document")
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
    assert methods[:5] == ["read", "write_document", "find_command", "write_document", "insert"]
    assert methods[-3:] == ["write_document", "read_document", "delete_document"]


# Anything in any order.


def histories(seeds: range, values: type[UniqueValues] = UniqueValues) -> Counter[str]:
    """What happened; or what was broken, and with which seed."""
    done: Counter[str] = Counter()
    for seed in seeds:
        try:
            done += History(seed, values).play()
        except Broken as broken:
            raise Broken(f"seed {seed}: {broken}") from None
    return done


_HAPPENS = ("new", "again", "step by step", "release", "give up", "died", "ValueTakenError", "CommandHandledError")


def test_an_address_has_one_customer_at_a_time_and_is_never_lost() -> None:
    done = histories(range(1_500))
    assert min(done[each] for each in _HAPPENS) > 50, f"little was done, this proves nothing: {done}"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("portion", range(10))
def test_an_address_has_one_customer_at_a_time_with_many_seeds(portion: int, pytestconfig: pytest.Config) -> None:
    size = 10_000 * pytestconfig.getoption("--soak", 1)
    histories(range(10_000 + portion * size, 10_000 + (portion + 1) * size))


def test_a_seed_replays_exactly() -> None:
    assert histories(range(20)) == histories(range(20))


# Negative controls: each guard is needed, and its absence is found.

GUARDS = {
    "a claim that changes hands is not fenced": (
        "(stream, command_id, forbid=True)",
        "(stream, command_id)",
    ),
    "a command is not asked about before it is named": (
        "if not is_new_command and await",
        "if False and await",
    ),
    "what was just created may be stored at once": (
        "command_id=command_id, asked=False,",
        "command_id=command_id, asked=True,",
    ),
    "a command that only asked speaks for the claim": (
        "0 if held.command_id is None or not held.asked else",
        "0 if held.command_id is None else",
    ),
    "another command of the stream forgets the version": (
        "version, is_adopted = held.version,",
        "version, is_adopted = 0,",
    ),
    "the command in the way is not settled": (
        "version = max(version, await self._settle(held))",
        "version = max(version, 0)",
    ),
    "found out that it is stored, and taken all the same": (
        "if version and not is_ours:",
        "if False:",
    ),
    "nothing expires": (
        "abs((now - held.reserved_at).total_seconds()) >= self._expiry",
        "False",
    ),
    "an adopted claim is left as it is": (
        "after = await self._write(key, mine.model_copy(",
        "after = tag if is_adopted else await self._write(key, mine.model_copy(",
    ),
    "an adopted claim is abandoned": (
        "new=not version and not is_adopted",
        "new=not version",
    ),
    "an owner's claim is abandoned": (
        "new=not version and not is_adopted",
        "new=not is_adopted",
    ),
    "a release does not look at the version": (
        "if found[0].version > version or",
        "if",
    ),
    "a release does not settle the command": (
        "or await self._settle(found[0]) > version:",
        "or False:",
    ),
    "a release does not look whose it is": (
        "if found is None or found[0].stream != stream:\n                return False",
        "if found is None:\n                return False",
    ),
    "a confirmation is written over whatever is there": (
        "if found is None or not reservation.is_of(found[0]):\n                return",
        "if found is None:\n                return",
    ),
    "a confirmation takes the version back": (
        "newest = max(version, reservation.version)",
        "newest = 1",
    ),
    "a commit counts from its first version": (
        "return records[0].last_version",
        "return first",
    ),
}
"""What is to be found: a line of `unique.py`, and what is there instead."""


def without(old: str, new: str) -> type[UniqueValues]:
    """The class with one guard removed."""
    source = inspect.getsource(unique)
    assert source.count(old) == 1, f"the guard has lost its place: {old}"
    module = types.ModuleType("esazure.unique_without_a_guard")
    with patch.dict(sys.modules, {module.__name__: module}):
        exec(compile(source.replace(old, new), unique.__file__, "exec"), vars(module))  # noqa: S102 - our own
    found: type[UniqueValues] = module.UniqueValues
    return found


@pytest.mark.parametrize("guard", GUARDS)
def test_without_a_guard_a_promise_is_broken(guard: str) -> None:
    values = without(*GUARDS[guard])
    with pytest.raises(Broken):
        histories(range(6_000), values)
