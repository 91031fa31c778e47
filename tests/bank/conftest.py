"""A world for each test. It shares a bank with the other tests of its module, and its customers with nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.bank.support import World, ada, world_on

BACKENDS = ["memory", "sqlite", pytest.param("azure", marks=[pytest.mark.azurite, pytest.mark.amqp, pytest.mark.long])]


@pytest_asyncio.fixture(params=BACKENDS, scope="module", loop_scope="module")
async def shared_world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """A bank on one backend, and its worker. To start one on AMQP takes seconds."""
    tables = request.getfixturevalue("tables") if request.param == "azure" else ""
    folder: Path = tmp_path_factory.mktemp("bank")
    async with world_on(request.param, folder, tables) as world:
        yield world


@pytest.fixture
def world(shared_world: World) -> World:
    """The same with an Ada of its own."""
    return World(shared_world.http, shared_world.opened, shared_world.letters, ada())
