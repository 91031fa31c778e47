"""A broker that is silent costs one timeout, not one for each dispatch. In simulated time."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusServerBusyError,
)
from tests.servicebus.support import Customer, commit_of
from tests.support.simulation import SimulatedLoop

from esazure import DispatchError, EventsService
from esazure.integration import LANES, MAX_MESSAGE_BYTES, whole
from esazure.memory import InMemoryStore
from esazure.servicebus.producer import ServiceBusEventProducer

T = TypeVar("T")
TIMEOUT = 30.0


class Broker:
    """What every link of a producer leads to."""

    def __init__(self) -> None:
        self.is_silent = False
        self.refusal: ServiceBusError | None = None
        self.seconds = 0.01
        self.asked = 0
        self.took: list[Any] = []

    def producer(self) -> ServiceBusEventProducer:
        return ServiceBusEventProducer(
            "customers",
            lambda: _Link(self),  # type: ignore[arg-type,return-value]
            integration=whole,
            lanes=LANES,
            max_message_bytes=MAX_MESSAGE_BYTES,
            timeout=TIMEOUT,
        )


class _Link:
    broken = False

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def send(self, messages: Sequence[Any], *, patience: float) -> int:
        self._broker.asked += 1
        await asyncio.sleep(3600 if self._broker.is_silent else self._broker.seconds)
        if self._broker.refusal is not None:
            raise self._broker.refusal
        self._broker.took += messages
        return len(messages)

    def abort(self) -> None: ...

    async def close(self) -> None: ...


def simulated(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)


async def failing(producer: ServiceBusEventProducer) -> float:
    """Seconds until a dispatch has failed."""
    clock = asyncio.get_running_loop().time
    began = clock()
    with pytest.raises(DispatchError) as caught:
        await producer.dispatch(await commit_of("a"))
    assert not caught.value.permanent
    return clock() - began


def test_only_the_first_dispatch_waits_for_a_silent_broker() -> None:
    async def run() -> None:
        broker = Broker()
        broker.is_silent = True
        producer = broker.producer()
        assert await failing(producer) == pytest.approx(TIMEOUT)
        asked = broker.asked
        assert [await failing(producer) for _ in range(100)] == [0] * 100
        assert broker.asked == asked
        assert producer.skipped == 100

    simulated(run())


def test_those_that_wait_for_their_turn_meanwhile_wait_no_longer_than_the_first() -> None:
    async def run() -> None:
        broker = Broker()
        broker.is_silent = True
        producer = broker.producer()

        async def later(seconds: float) -> float:
            await asyncio.sleep(seconds)
            return await failing(producer)

        took = await asyncio.gather(*(later(second) for second in range(0, 29, 2)))
        assert took == pytest.approx([TIMEOUT - second for second in range(0, 29, 2)])

    simulated(run())


def test_after_a_while_one_dispatch_tries_and_the_others_do_not() -> None:
    async def run() -> None:
        broker = Broker()
        broker.is_silent = True
        producer = broker.producer()
        await failing(producer)
        await asyncio.sleep(TIMEOUT)
        took = await asyncio.gather(*(failing(producer) for _ in range(10)))
        assert sorted(took) == pytest.approx([0] * 9 + [TIMEOUT])
        assert await failing(producer) == 0, "and then it is left alone again"

    simulated(run())


def test_a_broker_that_is_back_is_used_again() -> None:
    async def run() -> None:
        broker = Broker()
        broker.is_silent = True
        producer = broker.producer()
        await failing(producer)
        broker.is_silent = False
        await asyncio.sleep(TIMEOUT)
        for _ in range(3):
            await producer.dispatch(await commit_of("a"))
        assert len(broker.took) == 3
        broker.is_silent = True
        assert await failing(producer) == pytest.approx(TIMEOUT), "it has its whole time again"

    simulated(run())


@pytest.mark.parametrize(
    ("refusal", "seconds"),
    [(ServiceBusServerBusyError(), 0.1), (ServiceBusServerBusyError(), 6), (ServiceBusConnectionError(), 0.1)],
)
def test_an_answer_is_not_silence(refusal: ServiceBusError, seconds: float) -> None:
    async def run() -> None:
        broker = Broker()
        broker.refusal, broker.seconds = refusal, seconds
        producer = broker.producer()
        for _ in range(3):
            await failing(producer)
        assert producer.skipped == 0
        broker.refusal = None
        await producer.dispatch(await commit_of("a"))

    simulated(run())


def test_an_answer_of_any_kind_ends_the_silence() -> None:
    async def run() -> None:
        broker = Broker()
        broker.is_silent = True
        producer = broker.producer()
        await failing(producer)
        await asyncio.sleep(TIMEOUT)
        broker.is_silent, broker.refusal = False, ServiceBusServerBusyError()
        await failing(producer)
        broker.refusal = None
        await producer.dispatch(await commit_of("a"))

    simulated(run())


def test_when_the_one_that_tries_is_cancelled_the_next_one_tries() -> None:
    async def run() -> None:
        broker = Broker()
        broker.is_silent = True
        producer = broker.producer()
        await failing(producer)
        await asyncio.sleep(TIMEOUT)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await producer.dispatch(await commit_of("a"))
        broker.is_silent = False
        await producer.dispatch(await commit_of("a"))
        assert len(broker.took) == 1

    simulated(run())


def test_callers_that_give_up_early_find_out_together_that_a_broker_is_silent() -> None:
    async def run() -> None:
        broker = Broker()
        broker.is_silent = True
        producer = broker.producer()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(TIMEOUT / 6):
                    await producer.dispatch(await commit_of("a"))
        assert await failing(producer) == 0
        assert producer.skipped == 1

    simulated(run())


def test_those_that_were_cancelled_before_an_answer_say_nothing_after_it() -> None:
    async def run() -> None:
        broker = Broker()
        producer = broker.producer()
        for _ in range(5):
            broker.is_silent = True
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(TIMEOUT / 6):
                    await producer.dispatch(await commit_of("a"))
            broker.is_silent = False
            await producer.dispatch(await commit_of("a"))
        assert producer.skipped == 0

    simulated(run())


def test_topics_are_silent_each_for_itself() -> None:
    async def run() -> None:
        silent, fine = Broker(), Broker()
        silent.is_silent = True
        await failing(silent.producer())
        await fine.producer().dispatch(await commit_of("a"))

    simulated(run())


def test_persist_succeeds_at_once_and_everything_goes_out_in_order_afterwards() -> None:
    async def run() -> None:
        broker = Broker()
        broker.is_silent = True
        producer = broker.producer()
        store = InMemoryStore()
        service = EventsService(store.events(Customer), producer)
        clock = asyncio.get_running_loop().time
        customer = Customer("ada")
        customer.note("1")
        await service.persist(customer)
        began = clock()
        for number in range(2, 6):
            customer.note(str(number))
            await service.persist(customer)
        assert clock() == began
        assert len(await store.unpublished("Customer.ada", before_version=99)) == 5
        broker.is_silent = False
        await asyncio.sleep(TIMEOUT)
        customer.note("6")
        await service.persist(customer)
        assert [int(message.application_properties["version"]) for message in broker.took] == list(range(1, 7))
        assert not await store.unpublished("Customer.ada", before_version=99)
        assert service.undispatched == 5

    simulated(run())


@pytest.mark.parametrize("kind", [ClientAuthenticationError, ServiceRequestError, OSError])
def test_what_aiohttp_or_a_credential_says_is_in_no_error(kind: type[Exception]) -> None:
    async def run() -> None:
        broker = Broker()
        broker.refusal = ServiceBusError("secret", error=kind("secret"))
        with pytest.raises(DispatchError, match=kind.__name__) as caught:
            await broker.producer().dispatch(await commit_of("a"))
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None

    simulated(run())


def test_what_the_broker_says_of_a_message_is_in_the_error() -> None:
    async def run() -> None:
        broker = Broker()
        broker.refusal = MessageSizeExceededError(message="over the limit")
        with pytest.raises(DispatchError) as caught:
            await broker.producer().dispatch(await commit_of("a"))
        assert caught.value.__cause__ is broker.refusal

    simulated(run())
