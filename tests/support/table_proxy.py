"""A reverse proxy in front of Table Storage that counts what passes, and can be told how to answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

Forward = Callable[[], Awaitable[web.StreamResponse]]
Fault = Callable[[str, Forward], Awaitable[web.StreamResponse]]

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-encoding", "content-length", "keep-alive", "host"}


class TableProxy:
    """Between a client and the account of `connection_string`; use its own `connection_string` instead.

    `seen` counts requests by kind: `transaction`, `query`, `create table`. `fault`, when set, is called with the kind
    and a function that forwards the request, and decides what the client gets.
    """

    def __init__(self, connection_string: str) -> None:
        found = re.search(r"TableEndpoint=(https?://[^/;]+)", connection_string)
        assert found is not None
        self._target = found[1]
        self._original = connection_string
        self.connection_string = ""
        self.seen: Counter[str] = Counter()
        self.fault: Fault | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application(client_max_size=2**23)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.connection_string = self._original.replace(self._target, f"http://127.0.0.1:{port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        kind = _kind(request)
        self.seen[kind] += 1
        body = await request.read()

        async def forward() -> web.StreamResponse:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
            url = URL(self._target + request.raw_path, encoded=True)
            async with self._session.request(request.method, url, data=body or None, headers=headers) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

        return await (forward() if self.fault is None else self.fault(kind, forward))


def _kind(request: web.Request) -> str:
    if request.path.endswith("/$batch"):
        return "transaction"
    if request.path.endswith("/Tables"):
        return "create table"
    return {"GET": "query"}.get(request.method, request.method)
