"""The Azure Functions app, called as the host calls it: HTTP, messages of a session one after the other, the timer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import azure.functions as func
import pytest
from azure.functions.servicebus import ServiceBusMessage
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import OperationTimeoutError
from tests.bank.support import namespace

from bank import backends
from bank.domain import Account, Currency, Customer
from bank.functions import function_app
from bank.http import TOKEN
from esazure import PoisonMessageError
from esazure.testing.servicebus import ServiceBusDouble

pytestmark = [pytest.mark.azurite, pytest.mark.amqp]


@pytest.fixture
async def double(tables: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ServiceBusDouble]:
    async with namespace() as double:
        monkeypatch.setenv("ESAZURE_TABLES", tables)
        monkeypatch.setenv("ESAZURE_SERVICEBUS", double.connection_string)
        monkeypatch.setattr(backends, "TABLE", f"t{uuid4().hex}")
        monkeypatch.setattr(function_app, "opened", function_app.Opened())
        yield double
        await function_app.opened.close()


@cache  # the SDK lets them be asked for once
def functions() -> dict[str, Any]:
    return {each.get_function_name(): each for each in function_app.app.get_functions()}


async def call(name: str, *arguments: object) -> Any:
    user_function: Callable[..., Awaitable[Any]] = functions()[name].get_user_function()
    return await user_function(*arguments)


async def http(method: str, url: str, body: Any = None) -> tuple[int, Any, Any]:
    request = func.HttpRequest(
        method=method,
        url=f"http://bank{url}",
        headers={"Content-Type": "application/json", "Idempotency-Key": str(uuid4())},
        params=dict(pair.split("=") for pair in urlsplit(url).query.split("&") if pair),
        body=b"" if body is None else json.dumps(body).encode(),
    )
    answer = await call("http", request, None)
    return answer.status_code, json.loads(answer.get_body()), answer.headers


def as_the_host_has_it(message: ServiceBusReceivedMessage) -> ServiceBusMessage:
    properties = {
        name.decode() if isinstance(name, bytes) else name: value.decode() if isinstance(value, bytes) else value
        for name, value in (message.application_properties or {}).items()
    }
    return ServiceBusMessage(
        body=b"".join(message.body),
        application_properties=properties,
        user_properties={},
        content_type=message.content_type,
        correlation_id=message.correlation_id,
        message_id=message.message_id or "",
        session_id=message.session_id,
        subject=message.subject,
        delivery_count=(message.delivery_count or 0) + 1,
    )


async def deliver(double: ServiceBusDouble) -> int:
    """What the host does with the trigger, until no session has messages."""
    delivered = 0
    async with ServiceBusClient.from_connection_string(double.connection_string, retry_total=0) as client:
        while double.messages(f"{backends.TOPIC}/subscriptions/{backends.SUBSCRIPTION}"):
            with suppress(OperationTimeoutError):
                async with client.get_subscription_receiver(
                    backends.TOPIC, backends.SUBSCRIPTION, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1
                ) as session:
                    while batch := await session.receive_messages(1, max_wait_time=0.2):
                        await call("handle", as_the_host_has_it(batch[0]))
                        await session.complete_message(batch[0])
                        delivered += 1
    return delivered


def test_the_host_finds_three_functions_and_their_triggers() -> None:
    triggers = {name: each.get_trigger().get_dict_repr() for name, each in functions().items()}
    assert triggers.keys() == {"http", "handle", "relay"}
    assert triggers["http"]["route"] == "{*path}"
    assert triggers["handle"]["isSessionsEnabled"] is True
    assert triggers["handle"]["topicName"] == backends.TOPIC
    assert triggers["relay"]["type"] == "timerTrigger"


async def test_commands_come_by_http_and_views_by_messages(double: ServiceBusDouble) -> None:
    status, customer, _ = await http(
        "POST", "/customers", {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com"}
    )
    assert status == 201
    status, account, _ = await http("POST", "/accounts", {"customer_id": customer["id"], "currency": "EUR"})
    assert status == 201
    status, _, headers = await http("PUT", f"/accounts/{account['id']}/deposit", {"currency": "EUR", "amount": "5"})
    assert status == 200

    assert await deliver(double) == 4  # the reaction's event, too
    status, details, _ = await http("GET", f"/customers/{customer['id']}?after={headers[TOKEN]}")
    assert status == 200
    assert details["accounts"] == [{"id": account["id"], "balance": {"amount": "5.00", "currency": "EUR"}}]

    status, problem, headers = await http("GET", "/nowhere")
    assert (status, problem["title"]) == (404, "Not Found")
    assert headers["content-type"] == "application/problem+json"


async def test_the_timer_publishes_what_a_crash_left_behind(
    double: ServiceBusDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, customer, _ = await http(
        "POST", "/customers", {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com"}
    )
    bank = await function_app.opened.bank()
    account = Account.open(uuid4(), UUID(customer["id"]), Currency.EUR)
    await bank.system.store.events(Account, outbox=True).append(account)
    monkeypatch.setattr(bank.relay, "_grace", -2.0)  # by a clock that shows whole seconds

    await call("relay", None)
    assert await deliver(double) == 3
    told = await bank.system.bank.customers.rehydrate(account.owner_id)
    assert told.accounts == {account.id}


async def test_a_message_that_can_never_be_handled_is_left_to_the_broker(double: ServiceBusDouble) -> None:
    message = ServiceBusMessage(
        body=b"{}",
        application_properties={"aggregate_type": Customer.aggregate_type},
        user_properties={},
        content_type="application/json",
        correlation_id="c",
        message_id="m",
        session_id="0",
        subject="s",
    )
    with pytest.raises(PoisonMessageError):
        await call("handle", message)
