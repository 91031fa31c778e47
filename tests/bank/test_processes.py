"""The command line: servers and workers as processes, stopped as an operator stops them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from httpx import AsyncClient, ConnectError, Response
from tests.bank.support import ada

from bank.http import TOKEN

EXAMPLES = Path(__file__).parents[2] / "examples"


@asynccontextmanager
async def bank(*arguments: str) -> AsyncIterator[Process]:
    """A process, which ends well when it is asked to."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "bank", *arguments), cwd=EXAMPLES, stderr=PIPE
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
        assert b"Traceback" not in said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def counter(port: int) -> AsyncIterator[AsyncClient]:
    """A client, once the server listens."""
    async with AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        async with asyncio.timeout(60):
            while not await listens(http):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
        yield http


async def listens(http: AsyncClient) -> bool:
    try:
        await http.get("/openapi.json")
    except ConnectError:
        return False
    return True


async def ada_opens_an_account(http: AsyncClient) -> tuple[Response, Response]:
    customer = await http.post("/customers", json=ada(), headers={"Idempotency-Key": str(uuid4())})
    assert customer.status_code == 201, customer.text
    new = {"customer_id": customer.json()["id"], "currency": "EUR"}
    account = await http.post("/accounts", json=new, headers={"Idempotency-Key": str(uuid4())})
    assert account.status_code == 201, account.text
    return customer, account


@pytest.mark.long
async def test_a_server_with_its_worker_inside(tmp_path: Path) -> None:
    port, store = str(free_port()), f"sqlite:///{tmp_path / 'bank.db'}"
    async with bank("serve", "--store", store, "--port", port), counter(int(port)) as http:
        customer, account = await ada_opens_an_account(http)
        found = await http.get(customer.headers["Location"], params={"after": account.headers[TOKEN]})
        assert [line["id"] for line in found.json()["accounts"]] == [account.json()["id"]]


@pytest.mark.long
async def test_a_server_in_memory() -> None:
    port = str(free_port())
    async with bank("serve", "--store", "memory", "--port", port), counter(int(port)) as http:
        customer, _ = await ada_opens_an_account(http)
        assert (await http.get(customer.headers["Location"])).status_code == 200


@pytest.mark.long
async def test_a_server_two_workers_and_a_rebuild_share_a_file(tmp_path: Path) -> None:
    port, store = str(free_port()), ("--store", f"sqlite:///{tmp_path / 'bank.db'}")
    async with bank("serve", *store, "--port", port, "--no-worker"), counter(int(port)) as http:
        customer, account = await ada_opens_an_account(http)
        assert (await http.get("/customers")).json()["customers"] == []  # nobody works

        async with bank("worker", *store), bank("worker", *store):
            async with asyncio.timeout(30):
                while (
                    found := await http.get(customer.headers["Location"], params={"after": account.headers[TOKEN]})
                ).status_code != 200:
                    assert found.status_code == 503
            rebuilding = await asyncio.to_thread(run, "rebuild", "customers", *store)
            assert rebuilding.returncode == 0, rebuilding.stderr
            assert rebuilding.stdout.startswith("customers: 3 events of 2 streams")
            assert (await http.get(customer.headers["Location"])).json() == found.json()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own files
        [sys.executable, "-W", "error", "-m", "bank", *arguments],
        cwd=EXAMPLES,
        env={**os.environ, "ESAZURE_TABLES": "", "ESAZURE_SERVICEBUS": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["worker", "--store", "postgres"], "use memory, sqlite:///bank.db, or azure"),
        (["worker", "--store", "memory"], "only `serve` makes sense"),
        (["serve", "--store", "azure"], "ESAZURE_TABLES is missing"),
        (["rebuild", "archives"], "no such view: archives"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run(*arguments, *([] if "--store" in arguments else ["--store", f"sqlite:///{tmp_path / 'bank.db'}"]))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
