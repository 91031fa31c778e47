"""From esazure's messages to the SDK's, without a broker."""

from __future__ import annotations

import pytest
from tests.servicebus.support import commit_of

from esazure import metadata, whole
from esazure.integration import lane_of, messages_of
from esazure.servicebus.messages import to_service_bus


async def test_a_message_carries_the_event_to_the_lane_of_its_stream() -> None:
    with metadata(user="ada"):
        commit = await commit_of("first", "caf\u00e9", id="ada")
    ours = messages_of(commit, whole, 16)[1]

    message = to_service_bus(ours)

    assert message.message_id == ours.message_id
    assert message.session_id == lane_of("Customer.ada", 16)
    assert message.correlation_id == "ada"
    assert message.subject == "Noted"
    assert message.content_type == "application/json"
    assert b"".join(message.body) == '{"text":"caf\u00e9"}'.encode()
    assert message.application_properties == {
        "user": "ada",
        "aggregate": "ada",
        "aggregate_type": "Customer",
        "type": "Noted",
        "version": "2",
        "occurred_at": commit.occurred_at.isoformat(),
    }
    assert all(isinstance(value, str) for value in message.application_properties.values())


async def test_the_same_event_makes_the_same_message_each_time() -> None:
    commit = await commit_of("a", "b")
    one, again = ([to_service_bus(message) for message in messages_of(commit, whole, 16)] for _ in range(2))
    assert [message.message_id for message in one] == [message.message_id for message in again]
    assert len({message.message_id for message in one}) == 2


@pytest.mark.parametrize("id", ["", "x" * 470, "\U0001f600" * 30])
async def test_every_storable_id_makes_a_message_the_sdk_takes(id: str) -> None:
    for lanes in (16, None):
        (ours,) = messages_of(await commit_of("a", id=id), whole, lanes)
        assert to_service_bus(ours).correlation_id == id
