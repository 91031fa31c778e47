"""What goes out: pinned, because consumers and stored data depend on it, and never smaller than estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch

from esazure import Commit, CommitTooLargeError, EventEnvelope, IntegrationEvent, thin, whole
from esazure.events import CommitRecord
from esazure.integration import (
    LANES,
    MAX_MESSAGE_BYTES,
    MAX_PROPERTY_BYTES,
    IntegrationMessage,
    check_publishable,
    lane_of,
    messages_of,
)
from esazure.keys import stream_name
from esazure.testing._counter import Noted

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
STORE = UUID("11111111-2222-4333-8444-555555555555")


def commit(
    *texts: str, id: str = "a", first_version: int = 1, metadata: Mapping[str, str] = MappingProxyType({})
) -> Commit[Noted]:
    recorded = tuple(Noted(text=text) for text in texts)
    payload = "\n".join(f"Noted {event.model_dump_json()}" for event in recorded)
    record = CommitRecord(stream_name("Counter", id), "c", first_version, len(texts), NOON.isoformat(), "{}", payload)
    return Commit(record, "Counter", id, NOON, STORE, metadata, recorded)


def test_ids_and_lanes_are_what_they_have_always_been() -> None:
    one, two = messages_of(commit("x", "y", first_version=7), whole, LANES)
    assert (one.message_id, two.message_id) == (
        "8f844c44-aafe-5e2f-9eae-9848d7b291d1",
        "1c77724b-19f6-5b52-af80-4274041c68eb",
    )
    assert (one.session_id, two.session_id) == ("0", "0")
    envelopes = commit("x", "y", first_version=7).events
    assert tuple(str(envelope.event_id) for envelope in envelopes) == (
        "f602011a-f1df-579c-ab34-03735948b319",
        "c66a1be3-8880-596c-aa6c-cbcefad42573",
    )
    assert [lane_of(stream, 16) for stream in ("Counter.a", "Counter.b", "Counter.c", "Customer.a")] == [
        "0",
        "9",
        "12",
        "6",
    ]


def test_message_ids_tell_stores_streams_and_versions_apart() -> None:
    other_store = Commit(commit("x").record, "Counter", "a", NOON, UUID(int=1), {}, (Noted(text="x"),))
    commits = [commit("x", "y"), commit("x", id="b"), commit("x", first_version=3), other_store]
    ids = [message.message_id for each in commits for message in messages_of(each, whole, LANES)]
    assert len(set(ids)) == len(ids) == 5


def test_event_ids_tell_types_ids_and_versions_apart() -> None:
    def envelope(aggregate_type: str, aggregate_id: str, version: int) -> EventEnvelope[Noted]:
        return EventEnvelope(Noted(text="a"), aggregate_type, aggregate_id, version, NOON)

    envelopes = [
        envelope("Counter", "1/1", 1),
        envelope("Counter", "1", 1),
        envelope("Counter", "1", 11),
        envelope("Counter", "", 1),
        envelope("Other", "1", 1),
    ]
    assert len({each.event_id for each in envelopes}) == 5
    assert envelope("Counter", "1", 1).event_id == envelopes[1].event_id


def test_a_session_of_its_own_is_the_stream_or_a_hash_of_it() -> None:
    assert lane_of("Counter.a", None) == "Counter.a"
    assert lane_of("x" * 128, None) == "x" * 128
    hashed = lane_of("x" * 129, None)
    assert len(hashed) == 64
    assert hashed != lane_of("x" * 130, None)


def test_what_a_message_carries() -> None:
    older = dict.fromkeys(
        ("aggregate", "aggregate_type", "type", "version", "occurred_at"), "metadata of an older release"
    )
    (message,) = messages_of(commit("x", metadata={"user": "ada", **older}), whole, 1)
    assert message.subject == "Noted"
    assert message.correlation_id == "a"
    assert message.body == '{"text":"x"}'
    assert message.properties == {
        "user": "ada",
        "aggregate": "a",
        "aggregate_type": "Counter",
        "type": "Noted",
        "version": "1",
        "occurred_at": "2024-02-29T12:00:00+00:00",
    }
    assert message.session_id == "0"


def test_thin_tells_who_and_which_version_and_nothing_else() -> None:
    (message,) = messages_of(commit("payload-marker", first_version=3), thin, LANES)
    assert message.body == '{"id": "a", "version": 3}'
    assert "payload-marker" not in repr(message) + message.body


def test_an_integration_of_your_own_renames_and_hides() -> None:
    def public(envelope: EventEnvelope[Any], payload: str) -> IntegrationEvent | None:
        return None if envelope.event.text == "secret" else IntegrationEvent("NoteTaken", payload)

    messages = messages_of(commit("a", "secret", "b"), public, LANES)
    assert [(message.subject, message.properties["version"]) for message in messages] == [
        ("NoteTaken", "1"),
        ("NoteTaken", "3"),
    ]


def wire_bytes(message: IntegrationMessage) -> int:
    """What the Service Bus client makes of it."""
    sent = ServiceBusMessage(
        message.body,
        message_id=message.message_id,
        session_id=message.session_id,
        correlation_id=message.correlation_id,
        subject=message.subject,
        content_type="application/json",
        application_properties=dict(message.properties),
    )
    batch = ServiceBusMessageBatch(10**6)
    batch.add_message(sent)
    return batch.size_in_bytes


MANY = {f"k{number}": "" for number in range(500)}


@pytest.mark.parametrize("text", ["", "\u20ac" * 500, "\U0001f600" * 500, "x" * 100_000], ids=len)
@pytest.mark.parametrize("id", ["a", "\u20ac" * 50, "x" * 400])
@pytest.mark.parametrize(
    "metadata", [{}, {"user": "\U0001f600" * 300, "empty": ""}, MANY], ids=["none", "some", "many"]
)
def test_sizes_are_upper_bounds(text: str, id: str, metadata: dict[str, str]) -> None:
    (message,) = messages_of(commit(text, id=id, metadata=metadata), whole, None)
    nothing = IntegrationMessage("", "", "", "", {}, "")
    assert wire_bytes(message) < message.size < wire_bytes(message) + 1_000 + 10 * len(metadata)
    without = replace(message, properties=nothing.properties)
    assert wire_bytes(message) - wire_bytes(without) < message.property_size <= message.size


def test_a_message_that_fits_exactly_passes_and_one_byte_more_does_not() -> None:
    messages = messages_of(commit("fits", "x" * 1_000), whole, LANES)
    largest = max(message.size for message in messages)
    check_publishable("s", messages, largest)
    with pytest.raises(CommitTooLargeError, match=r"s: the message for Noted at version 2 takes 1,\d+ bytes") as caught:
        check_publishable("s", messages, largest - 1)
    assert "xxx" not in str(caught.value)


def test_properties_have_a_limit_of_their_own() -> None:
    messages = messages_of(commit("a", metadata={"user": "\u20ac" * (MAX_PROPERTY_BYTES // 3)}), whole, LANES)
    with pytest.raises(CommitTooLargeError, match="carry less metadata"):
        check_publishable("s", messages, MAX_MESSAGE_BYTES)


def test_no_repr_shows_a_payload_or_metadata() -> None:
    marked = commit("payload-marker", metadata={"user": "payload-marker"})
    things = [marked, marked.record, *marked.events, *messages_of(marked, whole, LANES)]
    things.append(IntegrationEvent("x", "payload-marker"))
    for thing in things:
        assert "payload-marker" not in repr(thing)
        assert "payload-marker" not in str(thing)
