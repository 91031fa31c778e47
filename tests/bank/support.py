"""Worlds: a bank on one backend, with its worker beside it, spoken to over HTTP in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

from httpx import ASGITransport, AsyncClient, Response

from bank import backends
from bank.backends import OpenBank, open_bank
from bank.domain import Customer
from bank.http import TOKEN, create_app
from bank.notifications import Notifier
from bank.system import BankSystem
from bank.views import BankViews, View, bank_projections
from bank.worker import working
from esazure import EventsService
from esazure.memory import InMemoryStore
from esazure.store import Store
from esazure.testing.servicebus import ServiceBusDouble
from esazure.views import Views

PATIENCE = 20.0
BEHIND = 503


@dataclass(frozen=True)
class Letter:
    """One that was sent."""

    id: UUID
    recipient: str
    text: str


class Letters(list[Letter]):
    """A notifier that keeps them."""

    async def send(self, notification_id: UUID, recipient: str, text: str) -> None:
        self.append(Letter(notification_id, recipient, text))


@dataclass(frozen=True)
class Made:
    """What a POST made, and the token of its newest version."""

    id: UUID
    token: str
    owner_id: UUID


def ada() -> dict[str, str]:
    """A new one each time."""
    return {"first_name": "Ada", "last_name": "Lovelace", "email": f"{uuid4()}@example.com"}


@dataclass
class World:
    """A bank, and a client at its counter."""

    http: AsyncClient
    opened: OpenBank
    letters: Letters
    ada: dict[str, str]
    """What creates a customer; her address is free."""

    @property
    def system(self) -> BankSystem:
        return self.opened.system

    async def get(self, url: str, **query: Any) -> Response:
        """Asks again when a view is behind: workers may be slow here, and the tests are about what it shows then."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = await self.http.get(url, params=query)
            if answer.status_code != BEHIND or "not-yet-visible" not in answer.text or time.monotonic() > deadline:
                return answer

    async def post(self, url: str, body: Any, *, key: str | None = None) -> Response:
        return await self.http.post(url, json=body, headers={"Idempotency-Key": key or str(uuid4())})

    async def put(self, url: str, body: Any, *, key: str | None = "") -> Response:
        """With a key of its own; with None without one."""
        headers = {} if key is None else {"Idempotency-Key": key or str(uuid4())}
        return await self.http.put(url, json=body, headers=headers)

    async def customer(self, **different: str) -> Made:
        answer = await self.post("/customers", {**self.ada, **different})
        assert answer.status_code == 201, answer.text
        made = UUID(answer.json()["id"])
        return Made(made, answer.headers[TOKEN], made)

    async def account(self, owner: Made, currency: str = "EUR", *, holding: str | None = None) -> Made:
        answer = await self.post("/accounts", {"customer_id": str(owner.id), "currency": currency})
        assert answer.status_code == 201, answer.text
        made, token = UUID(answer.json()["id"]), answer.headers[TOKEN]
        if holding is not None:
            answer = await self.put(f"/accounts/{made}/deposit", {"currency": currency, "amount": holding})
            assert answer.status_code == 200, answer.text
            token = answer.headers[TOKEN]
        return Made(made, token, owner.id)

    def letters_about(self, account: Made) -> list[Letter]:
        """Those that were sent so far."""
        return [letter for letter in self.letters if str(account.id) in letter.text]

    async def balance(self, account: Made) -> str:
        """By the view that is never behind."""
        found = await self.get(f"/accounts/{account.id}/balance")
        amount: str = found.json()["balance"]["amount"]
        return amount


def namespace() -> ServiceBusDouble:
    """With the bank's topic and subscription, and the demo's."""
    double = ServiceBusDouble()
    topic = double.topic(backends.TOPIC, duplicate_detection_window=600)
    topic.subscribe(backends.SUBSCRIPTION, requires_session=True).subscribe("demo", requires_session=True)
    return double


@asynccontextmanager
async def bank_on(
    kind: str, tmp_path: Path, tables: str = "", *, letters: Notifier | None = None
) -> AsyncIterator[OpenBank]:
    """`memory`, `sqlite`, or `azure`: a table of its own, and a Service Bus double."""
    async with AsyncExitStack() as stack:
        store = {"sqlite": f"sqlite:///{tmp_path / 'bank.db'}"}.get(kind, kind)
        if kind == "azure":
            double = await stack.enter_async_context(namespace())
            settings = {"ESAZURE_TABLES": tables, "ESAZURE_SERVICEBUS": double.connection_string}
            stack.enter_context(patch.dict("os.environ", settings))
            stack.enter_context(patch.object(backends, "TABLE", f"t{uuid4().hex}"))
        yield await stack.enter_async_context(open_bank(store, notifier=letters))


@asynccontextmanager
async def world_on(kind: str, tmp_path: Path, tables: str = "") -> AsyncIterator[World]:
    """With a worker."""
    letters = Letters()
    async with (
        bank_on(kind, tmp_path, tables, letters=letters) as opened,
        working(opened.work),
        AsyncClient(transport=ASGITransport(create_app(opened.system)), base_url="http://bank") as http,
    ):
        yield World(http, opened, letters, ada())


async def eventually(condition: Callable[[], Awaitable[bool]], *, patience: float = PATIENCE) -> None:
    """Wait for it."""
    deadline = time.monotonic() + patience
    while not await condition():
        assert time.monotonic() < deadline, "this did not come true"
        await asyncio.sleep(0.05)


async def assert_views_are_as_if_made_anew(store: Store) -> None:
    """What workers made of the events, in whatever order they came, is what one pass over all of them makes."""
    fresh = BankViews.of(InMemoryStore())
    customers = EventsService(store.events(Customer, outbox=True))
    for projection in bank_projections(fresh, store, customers):
        for aggregate_class, partition in product(projection.interests, store.partitions):
            async for records in store.scan(partition, aggregate_class.aggregate_type):
                await projection.replay(records, generation=1)
    kept = BankViews.of(store)
    assert await _everything(kept.archive) == await _everything(fresh.archive)
    assert await _everything(kept.customers) == await _everything(fresh.customers)
    assert await _everything(kept.accounts) == await _everything(fresh.accounts)


async def _everything(views: Views[Any]) -> dict[UUID, View]:
    found: dict[UUID, View] = {}
    after = None
    while True:
        page = await views.list(after=after, limit=1000)
        found.update({view.id: view for view in page.views})
        after = page.next
        if after is None:
            return found
