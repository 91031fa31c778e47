"""A server that answers every transaction of two rows with the same success, and every query with the same 20 rows.

In a process of its own it shows how much a client can do; run with the name of a file that holds the page.
"""

# ruff: noqa: ASYNC240, S101
from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PART = (
    b"--changesetresponse_1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b"HTTP/1.1 204 No Content\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-cache\r\n"
    b"Preference-Applied: return-no-content\r\nDataServiceVersion: 3.0;\r\n"
    b"ETag: W/\"datetime'2026-11-23T10%3A50%3A09.4851757Z'\"\r\n\r\n\r\n"
)
_BATCH = (
    b"--batchresponse_1\r\nContent-Type: multipart/mixed; boundary=changesetresponse_1\r\n\r\n"
    + 2 * _PART
    + b"--changesetresponse_1--\r\n--batchresponse_1--\r\n"
)


def _reply(status: bytes, kind: bytes, body: bytes) -> bytes:
    return (
        b"HTTP/1.1 %b\r\nContent-Type: %b\r\nx-ms-request-id: 1\r\nx-ms-version: 2019-02-02\r\n"
        b"Date: Mon, 23 Nov 2026 10:50:09 GMT\r\nContent-Length: %d\r\n\r\n%b" % (status, kind, len(body), body)
    )


class _Server(asyncio.Protocol):
    page = b""
    batch = _reply(b"202 Accepted", b"multipart/mixed; boundary=batchresponse_1", _BATCH)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._held = b""

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, end, rest = self._held.partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head)
        if len(rest) < (int(length[1]) if length else 0):
            return
        self._held = b""
        self._transport.write(self.page if head.startswith(b"GET") else self.batch)


async def _serve(file: str) -> None:
    _Server.page = _reply(b"200 OK", b"application/json;odata=minimalmetadata", Path(file).read_bytes())
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
