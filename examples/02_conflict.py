"""Two writers, one aggregate: the second is told, and `update` decides again. Read 03_tables.py next."""

import asyncio
from uuid import UUID, uuid4

from esazure import AggregateRoot, ConcurrencyError, DomainEvent, EventsService
from esazure.memory import InMemoryEventProducer, InMemoryEventsRepository

SEATS = 2


class SeatBooked(DomainEvent):
    passenger: str


class SoldOutError(Exception):
    pass


class Flight(AggregateRoot[SeatBooked]):
    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.passengers: list[str] = []

    def book(self, passenger: str) -> None:
        if len(self.passengers) == SEATS:
            raise SoldOutError(f"no seat for {passenger}")
        self.record(SeatBooked(passenger=passenger))

    def when(self, event: SeatBooked) -> None:
        self.passengers.append(event.passenger)


async def main() -> None:
    flights = EventsService(InMemoryEventsRepository(Flight), InMemoryEventProducer())
    flight = Flight(uuid4())
    flight.book("Ada")
    await flights.persist(flight)

    mine, yours = await flights.rehydrate(flight.id), await flights.rehydrate(flight.id)
    yours.book("Grace")  # the last seat
    await flights.persist(yours)
    mine.book("Barbara")  # decided on a state that is no longer true
    try:
        await flights.persist(mine)
    except ConcurrencyError as error:
        print(error)
    assert mine.pending == (SeatBooked(passenger="Barbara"),)  # nothing stored, nothing lost

    try:  # update loads a fresh copy and calls the function again after each conflict: here it learns the truth
        await flights.update(flight.id, lambda fresh: fresh.book("Barbara"))
    except SoldOutError as error:
        print(error)
    assert (await flights.rehydrate(flight.id)).passengers == ["Ada", "Grace"]


asyncio.run(main())
