"""The official JavaScript client against the double: another reading of the protocol than that of the SDK of Python.

It needs Node and `@azure/service-bus` in `.js/` (`make .js/ready`), or a folder `node_modules` named by ESAZURE_JS.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from esazure.testing.servicebus import ServiceBusDouble, correlation_rule

pytestmark = pytest.mark.amqp

SCRIPT = Path(__file__).with_name("js_client.mjs")


def find_modules() -> Path | None:
    """Where the client is installed."""
    named = os.environ.get("ESAZURE_JS")
    folders = [Path(named)] if named else [folder / ".js" / "node_modules" for folder in SCRIPT.parents]
    return next((folder for folder in folders if (folder / "@azure" / "service-bus").is_dir()), None)


@pytest.fixture
def command() -> tuple[str, Path]:
    node, modules = shutil.which("node"), find_modules()
    if node is None or modules is None:
        message = "needs Node and @azure/service-bus: make .js/ready, or set ESAZURE_JS"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return node, modules


@pytest.fixture
async def bus() -> AsyncIterator[ServiceBusDouble]:
    async with ServiceBusDouble() as double:
        double.queue("q")
        double.queue("sessions", requires_session=True)
        double.topic("t").subscribe("s", rules=[correlation_rule(subject="wanted")])
        yield double


async def run(command: tuple[str, Path], bus: ServiceBusDouble, scenario: str) -> Any:
    """What a scenario of `js_client.mjs` met."""
    node, modules = command
    process = await asyncio.create_subprocess_exec(
        node,
        str(SCRIPT),
        scenario,
        env={**os.environ, "ESAZURE_JS": str(modules), "CONNECTION_STRING": bus.connection_string},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(90):
            out, failure = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, failure.decode()
    return json.loads(out)


async def test_it_sends_peeks_receives_renews_and_completes(command: tuple[str, Path], bus: ServiceBusDouble) -> None:
    assert await run(command, bus, "queue") == {
        "peeked": ["one", "two", {"three": 3}],
        "received": ["one", "two", {"three": 3}],
        "properties": {"number": 5, "text": "t", "flag": True},
        "ids": 3,
        "renewed": True,
        "counts": [0, 0, 0],
    }
    assert bus.messages("q") == []


async def test_it_abandons_defers_and_dead_letters_with_properties(
    command: tuple[str, Path], bus: ServiceBusDouble
) -> None:
    assert await run(command, bus, "settlements") == {
        "abandoned": ["again", "abandoned", 1],
        "deferred": ["later", "deferred", 1],
        "dead": ["never", "reason", "description"],
        "custom": "kept",
    }
    assert bus.messages("q/$DeadLetterQueue") == []


async def test_it_holds_a_session_keeps_its_state_and_gives_it_back_uncounted(
    command: tuple[str, Path], bus: ServiceBusDouble
) -> None:
    assert await run(command, bus, "sessions") == {
        "first": ["a", "a0"],
        "renewed": True,
        "taken": "SessionCannotBeLocked",
        "received": ["a0", "a1"],
        "counts": [0, 0],
        "state": {"place": 7},
    }
    assert [message.session_id for message in bus.messages("sessions")] == ["b"]


async def test_it_schedules_and_cancels(command: tuple[str, Path], bus: ServiceBusDouble) -> None:
    assert await run(command, bus, "scheduled") == {"peeked": ["kept"], "states": ["scheduled"], "same": True}
    bus.advance(3601)
    assert len(bus.messages("q")) == 1


async def test_it_receives_what_a_subscription_wants(command: tuple[str, Path], bus: ServiceBusDouble) -> None:
    assert await run(command, bus, "subscription") == {"received": ["x"]}
    assert bus.messages("t/subscriptions/s") == []


async def test_it_processes_and_settles_messages_as_they_come(command: tuple[str, Path], bus: ServiceBusDouble) -> None:
    assert await run(command, bus, "processor") == {"seen": ["1", "2"]}
    assert bus.messages("q") == []


async def test_it_is_refused_with_the_errors_of_the_service(command: tuple[str, Path], bus: ServiceBusDouble) -> None:
    assert await run(command, bus, "refused") == {
        "sender": "MessagingEntityNotFound",
        "receiver": "MessagingEntityNotFound",
        "session": "GeneralError",
        "large": "GeneralError",
    }
