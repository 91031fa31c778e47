"""The bank accepts and answers exactly what its OpenAPI says: no check that schemathesis has finds anything."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
import uvicorn
from tests.bank.support import bank_on

from bank.http import create_app
from bank.worker import working

pytest.importorskip("schemathesis", reason="left out beside the lowest versions: see tools/matrix.py")


async def mismatches(kind: str, folder: Path, *, examples: int, seed: str, phases: str) -> tuple[int | None, str]:
    """The exit status of schemathesis, and what it said; the bank has its worker beside it, as when it is served."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with bank_on(kind, folder) as opened, working(opened.work):
            server = uvicorn.Server(uvicorn.Config(create_app(opened.system), log_level="error"))
            serving = asyncio.create_task(server.serve([listening]))
            page = f"http://127.0.0.1:{listening.getsockname()[1]}/openapi.json"
            options = f"--checks all --phases {phases} -n {examples} --seed {seed} --no-color --warnings off"
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "schemathesis.cli", "run", page, *options.split()),
                    cwd=folder,  # where it leaves its cache
                    env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "SCHEMATHESIS_HOOKS": "fresh_keys"},
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                )
                said, _ = await process.communicate()
            finally:
                server.should_exit = True
                await serving
    return process.returncode, said.decode()


async def test_the_openapi_says_what_is_accepted_and_answered(tmp_path: Path) -> None:
    status, said = await mismatches("memory", tmp_path, examples=20, seed="1", phases="examples,coverage,fuzzing")
    assert status == 0, said
    assert "Tested: 8" in said


@pytest.mark.long
@pytest.mark.parametrize("seed", ["1", "2"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_nor_do_longer_runs_and_chains_of_requests_find_anything(kind: str, seed: str, tmp_path: Path) -> None:
    phases = "examples,coverage,fuzzing,stateful"
    status, said = await mismatches(kind, tmp_path, examples=200, seed=seed, phases=phases)
    assert status == 0, said
