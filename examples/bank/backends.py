"""Where the bank keeps its streams and how its messages travel: the one place that differs between a laptop and Azure.

Read `worker.py` next.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from bank.domain import Account, Customer
from bank.notifications import LoggingNotifier, Notifier
from bank.system import BankSystem
from esazure.handlers import IHandlerSet
from esazure.inprocess import InProcessSubscription
from esazure.memory import InMemoryStore
from esazure.sqlite import SqliteStore
from esazure.store import Store

TABLE = "bank"
TOPIC = "bank-events"
SUBSCRIPTION = "bank"


class SettingsError(ValueError):
    """How the bank was started cannot be."""


class Part(Protocol):
    """Of what a worker runs."""

    async def run(self) -> None: ...
    def stop(self) -> None: ...


class Relay(Part, Protocol):
    """Takes from the outbox what waits there."""

    async def run_once(self) -> object: ...


@dataclass(frozen=True)
class OpenBank:
    """A bank on an open store."""

    system: BankSystem
    relay: Relay
    work: Sequence[Part]
    """The relay, and what handles messages: for a worker to run."""
    embedded: bool
    """On one machine, where whoever serves may work as well."""


@asynccontextmanager
async def open_bank(
    store: str, *, notifier: Notifier | None = None, also: Sequence[IHandlerSet] = ()
) -> AsyncGenerator[OpenBank]:
    """On `memory`, `sqlite:///bank.db` or `azure`, which takes connection strings from the environment.

    Raises:
        SettingsError: something else, or ESAZURE_TABLES or ESAZURE_SERVICEBUS is missing.
    """
    notifier = LoggingNotifier() if notifier is None else notifier
    scheme, slashes, path = store.partition(":///")
    if store == "memory":
        yield _embedded(InMemoryStore(), notifier, also)
    elif scheme == "sqlite" and slashes and path:
        async with SqliteStore(path) as opened:
            yield _embedded(opened, notifier, also)
    elif store == "azure":
        async with _azure(notifier, also) as bank:
            yield bank
    else:
        raise SettingsError(f"{store!r} is not a store: use memory, sqlite:///bank.db, or azure")


def _embedded(store: Store, notifier: Notifier, also: Sequence[IHandlerSet]) -> OpenBank:
    """One machine: the outbox is the queue, and whoever works takes from it."""
    system = BankSystem(store, notifier=notifier, also=also)
    subscription = InProcessSubscription(store, [Customer, Account], system.consumer)
    return OpenBank(system, subscription, [subscription], embedded=True)


@asynccontextmanager
async def _azure(notifier: Notifier, also: Sequence[IHandlerSet]) -> AsyncGenerator[OpenBank]:
    """Table Storage, and a Service Bus topic with a subscription that requires sessions."""
    # Imported here, so that a bank on one machine loads no Azure SDK.
    from esazure.relay import OutboxRelay  # noqa: PLC0415 - see above
    from esazure.servicebus import ServiceBus  # noqa: PLC0415 - see above
    from esazure.tables import TableStore  # noqa: PLC0415 - see above

    async with (
        TableStore.from_connection_string(_setting("ESAZURE_TABLES"), table=TABLE) as store,
        ServiceBus.from_connection_string(_setting("ESAZURE_SERVICEBUS")) as bus,
    ):
        producer = bus.producer(TOPIC)
        system = BankSystem(store, producer, notifier=notifier, also=also)
        relay = OutboxRelay(store, {Customer: producer, Account: producer})
        subscription = bus.subscription(TOPIC, SUBSCRIPTION, system.consumer)
        yield OpenBank(system, relay, [relay, subscription], embedded=False)


def _setting(name: str) -> str:
    if not (value := os.environ.get(name)):
        raise SettingsError(f"{name} is missing: set it to a connection string")
    return value
