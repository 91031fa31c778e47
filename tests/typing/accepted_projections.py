"""What both checkers must accept of projections and views, and what they must infer. Checked, never run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import assert_type
from uuid import UUID

from pydantic import BaseModel

from esazure import AggregateRoot, DomainEvent, EventEnvelope
from esazure.consumer import Consumer
from esazure.memory import InMemoryStore
from esazure.progress import progress_bar
from esazure.projection import Projection
from esazure.rebuild import RebuildProgress, RebuildReport, rebuild
from esazure.views import IViews, Page, Views


class Opened(DomainEvent):
    owner: UUID


class Deposited(DomainEvent):
    amount: int


class Withdrawn(DomainEvent):
    amount: int


AccountEvent = Opened | Deposited | Withdrawn


class Account(AggregateRoot[AccountEvent]):
    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.owner = id

    def when(self, event: AccountEvent) -> None: ...


class Book(AggregateRoot[Opened, str]):
    def when(self, event: Opened) -> None: ...


class Balance(BaseModel):
    amount: int = 0


def plain_functions_fold(projection: Projection[Balance]) -> None:
    @projection.fold(Account, Opened)
    def opened(view: Balance | None, envelope: EventEnvelope[Opened]) -> Balance:
        return view or Balance()

    @projection.fold(Account, Deposited, key=lambda deposited: str(deposited.event.amount))
    def deposited(view: Balance | None, envelope: EventEnvelope[Deposited]) -> Balance | None:
        return view

    @projection.fold(Book, Opened, key=lambda opened: [opened.event.owner, "all"])
    def deleted(view: Balance | None, envelope: EventEnvelope[Opened]) -> None:
        return None

    def they_can_still_be_called(envelope: EventEnvelope[Opened]) -> None:
        assert_type(opened(None, envelope), Balance | None)
        assert_type(deleted(None, envelope), Balance | None)

    assert deposited is not None
    assert they_can_still_be_called is not None


def async_functions_fold(projection: Projection[Balance]) -> None:
    @projection.fold(Account, Opened, key=lambda opened: opened.event.owner)
    async def opened(view: Balance | None, envelope: EventEnvelope[Opened]) -> Balance:
        return view or Balance()

    async def it_can_still_be_called(envelope: EventEnvelope[Opened]) -> None:
        assert_type(await opened(None, envelope), Balance | None)

    assert it_can_still_be_called is not None


def one_function_may_fold_several_events(projection: Projection[Balance]) -> None:
    @projection.fold(Account, Deposited)
    @projection.fold(Account, Withdrawn)
    def moved(view: Balance | None, envelope: EventEnvelope[Deposited | Withdrawn]) -> Balance | None:
        return view

    @projection.fold(Account, Opened)
    def anything(view: Balance | None, envelope: EventEnvelope[DomainEvent]) -> Balance | None:
        return view

    assert moved is not None
    assert anything is not None


def aggregates_are_reloaded(projection: Projection[Balance]) -> None:
    @projection.reload(Account, key=lambda account: account.owner)
    def account(view: Balance | None, account: Account) -> Balance:
        return Balance(amount=account.version)

    @projection.reload(Book)
    async def book(view: Balance | None, book: Book) -> Balance | None:
        return view

    assert account is not None
    assert book is not None


def functions_made_elsewhere_fit(
    projection: Projection[Balance], change: Callable[[Balance | None, EventEnvelope[Opened]], Awaitable[Balance]]
) -> None:
    projection.fold(Account, Opened)(change)


async def views_know_their_model(store: InMemoryStore, id: UUID, token: str) -> IViews[Balance]:
    views = store.views(Balance)
    assert_type(views, Views[Balance])
    assert_type(await views.get(id), Balance | None)
    assert_type(await views.wait_for("a", token), Balance | None)
    assert_type(await views.list(), Page[Balance])
    await views.update("a", "Account.a", 1, lambda view: Balance(amount=0 if view is None else view.amount))
    assert_type(Projection(views), Projection[Balance])
    return views


async def a_consumer_takes_projections(store: InMemoryStore, projection: Projection[Balance]) -> None:
    Consumer("worker", [projection], positions=store, source=store)


async def a_rebuild_shows_its_progress(store: InMemoryStore, projection: Projection[Balance]) -> None:
    with progress_bar() as progress:
        assert_type(progress, Callable[[RebuildProgress], None])
        assert_type(await rebuild(projection, store, progress=progress), RebuildReport)
