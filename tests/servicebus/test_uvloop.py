"""uvloop instead of asyncio's own loop: the double, the bus and every store."""

from __future__ import annotations

import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest

pytestmark = [
    pytest.mark.amqp,
    pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not made for this platform"),
]


async def run(kind: str, where: str) -> tuple[int, str]:
    """In a process of its own, where a warning is an error as it is here."""
    command = (sys.executable, "-W", "error", "-m", "tests.support.in_uvloop", kind, where)
    process = await create_subprocess_exec(*command, stderr=PIPE)
    _, errors = await process.communicate()
    return process.returncode or 0, errors.decode()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_events_are_stored_published_and_received_in_uvloop(kind: str, tmp_path: Path) -> None:
    assert await run(kind, str(tmp_path / "a.db")) == (0, "")


@pytest.mark.azurite
@pytest.mark.usefixtures("tables")
async def test_the_same_with_tables() -> None:
    assert await run("tables", f"t{uuid4().hex}") == (0, "")
