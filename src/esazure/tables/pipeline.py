"""Requests to the table service over azure-core: dated, signed, repeated where that is safe, traced and logged.

Only public parts of azure-core. Not among its policies, on purpose: redirects (the service has none, and a request must
not take a signature elsewhere) and the network trace (it would print keys and rows). Read `rest.py` next.
"""

from __future__ import annotations

import base64
import hmac
import random
import time
import zlib
from collections.abc import Mapping
from email.utils import formatdate
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from uuid import uuid4

from azure.core import AsyncPipelineClient
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError, IncompleteReadError
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import (
    AsyncBearerTokenCredentialPolicy,
    AsyncHTTPPolicy,
    AsyncRetryPolicy,
    AzureSasCredentialPolicy,
    DistributedTracingPolicy,
    HttpLoggingPolicy,
    ProxyPolicy,
    SansIOHTTPPolicy,
    UserAgentPolicy,
)
from azure.core.pipeline.transport import AioHttpTransport, AsyncHttpResponse, HttpRequest

_Client = AsyncPipelineClient[HttpRequest, AsyncHttpResponse]
_Policy = AsyncHTTPPolicy[Any, Any] | SansIOHTTPPolicy[Any, Any]
Credential = AzureNamedKeyCredential | AzureSasCredential | AsyncTokenCredential

SCOPE = "https://storage.azure.com/.default"
VERSION = "2019-02-02"

OPTIONS: Mapping[str, Any] = {
    "retry_total": 3,
    "retry_backoff_factor": 0.2,
    "retry_backoff_max": 2,
    "connection_timeout": 5,
    "read_timeout": 20,
}
"""Seconds and repeats, by azure-core's names; with its own it would wait for minutes. Only reads are repeated."""


class Reply(NamedTuple):
    """An answer, whole; whether it is good news is for the caller to see."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Pipeline:
    """Sends requests to one account; opened once, and once closed for good. Safe to use by many tasks."""

    def __init__(self, endpoint: str, credential: Credential, options: Mapping[str, Any] = OPTIONS) -> None:
        # With `use_env_settings` aiohttp looks for proxies and for files with passwords at every request, in threads,
        # and that costs as much as all the rest.
        transport = AioHttpTransport(use_env_settings=False, **options)
        # A write that is repeated unseen finds its own row and takes it for another's: nothing here could repeat one.
        self._writes, self._reads = (
            _Client(endpoint, policies=_policies(endpoint, credential, retries), transport=transport)
            for retries in (None, _Retries(**options))
        )
        self._headers = {
            "User-Agent": UserAgentPolicy(user_agent="esazure").user_agent,
            "x-ms-version": VERSION,
            "DataServiceVersion": "3.0",
            # Nobody compresses what is this short, and nothing that is not compressed can be a bomb.
            "Accept-Encoding": "identity",
        }
        self._name = uuid4().hex
        self._number = count(1)

    async def open(self) -> None:
        """Get ready."""
        await self._reads.__aenter__()

    async def close(self) -> None:
        """Let go of every connection."""
        await self._reads.close()

    async def get(self, url: str, headers: Mapping[str, str]) -> Reply:
        """Read; repeated after a failure, as often as the options say.

        Raises:
            AzureError, OSError: no answer, the last time too.
        """
        return await _answer(self._reads, HttpRequest("GET", url, self._with(headers)))

    async def post(self, url: str, headers: Mapping[str, str], content: bytes) -> Reply:
        """Write; sent once.

        Raises:
            AzureError, OSError: no answer.
            ClientAuthenticationError: without a status, nothing was sent.
        """
        return await _answer(self._writes, HttpRequest("POST", url, self._with(headers), data=content))

    def _with(self, headers: Mapping[str, str]) -> dict[str, str]:
        # For whoever looks for a request in the service's logs. A name and a number, because a UUID for each request
        # would be a tenth of its time.
        return {**self._headers, **headers, "x-ms-client-request-id": f"{self._name}-{next(self._number)}"}


async def _answer(client: _Client, request: HttpRequest) -> Reply:
    try:
        response = await client.send_request(request)
        return Reply(response.status_code, response.headers, response.body())
    except zlib.error as error:
        raise IncompleteReadError("the answer is damaged") from error
    except AzureError as error:
        if "?" not in str(error):
            raise
        # aiohttp quotes the address in some of its messages, and in it may be a SAS.
        raise type(error)(f"no answer ({type(error.inner_exception).__name__})") from None


def proxies_for(endpoint: str) -> dict[str, str]:
    """The proxies the environment asks for on the way to an endpoint, as they are now."""
    if proxy_bypass(urlsplit(endpoint).hostname or ""):
        return {}
    return {scheme: proxy for scheme, proxy in getproxies().items() if scheme in ("http", "https")}


def _policies(endpoint: str, credential: Credential, retries: _Retries | None) -> list[_Policy]:
    """What a request passes on its way; after the retries what each attempt passes."""
    proxies = proxies_for(endpoint)
    policies: list[_Policy] = [ProxyPolicy(proxies)] if proxies else []
    if isinstance(credential, AzureSasCredential):
        policies.append(AzureSasCredentialPolicy(credential))
    if retries is not None:
        policies.append(retries)
    policies.append(_Date())
    if isinstance(credential, AzureNamedKeyCredential):
        policies.append(_Signature(credential))
    elif not isinstance(credential, AzureSasCredential):
        policies.append(AsyncBearerTokenCredentialPolicy(credential, SCOPE))
    return [*policies, DistributedTracingPolicy(), HttpLoggingPolicy()]


class _Retries(AsyncRetryPolicy[HttpRequest, AsyncHttpResponse]):
    """azure-core's, with jitter: readers that failed together must not come back together."""

    def get_backoff_time(self, settings: dict[str, Any]) -> float:
        """Between half and all of it."""
        return super().get_backoff_time(settings) * random.uniform(0.5, 1)  # noqa: S311 - not a secret

    def get_retry_after(self, response: PipelineResponse[Any, Any]) -> float | None:
        """As it is, or None when it is neither a number nor a date."""
        try:
            return super().get_retry_after(response)
        except (TypeError, ValueError, OverflowError):
            return None


class _Date(AsyncHTTPPolicy[HttpRequest, AsyncHttpResponse]):
    """Dates every attempt: the service refuses what is more than a quarter of an hour old."""

    def __init__(self) -> None:
        super().__init__()
        self._second, self._date = 0, ""

    async def send(self, request: PipelineRequest[HttpRequest]) -> PipelineResponse[HttpRequest, AsyncHttpResponse]:
        """Add the header, and hand it on."""
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True)
        request.http_request.headers["x-ms-date"] = self._date
        return await self.next.send(request)


class _Signature(AsyncHTTPPolicy[HttpRequest, AsyncHttpResponse]):
    """Signs with an account key, by the service's scheme `SharedKey`.

    A signature covers the method, the path, the content type and the date in whole seconds, so few are different.
    """

    def __init__(self, credential: AzureNamedKeyCredential) -> None:
        super().__init__()
        self._credential = credential
        self._signatures: dict[tuple[str, str, str], str] = {}
        self._covers: tuple[object, str] | None = None

    async def send(self, request: PipelineRequest[HttpRequest]) -> PipelineResponse[HttpRequest, AsyncHttpResponse]:
        """Add the header, and hand it on."""
        http, key = request.http_request, self._credential.named_key  # which can be rotated
        date = http.headers["x-ms-date"]
        if self._covers != (key, date):
            self._covers = key, date
            self._signatures.clear()
        place = http.method, http.url.partition("?")[0], http.headers.get("Content-Type", "")
        if place not in self._signatures:
            self._signatures[place] = _authorization(*key, *place, date)
        http.headers["Authorization"] = self._signatures[place]
        return await self.next.send(request)


def _authorization(account: str, key: str, method: str, url: str, kind: str, date: str) -> str:
    text = f"{method}\n\n{kind}\n{date}\n/{account}{urlsplit(url).path}"
    try:
        signature = hmac.digest(base64.b64decode(key), text.encode(), "sha256")
    except ValueError:
        raise ClientAuthenticationError("the account key is no key") from None
    return f"SharedKey {account}:{base64.b64encode(signature).decode()}"
