"""The floor: aiohttp by hand, without what a library needs: no retries, no logs, no other credential, no checks."""

# ruff: noqa: D102, PLR2004, S101
from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

import aiohttp
from pydantic_core import from_json, to_json
from yarl import URL


class RawTable:
    """SharedKeyLite, one signature for each second and resource; `odata=nometadata`; rows are dicts of text."""

    def __init__(self, endpoint: str, account: str, key: str, table: str) -> None:
        self._endpoint, self._table, self._account, self._key = endpoint, table, account, base64.b64decode(key)
        self._path = f"/{account}{URL(endpoint).path}"
        self._batch = URL(f"{endpoint}/$batch", encoded=True)
        self._url = f"{endpoint}/{table}"
        self._second, self._date = 0, ""
        self._signatures: dict[str, str] = {}

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=100, keepalive_timeout=60),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )

    async def close(self) -> None:
        await self._session.close()

    def encode(self, rows: Sequence[dict[str, Any]]) -> bytes:
        """The body of one transaction that creates rows."""
        between = b"--changeset_c\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        out = [b"--batch_b\r\nContent-Type: multipart/mixed; boundary=changeset_c\r\n\r\n"]
        for row in rows:
            body = to_json(row)
            out.append(
                b"%bPOST %b HTTP/1.1\r\nContent-Type: application/json\r\n"
                b"Accept: application/json;odata=minimalmetadata\r\n"
                b"Prefer: return-no-content\r\nDataServiceVersion: 3.0\r\nContent-Length: %d\r\n\r\n%b\r\n"
                % (between, self._url.encode(), len(body), body)
            )
        out.append(b"--changeset_c--\r\n\r\n--batch_b--\r\n")
        return b"".join(out)

    async def create(self, rows: Sequence[dict[str, Any]]) -> int:
        """One transaction; how many rows were created."""
        headers = self._headers("$batch")
        headers["Content-Type"] = "multipart/mixed; boundary=batch_b"
        async with self._session.post(self._batch, data=self.encode(rows), headers=headers) as reply:
            data = await reply.read()
            assert reply.status == 202, data
            if b"HTTP/1.1 409" in data:
                return 0
            return data.count(b"HTTP/1.1 20")

    async def query(self, partition: str, low: str, high: str) -> list[dict[str, Any]]:
        condition = f"PartitionKey eq '{partition}' and RowKey ge '{low}' and RowKey le '{high}'"
        resource, following = f"{self._table}()", ""
        rows: list[dict[str, Any]] = []
        while True:
            url = f"{self._endpoint}/{resource}?$filter={quote(condition)}{following}"
            async with self._session.get(URL(url, encoded=True), headers=self._headers(resource)) as reply:
                data = await reply.read()
                assert reply.status == 200, data
                rows += from_json(data)["value"]
                token = reply.headers.get("x-ms-continuation-NextPartitionKey")
                if token is None:
                    return rows
                row_token = reply.headers.get("x-ms-continuation-NextRowKey") or ""
                following = f"&NextPartitionKey={quote(token)}&NextRowKey={quote(row_token)}"

    def _headers(self, resource: str) -> dict[str, str]:
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True)
            self._signatures.clear()
        signature = self._signatures.get(resource)
        if signature is None:
            digest = hmac.digest(self._key, f"{self._date}\n{self._path}/{resource}".encode(), "sha256")
            signature = f"SharedKeyLite {self._account}:{base64.b64encode(digest).decode()}"
            self._signatures[resource] = signature
        return {
            "x-ms-date": self._date,
            "x-ms-version": "2019-02-02",
            "Authorization": signature,
            "Accept": "application/json;odata=nometadata",
            "DataServiceVersion": "3.0",
        }
