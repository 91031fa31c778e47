"""What every `IEventProducer` promises: each event announced under the same id, in order, in its stream's lane."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol
from uuid import uuid4

import pytest

from esazure.context import metadata
from esazure.errors import CommitTooLargeError
from esazure.events import Commit, EventEnvelope
from esazure.integration import MAX_MESSAGE_BYTES, Integration, IntegrationEvent, IntegrationMessage, thin, whole
from esazure.memory import InMemoryStore
from esazure.ports import IEventProducer
from esazure.testing._counter import Counter, Noted, counter_with, fresh_id
from esazure.testing._hostile import incompressible


class Broker(Protocol):
    """What a binding gives: producers for one destination, and a way to read what has arrived there."""

    def producer(self, integration: Integration) -> IEventProducer:
        """A producer with this integration, in lanes."""
        ...

    async def received(self, count: int) -> list[IntegrationMessage]:
        """Everything that has arrived since the test began, in order within a session, once there are `count`.

        Fewer when no more arrive. The destination must not drop duplicates: the suite looks at them.
        """
        ...


def only_notes(envelope: EventEnvelope[Any], payload: str) -> IntegrationEvent | None:
    """An integration that announces notes under a name of their own and keeps everything else private."""
    return IntegrationEvent("NoteTaken", payload) if isinstance(envelope.event, Noted) else None


@pytest.mark.asyncio
class EventProducerConformance:
    """For an `IEventProducer`: bind the fixture `broker`."""

    @pytest.fixture
    def broker(self) -> Broker:
        """The binding's; empty when the test begins."""
        raise NotImplementedError("a binding overrides the fixture `broker`")

    @pytest.fixture
    def store(self) -> InMemoryStore:
        """Where the commits to publish come from; any store would do."""
        return InMemoryStore()

    async def test_messages_arrive_in_version_order(self, broker: Broker, store: InMemoryStore) -> None:
        producer = broker.producer(whole)
        counter = Counter(fresh_id())
        for number in range(12):
            counter.note(f"{number}a", f"{number}b")
            await producer.dispatch(await commit(store, counter))

        arrived = await broker.received(24)

        assert [message.properties["version"] for message in arrived] == [str(version) for version in range(1, 25)]
        assert [json.loads(message.body)["text"] for message in arrived] == [
            f"{number}{letter}" for number in range(12) for letter in "ab"
        ]

    async def test_a_message_says_what_happened_to_whom(self, broker: Broker, store: InMemoryStore) -> None:
        counter = counter_with("na\u00efve \u2028 \U0001f600")
        stored = await commit(store, counter)
        await broker.producer(whole).dispatch(stored)

        (message,) = await broker.received(1)

        assert message.subject == "Noted"
        assert message.correlation_id == counter.id
        assert message.body == '{"text":"na\u00efve \u2028 \U0001f600"}' == stored.payloads[0]
        assert dict(message.properties) == {
            "aggregate": counter.id,
            "aggregate_type": "Counter",
            "type": "Noted",
            "version": "1",
            "occurred_at": stored.occurred_at.isoformat(),
        }

    async def test_ids_are_unique_and_the_same_when_dispatched_again(
        self, broker: Broker, store: InMemoryStore
    ) -> None:
        stored = await commit(store, counter_with("a", "b", "c"))
        await broker.producer(whole).dispatch(stored)
        await broker.producer(whole).dispatch(stored)

        arrived = await broker.received(6)

        ids = [message.message_id for message in arrived]
        assert len(set(ids[:3])) == 3
        assert ids[:3] == ids[3:]
        assert arrived[:3] == arrived[3:]

    async def test_the_same_stream_in_two_stores_has_different_ids(self, broker: Broker, store: InMemoryStore) -> None:
        counter = counter_with("a")
        await broker.producer(whole).dispatch(await commit(store, counter))
        await broker.producer(whole).dispatch(await commit(InMemoryStore(), counter_with("a", id=counter.id)))

        one, another = await broker.received(2)

        assert one.message_id != another.message_id
        assert one.session_id == another.session_id

    async def test_private_events_are_left_out_and_the_others_keep_their_versions(
        self, broker: Broker, store: InMemoryStore
    ) -> None:
        counter = counter_with("a")
        counter.increment()
        counter.note("b")
        await broker.producer(only_notes).dispatch(await commit(store, counter))

        arrived = await broker.received(2)

        assert [(message.subject, message.properties["type"]) for message in arrived] == [
            ("NoteTaken", "NoteTaken")
        ] * 2
        assert [message.properties["version"] for message in arrived] == ["1", "3"]

    async def test_a_commit_of_private_events_only_is_dispatched_in_silence(
        self, broker: Broker, store: InMemoryStore
    ) -> None:
        producer = broker.producer(only_notes)
        counter = Counter(fresh_id())
        counter.increment()
        await producer.dispatch(await commit(store, counter))
        counter.note("heard")
        await producer.dispatch(await commit(store, counter))

        assert [message.properties["version"] for message in await broker.received(1)] == ["2"]

    async def test_thin_messages_carry_no_payload(self, broker: Broker, store: InMemoryStore) -> None:
        counter = counter_with("payload-marker")
        await broker.producer(thin).dispatch(await commit(store, counter))
        (message,) = await broker.received(1)
        assert json.loads(message.body) == {"id": counter.id, "version": 1}
        assert message.subject == "Noted"
        assert "payload-marker" not in message.body + "".join(message.properties.values())

    async def test_metadata_travels_in_the_properties(self, broker: Broker, store: InMemoryStore) -> None:
        with metadata(correlation_id="c-1", user="ada \U0001f600", extra={"empty": ""}):
            stored = await commit(store, counter_with("a", "b"))
        await broker.producer(whole).dispatch(stored)
        for message in await broker.received(2):
            assert message.properties["correlation_id"] == "c-1"
            assert message.properties["user"] == "ada \U0001f600"
            assert message.properties["empty"] == ""
            assert message.correlation_id == stored.aggregate_id

    async def test_a_stream_stays_in_its_lane_and_streams_spread_over_lanes(
        self, broker: Broker, store: InMemoryStore
    ) -> None:
        producer = broker.producer(whole)
        counters = [counter_with("first", id=f"stream-{number}") for number in range(40)]
        for counter in counters:
            await producer.dispatch(await commit(store, counter))
            counter.note("second")
            await producer.dispatch(await commit(store, counter))

        lanes: dict[str, set[str]] = {}
        for message in await broker.received(80):
            lanes.setdefault(message.correlation_id, set()).add(message.session_id)

        assert len(lanes) == 40
        assert all(len(sessions) == 1 for sessions in lanes.values())
        assert len(set.union(*lanes.values())) > 5

    async def test_commits_dispatched_concurrently_arrive_whole_and_each_in_order(
        self, broker: Broker, store: InMemoryStore
    ) -> None:
        producer = broker.producer(whole)
        commits = [await commit(store, counter_with("a", "b", "c", id=f"{uuid4()}")) for _ in range(10)]
        await asyncio.gather(*[producer.dispatch(stored) for stored in commits])

        versions: dict[str, list[str]] = {}
        for message in await broker.received(30):
            versions.setdefault(message.correlation_id, []).append(message.properties["version"])

        assert versions == {stored.aggregate_id: ["1", "2", "3"] for stored in commits}

    async def test_a_commit_larger_than_a_batch_arrives_in_order(self, broker: Broker, store: InMemoryStore) -> None:
        texts = [f"{number} {incompressible(2_000)}" for number in range(600)]
        await broker.producer(whole).dispatch(await commit(store, counter_with(*texts)))
        arrived = await broker.received(600)
        assert [json.loads(message.body)["text"] for message in arrived] == texts

    @pytest.mark.parametrize("id", ["", "a/b\\c#d?e%f", "\U0001f600", "\u0645\u0631\u062d\u0628\u0627", "x" * 300])
    async def test_ids_arrive_as_they_are(self, broker: Broker, store: InMemoryStore, id: str) -> None:
        await broker.producer(whole).dispatch(await commit(store, counter_with("a", id=id)))
        (message,) = await broker.received(1)
        assert message.correlation_id == message.properties["aggregate"] == id
        assert len(message.session_id) <= 128

    async def test_what_could_never_be_published_is_refused_beforehand(
        self, broker: Broker, store: InMemoryStore
    ) -> None:
        stored = await commit(store, counter_with("small", "payload-marker" * (MAX_MESSAGE_BYTES // 10)))

        with pytest.raises(CommitTooLargeError) as caught:
            broker.producer(whole).check(stored)

        assert stored.stream in str(caught.value)
        assert "payload-marker" not in str(caught.value)
        broker.producer(thin).check(stored)  # the same commit, announced without its content

    async def test_the_largest_message_that_passes_the_check_arrives(
        self, broker: Broker, store: InMemoryStore
    ) -> None:
        producer = broker.producer(whole)
        stored = await commit(store, counter_with(incompressible(MAX_MESSAGE_BYTES - 1_200)))
        producer.check(stored)
        await producer.dispatch(stored)
        (message,) = await broker.received(1)
        assert message.body == stored.payloads[0]


async def commit(store: InMemoryStore, counter: Counter) -> Commit[Any]:
    """Append what is pending."""
    stored = await store.events(Counter).append(counter)
    assert stored is not None
    return stored
