"""The same on Azure Table Storage: one line changes. ESAZURE_TABLES names the account, else Azurite is started."""

import asyncio
import os
from uuid import UUID, uuid4

from esazure import AggregateRoot, DomainEvent, EventsService
from esazure.tables import TableStore
from esazure.testing.azurite import Azurite


class ItemAdded(DomainEvent):
    item: str


class Basket(AggregateRoot[ItemAdded]):
    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.items: list[str] = []

    def add(self, item: str) -> None:
        self.record(ItemAdded(item=item))

    def when(self, event: ItemAdded) -> None:
        self.items.append(event.item)


async def main(connection_string: str) -> None:
    basket_id = uuid4()

    async with TableStore.from_connection_string(connection_string, table="baskets") as store:
        basket = Basket(basket_id)
        basket.add("tea")
        basket.add("biscuits")
        baskets = EventsService(store.events(Basket))  # nobody is told; 04_service_bus.py tells
        await baskets.persist(basket)  # two events, one request: both or neither

    async with TableStore.from_connection_string(connection_string, table="baskets") as store:  # another process
        baskets = EventsService(store.events(Basket))
        await baskets.update(basket_id, lambda basket: basket.add("milk"))
        basket = await baskets.rehydrate(basket_id)
        before = await baskets.rehydrate(basket_id, version=2)  # as it was then, to look at

    assert (basket.items, before.items) == (["tea", "biscuits", "milk"], ["tea", "biscuits"])
    print(f"version {before.version}: {before.items}; version {basket.version}: {basket.items}")


if account := os.environ.get("ESAZURE_TABLES"):
    asyncio.run(main(account))
else:
    with Azurite() as azurite:
        asyncio.run(main(azurite.connection_string))
