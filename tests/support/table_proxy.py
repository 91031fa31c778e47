"""A reverse proxy in front of Table Storage that counts what passes, and can be told how to answer, or how to fail.

It moves bytes: what the service answers is handed on as it came. Read `table_faults.py` next, for faults by chance.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from aiohttp import web


class Reply:
    """What the client gets: bytes, and then perhaps the end of the connection."""

    def __init__(self, data: bytes, *, close: bool = False) -> None:
        self.data = data
        self.close = close

    @classmethod
    def of(cls, status: int, *, body: bytes = b"", **headers: str) -> Self:
        """An answer the service might have given; `retry_after="1"` is the header Retry-After."""
        fields = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        lines = [f"HTTP/1.1 {status} -", *(f"{name}: {text}" for name, text in fields.items())]
        return cls("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)


class BrokenError(Exception):
    """Raised by a fault: the client finds its connection closed, or with `reset` broken, and gets no answer."""

    def __init__(self, *, reset: bool = True) -> None:
        super().__init__()
        self.reset = reset


Forward = Callable[[], Awaitable[Reply]]
Fault = Callable[[str, Forward], Awaitable[Reply | web.Response]]

# Node closes idle connections after five seconds; a request must not meet that.
_REUSABLE_SECONDS = 2.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_HOST = re.compile(rb"\r\nhost:[^\r]*", re.IGNORECASE)
_NO_BODY = (b" 204 ", b" 304 ")
_HEAD_LIMIT = 2**16


class TableProxy:
    """Between a client and the account of `connection_string`; use its own `connection_string` instead.

    `seen` counts requests by kind: `transaction`, `query`, `create table`. `fault`, when set, is called with the kind
    and a function that forwards the request, and decides what the client gets. A request that has arrived is dealt with
    to the end, even when the client has gone.
    """

    def __init__(self, connection_string: str) -> None:
        found = re.search(r"TableEndpoint=(https?)://([^/;:]+)(?::(\d+))?", connection_string)
        assert found is not None
        self._tls = found[1] == "https"
        self._address = found[2], int(found[3] or (443 if self._tls else 80))
        self._original, self._target = connection_string, found[0].removeprefix("TableEndpoint=")
        self.connection_string = ""
        self.seen: Counter[str] = Counter()
        self.fault: Fault | None = None
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_HEAD_LIMIT)
        port = self._server.sockets[0].getsockname()[1]
        self.connection_string = self._original.replace(self._target, f"http://127.0.0.1:{port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for _, _, writer in self._idle:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, _, writer in self._idle), return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                try:
                    head, body = await _message(reader)
                except (asyncio.IncompleteReadError, ConnectionError):
                    return
                try:
                    reply = await self._handle(head, body)
                except BrokenError as broken:
                    if broken.reset:
                        # To linger for no time is to reset.
                        writer.get_extra_info("socket").setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                        writer.transport.abort()
                    return
                with suppress(ConnectionError):
                    writer.write(reply.data)
                    await writer.drain()
                if reply.close:
                    return
        finally:
            writer.close()

    async def _handle(self, head: bytes, body: bytes) -> Reply:
        kind = _kind(head)
        self.seen[kind] += 1

        async def forward() -> Reply:
            return Reply(await self._exchange(head, body))

        answer = await (forward() if self.fault is None else self.fault(kind, forward))
        if isinstance(answer, Reply):
            return answer
        headers = {name.replace("-", "_"): text for name, text in answer.headers.items() if name[:8] != "Content-"}
        return Reply.of(answer.status, **headers)

    async def _exchange(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await self._connection()
        try:
            host, port = self._address
            writer.write(_HOST.sub(f"\r\nHost: {host}:{port}".encode(), head, count=1) + body)
            answer, content = await _message(reader, answer=True)
        except BaseException:
            writer.close()
            raise
        self._idle.append((asyncio.get_running_loop().time(), reader, writer))
        return answer + content

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            since, reader, writer = self._idle.pop()
            if asyncio.get_running_loop().time() - since < _REUSABLE_SECONDS and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address, ssl=self._tls or None, limit=_HEAD_LIMIT)


async def _message(reader: asyncio.StreamReader, *, answer: bool = False) -> tuple[bytes, bytes]:
    """A request or an answer: its head, and its body as it came."""
    head = await reader.readuntil(b"\r\n\r\n")
    if answer and head[8:13] in _NO_BODY:
        return head, b""
    if _CHUNKED.search(head):
        chunks = []
        while not chunks or chunks[-1] != b"0\r\n\r\n":
            size = await reader.readuntil(b"\r\n")
            chunks.append(size + await reader.readexactly(int(size, 16) + 2))
        return head, b"".join(chunks)
    length = _LENGTH.search(head)
    return head, await reader.readexactly(int(length[1])) if length else b""


def _kind(head: bytes) -> str:
    method, _, rest = head.decode("latin-1").partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    if path.endswith("/$batch"):
        return "transaction"
    if path.endswith("/Tables"):
        return "create table"
    return {"GET": "query"}.get(method, method)
