"""A server and two workers on Azurite and AMQP, one worker killed every second: in the end everything adds up."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from httpx import AsyncClient, HTTPError, Response
from tests.bank.support import Letters, ada, assert_views_are_as_if_made_anew, eventually
from tests.bank.test_processes import counter, free_port

from bank import backends
from bank.domain import Account
from bank.notifications import notification_id
from bank.system import BankSystem
from esazure.keys import split_stream_name
from esazure.tables import TableStore
from esazure.testing.azurite import Azurite
from esazure.testing.servicebus import MessageState, ServiceBusDouble

pytestmark = [pytest.mark.long, pytest.mark.azurite, pytest.mark.amqp, pytest.mark.timeout(1_800)]

ROOT = Path(__file__).parents[2]
SUBSCRIPTION = f"{backends.TOPIC}/subscriptions/{backends.SUBSCRIPTION}"
CLERKS = 8
PATIENCE = 300.0

_log = logging.getLogger("tests.bank.soak")
_random = random.Random()  # noqa: S311 - not a secret


@dataclass
class Clerk:
    """Sends commands one after the other, each until it is answered, and some of them twice."""

    http: AsyncClient
    customers: list[UUID] = field(default_factory=list[UUID])
    balances: dict[UUID, Decimal] = field(default_factory=dict[UUID, Decimal])
    """What was acknowledged."""

    async def work(self, commands: int) -> None:
        for _ in range(commands):
            if not self.customers or _random.random() < 0.08:
                self.customers.append(UUID((await self._send("POST", "/customers", ada())).json()["id"]))
            elif not self.balances or _random.random() < 0.1:
                body = {"customer_id": str(_random.choice(self.customers)), "currency": "EUR"}
                self.balances[UUID((await self._send("POST", "/accounts", body)).json()["id"])] = Decimal(0)
            else:
                await self._move_money()

    async def _move_money(self) -> None:
        account, amount = _random.choice(list(self.balances)), Decimal(_random.randint(1, 100))
        way, sign = _random.choice([("deposit", 1), ("deposit", 1), ("withdraw", -1)])
        answer = await self._send("PUT", f"/accounts/{account}/{way}", {"currency": "EUR", "amount": str(amount)})
        if answer.status_code == 409:
            assert answer.json()["title"] == "Insufficient funds"
            assert amount > self.balances[account]
        else:
            self.balances[account] += sign * amount
            assert Decimal(answer.json()["balance"]["amount"]) == self.balances[account]

    async def _send(self, method: str, url: str, body: dict[str, str]) -> Response:
        headers = {"Idempotency-Key": str(uuid4())}
        while True:
            with suppress(HTTPError):
                answer = await self.http.request(method, url, json=body, headers=headers)
                if answer.status_code in (200, 201, 409) and _random.random() < 0.9:
                    return answer
                assert answer.status_code in (200, 201, 409, 503), answer.text
            await asyncio.sleep(0.05)  # and once more, with the same key


class Workers:
    """Two processes, and what becomes of them."""

    def __init__(self, forks: Process) -> None:
        self._forks = forks
        self._pids: list[int] = []
        self.kills = 0

    async def start(self) -> None:
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.write(b"worker\n")
        _, pid = (await self._forks.stdout.readline()).split()
        self._pids.append(int(pid))

    async def kill_one_every_second(self, letters: Path) -> None:
        """Whichever: some die young, some get into their work. On a slow machine they are given more time for that."""
        pause, before = 1.0, 0
        while True:
            await asyncio.sleep(pause)
            os.kill(self._pids.pop(_random.randrange(2)), signal.SIGKILL)
            self.kills += 1
            await self.start()
            now = len(letters_in(letters))
            pause, before = 1.0 if now > before else min(pause * 1.2, 10.0), now

    def end(self) -> None:
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def two_workers(letters: Path) -> AsyncIterator[Workers]:
    forks = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bank.forks", str(letters)), stdin=PIPE, stdout=PIPE, cwd=ROOT
    )
    workers = Workers(forks)
    try:
        await workers.start()
        await workers.start()
        yield workers
    finally:
        workers.end()
        assert forks.stdin is not None
        forks.stdin.close()
        await forks.wait()


@asynccontextmanager
async def server() -> AsyncIterator[AsyncClient]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bank", "serve", "--store", "azure", "--port", str(port)),
        cwd=ROOT / "examples",
        stderr=DEVNULL,
    )
    try:
        async with counter(port) as http:
            yield http
    finally:
        process.kill()
        await process.wait()


async def quiet(store: TableStore, double: ServiceBusDouble) -> None:
    """Nothing is left to publish and nothing to handle."""
    deadline = time.monotonic() + PATIENCE
    while True:
        waiting = [row for partition in store.partitions for row in (await store.sweep(partition)).rows]
        messages = double.messages(SUBSCRIPTION)
        locked = double.messages(SUBSCRIPTION, state=MessageState.LOCKED)
        if not waiting and not messages and not locked:
            return
        assert time.monotonic() < deadline, (
            f"{len(waiting)} outbox rows, {len(messages)} messages, {len(locked)} locked"
        )
        await asyncio.sleep(1)


async def test_everything_adds_up(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    soak: int = request.config.getoption("--soak", 1)
    commands = 120 if soak == 1 else 500 * soak
    letters = tmp_path / "letters.log"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "examples")]))
    async with AsyncExitStack() as stack:
        azurite = Azurite()  # of its own: the processes use the table of that name
        await asyncio.to_thread(azurite.__enter__)
        stack.callback(azurite.__exit__)
        double = await stack.enter_async_context(ServiceBusDouble())
        # A kill costs the messages in hand a delivery.
        double.topic(backends.TOPIC).subscribe(
            backends.SUBSCRIPTION, requires_session=True, lock_duration=10, max_delivery_count=1000
        )
        monkeypatch.setenv("ESAZURE_TABLES", azurite.connection_string)
        monkeypatch.setenv("ESAZURE_SERVICEBUS", double.connection_string)
        http = await stack.enter_async_context(server())
        workers = await stack.enter_async_context(two_workers(letters))
        began = time.monotonic()
        clerks = [Clerk(http) for _ in range(CLERKS)]
        killing = asyncio.create_task(workers.kill_one_every_second(letters))
        try:
            await asyncio.gather(*(clerk.work(commands // CLERKS) for clerk in clerks))
            await eventually(lambda: some(letters), patience=PATIENCE)
            sent, under_fire = time.monotonic() - began, letters_in(letters)
        finally:
            killing.cancel()
        store = await stack.enter_async_context(
            TableStore.from_connection_string(azurite.connection_string, table=backends.TABLE)
        )
        await quiet(store, double)
        seconds = time.monotonic() - began

        system = BankSystem(store, notifier=Letters())
        assert double.messages(f"{SUBSCRIPTION}/$DeadLetterQueue") == []
        assert await system.consumer.parked() == []
        await assert_views_are_as_if_made_anew(store)
        await assert_balances_are_as_acknowledged(system, clerks)
        repeats = await repeated_letters(store, letters_in(letters))
        # A worker that dies between sending and noting it down: seldom in several of its lanes, and mostly in none.
        assert repeats <= workers.kills
    _log.info(
        "%d commands in %.0f s, quiet after %.0f s; %d kills, %d letters before the last of them, %d sent again",
        commands, sent, seconds, workers.kills, len(under_fire), repeats,
    )  # fmt: skip


async def assert_balances_are_as_acknowledged(system: BankSystem, clerks: Sequence[Clerk]) -> None:
    acknowledged = {account: balance for clerk in clerks for account, balance in clerk.balances.items()}
    stored: dict[UUID, Decimal] = {}
    for partition in system.store.partitions:
        async for records in system.store.scan(partition, Account.aggregate_type):
            account = await system.bank.accounts.rehydrate(UUID(split_stream_name(records[0].stream)[1]))
            details, card = await system.views.accounts.get(account.id), await system.cards.get(account.id)
            assert details is not None
            assert card is not None
            assert details.balance == card.balance == account.balance
            stored[account.id] = account.balance.amount
    assert stored == acknowledged
    for clerk in clerks:
        for customer_id in clerk.customers:
            customer = await system.bank.customers.rehydrate(customer_id)
            details = await system.views.customers.get(customer_id)
            assert details is not None
            assert details.accounts.keys() == customer.accounts


async def some(log: Path) -> bool:
    """Whether any were sent: otherwise nobody lived for long enough to do anything, and a run proves nothing."""
    return bool(letters_in(log))


def letters_in(log: Path) -> list[str]:
    """The ids of those that were sent so far."""
    return re.findall(r"^bank\.notifications letter ([0-9a-f-]{36})$", log.read_text(encoding="utf-8"), re.MULTILINE)


async def repeated_letters(store: TableStore, letters: Sequence[str]) -> int:
    """How many were sent more often than once; each was sent."""
    sent = Counter(letters)
    due: set[str] = set()
    repository = store.events(Account, outbox=True)
    for partition in store.partitions:
        async for records in store.scan(partition, Account.aggregate_type):
            account_id = UUID(split_stream_name(records[0].stream)[1])
            for record in records:
                assert record.command_id is not None
                handled = await repository.find_command(account_id, record.command_id)
                assert handled is not None
                assert handled.commit is not None
                due |= {
                    str(notification_id(envelope, "opened" if envelope.version == 1 else "transaction"))
                    for envelope in handled.commit.events
                }
    assert sent.keys() == due
    return sum(sent.values()) - len(sent)
