"""The bank as an Azure Functions app, in the v2 model: the same handlers, with the host in the place of our processes.

The settings ESAZURE_TABLES and ESAZURE_SERVICEBUS hold connection strings. The subscription requires sessions, and a
maximum delivery count above the consumer's five attempts.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import azure.functions as func

from bank.backends import SUBSCRIPTION, TOPIC, OpenBank, open_bank
from bank.http import create_app
from esazure.servicebus import dispatch_message

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
middleware: Any = func.AsgiMiddleware  # untyped


class Opened:
    """The bank of this process: opened at the first call, and gone with the process."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._bank: OpenBank | None = None
        self._counter: Any = None

    async def bank(self) -> OpenBank:
        async with self._lock:  # the first calls may come together
            if self._bank is None:
                self._bank = await self._stack.enter_async_context(open_bank("azure"))
        return self._bank

    async def counter(self) -> Any:
        """What answers HTTP; made once, because that takes longer than to answer."""
        bank = await self.bank()
        if self._counter is None:
            self._counter = middleware(create_app(bank.system))
        return self._counter

    async def close(self) -> None:
        """For tests: the host ends the process."""
        self._bank = self._counter = None
        await self._stack.aclose()


opened = Opened()


@app.route(route="{*path}", methods=["GET", "POST", "PUT"])
async def http(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    response: func.HttpResponse = await (await opened.counter()).handle_async(req, context)
    return response


@app.service_bus_topic_trigger(
    arg_name="message",
    connection="ESAZURE_SERVICEBUS",
    topic_name=TOPIC,
    subscription_name=SUBSCRIPTION,
    is_sessions_enabled=True,
)
async def handle(message: func.ServiceBusMessage) -> None:
    bank = await opened.bank()
    await dispatch_message(bank.system.consumer, message)  # what it raises lets the host abandon the message


@app.timer_trigger(arg_name="timer", schedule="*/30 * * * * *")
async def relay(timer: func.TimerRequest) -> None:  # noqa: ARG001 - the host passes it by name
    bank = await opened.bank()
    await bank.relay.run_once()
