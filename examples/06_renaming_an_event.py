"""Events live longer than code: a class gets a better name, a field gets another shape, old streams stay readable."""

import asyncio
from tempfile import TemporaryDirectory
from uuid import uuid4

from pydantic import model_validator

from esazure import AggregateRoot, DomainEvent
from esazure.sqlite import SqliteStore


class Moved(DomainEvent):  # how it was written years ago
    address: str


class OldCustomer(AggregateRoot[Moved]):
    aggregate_type = "Customer"

    def when(self, event: Moved) -> None: ...


class AddressChanged(DomainEvent):  # what it is called, and what it says, today
    event_type = "Moved"  # the stored name stays: pin it when you rename the class
    street: str
    city: str

    @model_validator(mode="before")
    @classmethod
    def _read_the_old_shape(cls, data: object) -> object:
        match data:
            case {"address": str(address)}:
                return dict(zip(("street", "city"), address.rsplit(", ", 1), strict=True))
            case _:
                return data


class Customer(AggregateRoot[AddressChanged]):
    city: str

    def when(self, event: AddressChanged) -> None:
        self.city = event.city


async def main(path: str) -> None:
    old = OldCustomer(uuid4())
    old.record(Moved(address="12 St James's Square, London"))
    async with SqliteStore(path) as years_ago, SqliteStore(path) as today:  # each takes one class for a name
        await years_ago.events(OldCustomer).append(old)
        customer = await (customers := today.events(Customer)).rehydrate(old.id)
        assert customer.city == "London"
        customer.record(AddressChanged(street="Piazza San Carlo", city="Torino"))
        await customers.append(customer)
        assert (await customers.rehydrate(old.id)).city == "Torino"
    print("two shapes and one stream: London, then Torino")


with TemporaryDirectory() as folder:
    asyncio.run(main(f"{folder}/customers.db"))
