"""The broker's engine: the listening socket, its connections, the timer of the clock, and the counters.

`double.py` is the face users see; `connection.py` speaks AMQP; `namespace.py` is what it all is about.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from esazure.testing.servicebus.clock import Clock
from esazure.testing.servicebus.connection import Connection
from esazure.testing.servicebus.faults import Faults
from esazure.testing.servicebus.gate import LoopGate, Result
from esazure.testing.servicebus.limits import LARGEST_BATCH, LARGEST_MESSAGE
from esazure.testing.servicebus.namespace import Namespace
from esazure.testing.servicebus.refusals import RefusalError, disabled

LOGGER = logging.getLogger("esazure.testing.servicebus")


@dataclass(slots=True)
class Counters:
    """What the broker saw, from its start."""

    connections: int = 0
    tokens: int = 0
    messages: int = 0
    settlements: int = 0
    requests: Counter[str] = field(default_factory=Counter[str])


class Broker:
    """One namespace, served on one port."""

    def __init__(self, max_message_size: int) -> None:
        if not 0 < max_message_size <= LARGEST_MESSAGE:
            raise ValueError(f"max_message_size is above 0 and at most {LARGEST_MESSAGE:,} bytes")
        self.max_message_size = max_message_size
        self.max_batch_size = min(max_message_size, LARGEST_BATCH)
        self.clock = Clock()
        self.namespace = Namespace(self.clock)
        self.gate = LoopGate()
        self.faults = Faults(self)
        self.counters = Counters()
        # A dict keeps the order in which they connected.
        self.connections: dict[Connection, None] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.clock.sooner = self._set_timer

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self, loop), host, port)
        self.loop = loop
        self.gate.open(loop)
        self._set_timer()
        listening: int = self._server.sockets[0].getsockname()[1]
        LOGGER.debug("listening on %s:%d", host, listening)
        return listening

    async def stop(self) -> None:
        """Close the socket, every connection and the timer, and wait until they are gone."""
        if self._server is not None:
            self._server.close()
        gone = [connection.gone for connection in self.connections]
        self.drop_connections()
        if gone:
            await asyncio.wait(gone)
        if self._server is not None:
            await self._server.wait_closed()
        self._server = self.loop = None
        self._set_timer()
        self.gate.close()

    def act(self, function: Callable[[], Result]) -> Result:
        """Call `function` where the broker lives, up to date before it and with consumers served after it."""

        def up_to_date() -> Result:
            self.clock.catch_up()
            try:
                return function()
            finally:
                self.namespace.wake_consumers()

        return self.gate.run(up_to_date)

    def drop_connections(self) -> int:
        """Break every TCP connection."""
        connections = list(self.connections)
        for connection in connections:
            connection.abort()
        return len(connections)

    def close_connections(self, refusal: RefusalError) -> int:
        """Close every connection the AMQP way."""
        connections = list(self.connections)
        for connection in connections:
            connection.close(refusal)
        return len(connections)

    def detach_links(self, refusal: RefusalError, matches: Callable[[str], bool]) -> int:
        """Close the senders and receivers whose entity's path matches."""
        return sum(
            session.detach_entity_links(refusal, matches)
            for connection in list(self.connections)
            for session in list(connection.sessions.values())
        )

    def disable(self, path: str) -> None:
        """Let an entity take no part any more."""
        entity = self.namespace.find(path)
        entity.disabled = True
        self.detach_links(disabled(entity.path), lambda linked: linked.lower() == entity.path.lower())

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.clock.next_due()
        if self.loop is not None and due is not None:
            self._timer = self.loop.call_later(max(0.0, due - self.clock.now()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.clock.catch_up()
        self.namespace.wake_consumers()
        self._set_timer()
