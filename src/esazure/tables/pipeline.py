"""Requests to the table service over azure-core: dated, signed, repeated where that is safe, traced and logged.

Only public parts of azure-core. Not among its policies, on purpose: redirects (the service has none, and a request must
not take a signature elsewhere) and the network trace (it would print keys and rows). Read `rest.py` next.
"""

from __future__ import annotations

import base64
import hmac
import logging
import random
import time
import zlib
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from errno import errorcode
from ipaddress import ip_address, ip_network
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from uuid import uuid4

from azure.core import AsyncPipelineClient
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError, IncompleteReadError, ServiceRequestError
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import (
    AsyncBearerTokenCredentialPolicy,
    AsyncHTTPPolicy,
    AsyncRetryPolicy,
    DistributedTracingPolicy,
    HttpLoggingPolicy,
    ProxyPolicy,
    SansIOHTTPPolicy,
    UserAgentPolicy,
)
from azure.core.pipeline.transport import AioHttpTransport, AsyncHttpResponse, HttpRequest

from esazure.errors import StoreError
from esazure.tokens import is_away

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


SKEW = 60.0
"""Seconds a clock may be off before it is said; the service refuses signatures from 15 minutes on."""

_LOOK = 60.0  # seconds between two looks at the service's clock: a date is read slowly
_log = logging.getLogger("esazure.tables")


class NotSentError(ClientAuthenticationError):
    """No token or signature could be made, so nothing was sent."""

    def __init__(self, message: str, *, away: bool = False) -> None:
        super().__init__(message)
        self.away = away
        """Whether the issuer of tokens did not answer, and may do so later."""


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
        self._next_look = 0.0
        self._clock_is_right = True

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
        return await self._answer(self._reads, HttpRequest("GET", url, self._with(headers)))

    async def post(self, url: str, headers: Mapping[str, str], content: bytes, *, repeat: bool = False) -> Reply:
        """Write; sent once, unless it is harmless to `repeat` it.

        Raises:
            AzureError, OSError: no answer.
            NotSentError: nothing was sent.
        """
        client = self._reads if repeat else self._writes
        return await self._answer(client, HttpRequest("POST", url, self._with(headers), data=content))

    async def _answer(self, client: _Client, request: HttpRequest) -> Reply:
        response = await client.send_request(request)
        try:
            reply = Reply(response.status_code, response.headers, response.body())
        except zlib.error as error:
            raise IncompleteReadError("the answer is damaged") from error
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK
            self._look_at_the_clock(skew_of(reply.headers))
        return reply

    def _look_at_the_clock(self, skew: float) -> None:
        """Warn once, and once more when it was right in between."""
        was_right, self._clock_is_right = self._clock_is_right, abs(skew) <= SKEW
        if was_right and not self._clock_is_right:
            _log.warning("%s: correct it, before requests are refused", off_by(skew))

    def _with(self, headers: Mapping[str, str]) -> dict[str, str]:
        # For whoever looks for a request in the service's logs. A name and a number, because a UUID for each request
        # would be a tenth of its time.
        return {**self._headers, **headers, "x-ms-client-request-id": f"{self._name}-{next(self._number)}"}


def skew_of(headers: Mapping[str, str]) -> float:
    """Seconds by which the service's clock is ahead of this machine's; 0 when it did not say."""
    try:
        return parsedate_to_datetime(headers.get("Date", "")).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def off_by(skew: float) -> str:
    """The words for a clock that is off."""
    return f"this machine's clock is off by {abs(skew):.0f} s, {'behind' if skew > 0 else 'ahead of'} the service's"


def proxy_for(endpoint: str) -> str | None:
    """The proxy the environment asks for on the way to an endpoint, as it is now.

    That of the endpoint's own scheme (`HTTPS_PROXY` for https://), else `ALL_PROXY`, as curl does; unless `NO_PROXY`
    names the host, a domain it is in, its address or network, each with or without a port.

    Raises:
        StoreError: what the environment names is no address of an HTTP proxy.
    """
    parts = urlsplit(endpoint)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    host = parts.hostname or ""
    place = f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    if (
        not proxy
        or proxy_bypass(place)
        or any(_covers(name.strip(), host) for name in proxies.get("no", "").split(","))
    ):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        where = urlsplit(proxy)
        is_usable = where.scheme in ("http", "https") and bool(where.hostname) and where.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:  # said without the address: it can hold a password
        raise StoreError(f"the proxy that the environment names for {parts.scheme}:// is none of http://host:port")
    return proxy


def _covers(network: str, host: str) -> bool:
    """Whether an entry of NO_PROXY is an address or a network that an address is in; names are looked at elsewhere."""
    try:
        return ip_address(host) in ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False


def _policies(endpoint: str, credential: Credential, retries: _Retries | None) -> list[_Policy]:
    """What a request passes on its way; after the retries what each attempt passes."""
    proxy = proxy_for(endpoint)
    policies: list[_Policy] = [ProxyPolicy({urlsplit(endpoint).scheme: proxy})] if proxy else []
    if retries is not None:
        policies.append(retries)
    policies.append(_Date())
    sas = credential if isinstance(credential, AzureSasCredential) else None
    if isinstance(credential, AzureNamedKeyCredential):
        policies.append(_Signature(credential))
    elif not isinstance(credential, AzureSasCredential):
        policies.append(_Token(credential, SCOPE))
    return [*policies, DistributedTracingPolicy(), HttpLoggingPolicy(), _Secrets(sas)]


class _Secrets(AsyncHTTPPolicy[HttpRequest, AsyncHttpResponse]):
    """The last one. Nothing before it, tracing and logs above all, sees a SAS, or an error that may quote one."""

    def __init__(self, sas: AzureSasCredential | None) -> None:
        super().__init__()
        self._sas = sas

    async def send(self, request: PipelineRequest[HttpRequest]) -> PipelineResponse[HttpRequest, AsyncHttpResponse]:
        """Add the SAS for this moment only; raise errors of the same kind without the text of aiohttp's."""
        http = request.http_request
        url = http.url
        if self._sas is not None:
            http.url = f"{url}{'&' if '?' in url else '?'}{self._sas.signature.lstrip('?')}"
        try:
            return await self.next.send(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about a request that got no answer
            kind = type(error) if isinstance(error, AzureError) else ServiceRequestError
            cause = (error.inner_exception or error) if isinstance(error, AzureError) else error
        finally:
            http.url = url
        # aiohttp quotes addresses, and in them may be a SAS or the password of a proxy. Out here, so that its error is
        # not chained.
        raise kind(f"{type(cause).__name__}{_number(cause)}")


def _number(error: object) -> str:
    number = error.errno if isinstance(error, OSError) else getattr(error, "status", None)  # such as a proxy's
    return "" if number is None else f", {errorcode.get(number, number)}"


class _Token(AsyncBearerTokenCredentialPolicy[HttpRequest, AsyncHttpResponse]):
    """azure-core's, with an error of our own when there is no token, whatever the credential raised."""

    async def on_request(self, request: PipelineRequest[HttpRequest]) -> None:
        """Add the header."""
        try:
            await super().on_request(request)
        except Exception as error:  # noqa: BLE001 - a credential can be anybody's
            # Its text may quote the password of a proxy, so only what kind it is comes along.
            name, away = type(error).__name__, is_away(error)
        else:
            return
        raise NotSentError(f"the credential gave no token ({name})", away=away)

    async def on_challenge(self, *_: object) -> bool:
        """No: nothing here says that it knows challenges, so the service makes none; a 401 is a refusal."""
        return False


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
        raise NotSentError("the account key is no key") from None
    return f"SharedKey {account}:{base64.b64encode(signature).decode()}"
