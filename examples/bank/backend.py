"""Where the bank keeps its streams and sends its messages: the one place that differs between a laptop and Azure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from bank.domain import Account, Customer
from bank.evidence import Published, Stored, StoredEvent
from esazure import IEventProducer, IEventsRepository


@dataclass(frozen=True)
class Backend:
    """An open store and an open producer, and how to look at both without esazure."""

    name: str
    customers: IEventsRepository[Customer]
    accounts: IEventsRepository[Account]
    producer: IEventProducer
    read_store: Callable[[], Awaitable[Stored]]
    receive: Callable[[frozenset[StoredEvent]], Awaitable[Sequence[Published]]]
    """Messages as a subscriber gets them, until these events are among them."""


def backend_of(store: str) -> AbstractAsyncContextManager[Backend]:
    """`sqlite:///bank.db`, or `azure`.

    Raises:
        ValueError: something else.
    """
    # Imported here, so that a bank on SQLite loads no Azure SDK.
    if store == "azure":
        from bank.on_azure import azure_backend  # noqa: PLC0415 - see above

        return azure_backend()
    scheme, slashes, path = store.partition(":///")
    if scheme == "sqlite" and slashes and path:
        from bank.on_sqlite import sqlite_backend  # noqa: PLC0415 - see above

        return sqlite_backend(path)
    raise ValueError(f"{store!r} is not a store: use sqlite:///bank.db, or azure")
