"""Each ignored line is a mistake the types must catch: an ignore that is not needed fails the check. Never run."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from esazure import AggregateRoot, DomainEvent, EventEnvelope
from esazure.memory import InMemoryStore
from esazure.projection import Projection


class Opened(DomainEvent):
    owner: UUID


class Closed(DomainEvent):
    reason: str


class Stranger(DomainEvent):
    x: int


class Account(AggregateRoot[Opened | Closed]):
    def when(self, event: Opened | Closed) -> None: ...


class Book(AggregateRoot[Opened]):
    def when(self, event: Opened) -> None: ...


class Balance(BaseModel):
    amount: int = 0


class Card(BaseModel):
    name: str = ""


def wrong_functions(projection: Projection[Balance]) -> None:
    @projection.fold(Account, Stranger)  # type: ignore[arg-type]
    def not_an_event_of_it(view: Balance | None, envelope: EventEnvelope[Stranger]) -> Balance | None:
        return view

    @projection.fold(Account, Opened)  # type: ignore[arg-type]
    def another_event(view: Balance | None, envelope: EventEnvelope[Closed]) -> Balance | None:
        return view

    @projection.fold(Account, Opened)  # type: ignore[arg-type]
    def another_view(view: Card | None, envelope: EventEnvelope[Opened]) -> Card | None:
        return view

    @projection.fold(Account, Opened)  # type: ignore[arg-type]
    def returns_another_view(view: Balance | None, envelope: EventEnvelope[Opened]) -> Card:
        return Card()

    @projection.fold(Account, Opened)  # type: ignore[arg-type]
    def there_may_be_no_view(view: Balance, envelope: EventEnvelope[Opened]) -> Balance:
        return view

    @projection.fold(Account, Opened, key=lambda opened: opened.version)  # type: ignore[arg-type,return-value]
    def a_number_is_no_key(view: Balance | None, envelope: EventEnvelope[Opened]) -> Balance | None:
        return view

    @projection.reload(Account)  # type: ignore[arg-type]
    def another_aggregate(view: Balance | None, book: Book) -> Balance | None:
        return view

    @projection.reload(Account)  # type: ignore[arg-type]
    async def async_and_another_view(view: Balance | None, account: Account) -> Card:
        return Card()

    assert [not_an_event_of_it, another_event, another_view, returns_another_view, there_may_be_no_view]
    assert [a_number_is_no_key, another_aggregate, async_and_another_view]


async def wrong_views(store: InMemoryStore) -> None:
    store.views(dict)  # type: ignore[type-var]
    await store.views(Balance).get(5)  # type: ignore[arg-type]
    await store.views(Balance).update("a", "Account.a", 1, lambda _: Card())  # type: ignore[arg-type,return-value]
