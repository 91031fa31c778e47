"""`ServiceBusDouble`: start it, declare entities, point the SDK at it, and look at what happened.

`broker.py` is the engine behind it; `faults.py` is what `bus.faults` offers.
"""

import asyncio
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from esazure.testing.servicebus.broker import Broker
from esazure.testing.servicebus.faults import Faults
from esazure.testing.servicebus.messages import MessageState
from esazure.testing.servicebus.queues import QueueSettings
from esazure.testing.servicebus.rules import Rule
from esazure.testing.servicebus.snapshots import Activity, MessageSnapshot
from esazure.testing.servicebus.topics import Topic

_STOP_PATIENCE = 10.0


class DeclaredTopic:
    """A topic of a double, to which subscriptions can be added."""

    def __init__(self, broker: Broker, topic: Topic) -> None:
        self._broker = broker
        self._topic = topic

    def __repr__(self) -> str:
        return f"DeclaredTopic({self._topic.path!r})"

    def subscribe(
        self,
        name: str,
        *,
        requires_session: bool = False,
        lock_duration: float = 30.0,
        max_delivery_count: int = 10,
        default_ttl: float | None = None,
        dead_letter_on_expiry: bool = False,
        rules: Iterable[Rule] | None = None,
    ) -> Self:
        """Add a subscription, which gets what is sent from now on; returns the topic, so that calls chain.

        Durations are seconds. Without `rules` it gets everything; several rules are alternatives; an empty list gets
        nothing.

        Raises:
            ValueError: the name is taken or is none, or a setting makes no sense.
        """
        settings = QueueSettings(
            lock_duration=lock_duration,
            max_delivery_count=max_delivery_count,
            requires_session=requires_session,
            default_ttl=default_ttl,
            dead_letter_on_expiry=dead_letter_on_expiry,
        )
        wanted = None if rules is None else tuple(rules)
        self._broker.act(lambda: self._broker.namespace.add_subscription(self._topic, name, settings, wanted))
        return self


class ServiceBusDouble:
    """A Service Bus namespace in this process, speaking AMQP to the SDK on a port of its own.

    `async with ServiceBusDouble() as bus` runs it in the running loop; `with ServiceBusDouble() as bus` runs it in a
    thread, which a synchronous client on this thread needs. Every method can be called from inside the loop and from
    any other thread, before it starts, while it runs and after it stopped; messages outlive a restart.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        max_message_size: Bytes in one message or batch; larger ones are refused as the service does. The Standard tier
            takes 262,144; the Premium tier up to 104,857,600 in a message, and 1,048,576 in a batch.

    Raises:
        ValueError: `max_message_size` is none of any tier.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, max_message_size: int = 262_144) -> None:
        self._broker = Broker(max_message_size)
        self._host = host
        self._wanted_port = port
        self._port: int | None = None
        # Guards start and stop against each other; the gate guards everything else.
        self._lifecycle = threading.Lock()
        self._running = False
        self._thread: threading.Thread | None = None
        self._stop_requested: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def __repr__(self) -> str:
        where = f"on {self._host}:{self._port}" if self._port is not None else "stopped"
        return f"<ServiceBusDouble {where}>"

    # ---- declare

    def topic(self, name: str, *, duplicate_detection_window: float | None = None) -> DeclaredTopic:
        """Add a topic. Without subscriptions it accepts and drops what is sent, as the service does.

        With `duplicate_detection_window`, messages with a message id seen within that many seconds are dropped.

        Raises:
            ValueError: the name is taken or is none.
        """
        topic = self._broker.act(lambda: self._broker.namespace.add_topic(name, duplicate_detection_window))
        return DeclaredTopic(self._broker, topic)

    def queue(
        self,
        name: str,
        *,
        requires_session: bool = False,
        lock_duration: float = 30.0,
        max_delivery_count: int = 10,
        duplicate_detection_window: float | None = None,
        default_ttl: float | None = None,
        dead_letter_on_expiry: bool = False,
    ) -> None:
        """Add a queue. Durations are seconds.

        Raises:
            ValueError: the name is taken or is none, or a setting makes no sense.
        """
        settings = QueueSettings(
            lock_duration=lock_duration,
            max_delivery_count=max_delivery_count,
            requires_session=requires_session,
            default_ttl=default_ttl,
            dead_letter_on_expiry=dead_letter_on_expiry,
        )
        self._broker.act(lambda: self._broker.namespace.add_queue(name, settings, duplicate_detection_window))

    # ---- use

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            RuntimeError: it does not run.
        """
        if self._port is None:
            raise RuntimeError("the double does not run: enter it with `async with` or `with` first")
        return self._port

    @property
    def connection_string(self) -> str:
        """What `ServiceBusClient.from_connection_string` takes.

        Raises:
            RuntimeError: it does not run.
        """
        return (
            f"Endpoint=sb://{self._host}:{self.port};SharedAccessKeyName=double;SharedAccessKey=any;"
            # Exactly so spelled: it is what makes the SDK connect without TLS.
            "UseDevelopmentEmulator=true"
        )

    @property
    def faults(self) -> Faults:
        """What goes wrong, and when."""
        return self._broker.faults

    def advance(self, seconds: float) -> None:
        """Move the broker's clock: locks expire, scheduled messages come, and so on.

        The clients' clocks do not move. So that they can still go by the times they are told, such as `locked_until`,
        those are given as if the clock here had never moved either: a lock of 30 s taken now ends 30 s from now. What
        a client was told before keeps its meaning for the client, and comes that much sooner here.
        """
        self._broker.act(lambda: self._broker.clock.advance(seconds))

    def messages(self, path: str, *, state: MessageState = MessageState.ACTIVE) -> list[MessageSnapshot]:
        """What is in an entity in one state, in sequence order.

        `path` is the SDK's: `queue`, `topic/subscriptions/name`, and either with `/$DeadLetterQueue`; a topic itself
        holds scheduled messages only.

        Raises:
            LookupError: there is no such entity.
        """

        def look() -> list[MessageSnapshot]:
            found = self._broker.namespace.lookup(path)
            if found is None:
                raise LookupError(f"no entity '{path}'")
            stored = sorted(found.in_state(state), key=lambda each: each.sequence_number)
            return [MessageSnapshot.of(each, self._broker.clock.told) for each in stored]

        return self._broker.act(look)

    @property
    def activity(self) -> Activity:
        """What the broker saw so far."""

        def look() -> Activity:
            counters = self._broker.counters
            return Activity(
                connections=counters.connections,
                open_connections=len(self._broker.connections),
                tokens=counters.tokens,
                messages=counters.messages,
                settlements=counters.settlements,
                requests=dict(counters.requests),
            )

        return self._broker.act(look)

    # ---- start and stop

    async def __aenter__(self) -> Self:
        self._claim()
        try:
            self._port = await self._broker.start(self._host, self._wanted_port)
        except BaseException:
            self._running = False
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._port = None
        await self._broker.stop()
        self._running = False

    def __enter__(self) -> Self:
        self._claim()
        started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="servicebus-double", daemon=True)
        self._thread.start()
        try:
            self._port = started.result()
        except BaseException:
            self._thread.join(_STOP_PATIENCE)
            self._thread = None
            self._running = False
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lifecycle:
            thread, self._thread = self._thread, None
        if thread is None or self._stop_requested is None:
            return
        self._port = None
        loop, stop = self._stop_requested
        loop.call_soon_threadsafe(stop.set)
        thread.join(_STOP_PATIENCE)
        if thread.is_alive():
            raise RuntimeError(f"the double's thread did not stop within {_STOP_PATIENCE:.0f} s")
        self._running = False

    def _claim(self) -> None:
        with self._lifecycle:
            if self._running:
                raise RuntimeError("the double runs already")
            self._running = True

    def _run(self, started: "Future[int]") -> None:
        async def serve() -> None:
            stop = asyncio.Event()
            self._stop_requested = (asyncio.get_running_loop(), stop)
            try:
                port = await self._broker.start(self._host, self._wanted_port)
            except BaseException as failure:  # noqa: BLE001 - it is raised where the double was entered
                started.set_exception(failure)
                return
            started.set_result(port)
            await stop.wait()
            await self._broker.stop()

        asyncio.run(serve())
