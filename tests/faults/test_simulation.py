"""Hundreds of small worlds in which everything goes wrong, each fixed by its seed to the last interleaving."""

from __future__ import annotations

import pytest
from tests.support.simulation import simulate
from tests.support.stress import Run
from tests.support.worlds import NaiveStore, fake_world

from esazure.tables import TableStore

pytestmark = pytest.mark.long

SEEDS, PORTIONS, OPERATIONS = 500, 10, 24


async def one(seed: int, store_class: type[TableStore] = TableStore) -> Run:
    async with fake_world(seed, store_class=store_class) as (world, _):
        return await Run(world, seed, OPERATIONS, writers=4, streams=2, life=0.01).run()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "portion" in metafunc.fixturenames:
        soak: int = metafunc.config.getoption("--soak", 1)
        metafunc.parametrize("portion", range(PORTIONS * soak))


def test_no_seed_loses_doubles_or_reorders_anything(portion: int) -> None:
    size = SEEDS // PORTIONS
    acknowledged = 0
    for seed in range(portion * size, (portion + 1) * size):
        run = simulate(seed, one(seed))
        assert not run.found, run.report()
        acknowledged += run.done["acknowledged"]
    assert acknowledged > size * OPERATIONS / 3, "little was done, this proves nothing"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_seed_replays_exactly(seed: int) -> None:
    first, second = simulate(seed, one(seed)), simulate(seed, one(seed))
    assert list(map(str, first.history)) == list(map(str, second.history))
    assert [message[:3] for message in first.messages] == [message[:3] for message in second.messages]
    assert len(first.history) >= OPERATIONS


def test_a_naive_append_is_caught_by_some_seed() -> None:
    assert any(simulate(seed, one(seed, NaiveStore)).found for seed in range(20))
