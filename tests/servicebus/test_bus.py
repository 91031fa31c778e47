"""`ServiceBus`: how it is made, what it shows, what it closes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any, Self

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageSizeExceededError
from tests.servicebus.support import commit_of, open_connections, versions, within

from esazure.servicebus import ServiceBus, client
from esazure.servicebus.links import Link
from esazure.servicebus.sockets import bounded
from esazure.testing.servicebus import Drop, ServiceBusDouble

SECRET = "c2VjcmV0LWtleQ=="
CONNECTION_STRING = f"Endpoint=sb://bank.servicebus.windows.net/;SharedAccessKeyName=sender;SharedAccessKey={SECRET}"


class Credential:
    """What azure-identity's credentials look like."""

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


async def test_nothing_it_shows_holds_a_secret() -> None:
    async with ServiceBus.from_connection_string(CONNECTION_STRING) as bus:
        assert repr(bus) == "ServiceBus('bank.servicebus.windows.net')"
        assert repr(bus.producer("customers")) == "ServiceBusEventProducer(topic='customers')"


async def test_a_credential_is_handed_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Client(ServiceBusClient):
        def __init__(self, namespace: str, credential: Any, **options: Any) -> None:
            made.append((namespace, credential))
            super().__init__(namespace, credential, **options)

    monkeypatch.setattr(client, "ServiceBusClient", Client)
    credential = Credential()
    async with ServiceBus("bank.servicebus.windows.net", credential=credential) as bus:
        assert repr(bus) == "ServiceBus('bank.servicebus.windows.net')"
    assert made == [("bank.servicebus.windows.net", credential)]


@pytest.mark.parametrize("text", ["", "nonsense", f"SharedAccessKeyName=sender;SharedAccessKey={SECRET}"])
def test_what_is_no_connection_string_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"[Cc]onnection string") as caught:
        ServiceBus.from_connection_string(text)
    assert SECRET not in str(caught.value)


def test_a_connection_string_given_as_the_namespace_is_refused_without_being_quoted() -> None:
    with pytest.raises(ValueError, match="from_connection_string") as caught:
        ServiceBus(CONNECTION_STRING, credential=Credential())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("options", [{"lanes": 0}, {"lanes": -1}, {"timeout": 0}, {"timeout": -1}])
async def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    async with ServiceBus.from_connection_string(CONNECTION_STRING) as bus:
        with pytest.raises(ValueError, match="must be"):
            bus.producer("customers", **options)


async def test_a_connection_string_for_another_entity_is_refused_at_once() -> None:
    async with ServiceBus.from_connection_string(f"{CONNECTION_STRING};EntityPath=orders") as bus:
        bus.producer("orders")
        with pytest.raises(ValueError, match="does not match"):
            bus.producer("customers")


@pytest.mark.amqp
async def test_a_client_of_ones_own_is_used_and_left_open(double: ServiceBusDouble) -> None:
    async with ServiceBusClient.from_connection_string(double.connection_string) as mine:
        sender = mine.get_topic_sender("customers")
        await sender.send_messages(ServiceBusMessage(b"mine", session_id="1"))
        commit = await commit_of("a", "b")
        async with ServiceBus.from_client(mine) as bus:
            assert "127.0.0.1" in repr(bus)
            double.faults.next_send(Drop())  # this client tries again by itself, too
            await bus.producer("customers").dispatch(commit)
        assert versions(double, commit) == [1, 2]
        assert await open_connections(double, 1) == 1
        await sender.send_messages(ServiceBusMessage(b"mine", session_id="1"))


async def test_a_message_larger_than_any_batch_travels_alone() -> None:
    class Batch:
        def add_message(self, message: ServiceBusMessage) -> None:
            raise MessageSizeExceededError

    class Sender:
        def __init__(self) -> None:
            self.sent: list[Any] = []

        async def create_message_batch(self) -> Batch:
            return Batch()

        async def send_messages(self, message: Any, **options: Any) -> None:
            self.sent.append(message)

    sender: Any = Sender()
    large, next_one = ServiceBusMessage(b"large"), ServiceBusMessage(b"next")
    assert await Link(sender).send([large, next_one], patience=1) == 1
    assert sender.sent == [large]


async def test_cleaning_up_is_bounded_and_its_failure_is_nobodys_concern() -> None:
    async def fail() -> None:
        raise OSError

    async with within(2):
        await bounded(asyncio.Event().wait(), 0.01)
        await bounded(fail())
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_importing_esazure_loads_nothing_of_azure() -> None:
    code = "import sys, esazure; sys.exit(any(name.partition('.')[0] in ('azure', 'aiohttp') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own code
