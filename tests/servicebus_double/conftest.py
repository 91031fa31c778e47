import gc
import warnings
from collections.abc import AsyncIterator, Iterator

import pytest
from azure.servicebus.aio import ServiceBusClient
from tests.servicebus_double.support import Place, a_place, connect

from esazure.testing.servicebus import ServiceBusDouble


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with a_place() as opened:
        yield opened


@pytest.fixture
async def client(place: Place) -> AsyncIterator[ServiceBusClient]:
    async with connect(place.connection_string) as connected:
        yield connected


@pytest.fixture
async def hasty(place: Place) -> AsyncIterator[ServiceBusClient]:
    """A client that does not retry, for what is refused every time."""
    async with connect(place.connection_string, retries=0) as connected:
        yield connected


@pytest.fixture
async def bus() -> AsyncIterator[ServiceBusDouble]:
    """A double for the fault suite, whatever the environment says."""
    async with ServiceBusDouble() as double:
        double.queue("q")
        double.queue("unique", duplicate_detection_window=600)
        double.queue("sessions", requires_session=True)
        yield double


@pytest.fixture
def sdk_leaks_sockets() -> Iterator[None]:
    """The SDK forgets sockets that the peer closed: collect them here, or they warn in some other test.

    That the double itself leaks none is proven in `test_lifecycle.py`, where warnings are errors.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
async def to_bus(bus: ServiceBusDouble) -> AsyncIterator[ServiceBusClient]:
    async with connect(bus.connection_string) as connected:
        yield connected
