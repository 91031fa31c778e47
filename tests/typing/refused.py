"""Each ignored line is a mistake the types must catch: an ignore that is not needed fails the check. Never run."""

from __future__ import annotations

from typing import assert_never
from uuid import UUID

from esazure import AggregateRoot, DomainEvent, EventEnvelope, EventsService, IEventsService, Integration
from esazure.handlers import EventHandlers, Reactions
from esazure.memory import InMemoryEventProducer, InMemoryEventsRepository, InMemoryStore


class Opened(DomainEvent):
    owner: str


class Closed(DomainEvent):
    reason: str


class Stranger(DomainEvent):
    x: int


class Account(AggregateRoot[Opened | Closed]):
    def __init__(self, id: UUID) -> None:
        super().__init__(id)

    def an_event_of_somebody_else(self) -> None:
        self.record(Stranger(x=1))  # type: ignore[arg-type]

    def a_field_that_is_not_there(self) -> None:
        self.record(Opened(name="Ada"))  # type: ignore[call-arg]

    def an_id_that_changes(self) -> None:
        self.id = UUID(int=2)  # type: ignore[misc]

    def a_version_that_is_set(self) -> None:
        self.version = 3  # type: ignore[misc]

    def when(self, event: Opened | Closed) -> None:
        match event:
            case Opened():
                pass
            case _:  # Closed is forgotten
                assert_never(event)  # type: ignore[arg-type]


class Other(AggregateRoot[Stranger, str]):
    def when(self, event: Stranger) -> None: ...


class TakesTooLittle(AggregateRoot[Opened | Closed]):
    def when(self, event: Opened) -> None: ...  # type: ignore[override]


class NotAnEvent(AggregateRoot[int]):  # type: ignore[type-var]
    def when(self, event: int) -> None: ...


class NotAnId(AggregateRoot[Opened, int]):  # type: ignore[type-var]
    def when(self, event: Opened) -> None: ...


async def another_aggregate() -> None:
    service = EventsService(InMemoryEventsRepository(Account))
    await service.persist(Other("1"))  # type: ignore[arg-type]


async def another_id_type() -> None:
    service = EventsService(InMemoryEventsRepository(Account))
    await service.rehydrate("1")  # type: ignore[arg-type]
    await InMemoryStore().events(Other).rehydrate(UUID(int=1))  # type: ignore[arg-type]


async def a_method_that_is_not_there() -> None:
    service = EventsService(InMemoryEventsRepository(Account))
    await service.update(UUID(int=1), lambda account: account.closed())  # type: ignore[attr-defined]


def a_service_of_another_aggregate() -> IEventsService[Account]:
    return EventsService(InMemoryStore().events(Other))  # type: ignore[arg-type]


def no_producer() -> None:
    EventsService(InMemoryEventsRepository(Account), object())  # type: ignore[arg-type]
    integration: Integration = str  # type: ignore[assignment]
    InMemoryEventProducer(integration=integration)


def a_handler_of_another_event() -> None:
    handlers = EventHandlers("mail")

    @handlers.on(Account, Opened)  # type: ignore[arg-type]
    async def closed(envelope: EventEnvelope[Closed]) -> None: ...

    @handlers.on(Account, Stranger)  # type: ignore[arg-type]
    async def strange(envelope: EventEnvelope[Stranger]) -> None: ...

    assert closed is not None
    assert strange is not None


def a_reaction_of_another_aggregate(others: IEventsService[Other, str]) -> None:
    reactions = Reactions("bank")

    @reactions.on(Account, Opened, changes=others, id=lambda envelope: envelope.aggregate_id)  # type: ignore[arg-type]
    def change(account: Account, envelope: EventEnvelope[Opened]) -> None: ...

    @reactions.on(Account, Opened, changes=others, id=lambda envelope: envelope.version)  # type: ignore[arg-type,return-value]
    def by_number(other: Other, envelope: EventEnvelope[Opened]) -> None: ...

    assert change is not None
    assert by_number is not None
