"""Everything goes wrong at once, between the stores and their table and on the way to the broker; nothing may be lost.

The same run on a table in memory (many operations, little time) and on Azurite behind a proxy (the SDK, its retries,
real sockets). A seed fixes which faults are met, not the interleaving, so a failure prints the history of its streams.
"""

from __future__ import annotations

import logging

import pytest
from tests.support.stress import Run
from tests.support.table_faults import Dice
from tests.support.worlds import NaiveStore, fake_world, table_world

pytestmark = pytest.mark.long

_log = logging.getLogger("stress")

ON_THE_FAKE, ON_AZURITE, OVER_AMQP = 800, 150, 60
"""Operations in each run."""

SEEDS = {"fake_seed": 3, "seed": 6, "amqp_seed": 1}
"""How many runs, times `--soak`."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    soak: int = metafunc.config.getoption("--soak", 1)
    for name, count in SEEDS.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, range(1, count * soak + 1))


def assert_unharmed(run: Run, dice: Dice) -> None:
    _log.info("%d messages, %d requests, of which met: %s", len(run.messages), dice.requests, dict(dice.met))
    assert not run.found, run.report()
    assert run.done["acknowledged"] > run.operations / 3, f"little was done, this proves nothing: {run.done}"
    assert sum(dice.met.values()) > dice.requests / 10, f"little went wrong, this proves nothing: {dice.met}"


async def test_nothing_is_lost_doubled_or_out_of_order(fake_seed: int) -> None:
    async with fake_world(fake_seed) as (world, dice):
        run = await Run(world, fake_seed, ON_THE_FAKE, life=0.005).run()
    assert_unharmed(run, dice)


@pytest.mark.azurite
async def test_nothing_is_lost_doubled_or_out_of_order_through_the_sdk(tables: str, seed: int) -> None:
    async with table_world(tables, seed) as (world, dice):
        run = await Run(world, seed, ON_AZURITE).run()
    assert_unharmed(run, dice)


@pytest.mark.azurite
@pytest.mark.amqp
async def test_nothing_is_lost_doubled_or_out_of_order_with_a_broker(tables: str, amqp_seed: int) -> None:
    async with table_world(tables, amqp_seed, amqp=True) as (world, dice):
        run = await Run(world, amqp_seed, OVER_AMQP, writers=4, streams=3).run()
    assert_unharmed(run, dice)


async def test_a_naive_append_is_caught() -> None:
    async with fake_world(1, store_class=NaiveStore) as (world, _):
        run = await Run(world, 1, ON_THE_FAKE, life=0.005).run()
    assert {violation.promise for violation in run.found} == {"I2"}, run.report()
    assert len(run.found) > ON_THE_FAKE / 100


@pytest.mark.azurite
async def test_a_naive_append_is_caught_through_the_sdk(tables: str) -> None:
    async with table_world(tables, 1, store_class=NaiveStore) as (world, _):
        run = await Run(world, 1, ON_AZURITE).run()
    assert {violation.promise for violation in run.found} == {"I2"}, run.report()
