"""Requests on their way: credentials, dates, proxies, repeats, and what is told of them in logs, traces and errors."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import formatdate, parsedate_to_datetime
from typing import Any, ClassVar, Self
from uuid import uuid4

import pytest
from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import AsyncHttpResponse, AsyncHttpTransport, HttpRequest
from azure.core.settings import settings
from azure.data.tables import AccountSasPermissions, ResourceTypes, generate_account_sas
from tests.support.raw_server import RawServer, Request, http

import esazure.tables.pipeline as tables_pipeline
from esazure import StoreError, StoreUnavailableError
from esazure.tables import TableStore
from esazure.tables.gateway import Operation
from esazure.tables.pipeline import OPTIONS, Pipeline, Reply, proxy_for
from esazure.testing.conformance import Counter

KEY = AzureNamedKeyCredential("someone", "c2VjcmV0LWtleQ==")
QUICK = {**OPTIONS, "retry_backoff_factor": 0.001}


@pytest.fixture
def tracing() -> Iterator[type[FakeSpan]]:
    FakeSpan.made.clear()
    settings.tracing_implementation.set_value(FakeSpan)
    yield FakeSpan
    settings.tracing_implementation.unset_value()


def assert_nowhere(secret: str, error: BaseException) -> None:
    """Neither in the traceback, nor in an exception that Python would not show."""
    assert secret not in "".join(traceback.format_exception(error))
    chain: list[BaseException] = [error]
    for each in chain:
        assert secret not in f"{each!r} {each} {vars(each)}"
        more = (each.__cause__, each.__context__, getattr(each, "inner_exception", None))
        chain += [other for other in more if isinstance(other, BaseException) and other not in chain]


async def fine(_: Request) -> bytes:
    return http(200, b'{"value":[]}', Date=formatdate(usegmt=True))


async def busy(_: Request) -> bytes:
    return http(503)


async def get(server: RawServer, credential: Any = KEY, path: str = "/someone/events()") -> Reply:
    pipeline = Pipeline(f"http://127.0.0.1:{server.port}/someone", credential, QUICK)
    await pipeline.open()
    try:
        return await pipeline.get(f"http://127.0.0.1:{server.port}{path}", {"Accept": "application/json"})
    finally:
        await pipeline.close()


async def post(server: RawServer, credential: Any = KEY) -> Reply:
    pipeline = Pipeline(f"http://127.0.0.1:{server.port}/someone", credential, QUICK)
    await pipeline.open()
    try:
        address = f"http://127.0.0.1:{server.port}/someone/$batch"
        return await pipeline.post(address, {"Content-Type": "multipart/mixed; boundary=b"}, b"content")
    finally:
        await pipeline.close()


class TestHeaders:
    async def test_a_request_says_who_it_is_and_takes_no_compressed_answer(self) -> None:
        async with RawServer(fine) as server:
            await get(server)
            await post(server)
        read, written = server.seen
        for request in (read, written):
            assert request.headers["x-ms-version"] == "2019-02-02"
            assert request.headers["user-agent"].startswith("esazure azsdk-python-core/")
            assert request.headers["accept-encoding"] == "identity"
            assert abs(parsedate_to_datetime(request.headers["x-ms-date"]) - datetime.now(UTC)) < timedelta(minutes=1)
        assert read.line == "GET /someone/events() HTTP/1.1"
        assert written.body == b"content"

    async def test_requests_are_told_apart_by_their_ids(self) -> None:
        async with RawServer(fine) as server:
            for _ in range(3):
                await get(server)
        assert len({request.headers["x-ms-client-request-id"] for request in server.seen}) == 3


class TestAccountKey:
    def test_a_signature_is_what_the_service_documents(self) -> None:
        # Worked out by hand, with openssl.
        text = tables_pipeline._authorization(
            "someone",
            "c2VjcmV0LWtleQ==",
            "GET",
            "https://someone.table.core.windows.net/events()",
            "",
            "Mon, 23 Nov 2026 10:47:03 GMT",
        )
        assert text == "SharedKey someone:IzO8DoKwXgOCO6ko6WeKWWZnnPoWe95UthaX99NIztg="

    async def test_it_covers_the_date_and_is_made_once_a_second_for_each_resource(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[Sequence[object]] = []
        sign = tables_pipeline._authorization

        def count(*covers: str) -> str:
            made.append(covers)
            return sign(*covers)

        now = 1_800_000_000.5
        monkeypatch.setattr(tables_pipeline, "_authorization", count)
        monkeypatch.setattr(tables_pipeline.time, "time", lambda: now)
        async with RawServer(fine, keep=True) as server:
            pipeline = Pipeline(f"http://127.0.0.1:{server.port}/someone", KEY)
            for path in ("a()", "a()?x=1", "b()", "a()"):
                await pipeline.get(f"http://127.0.0.1:{server.port}/someone/{path}", {})
            assert len(made) == 2
            now += 1
            await pipeline.get(f"http://127.0.0.1:{server.port}/someone/a()", {})
            await pipeline.close()
        assert len(made) == 3
        assert [request.headers["x-ms-date"] for request in server.seen] == [
            *(4 * ["Fri, 15 Jan 2027 08:00:00 GMT"]),
            "Fri, 15 Jan 2027 08:00:01 GMT",
        ]
        assert len({request.headers["authorization"] for request in server.seen}) == 3

    async def test_a_key_that_is_rotated_is_used_at_once(self) -> None:
        credential = AzureNamedKeyCredential("someone", "c2VjcmV0LWtleQ==")
        async with RawServer(fine, keep=True) as server:
            pipeline = Pipeline(f"http://127.0.0.1:{server.port}/someone", credential)
            await pipeline.get(f"http://127.0.0.1:{server.port}/someone/a()", {})
            credential.update("someone", "b3RoZXItMi1rZXk=")
            await pipeline.get(f"http://127.0.0.1:{server.port}/someone/a()", {})
            await pipeline.close()
        first, second = (request.headers["authorization"] for request in server.seen)
        assert first != second

    async def test_each_attempt_is_dated_and_signed_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = iter(range(1_800_000_000, 1_800_000_100))
        monkeypatch.setattr(tables_pipeline.time, "time", lambda: next(now))
        async with RawServer(busy) as server:
            await get(server)
        assert len({request.headers["x-ms-date"] for request in server.seen}) == 4
        assert len({request.headers["authorization"] for request in server.seen}) == 4

    @pytest.mark.parametrize("key", ["abcde", "YQ", "ä"])
    async def test_what_is_no_key_is_found_before_anything_is_sent(self, key: str) -> None:
        async with RawServer(fine) as server:
            for send in (get, post):
                with pytest.raises(ClientAuthenticationError) as caught:
                    await send(server, AzureNamedKeyCredential("someone", key))
                assert caught.value.status_code is None
                assert key not in "".join(traceback.format_exception(caught.value))
        assert server.seen == []

    async def test_a_store_says_so_and_does_not_show_it(self) -> None:
        text = "AccountName=someone;AccountKey=YQ;TableEndpoint=http://127.0.0.1:1/someone"
        with pytest.raises(StoreError, match="check the credential") as caught:
            await TableStore.from_connection_string(text).__aenter__()
        assert not isinstance(caught.value, StoreUnavailableError)


class TestSharedAccessSignature:
    SAS = "sv=2019-02-02&sig=secret%2Bsignature%3D"

    async def test_it_is_added_to_the_address_and_nothing_is_signed(self) -> None:
        async with RawServer(fine) as server:
            await get(server, AzureSasCredential(f"?{self.SAS}"))
            await get(server, AzureSasCredential(self.SAS), "/someone/events()?$top=1")
            await post(server, AzureSasCredential(self.SAS))
        assert [request.line.split()[1] for request in server.seen] == [
            f"/someone/events()?{self.SAS}",
            f"/someone/events()?$top=1&{self.SAS}",
            f"/someone/$batch?{self.SAS}",
        ]
        assert all("authorization" not in request.headers for request in server.seen)

    async def test_repeats_carry_it_once(self) -> None:
        async with RawServer(busy) as server:
            await get(server, AzureSasCredential(self.SAS))
        assert [request.line.count("sig=") for request in server.seen] == [1, 1, 1, 1]

    @pytest.mark.parametrize(
        "answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", b"HTTP/9 9 9\r\n\r\n", b""]
    )
    async def test_no_error_shows_it(self, answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
        async def nonsense(_: Request) -> bytes:
            return answer

        async with RawServer(nonsense) as server:
            for send in (get, post):
                with pytest.raises(AzureError) as caught:
                    await send(server, AzureSasCredential(self.SAS))
                assert "secret" not in "".join(traceback.format_exception(caught.value))
        assert "secret" not in caplog.text

    async def test_nor_does_one_that_takes_too_long_to_connect(self) -> None:
        # Nobody is at this address (RFC 5737), so it is either not reached at once, or not within the time.
        pipeline = Pipeline(
            "http://192.0.2.1/a", AzureSasCredential(self.SAS), {**QUICK, "connection_timeout": 0.05, "retry_total": 0}
        )
        with pytest.raises(AzureError) as caught:
            await pipeline.get("http://192.0.2.1/a/b()?$filter=x", {})
        await pipeline.close()
        assert "secret" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.azurite
    @pytest.mark.parametrize("place", ["credential", "connection string"])
    async def test_a_store_is_opened_with_one(self, tables: str, place: str) -> None:
        account, key, endpoint = (
            re.search(rf"{name}=([^;]+)", tables)[1]  # type: ignore[index]
            for name in ("AccountName", "AccountKey", "TableEndpoint")
        )
        sas = generate_account_sas(
            AzureNamedKeyCredential(account, key),
            resource_types=ResourceTypes.from_string("sco"),
            permission=AccountSasPermissions.from_string("rwdlacu"),
            expiry=datetime.now(UTC) + timedelta(hours=1),
        )
        name = f"t{uuid4().hex}"
        async with TableStore.from_connection_string(tables, table=name):
            pass  # an account key makes the table: to Azurite, a SAS may not
        if place == "credential":
            store = TableStore(endpoint, credential=AzureSasCredential(sas), table=name)
        else:
            text = f"SharedAccessSignature={sas};TableEndpoint={endpoint}"
            store = TableStore.from_connection_string(text, table=name)
        assert "sig" not in repr(store)
        async with store:
            counter = Counter("a")
            counter.increment()
            await store.events(Counter).append(counter)
            assert (await store.events(Counter).rehydrate("a")).version == 1


class FakeToken:
    """A credential that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def get_token(self, *scopes: str, **_: object) -> AccessToken:
        self.asked.append(scopes)
        return AccessToken("the-token", int(datetime.now(UTC).timestamp()) + 3600)

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


class FakeTransport(AsyncHttpTransport[HttpRequest, AsyncHttpResponse]):
    """Instead of a connection with a certificate."""

    seen: ClassVar[list[HttpRequest]] = []

    def __init__(self, **_: object) -> None: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def send(self, request: HttpRequest, **_: Any) -> Any:
        self.seen.append(request)

        class Response:
            status_code, headers, content_type = 200, {"Content-Type": "application/json"}, "application/json"

            def body(self) -> bytes:
                return b""

        return Response()


class NoToken(FakeToken):
    """A credential that fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def get_token(self, *scopes: str, **_: object) -> AccessToken:
        raise self.error


def caused_by(cause: Exception) -> ClientAuthenticationError:
    error = ClientAuthenticationError("no token: http://user:secret@proxy")
    error.__cause__ = cause
    return error


def with_status(status: int) -> ClientAuthenticationError:
    error = ClientAuthenticationError("no token: http://user:secret@proxy")
    error.status_code = status
    return error


class CredentialUnavailableError(ClientAuthenticationError):
    """By the name azure-identity gives it."""


AWAY = [
    TimeoutError(),
    ConnectionRefusedError(111, "refused"),
    ServiceRequestError("no route"),
    ServiceResponseError("cut off"),
    CredentialUnavailableError("nobody answers"),
    caused_by(ServiceRequestError("no route")),
    caused_by(TimeoutError()),
    caused_by(with_status(503)),
    with_status(500),
    with_status(429),
]
REFUSED = [
    ClientAuthenticationError("no"),
    with_status(400),
    with_status(401),
    caused_by(with_status(401)),
    FileNotFoundError(2, "no such file", "/var/run/token"),
    ValueError("nonsense"),
]


class TestNoToken:
    @pytest.mark.parametrize("write", [False, True])
    @pytest.mark.parametrize(("error", "away"), [*((one, True) for one in AWAY), *((one, False) for one in REFUSED)])
    async def test_an_issuer_that_is_away_is_told_from_one_that_refuses(
        self, error: Exception, *, away: bool, write: bool
    ) -> None:
        store = TableStore("https://someone.table.core.windows.net", credential=NoToken(error), deadline=30)
        gateway = store._gateway
        await gateway.open()
        creation: Operation = ("create", {"PartitionKey": "00", "RowKey": "e"})
        with pytest.raises(StoreError) as caught:
            await (gateway.submit([creation]) if write else gateway.query("00", "a", "b"))
        await gateway.close()
        assert isinstance(caught.value, StoreUnavailableError) is away
        assert ("check the credential" in str(caught.value)) is not away
        assert ("try again later" in str(caught.value)) is away
        assert_nowhere("secret", caught.value)

    @pytest.mark.parametrize("write", [False, True])
    async def test_a_challenge_is_a_refusal(self, monkeypatch: pytest.MonkeyPatch, *, write: bool) -> None:
        claims = base64.urlsafe_b64encode(b'{"access_token":{}}').decode()
        challenge = f'Bearer error="insufficient_claims", claims="{claims}"'

        class Challenging(FakeTransport):
            async def send(self, request: HttpRequest, **_: Any) -> Any:
                response = await super().send(request)
                response.status_code, response.headers = 401, {"WWW-Authenticate": challenge}
                response.http_response = response
                return response

        class Once(FakeToken):
            async def get_token(self, *scopes: str, **options: object) -> AccessToken:
                if options:
                    raise ClientAuthenticationError("secret")
                return await super().get_token(*scopes, **options)

        monkeypatch.setattr(tables_pipeline, "AioHttpTransport", Challenging)
        pipeline = Pipeline("https://a.example.com", Once())
        url = "https://a.example.com/a()"
        reply = await (pipeline.post(url, {}, b"x") if write else pipeline.get(url, {}))
        assert reply.status == 401

    async def test_one_that_never_answers_is_not_waited_for_beyond_the_deadline(self) -> None:
        class Silent(FakeToken):
            async def get_token(self, *scopes: str, **_: object) -> AccessToken:
                await asyncio.sleep(3600)
                raise AssertionError

        store = TableStore("https://someone.table.core.windows.net", credential=Silent(), deadline=0.2)
        with pytest.raises(StoreUnavailableError):
            async with asyncio.timeout(60):
                await store.__aenter__()


class TestClock:
    @pytest.fixture
    async def logged(self, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
        caplog.set_level(logging.WARNING, "esazure.tables")
        return caplog

    @pytest.mark.parametrize(("ahead", "said"), [(3600, "behind"), (-3600, "ahead of"), (0, None), (50, None)])
    async def test_one_that_is_off_by_minutes_is_said_once(
        self, ahead: int, said: str | None, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables_pipeline, "_LOOK", 0.0)

        async def answer(_: Request) -> bytes:
            return http(200, b'{"value":[]}', Date=formatdate(time.time() + ahead, usegmt=True))

        async with RawServer(answer, keep=True) as server:
            pipeline = Pipeline(f"http://127.0.0.1:{server.port}/someone", KEY)
            for _ in range(5):
                await pipeline.get(f"http://127.0.0.1:{server.port}/someone/a()", {})
            await pipeline.close()
        if said is None:
            assert not logged.records
        else:
            (record,) = logged.records
            assert re.search(rf"clock is off by 3(599|600|601) s, {said} the service's", record.getMessage())

    @pytest.mark.parametrize("date", ["", "nonsense", "Mon, 99 Nov 2026 10:47:03 GMT"])
    async def test_a_date_that_is_none_says_nothing(self, date: str, logged: pytest.LogCaptureFixture) -> None:
        async def answer(_: Request) -> bytes:
            return http(200, b'{"value":[]}', Date=date)

        async with RawServer(answer) as server:
            assert (await get(server)).status == 200
        assert not logged.records

    @pytest.mark.parametrize(("ahead", "words"), [(3600, "clock is off by"), (0, "check the account")])
    async def test_a_refusal_says_whether_the_clock_is_to_blame(self, ahead: int, words: str) -> None:
        async def refuse(_: Request) -> bytes:
            return http(403, Date=formatdate(time.time() + ahead, usegmt=True))

        async with RawServer(refuse) as server:
            with pytest.raises(StoreError, match=words):
                await TableStore.from_connection_string(server.connection_string).__aenter__()


class TestToken:
    async def test_it_is_asked_for_the_storage_of_azure_and_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tables_pipeline, "AioHttpTransport", FakeTransport)
        FakeTransport.seen.clear()
        credential = FakeToken()
        pipeline = Pipeline("https://someone.table.core.windows.net", credential)
        for _ in range(3):
            await pipeline.get("https://someone.table.core.windows.net/a()", {})
        assert credential.asked == [("https://storage.azure.com/.default",)]
        assert [request.headers["Authorization"] for request in FakeTransport.seen] == 3 * ["Bearer the-token"]
        assert all("x-ms-date" in request.headers for request in FakeTransport.seen)

    async def test_it_is_never_sent_in_clear(self) -> None:
        with pytest.raises(ValueError, match="HTTPS"):
            TableStore("http://someone.table.core.windows.net", credential=FakeToken())
        async with RawServer(fine) as server:
            with pytest.raises(AzureError):
                await get(server, FakeToken())
        assert server.seen == []


class TestConnectionStrings:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("UseDevelopmentStorage=true", "http://127.0.0.1:10002/events"),
            ("AccountName=a;AccountKey=YWJj", "https://a.table.core.windows.net/events"),
            (
                "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=YWJj;EndpointSuffix=core.chinacloudapi.cn",
                "https://a.table.core.chinacloudapi.cn/events",
            ),
            (
                "AccountName=a;AccountKey=YWJj;TableSecondaryEndpoint=https://b.example.com;TableEndpoint=https://tables.example.com/",
                "https://tables.example.com/events",
            ),
            ("SharedAccessSignature=sv=1&sig=x;TableEndpoint=https://a.example.com", "https://a.example.com/events"),
        ],
    )
    async def test_the_account_is_found(self, text: str, address: str) -> None:
        assert TableStore.from_connection_string(text)._gateway.address == address


class TestRepeats:
    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    async def test_a_read_is_repeated_three_times(self, status: int) -> None:
        async def refuse(_: Request) -> bytes:
            return http(status)

        async with RawServer(refuse) as server:
            assert (await get(server)).status == status
        assert len(server.seen) == 4

    async def test_a_read_whose_connection_breaks_is_repeated(self) -> None:
        async def break_twice(_: Request) -> bytes:
            return await fine(_) if len(server.seen) == 3 else b""

        async with RawServer(break_twice) as server:
            assert (await get(server)).status == 200

    @pytest.mark.parametrize("status", [408, 429, 500, 503])
    @pytest.mark.parametrize("headers", [{}, {"retry_after": "0"}])
    async def test_a_write_is_sent_once(self, status: int, headers: dict[str, str]) -> None:
        async def refuse(_: Request) -> bytes:
            return http(status, **headers)

        async with RawServer(refuse) as server:
            assert (await post(server)).status == status
        assert len(server.seen) == 1

    async def test_a_write_whose_connection_breaks_is_sent_once(self) -> None:
        async def close(_: Request) -> bytes:
            return b""

        async with RawServer(close) as server:
            with pytest.raises(AzureError):
                await post(server)
        assert len(server.seen) == 1

    @pytest.mark.parametrize("asked", ["soon", "-1", "nan", "Mon, 99 Foo", "\xff"])
    async def test_a_wait_that_is_none_is_as_good_as_not_asked_for(self, asked: str) -> None:
        async def refuse(_: Request) -> bytes:
            return http(503, retry_after=asked)

        async with RawServer(refuse) as server:
            assert (await get(server)).status == 503
        assert len(server.seen) == 4

    def test_readers_that_failed_together_do_not_come_back_together(self) -> None:
        retries = tables_pipeline._Retries(**OPTIONS)
        failed_twice = {"history": [1, 2], "backoff": 0.2, "max_backoff": 2}
        pauses = [retries.get_backoff_time(failed_twice) for _ in range(50)]
        assert all(0.2 <= pause <= 0.4 for pause in pauses)
        assert len(set(pauses)) > 40

    async def test_a_redirect_is_not_followed(self) -> None:
        async def elsewhere(_: Request) -> bytes:
            return http(307, Location=f"http://127.0.0.1:{server.port}/elsewhere")

        async with RawServer(elsewhere) as server:
            assert (await get(server)).status == 307
            assert (await post(server)).status == 307
        assert len(server.seen) == 2


class TestProxies:
    @pytest.fixture(autouse=True)
    def no_proxy_yet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)

    @pytest.mark.parametrize(
        ("environment", "endpoint", "proxy"),
        [
            ({}, "https://a.example.com", None),
            ({"HTTPS_PROXY": "http://p:1"}, "https://a.example.com", "http://p:1"),
            ({"https_proxy": "http://p:1"}, "https://a.example.com", "http://p:1"),
            ({"HTTP_PROXY": "http://p:1"}, "https://a.example.com", None),
            ({"HTTPS_PROXY": "http://p:1"}, "http://a.example.com", None),
            ({"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:2"}, "http://a.example.com", "http://p:1"),
            ({"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:2"}, "https://a.example.com", "http://p:2"),
            ({"ALL_PROXY": "http://p:1"}, "https://a.example.com", "http://p:1"),
            ({"ALL_PROXY": "socks5://p:1", "HTTPS_PROXY": "http://p:2"}, "https://a.example.com", "http://p:2"),
            ({"HTTPS_PROXY": "p:1"}, "https://a.example.com", "http://p:1"),
            ({"HTTPS_PROXY": "user:password@p:1"}, "https://a.example.com", "http://user:password@p:1"),
            ({"HTTP_PROXY": "socks5://p:1"}, "https://a.example.com", None),
        ],
    )
    def test_the_proxy_is_that_of_the_endpoints_scheme(
        self, environment: dict[str, str], endpoint: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert proxy_for(endpoint) == proxy

    @pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
    @pytest.mark.parametrize(
        ("exceptions", "endpoint", "used"),
        [
            ("a.example.com", "https://a.example.com", False),
            (".example.com", "https://a.example.com", False),
            ("example.com", "https://a.example.com", False),
            ("other.com, example.com", "https://a.example.com", False),
            ("example.com", "https://badexample.com", True),
            ("a.example.com:443", "https://a.example.com", False),
            ("a.example.com:444", "https://a.example.com", True),
            ("a.example.com:444", "https://a.example.com:444/x", False),
            ("*", "https://a.example.com", False),
            ("10.0.0.0/8", "https://10.1.2.3", False),
            ("10.0.0.0/8", "https://11.1.2.3", True),
            ("10.0.0.0/8", "https://a.example.com", True),
            ("10.1.2.3", "https://10.1.2.3:10002/x", False),
            ("::1", "https://[::1]:10002/x", False),
            ("fd00::/8", "https://[fd00::1]:10002/x", False),
            ("", "https://a.example.com", True),
        ],
    )
    def test_hosts_domains_and_networks_are_exceptions(
        self, name: str, exceptions: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, *, used: bool
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
        monkeypatch.setenv(name, exceptions)
        assert (proxy_for(endpoint) is not None) is used

    @pytest.mark.parametrize(
        "address",
        [
            "socks5://user:secret@p:1",
            "http://user:secret@p:port",
            "http://user:secret@p:99999",
            "http://user:secret@",
            "http://[user:secret@::1",
            "http://user:se#cret/secret@p:1",
        ],
    )
    def test_an_address_that_cannot_be_a_proxys_is_refused_and_not_shown(
        self, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", address)
        with pytest.raises(StoreError, match="the proxy that the environment names for https://") as caught:
            Pipeline("https://127.0.0.1:1/a", KEY)
        assert_nowhere("cret", caught.value)

    async def test_a_proxy_that_refuses_is_said_with_its_status(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def who_are_you(_: Request) -> bytes:
            return http(407)

        async with RawServer(who_are_you) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
            store = TableStore("https://127.0.0.1:1/a", credential=KEY)
            with pytest.raises(StoreUnavailableError, match=r"\(ClientHttpProxyError, 407\)"):
                await store.__aenter__()

    @pytest.mark.parametrize("write", [False, True])
    async def test_no_error_log_or_span_shows_the_password_of_a_proxy(
        self,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        tracing: type[FakeSpan],
        *,
        write: bool,
    ) -> None:
        async def who_are_you(_: Request) -> bytes:
            return http(407)

        caplog.set_level(logging.DEBUG)
        async with RawServer(who_are_you) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:proxy%2Fsecret@127.0.0.1:{proxy.port}")
            pipeline = Pipeline("https://127.0.0.1:1/a", AzureSasCredential("sv=1&sig=secret"), QUICK)
            url = "https://127.0.0.1:1/a/b"
            with pytest.raises(AzureError) as caught:
                await (pipeline.post(url, {}, b"x") if write else pipeline.get(url, {}))
            await pipeline.close()
        assert_nowhere("secret", caught.value)
        assert "secret" not in caplog.text
        assert tracing.made
        assert "secret" not in "".join(str(vars(span)) for span in tracing.made)

    async def test_requests_go_through_the_proxy_with_its_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with RawServer(fine, keep=True) as proxy:
            monkeypatch.setenv("HTTP_PROXY", f"http://user:password@127.0.0.1:{proxy.port}")
            pipeline = Pipeline("http://tables.example.com", KEY)
            await pipeline.get("http://tables.example.com/a()", {})
            await pipeline.post("http://tables.example.com/$batch", {}, b"x")
            await pipeline.close()
        assert [request.line for request in proxy.seen] == [
            "GET http://tables.example.com/a() HTTP/1.1",
            "POST http://tables.example.com/$batch HTTP/1.1",
        ]
        password = base64.b64encode(b"user:password").decode()
        assert {request.headers["proxy-authorization"] for request in proxy.seen} == {f"Basic {password}"}

    async def test_the_environment_is_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with RawServer(fine) as server:
            pipeline = Pipeline(f"http://127.0.0.1:{server.port}/someone", KEY, QUICK)
            monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
            await pipeline.get(f"http://127.0.0.1:{server.port}/someone/a()", {})
            await pipeline.close()
        assert len(server.seen) == 1


class FakeSpan:
    """As much of `azure.core.tracing.AbstractSpan` as the tracing policy wants."""

    made: ClassVar[list[FakeSpan]] = []

    def __init__(self, **_: Any) -> None:
        self.span_instance = self
        self.attributes: dict[str, Any] = {}
        self.ended = False
        self.made.append(self)

    @classmethod
    def change_context(cls, span: Any) -> Any:
        return _Nothing()

    @classmethod
    def get_current_span(cls) -> Any:
        return None

    def to_header(self) -> dict[str, str]:
        return {"traceparent": "00-1-2-01"}

    def add_attribute(self, name: str, value: Any) -> None:
        self.attributes[name] = value

    def set_http_attributes(self, request: Any, response: Any = None) -> None:
        self.attributes["url"] = request.url  # as it is: azure-core before 1.40 hides nothing of it
        self.attributes["status"] = None if response is None else response.status_code

    def start(self) -> None: ...  # azure-core before 1.33

    def finish(self) -> None:
        self.ended = True

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.ended = True
        self.attributes["error"] = "".join(traceback.format_exception(error))  # as OpenTelemetry records it


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class TestWhatIsTold:
    async def test_each_attempt_is_traced(self, tracing: type[FakeSpan]) -> None:
        async with RawServer(busy) as server:
            await get(server, AzureSasCredential("sv=1&sig=secret"))
            await post(server)
        assert len(tracing.made) == 5
        assert all(span.ended and span.attributes["status"] == 503 for span in tracing.made)
        assert all(request.headers["traceparent"] == "00-1-2-01" for request in server.seen)
        assert "secret" not in str([span.attributes for span in tracing.made])

    async def test_what_fails_is_traced_without_a_signature(self, tracing: type[FakeSpan]) -> None:
        async def nonsense(_: Request) -> bytes:
            return b"nonsense\r\n\r\n"

        async with RawServer(nonsense) as server:
            with pytest.raises(AzureError):
                await get(server, AzureSasCredential("sv=1&sig=secret"))
        assert len(tracing.made) == 4
        assert all(span.ended and span.attributes["error"] for span in tracing.made)
        assert "secret" not in str([span.attributes for span in tracing.made])

    async def test_the_log_has_the_requests_without_keys_rows_and_signatures(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        async with RawServer(fine) as server:
            await get(server, path="/someone/events()?$filter=PartitionKey%20eq%20'private'")
            await get(server, AzureSasCredential("sv=1&sig=secret"))
            await post(server)
        assert "Request method: 'GET'" in caplog.text
        assert "Response status: 200" in caplog.text
        for private in ("private", "secret", "content'", "SharedKey"):
            assert private not in caplog.text


async def test_one_pipeline_serves_many_tasks() -> None:
    async with RawServer(fine, keep=True) as server:
        pipeline = Pipeline(f"http://127.0.0.1:{server.port}/someone", KEY)
        address = f"http://127.0.0.1:{server.port}/someone/a()"
        replies = await asyncio.gather(*[pipeline.get(address, {}) for _ in range(50)])
        assert {reply.status for reply in replies} == {200}
        connections = server.connections
        await asyncio.gather(*[pipeline.get(address, {}) for _ in range(20)])
        assert server.connections == connections, "connections are kept"
        await pipeline.close()
