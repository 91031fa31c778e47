"""An aggregate: decide, record, and be rebuilt from its own events. Read 02_conflict.py next."""

import asyncio
from typing import Self, assert_never
from uuid import UUID, uuid4

from esazure import AggregateRoot, DomainEvent, EventsService
from esazure.memory import InMemoryEventProducer, InMemoryStore


class CustomerCreated(DomainEvent):
    name: str


class AccountAdded(DomainEvent):
    account_id: UUID


CustomerEvent = CustomerCreated | AccountAdded


class Customer(AggregateRoot[CustomerEvent]):
    def __init__(self, id: UUID) -> None:  # initial state only: rehydration calls it with the id alone
        super().__init__(id)
        self.name, self.accounts = "", set[UUID]()

    @classmethod
    def create(cls, id: UUID, name: str) -> Self:
        customer = cls(id)
        customer.record(CustomerCreated(name=name))
        return customer

    def add_account(self, account_id: UUID) -> None:  # a command decides ...
        if account_id not in self.accounts:
            self.record(AccountAdded(account_id=account_id))

    def when(self, event: CustomerEvent) -> None:  # ... and an event changes state
        match event:
            case CustomerCreated():
                self.name = event.name
            case AccountAdded():
                self.accounts.add(event.account_id)
            case _:
                assert_never(event)  # forget an event above, and the type checker says so


async def main() -> None:
    customers = EventsService(InMemoryStore().events(Customer), InMemoryEventProducer())
    ada, account_id = Customer.create(uuid4(), "Ada"), uuid4()
    ada.add_account(account_id)
    ada.add_account(account_id)  # nothing new, so no event
    await customers.persist(ada)

    again = await customers.rehydrate(ada.id)
    assert (again.name, again.accounts, again.version) == ("Ada", {account_id}, 2)
    print(f"{again.name} is at version {again.version} with {len(again.accounts)} account")


asyncio.run(main())
