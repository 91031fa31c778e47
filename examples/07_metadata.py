"""Who and why: set once at the edge, stored with every commit and sent with every message."""

import asyncio
from uuid import uuid4

from esazure import AggregateRoot, DomainEvent, EventsService, metadata
from esazure.memory import InMemoryEventProducer, InMemoryEventsRepository


class DoorOpened(DomainEvent):
    room: str


class Door(AggregateRoot[DoorOpened]):
    def when(self, event: DoorOpened) -> None: ...


async def main() -> None:
    producer = InMemoryEventProducer()
    doors = EventsService(InMemoryEventsRepository(Door), producer)

    async def open_door(room: str) -> None:  # knows nothing of users and requests
        door = Door(uuid4())
        door.record(DoorOpened(room=room))
        commit = await doors.persist(door)
        assert commit is not None
        print(f"{room}: stored with {dict(commit.metadata)}")

    async def request(user: str, room: str) -> None:  # what a middleware does
        with metadata(user=user, correlation_id=f"request-of-{user}", extra={"channel": "keypad"}):
            await open_door(room)

    await asyncio.gather(request("ada", "library"), request("grace", "laboratory"))

    sent = {message.properties["user"]: message.properties["correlation_id"] for message in producer.messages}
    assert sent == {"ada": "request-of-ada", "grace": "request-of-grace"}  # requests side by side do not mix
    print("messages:", sent)


asyncio.run(main())
