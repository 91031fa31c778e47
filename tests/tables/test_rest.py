"""The gateway: whatever is answered, a write has one of three outcomes and a read one of two, in time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qsl
from uuid import uuid4

import pytest
from azure.data.tables.aio import TableClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.raw_server import Answer, RawServer, Request, http
from tests.support.secrets import MARKER
from tests.tables.test_multipart import KIND, PIECES, REFUSED, REMOVED, STORED, TAG, reply

from esazure import StoreError, StoreUnavailableError
from esazure.tables import TableStore
from esazure.tables.columns import Row, tag_of, time_of
from esazure.tables.gateway import (
    Operation,
    OutcomeUnknownError,
    RowExistsError,
    RowMissingError,
    TableMissingError,
)
from esazure.tables.layout import Layout
from esazure.tables.pipeline import OPTIONS
from esazure.tables.rest import TableGateway

QUICK = {**OPTIONS, "retry_backoff_factor": 0.001, "read_timeout": 0.5}
DATE = "Mon, 23 Nov 2026 10:47:03 GMT"
ROW: Row = {"PartitionKey": "00", "RowKey": "e.1", "d0": MARKER}
CREATE: Sequence[Operation] = [("create", ROW), ("create", {**ROW, "RowKey": "o.1"})]


def error(code: str) -> bytes:
    return json.dumps({"odata.error": {"code": code, "message": {"lang": "en-US", "value": MARKER}}}).encode()


def refusal(status: int, code: str | None) -> bytes:
    """The reply to a transaction that was refused."""
    body = b"" if code is None else error(code)
    return http(202, reply(REFUSED.partition(b"HTTP")[0] + b"HTTP/1.1 %d -\r\n\r\n%b\r\n" % (status, body)), KIND)


def answering(answer: bytes) -> Answer:
    async def answer_all(_: Request) -> bytes:
        return answer

    return answer_all


@asynccontextmanager
async def gateway_to(
    server: RawServer, *, patience: float = 5, table: str = "events", options: dict[str, Any] | None = None
) -> AsyncIterator[TableGateway]:
    client = TableClient.from_connection_string(server.connection_string, table)
    gateway = TableGateway(client, patience=patience, options=options or QUICK)
    await gateway.open()
    try:
        yield gateway
    finally:
        await gateway.close()


async def submit(answer: bytes, operations: Sequence[Operation] = CREATE, *, patience: float = 5) -> Sequence[str]:
    async with RawServer(answering(answer)) as server, gateway_to(server, patience=patience) as gateway:
        return await gateway.submit(operations)


async def query(answer: bytes, *, patience: float = 5) -> Sequence[Any]:
    async with RawServer(answering(answer)) as server, gateway_to(server, patience=patience) as gateway:
        return await gateway.query("00", "a", "b")


async def test_two_rows_are_asked_for_by_column_and_what_they_do_not_have_is_left_out() -> None:
    view = {"PartitionKey": "00", "RowKey": "v", "name": "it's", "n": None, "z": None, "v1@odata.type": "Edm.Binary"}
    rows = [{**view, "v1": None}, {"PartitionKey": "00", "RowKey": "w", "n": 1}, {"PartitionKey": "00", "RowKey": "x"}]
    answer = http(200, json.dumps({"value": rows}).encode(), "application/json", Date=DATE)
    async with RawServer(answering(answer)) as server, gateway_to(server) as gateway:
        found = await gateway.query_two("00", "a", "b", "it's", ("n", "v1"))
    assert found == [{"PartitionKey": "00", "RowKey": "v", "name": "it's"}, rows[1]]
    (request,) = server.seen
    asked = dict(parse_qsl(request.line.split()[1].partition("?")[2]))
    assert asked == {
        "$filter": "PartitionKey eq '00' and RowKey ge 'a' and RowKey le 'b' and (name eq 'it''s' or n ge 1)",
        "$top": "2",
        "$select": "PartitionKey,RowKey,Timestamp,n,v1",
    }


async def test_an_applied_transaction_gives_the_tag_of_each_row() -> None:
    assert list(await submit(http(202, reply(STORED, STORED), KIND))) == [TAG, TAG]
    assert list(await submit(http(202, reply(REMOVED), KIND), [("delete", ROW)])) == [""]


REFUSALS = [
    *(
        (400, "InvalidInput", StoreError),
        (400, "InvalidDuplicateRow", StoreError),
        (403, "AuthorizationFailure", StoreError),
    ),
    *(
        (404, "TableNotFound", TableMissingError),
        (409, "EntityAlreadyExists", RowExistsError),
        (409, None, RowExistsError),
    ),
    *((409, "TableBeingDeleted", StoreUnavailableError), (409, "AccountBeingCreated", StoreError)),
    *((412, "UpdateConditionNotSatisfied", RowExistsError), (413, "RequestBodyTooLarge", StoreError)),
]


@pytest.mark.parametrize(("status", "code", "meaning"), REFUSALS)
async def test_a_transaction_refused_within_or_without_is_told_by_its_code(
    status: int, code: str | None, meaning: type[Exception]
) -> None:
    for answer in (refusal(status, code), http(status, b"" if code is None else error(code))):
        with pytest.raises(meaning) as caught:
            await submit(answer)
        assert type(caught.value) is meaning
        assert MARKER not in f"{caught.value}{caught.value.__cause__}"


async def test_a_code_may_be_in_the_header_alone() -> None:
    with pytest.raises(TableMissingError):
        await submit(http(404, x_ms_error_code="TableNotFound"))


async def test_a_row_can_only_be_missing_where_one_was_asked_for() -> None:
    for operations in ([("delete", ROW)], [("replace", ROW, 'W/"1"')], [("delete", ROW, 'W/"1"'), ("create", ROW)]):
        with pytest.raises(RowMissingError):
            await submit(refusal(404, "ResourceNotFound"), operations)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="is the endpoint right"):
        await submit(refusal(404, "ResourceNotFound"))
    with pytest.raises(StoreError, match="is the endpoint right"):
        await submit(http(404, b"<html>nothing here</html>", "text/html"))


@pytest.mark.parametrize("tag", ["", "x", '"a\r\nX: y"', "*", '"a', 'W/""'])
async def test_a_tag_no_row_can_have_is_not_sent(tag: str) -> None:
    async with RawServer(answering(b"")) as server, gateway_to(server) as gateway:
        for kind in ("replace", "delete"):
            with pytest.raises(RowExistsError):
                await gateway.submit([(kind, ROW, tag)])  # type: ignore[list-item]
    assert server.seen == []


NO_ANSWERS = [
    *(http(status) for status in (200, 201, 204, 302, 408, 429, 500, 502, 503, 504, 507)),
    *(refusal(status, "OperationTimedOut") for status in (302, 408, 429, 500, 503)),
    *(b"", b"HTTP/1.1 202", b"HTTP/1.1 202 -\r\n\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 999999 -\r\n\r\n"),
    *(http(202), http(202, b"{}"), http(202, reply(STORED), KIND), http(202, reply(STORED, STORED, STORED), KIND)),
    *(http(202, reply(STORED, STORED)), http(202, reply(STORED, STORED), "multipart/mixed"), http(202, b"", KIND)),
    *(http(202, reply(STORED, STORED)[:-60], KIND), http(202, reply(STORED, STORED), KIND)[:-20]),
    *(http(status, reply(STORED, STORED), KIND) for status in (200, 204, 302)),
    *(
        http(202, reply(STORED, STORED).replace(b"1.1 204", b"1.1 %d" % status), KIND)
        for status in (100, 199, 302, 600)
    ),
    http(202, reply(STORED, STORED), KIND, Content_Encoding="gzip"),
    http(202, reply(STORED, STORED), KIND, Transfer_Encoding="chunked"),
    http(202, reply(STORED, STORED), KIND).replace(b"Content-Length", b"Content-Length: 5\r\nContent-Length"),
]


@pytest.mark.parametrize("answer", NO_ANSWERS)
async def test_everything_else_is_an_unknown_outcome(answer: bytes) -> None:
    with pytest.raises(OutcomeUnknownError):
        await submit(answer)


@pytest.mark.parametrize(
    ("asked", "wait"),
    [("3", 3.0), ("0.5", 0.5), ("soon", None), ("-1", None), ("nan", None), ("inf", None), ("1e99", None)],
)
async def test_an_unknown_outcome_says_how_long_to_wait(asked: str, wait: float | None) -> None:
    with pytest.raises(OutcomeUnknownError) as caught:
        await submit(http(503, retry_after=asked))
    assert caught.value.retry_after == wait


@pytest.mark.parametrize(
    "answer",
    [
        *(http(status) for status in (201, 204, 302, 408, 429, 500, 503)),
        *(b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", http(200), http(200, b"<html>"), http(200, b'{"value":5}')),
        *(http(200, b'{"value":[]}', "text/html"), http(200, b'{"value":[{}]}'), http(200, b'{"value":[]}')[:-2]),
        http(200, b'{"value":[]}', Content_Encoding="gzip"),
    ],
)
async def test_a_read_without_an_answer_is_unavailable(answer: bytes) -> None:
    with pytest.raises(StoreUnavailableError):
        await query(answer)


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        *((400, "InvalidInput", StoreError), (403, "AuthorizationFailure", StoreError), (404, None, StoreError)),
        *((404, "TableNotFound", TableMissingError), (409, "TableBeingDeleted", StoreUnavailableError)),
    ],
)
async def test_a_refused_read_is_told_by_its_code(status: int, code: str | None, meaning: type[Exception]) -> None:
    with pytest.raises(meaning) as caught:
        await query(http(status, b"" if code is None else error(code)))
    assert type(caught.value) is meaning


@pytest.mark.parametrize("piece", [b" ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"X: y\r\n"])
async def test_a_byte_now_and_then_is_no_answer(piece: bytes) -> None:
    async def trickle(_: Request) -> AsyncIterator[bytes]:
        yield piece
        while True:
            yield b"a"
            await asyncio.sleep(0.05)

    async with RawServer(trickle) as server, gateway_to(server, patience=0.3) as gateway:
        started = asyncio.get_running_loop().time()
        with pytest.raises(OutcomeUnknownError):
            await gateway.submit(CREATE)
        with pytest.raises(StoreUnavailableError):
            await gateway.query("00", "a", "b")
        assert asyncio.get_running_loop().time() - started < 3


async def test_who_says_nothing_is_waited_for_as_long_as_the_options_say() -> None:
    async def wait(_: Request) -> bytes:
        await asyncio.sleep(30)
        return b""

    options = {**QUICK, "read_timeout": 0.1, "retry_total": 1}
    async with RawServer(wait) as server, gateway_to(server, patience=20, options=options) as gateway:
        started = asyncio.get_running_loop().time()
        with pytest.raises(OutcomeUnknownError):
            await gateway.submit(CREATE)
        with pytest.raises(StoreUnavailableError):
            await gateway.query("00", "a", "b")
        assert asyncio.get_running_loop().time() - started < 5
    assert len(server.seen) == 3


HEADS = st.builds(
    lambda status, fields: b"HTTP/1.1 %d OK\r\n%b\r\n" % (status, b"".join(b"%b: %b\r\n" % field for field in fields)),
    st.integers(0, 999),
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"Content-Type", b"Content-Length", b"Transfer-Encoding", b"Content-Encoding", b"Retry-After"]
            ),
            st.sampled_from([KIND.encode(), b"5", b"-1", b"0", b"chunked", b"gzip", b"br", b"identity", b"x", b"1e9"])
            | st.binary(max_size=6),
        ),
        max_size=4,
    ),
)
BODIES = (
    st.binary(max_size=200)
    | st.lists(PIECES).map(lambda pieces: reply(*pieces))
    | st.sampled_from([b"5\r\nabcde\r\n0\r\n\r\n", b'{"value":[]}', reply(STORED, STORED)])
)
ANSWERS = (
    st.binary(max_size=300)
    | st.builds(bytes.__add__, HEADS, BODIES)
    | st.builds(http, st.integers(100, 599), BODIES, st.sampled_from([KIND, "application/json", "text/html", ""]))
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(ANSWERS)
def test_whatever_is_answered_a_write_has_one_of_its_outcomes(answer: bytes) -> None:
    async def write() -> None:
        try:
            tags = await submit(answer, patience=1)
        except (RowExistsError, RowMissingError, OutcomeUnknownError, StoreError):
            return
        assert len(tags) == 2

    asyncio.run(write())


@FUZZ
@given(ANSWERS)
def test_whatever_is_answered_a_read_has_rows_or_one_of_its_errors(answer: bytes) -> None:
    async def read() -> None:
        try:
            rows = await query(answer, patience=1)
        except StoreError:
            return
        assert all(isinstance(row["RowKey"], str) for row in rows)

    asyncio.run(read())


class TestPages:
    @staticmethod
    def serving(pages: dict[str, tuple[list[str], dict[str, str]]]) -> Answer:
        """Pages by the token that asks for them."""

        async def serve(request: Request) -> bytes:
            asked = dict(parse_qsl(request.line.split()[1].partition("?")[2]))
            keys, following = pages[f"{asked.get('NextPartitionKey', '')} {asked.get('NextRowKey', '')}"]
            rows = [{"PartitionKey": "00", "RowKey": key, "Timestamp": "2026-11-23T10:47:00Z"} for key in keys]
            return http(200, json.dumps({"value": rows}).encode(), Date=DATE, **following)

        return serve

    TWO: ClassVar[dict[str, tuple[list[str], dict[str, str]]]] = {
        " ": (["a", "b"], {"x_ms_continuation_NextPartitionKey": "1!a/b=+", "x_ms_continuation_NextRowKey": "2 c&d"}),
        "1!a/b=+ 2 c&d": ([], {"x_ms_continuation_NextPartitionKey": "3"}),
        "3 ": (["c", "d"], {}),
    }

    async def test_a_page_that_is_empty_is_not_the_end(self) -> None:
        async with RawServer(self.serving(self.TWO)) as server, gateway_to(server) as gateway:
            assert [row["RowKey"] for row in await gateway.query("00", "a", "z")] == ["a", "b", "c", "d"]
            rows, now = await gateway.query_with_time("00", "a", "z")
            assert len(rows) == 4
            assert now == datetime(2026, 11, 23, 10, 47, 3, tzinfo=UTC)
            pages = [[row["RowKey"] for row in page] async for page in gateway.pages(("00", "ff"))]
        assert pages == [["a", "b"], [], ["c", "d"]]
        assert len(server.seen) == 9

    async def test_no_more_is_asked_for_than_wanted(self) -> None:
        async with RawServer(self.serving(self.TWO)) as server, gateway_to(server) as gateway:
            assert [row["RowKey"] for row in await gateway.query("00", "a", "z", 1)] == ["a"]
            assert len(server.seen) == 1
            assert [row["RowKey"] for row in await gateway.query("00", "a", "z", 3)] == ["a", "b", "c"]
        assert "&$top=1 " in server.seen[0].line
        assert "&$top=3&" in server.seen[3].line

    async def test_a_page_is_asked_for_when_it_is_wanted(self) -> None:
        async with RawServer(self.serving(self.TWO)) as server, gateway_to(server) as gateway:
            pages = gateway.pages(("00", "00"), ("a", "z"), size=5)
            await anext(pages)
            assert len(server.seen) == 1
            await pages.aclose()

    @pytest.mark.parametrize(
        ("partitions", "keys", "condition"),
        [
            (("0", "0"), ("a", "z"), "PartitionKey eq '0' and RowKey ge 'a' and RowKey le 'z'"),
            (("0", "f"), ("a", "z"), "PartitionKey ge '0' and PartitionKey le 'f' and RowKey ge 'a' and RowKey le 'z'"),
            (("0", "f"), None, "PartitionKey ge '0' and PartitionKey le 'f'"),
            (("a'b", "a'b"), None, "PartitionKey eq 'a''b'"),
            (("x' or '1' eq '1", "x' or '1' eq '1"), None, "PartitionKey eq 'x'' or ''1'' eq ''1'"),
        ],
    )
    async def test_a_range_is_a_condition_that_no_key_can_change(
        self, partitions: tuple[str, str], keys: tuple[str, str] | None, condition: str
    ) -> None:
        async with RawServer(answering(http(200, b'{"value":[]}'))) as server, gateway_to(server) as gateway:
            assert [page async for page in gateway.pages(partitions, keys)] == [[]]
        quoted = condition.replace(" ", "%20").replace("'", "%27")
        assert server.seen[0].line.replace("'", "%27") == f"GET /someone/events()?$filter={quoted} HTTP/1.1"

    async def test_the_same_page_for_ever_is_no_answer(self) -> None:
        again = http(200, b'{"value":[]}', x_ms_continuation_NextPartitionKey="1")
        with pytest.raises(StoreUnavailableError):
            await query(again)

    @pytest.mark.parametrize("date", ["", "yesterday", "Mon, 23 Nov 2026 10:47:03 -0000", "1 Jan 99999 00:00:00 GMT"])
    async def test_without_the_time_of_the_service_there_are_no_ages(self, date: str) -> None:
        answer = http(200, b'{"value":[]}', Date=date)
        async with RawServer(answering(answer)) as server, gateway_to(server) as gateway:
            with pytest.raises(StoreUnavailableError, match="without the time"):
                await gateway.query_with_time("00", "a", "b")

    async def test_nor_without_the_time_of_a_row(self) -> None:
        answer = http(200, b'{"value":[{"PartitionKey":"a","RowKey":"b"}]}', Date=DATE)
        async with RawServer(answering(answer)) as server, gateway_to(server) as gateway:
            with pytest.raises(StoreUnavailableError, match="without the time"):
                await gateway.query_with_time("00", "a", "b")


async def test_nothing_of_a_row_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await submit(http(202, reply(STORED, STORED), KIND))
    page = json.dumps({"value": [{**ROW, "RowKey": "private-key"}]}).encode()
    assert len(await query(http(200, page))) == 1
    assert caplog.text
    assert "private-key" not in caplog.text
    assert MARKER not in caplog.text


@pytest.mark.azurite
class TestOnAzurite:
    @pytest.fixture
    async def gateway(self, tables: str) -> AsyncIterator[TableGateway]:
        gateway = TableGateway(TableClient.from_connection_string(tables, f"t{uuid4().hex}"), patience=10)
        await gateway.open()
        await gateway.create_table()
        yield gateway
        await gateway._client.delete_table()
        await gateway.close()

    async def test_what_is_stored_comes_back_and_the_sdk_reads_the_same(self, gateway: TableGateway) -> None:
        row: Row = {"PartitionKey": "00", "RowKey": "e.1", "n": -(2**31), "m": 2**31 - 1, "t": True, "f": False}
        row |= {"e": "", "z": b"", "b": bytes(range(256))}
        row["s"] = "\x00\x01\t\r\n\x7f\x85\u2028\u2029\ufffe\uffff 😀 ä ' \" \\ {}} \u05d0"
        row["x"] = "\r\n--changeset_\r\n--batch_\r\n{}\r\nHTTP/1.1 204 No Content\r\nDELETE http://a/b/c HTTP/1.1"
        (tag,) = await gateway.submit([("create", row)])
        (back,) = await gateway.query("00", "e.1", "e.1")
        assert {name: back[name] for name in row} == row
        assert {name: type(back[name]) for name in row} == {name: type(value) for name, value in row.items()}
        entity = await gateway._client.get_entity("00", "e.1")
        assert dict(entity) == row
        assert (tag_of(back), time_of(back)) == (entity.metadata["etag"], entity.metadata["timestamp"])
        assert tag_of(back) == tag

    @pytest.mark.parametrize("key", ["a'b", "a b", "ä.ö", "a%27b", "a&b=c", "(1)", "a+b", "!@$^*;,~`|[]<>"])
    async def test_every_operation_finds_its_row_whatever_the_key(self, gateway: TableGateway, key: str) -> None:
        row: Row = {"PartitionKey": key, "RowKey": key, "n": 1}
        (tag,) = await gateway.submit([("create", row)])
        (tag,) = await gateway.submit([("replace", {**row, "n": 2}, tag)])
        await gateway.submit([("upsert", {**row, "n": 3})])
        (found,) = await gateway.query(key, key, key)
        assert found["n"] == 3
        with pytest.raises(RowExistsError):
            await gateway.submit([("delete", row, tag)])
        await gateway.submit([("delete", row, tag_of(found))])
        assert await gateway.query(key, key, key) == []

    async def test_each_operation_has_its_outcomes(self, gateway: TableGateway) -> None:
        row: Row = {"PartitionKey": "00", "RowKey": "1", "old": "x"}
        other: Row = {"PartitionKey": "00", "RowKey": "2"}
        for missing in (("delete", row), ("replace", row, 'W/"1"'), ("delete", row, 'W/"1"')):
            with pytest.raises(RowMissingError):
                await gateway.submit([("create", other), missing])  # type: ignore[list-item]
        (first,) = await gateway.submit([("upsert", row)])
        with pytest.raises(RowExistsError):
            await gateway.submit([("create", other), ("create", row)])
        assert len(await gateway.query("00", "1", "2")) == 1, "all or nothing"
        (second,) = await gateway.submit([("replace", {"PartitionKey": "00", "RowKey": "1", "new": "y"}, first)])
        (found,) = await gateway.query("00", "1", "1")
        assert "old" not in found
        for stale in (("replace", row, first), ("delete", row, first)):
            with pytest.raises(RowExistsError):
                await gateway.submit([stale])  # type: ignore[list-item]
        assert await gateway.submit([("delete", row, second), ("create", other)]) == [
            "",
            tag_of((await gateway.query("00", "2", "2"))[0]),
        ]

    async def test_a_hundred_rows_and_pages_of_a_thousand(self, gateway: TableGateway) -> None:
        rows: list[Row] = [{"PartitionKey": f"{n % 3:02x}", "RowKey": f"{n:04}", "d0": "x" * 900} for n in range(2_400)]
        for partition in range(3):
            mine = rows[partition::3]
            for start in range(0, len(mine), 100):
                assert len(await gateway.submit([("create", row) for row in mine[start : start + 100]])) == 100
        assert [row["RowKey"] for row in await gateway.query("00", "0000", "9999")] == [
            f"{n:04}" for n in range(0, 2_400, 3)
        ]
        pages = [page async for page in gateway.pages(("00", "01"), ("0100", "9999"))]
        assert [len(page) for page in pages] == [1_000, 533]
        found = [(row["PartitionKey"], row["RowKey"]) for page in pages for row in page]
        assert found == sorted(found)
        assert len(await gateway.query("02", "0000", "9999", 7)) == 7

    @pytest.mark.parametrize("call", ["submit", "query", "pages"])
    async def test_a_table_that_is_gone_is_told(self, gateway: TableGateway, call: str) -> None:
        await gateway._client.delete_table()
        calls: dict[str, Callable[[], Any]] = {
            "submit": lambda: gateway.submit(CREATE),
            "query": lambda: gateway.query("00", "a", "b"),
            "pages": lambda: anext(gateway.pages(("00", "01"))),
        }
        with pytest.raises(TableMissingError):
            await calls[call]()
        await gateway.create_table()
        await gateway.create_table()
        assert await gateway.query("00", "a", "b") == []


class TestCreatingTheTable:
    async def test_it_is_asked_for_by_its_name_and_signed(self) -> None:
        async with RawServer(answering(http(204))) as server, gateway_to(server) as gateway:
            await gateway.create_table()
        (request,) = server.seen
        assert request.line == "POST /someone/Tables HTTP/1.1"
        assert request.body == b'{"TableName": "events"}'
        assert request.headers["authorization"].startswith("SharedKey someone:")

    async def test_one_that_is_there_already_is_fine(self) -> None:
        async with (
            RawServer(answering(http(409, error("TableAlreadyExists")))) as server,
            gateway_to(server) as gateway,
        ):
            await gateway.create_table()

    @pytest.mark.parametrize(
        ("status", "code", "words", "unavailable"),
        [
            (409, "TableBeingDeleted", "is being deleted", True),
            (403, "AuthorizationPermissionMismatch", "its roles", False),
            (400, "InvalidResourceName", "should accept", False),
            (503, "ServerBusy", "did not answer", True),
        ],
    )
    async def test_a_refusal_says_why(self, status: int, code: str, words: str, *, unavailable: bool) -> None:
        async with RawServer(answering(http(status, error(code)))) as server, gateway_to(server) as gateway:
            with pytest.raises(StoreError, match=words) as caught:
                await gateway.create_table()
        assert isinstance(caught.value, StoreUnavailableError) is unavailable


async def to_the_hour(_: Request) -> bytes:
    return http(503, retry_after="3600")


async def no_answer(_: Request) -> bytes:
    await asyncio.sleep(3600)
    return b""


async def no_table_and_to_the_hour(request: Request) -> bytes:
    if request.line.split()[1].endswith("/Tables"):
        return await to_the_hour(request)
    return refusal(404, "TableNotFound") if "$batch" in request.line else http(404, error("TableNotFound"))


@pytest.mark.parametrize("answer", [to_the_hour, no_answer, no_table_and_to_the_hour])
async def test_opening_keeps_its_deadline_whatever_the_service_asks_for(answer: Answer) -> None:
    async with RawServer(answer, keep=True) as server, asyncio.timeout(60):
        with pytest.raises(StoreUnavailableError):
            await TableStore.from_connection_string(server.connection_string, deadline=0.3).__aenter__()
    if answer is no_table_and_to_the_hour:
        assert server.seen[-1].line.startswith("POST /someone/Tables ")


async def test_opening_takes_one_deadline_and_not_one_for_each_request() -> None:
    async def slowly(request: Request) -> bytes:
        await asyncio.sleep(0.4)
        return await no_table_and_to_the_hour(request)

    async with RawServer(slowly, keep=True) as server, asyncio.timeout(60):
        with pytest.raises(StoreUnavailableError, match=r"not opened within 0\.7 s"):
            await TableStore.from_connection_string(server.connection_string, deadline=0.7).__aenter__()
    assert len(server.seen) == 2


CALLS: dict[str, Callable[[TableStore], Any]] = {
    "read": lambda store: store.read("Counter.a"),
    "load": lambda store: anext(store.load("Counter.a")),
    "find_command": lambda store: store.find_command("Counter.a", "c"),
    "remember_command": lambda store: store.remember_command("Counter.a", "c", version=0),
    "forbid": lambda store: store.find_command("Counter.a", "c", forbid=True),
    "read_view": lambda store: store.read_view("Counter.a", "card"),
    "unpublished": lambda store: store.unpublished("Counter.a", before_version=3),
    "sweep": lambda store: store.sweep("00"),
    "scan": lambda store: anext(aiter(store.scan("00", "Counter"))),
    "read_document": lambda store: store.read_document("c", "k"),
    "write_document": lambda store: store.write_document("c", "k", "x", seen=None),
    "list_documents": lambda store: store.list_documents("c"),
    "clear_documents": lambda store: store.clear_documents("c"),
}


@pytest.mark.parametrize("call", CALLS)
async def test_no_call_waits_for_as_long_as_the_service_asks(call: str) -> None:
    async with RawServer(to_the_hour) as server, asyncio.timeout(60):
        store = TableStore.from_connection_string(server.connection_string, deadline=0.3)
        store._opened = Layout(uuid4(), 64)
        with pytest.raises(StoreUnavailableError):
            await CALLS[call](store)
        await store.__aexit__()
