"""A server that answers with bytes, whatever they are; where `table_proxy.py` forwards, this one makes things up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

_LENGTH = re.compile(r"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """What came: the request line, the headers by their names in lower case, the body."""

    line: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[Request], Awaitable[bytes] | AsyncIterator[bytes]]
"""All at once, or in pieces."""


def http(status: int, body: bytes = b"", kind: str = "application/json", **headers: str) -> bytes:
    """A whole answer; `retry_after="1"` is the header Retry-After."""
    fields = {"Content-Type": kind, "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): text for name, text in headers.items()}
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {text}" for name, text in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


class RawServer:
    """Calls `answer` with each request and sends what it returns; closes the connection then, unless `keep`."""

    def __init__(self, answer: Answer, *, keep: bool = False) -> None:
        self.answer = answer
        self.seen: list[Request] = []
        self.connections = 0
        self._keep = keep
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=2**23)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connection_string(self) -> str:
        """For `TableStore.from_connection_string`."""
        endpoint = f"http://127.0.0.1:{self.port}/someone"
        return f"AccountName=someone;AccountKey=c2VjcmV0LWtleQ==;TableEndpoint={endpoint}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._talk(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            line, *fields = head.rstrip().split("\r\n")
            pairs = (field.partition(":") for field in fields)
            self.seen.append(Request(line, {name.lower(): text.strip() for name, _, text in pairs}, body))
            answer = self.answer(self.seen[-1])
            if isinstance(answer, AsyncIterator):
                async for piece in answer:
                    writer.write(piece)
                    await writer.drain()
            else:
                writer.write(await answer)
                await writer.drain()
            if not self._keep:
                return
