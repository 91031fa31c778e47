"""A client that speaks AMQP frame by frame: for what the SDK never sends, and where it would take too long."""

# ruff: noqa: FBT003 - the fields of a performative have a place, not a name

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from esazure.testing.servicebus import ServiceBusDouble
from esazure.testing.servicebus.amqp_types import Described, Symbol, Ubyte, Uint, Ulong, Ushort
from esazure.testing.servicebus.encoding import encode
from esazure.testing.servicebus.performatives import FRAME_HEADER, Code, Fields, frame, read, write

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"


class RawClient:
    """`send` writes a performative, `expect` reads the next one of a kind."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.heartbeats = 0

    def send(self, code: Code, *fields: Any, channel: int = 0, payload: bytes = b"") -> None:
        self.writer.write(frame(channel, write(code, *fields) + payload))

    async def next(self) -> tuple[Code, Fields, bytes]:
        async with asyncio.timeout(10):
            while True:
                size, offset, _, _ = FRAME_HEADER.unpack(await self.reader.readexactly(8))
                body = (await self.reader.readexactly(size - 8))[offset * 4 - 8 :]
                if body:
                    return read(body)
                self.heartbeats += 1

    async def expect(self, wanted: Code) -> Fields:
        return (await self.expect_with_payload(wanted))[0]

    async def expect_with_payload(self, wanted: Code) -> tuple[Fields, bytes]:
        while True:
            code, fields, payload = await self.next()
            if code is wanted:
                return fields, payload

    async def expect_error(self, wanted: Code, index: int) -> str:
        """The condition a close or a detach comes with."""
        described = (await self.expect(wanted)).described(index)
        assert described is not None
        return str(described.value[0])

    async def expect_end(self) -> bytes:
        """What comes before the broker hangs up."""
        async with asyncio.timeout(10):
            return await self.reader.read()

    async def open(self, max_frame_size: int = 65_536, idle_timeout: int | None = None) -> None:
        self.writer.write(AMQP_HEADER)
        assert await self.reader.readexactly(8) == AMQP_HEADER
        idle = None if idle_timeout is None else Uint(idle_timeout)
        self.send(Code.OPEN, "raw", None, Uint(max_frame_size), Ushort(10), idle)
        await self.expect(Code.OPEN)

    async def begin(self, window: int = 100, channel: int = 0) -> None:
        self.send(Code.BEGIN, None, Uint(0), Uint(window), Uint(100), channel=channel)
        await self.expect(Code.BEGIN)

    async def attach_sender(self, address: str, handle: int = 0, properties: dict[Symbol, Any] | None = None) -> Fields:
        source, target = Described(Ulong(0x28), [None]), Described(Ulong(0x29), [address])
        ends = (source, target)
        self.send(
            *(Code.ATTACH, f"sender-{handle}", Uint(handle), False, Ubyte(0), Ubyte(0), *ends),
            *([None] * 6),
            properties,
        )
        return await self.expect(Code.ATTACH)

    async def attach_receiver(
        self, address: str, handle: int = 0, *, filters: dict[Symbol, Any] | None = None
    ) -> Fields:
        source = Described(Ulong(0x28), [address, *[None] * 6, filters])
        target = Described(Ulong(0x29), [None])
        self.send(Code.ATTACH, f"receiver-{handle}", Uint(handle), True, Ubyte(0), Ubyte(1), source, target)
        return await self.expect(Code.ATTACH)

    def grant(self, credit: int, handle: int = 0, *, window: int = 100, received: int = 0, drain: bool = False) -> None:
        windows = (Uint(1 + received), Uint(window), Uint(0), Uint(100))
        self.send(Code.FLOW, *windows, Uint(handle), Uint(received), Uint(credit), None, drain)

    def transfer(self, payload: bytes, delivery_id: int = 0, handle: int = 0, **flags: bool) -> None:
        self.send(
            Code.TRANSFER,
            Uint(handle),
            Uint(delivery_id),
            b"tag",
            Uint(0),
            flags.get("settled", False),
            flags.get("more", False),
            None,
            None,
            None,
            flags.get("aborted", False),
            payload=payload,
        )


def message(body: bytes = b"body", session_id: str | None = None) -> bytes:
    properties = b"\x00\x53\x73" + encode([None] * 10 + [session_id])
    return properties + b"\x00\x53\x75" + encode(body)


@asynccontextmanager
async def raw_client(bus: ServiceBusDouble) -> AsyncIterator[RawClient]:
    """Connected, nothing said yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bus.port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def raw_session(
    bus: ServiceBusDouble, window: int = 100, max_frame_size: int = 65_536
) -> AsyncIterator[RawClient]:
    """With an open connection and a session on channel 0."""
    async with raw_client(bus) as client:
        await client.open(max_frame_size)
        await client.begin(window)
        yield client


async def put(bus: ServiceBusDouble, *bodies: str, entity: str = "q", session_id: str | None = None) -> None:
    """Send messages in milliseconds, where what sends them does not matter."""
    async with raw_session(bus) as client:
        await client.attach_sender(entity)
        for number, body in enumerate(bodies):
            client.transfer(message(body.encode(), session_id), delivery_id=number)
            await client.expect(Code.DISPOSITION)
