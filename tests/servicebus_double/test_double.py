"""The double's own face: starting and stopping, threads, snapshots, and what it never shows."""

import asyncio
import gc
import logging
import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.servicebus_double.raw_client import message, put, raw_client, raw_session
from tests.servicebus_double.support import texts, until

import esazure.testing.servicebus as package
from esazure.testing.servicebus import Drop, MessageState, Reject, ServiceBusDouble, SqlFilterError, sql_rule
from esazure.testing.servicebus import gate as gate_module
from esazure.testing.servicebus.encoding import encode
from esazure.testing.servicebus.gate import LoopGate
from esazure.testing.servicebus.performatives import Code
from esazure.testing.servicebus.queues import Queue


def test_what_is_public_is_sorted_and_there() -> None:
    assert package.__all__ == sorted(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)


class TestStartingAndStopping:
    async def test_it_runs_in_the_running_loop_and_leaves_nothing_behind(self) -> None:
        threads = threading.active_count()
        async with ServiceBusDouble() as bus:
            bus.queue("q")
            assert threading.active_count() == threads
            async with raw_session(bus) as client:
                await client.attach_receiver("q")
                await client.attach_sender("q", handle=1)
                client.transfer(message(), handle=1)
                await client.expect(Code.DISPOSITION)
                port = bus.port
                await bus.__aexit__(None, None, None)
                assert bus.activity.open_connections == 0
                assert await client.expect_end() is not None
        assert len(asyncio.all_tasks()) == 1
        gc.collect()  # a forgotten socket or transport would warn, and warnings are errors here
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    async def test_no_timer_holds_on_to_a_stopped_double(self) -> None:
        async with ServiceBusDouble() as bus:
            bus.queue("q", default_ttl=1000)
            await put(bus, "1")
        broker = weakref.ref(bus._broker)
        del bus
        gc.collect()
        assert broker() is None

    def test_it_runs_in_a_thread_and_leaves_nothing_behind(self) -> None:
        threads = threading.active_count()
        with ServiceBusDouble() as bus:
            bus.queue("q")
            bus.queue("locked", lock_duration=300)
            with socket.create_connection(("127.0.0.1", bus.port)) as connection:
                connection.sendall(b"AMQP\x00\x01\x00\x00")
                assert connection.recv(8) == b"AMQP\x00\x01\x00\x00"
        assert threading.active_count() == threads
        gc.collect()

    async def test_stopping_in_the_middle_of_a_handshake_is_clean(self) -> None:
        async with ServiceBusDouble() as bus, raw_client(bus) as client:
            client.writer.write(b"AMQP")
            await until(lambda: bus.activity.open_connections == 1)
            bus.faults.close_connections()
        gc.collect()

    @pytest.mark.parametrize("at", [0.0, 0.001])
    async def test_a_client_that_connects_while_it_stops_does_not_hold_it_up(self, at: float) -> None:
        bus = await ServiceBusDouble().__aenter__()
        connecting = asyncio.create_task(asyncio.open_connection("127.0.0.1", bus.port))
        await asyncio.sleep(at)
        async with asyncio.timeout(5):
            await bus.__aexit__(None, None, None)
        try:
            _, writer = await connecting
        except OSError:
            return
        writer.transport.abort()

    async def test_it_cannot_be_started_twice(self) -> None:
        async with ServiceBusDouble() as bus:
            with pytest.raises(RuntimeError, match="already"):
                bus.__enter__()
            with pytest.raises(RuntimeError, match="already"):
                await bus.__aenter__()
            assert bus.port

    def test_stopping_twice_and_from_two_threads_is_one_stop(self) -> None:
        bus = ServiceBusDouble().__enter__()
        with ThreadPoolExecutor(4) as pool:
            for stopped in [pool.submit(bus.__exit__, None, None, None) for _ in range(4)]:
                stopped.result(10)

    def test_a_taken_port_is_an_error_where_it_was_entered(self) -> None:
        with ServiceBusDouble() as first:
            second = ServiceBusDouble(port=first.port)
            with pytest.raises(OSError, match="in use"):
                second.__enter__()
            with pytest.raises(RuntimeError, match="does not run"):
                second.port  # noqa: B018 - the property raises
        with second:
            assert second.port

    async def test_a_taken_port_is_an_error_in_the_loop_too(self) -> None:
        async with ServiceBusDouble() as first:
            second = ServiceBusDouble(port=first.port)
            with pytest.raises(OSError, match="in use"):
                await second.__aenter__()
        async with second:
            assert second.port

    async def test_messages_outlive_a_restart_on_the_same_port(self) -> None:
        bus = ServiceBusDouble()
        bus.queue("q")
        async with bus:
            await put(bus, "before")
            port = bus.port
        assert texts(bus.messages("q")) == ["before"]
        bus.advance(1)
        async with bus:
            await put(bus, "after")
        assert texts(bus.messages("q")) == ["before", "after"]
        assert str(port) not in repr(bus)
        assert "stopped" in repr(bus)

    def test_what_needs_it_to_run_says_so(self) -> None:
        with pytest.raises(RuntimeError, match="async with"):
            ServiceBusDouble().connection_string  # noqa: B018 - the property raises

    async def test_many_run_side_by_side(self) -> None:
        async with ServiceBusDouble() as one, ServiceBusDouble() as other:
            assert one.port != other.port
            one.queue("q")
            with pytest.raises(LookupError):
                other.messages("q")


class TestThreads:
    async def test_every_method_works_in_the_loop_and_from_another_thread(self) -> None:
        def use(bus: ServiceBusDouble, name: str) -> list[str]:
            bus.queue(name)
            bus.topic(f"{name}-topic").subscribe("one").subscribe("two")
            bus.faults.next_send(Drop()).cancel()
            bus.faults.hold_deliveries = True
            bus.faults.stop_reading = True
            bus.faults.disable(name)
            bus.faults.enable(name)
            bus.faults.clear()
            bus.advance(1)
            assert bus.faults.drop_connections() == bus.faults.close_connections() == bus.faults.detach_links() == 0
            assert bus.activity.open_connections == 0
            return texts(bus.messages(name) + bus.messages(f"{name}-topic/subscriptions/two"))

        async with ServiceBusDouble() as bus:
            assert use(bus, "in-the-loop") == []
            assert await asyncio.to_thread(use, bus, "in-a-thread") == []
        assert use(bus, "after") == []
        with bus:
            assert use(bus, "beside") == []

    def test_many_threads_lose_nothing(self) -> None:
        with ServiceBusDouble() as bus, ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: bus.queue(f"q{number}"), range(200)))
            assert all(bus.messages(f"q{number}") == [] for number in range(200))

    def test_errors_come_out_where_the_call_was_made(self) -> None:
        with ServiceBusDouble() as bus:
            with pytest.raises(LookupError, match="nowhere"):
                bus.messages("nowhere")
            bus.queue("q")
            with pytest.raises(ValueError, match="exists"):
                bus.queue("q")
            assert bus.messages("q") == []

    async def test_a_call_that_waits_while_it_stops_is_still_made(self) -> None:
        gate, made = LoopGate(), threading.Event()
        gate.open(asyncio.get_running_loop())
        caller = threading.Thread(target=gate.run, args=(made.set,))
        caller.start()
        while not gate._calls:  # the loop does not run meanwhile
            pass
        gate.close()
        caller.join(10)
        assert made.is_set()
        assert not gate.is_open

    async def test_a_blocked_loop_is_a_timeout_that_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gate_module, "_PATIENCE", 0.05)
        gate, made = LoopGate(), threading.Event()
        gate.open(asyncio.get_running_loop())
        caught: list[BaseException] = []

        def call() -> None:
            try:
                gate.run(made.set)
            except TimeoutError as error:
                caught.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        caller.join(10)  # blocks the loop
        assert "blocked" in str(caught[0])
        await asyncio.sleep(0)
        assert not made.is_set()
        gate.close()


class TestDeclaring:
    @pytest.mark.parametrize(
        "settings",
        [
            {"lock_duration": 0},
            {"max_delivery_count": 0},
            {"default_ttl": -1},
            {"duplicate_detection_window": 0},
        ],
    )
    def test_settings_that_make_no_sense_are_refused(self, settings: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(settings))):
            ServiceBusDouble().queue("q", **settings)  # type: ignore[arg-type]

    def test_a_condition_is_read_when_the_rule_is_made(self) -> None:
        with pytest.raises(SqlFilterError):
            sql_rule("region =")

    def test_a_refused_subscription_is_not_half_there(self) -> None:
        bus = ServiceBusDouble()
        topic = bus.topic("t").subscribe("s")
        with pytest.raises(ValueError, match="exists"):
            topic.subscribe("S")
        with pytest.raises(ValueError, match="not a name"):
            topic.subscribe("a/b")
        assert repr(topic) == "DeclaredTopic('t')"

    @pytest.mark.parametrize("times", [0, -1])
    def test_a_fault_happens_at_least_once(self, times: int) -> None:
        with pytest.raises(ValueError, match="times"):
            ServiceBusDouble().faults.next_send(Drop(), times=times)

    def test_credit_is_not_negative(self) -> None:
        bus = ServiceBusDouble()
        with pytest.raises(ValueError, match="credit"):
            bus.faults.sender_credit = -1
        bus.faults.sender_credit = 5
        bus.faults.refuse_connections = bus.faults.refuse_tokens = bus.faults.stop_reading = True
        bus.faults.clear()
        faults = bus.faults
        assert (faults.sender_credit, faults.refuse_connections, faults.refuse_tokens) == (1000, False, False)
        assert (faults.stop_reading, faults.hold_deliveries) == (False, False)


class TestLooking:
    async def test_each_state_is_shown_in_order(self) -> None:
        async with ServiceBusDouble() as bus:
            bus.topic("orders").subscribe("billing")
            await put(bus, "1", "2", "3", entity="orders")
            path = "orders/Subscriptions/billing"
            async with raw_session(bus) as client:
                await client.attach_receiver(path)
                client.grant(1)
                await client.expect(Code.TRANSFER)
                assert texts(bus.messages(path)) == ["2", "3"]
                assert texts(bus.messages(path, state=MessageState.LOCKED)) == ["1"]
                bus.advance(31)
            assert texts(bus.messages(path.lower())) == ["1", "2", "3"]
            first = bus.messages(path)[0]
            assert (first.sequence_number, first.delivery_count) == (1, 1)
            assert bus.messages(f"{path}/$DeadLetterQueue") == []
            assert bus.messages("orders", state=MessageState.SCHEDULED) == bus.messages("orders") == []

    async def test_locks_expire_by_themselves(self) -> None:
        async with ServiceBusDouble() as bus:
            bus.queue("q", lock_duration=0.2)
            await put(bus, "1")
            async with raw_session(bus) as client:
                await client.attach_receiver("q")
                client.grant(2)
                await client.expect(Code.TRANSFER)
                # Delivered again on the credit that is left, with nobody asking: the broker's timer did it.
                await client.expect(Code.TRANSFER)
            (locked,) = bus.messages("q", state=MessageState.LOCKED)
            assert locked.delivery_count == 1

    async def test_what_was_due_while_it_was_stopped_happens_when_it_runs_again(self) -> None:
        bus = ServiceBusDouble()
        bus.queue("q", default_ttl=0.3)
        async with bus:
            await put(bus, "1")
        queue = bus._broker.namespace.find("q")
        assert isinstance(queue, Queue)
        assert len(queue.active) == 1
        async with bus:
            await until(lambda: len(queue.active) == 0)  # looked at from inside: asking the double would ring the alarm

    async def test_neither_repr_nor_log_shows_a_body(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        async with ServiceBusDouble() as bus:
            bus.queue("q")
            planned = bus.faults.next_send(Reject("com.microsoft:server-busy"))
            await put(bus, "s3cret", "s3cret")
            async with raw_session(bus) as client:
                await client.attach_sender("q")
                client.transfer(b"\x00\x53\x75\xa1\x06s3cret\xff")
                await client.expect(Code.DISPOSITION)
                client.writer.write(b"\x00\x00\x00\x10\x02\x00\x00\x00" + encode("s3cret"))
                await client.expect(Code.CLOSE)
            shown = [
                repr(bus),
                repr(bus.messages("q")),
                repr(bus.activity),
                repr(bus.faults),
                repr(planned),
                caplog.text,
            ]
        assert "attach" in caplog.text
        assert "not AMQP" in caplog.text
        assert all("s3cret" not in text for text in shown)
        assert str(bus) == "<ServiceBusDouble stopped>"
