"""Each branch of the three-outcome append, with a scripted service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from esazure import AppendOutcomeUnknownError, ConcurrencyError, StoreError, StoreUnavailableError
from esazure.errors import CommandHandledError, StoreMismatchError
from esazure.events import CommitRecord
from esazure.tables import append as append_module
from esazure.tables.append import append
from esazure.tables.gateway import (
    PAGE,
    ITableGateway,
    Operation,
    OutcomeUnknownError,
    RowExistsError,
    RowMissingError,
)
from esazure.tables.layout import Layout
from esazure.tables.rows import commit_rows

LAYOUT = Layout(UUID(int=1), 64)
RECORD = CommitRecord(
    "Counter.a", "mine", 3, 2, "2026-01-01T00:00:00+00:00", "{}", 'A {}\nA {"secret":1}', after='2 W/"before"'
)
TOUCH = "touch", {"PartitionKey": "00", "RowKey": "e.Counter.a.9999999997"}, 'W/"before"'
OPERATIONS: list[Operation] = [("create", row) for row in commit_rows(RECORD, "00")]


class Script(ITableGateway):
    """Answers in turn; an answer is None (applied), an exception, or for a query the rows."""

    def __init__(self, *submits: Exception | None, queries: Sequence[Exception | list[dict[str, Any]]] = ()) -> None:
        self.submits = list(submits)
        self.queries = list(queries)
        self.sent: list[Sequence[Operation]] = []
        self.asked: list[tuple[str, str, str]] = []
        self.streams: list[Mapping[str, Any]] = []

    @property
    def address(self) -> str:
        return "here"

    async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
        self.sent.append(operations)
        answer = self.submits.pop(0)
        if answer is not None:
            raise answer
        return ["etag"] * len(operations)

    async def query(self, partition: str, low: str, high: str, top: int | None = None) -> list[Mapping[str, Any]]:
        self.asked.append((partition, low, high))
        answer = self.queries.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    async def pages(
        self, partitions: tuple[str, str], keys: tuple[str, str] | None = None, *, size: int = PAGE
    ) -> AsyncGenerator[Sequence[Mapping[str, Any]], None]:
        yield self.streams


SLOT_KEY, STREAM_END = "e.Counter.a.9999999996", "e.Counter.a.9999999999.9"


def slot(commit_id: str, count: int | None) -> dict[str, Any]:
    return {"RowKey": SLOT_KEY, "cid": commit_id, "n": count, "odata.etag": 'W/"slot"'}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_module, "FIRST_PAUSE", 0.0)


async def run(script: Script, deadline: float = 5.0, record: CommitRecord = RECORD) -> None:
    await append(script, LAYOUT, record, "00", OPERATIONS, deadline=deadline)
    assert not script.submits
    assert not script.queries


async def test_applied_at_once_is_one_request() -> None:
    script = Script(None)
    await run(script)
    assert len(script.sent) == 1
    assert not script.asked


async def test_no_answer_sends_the_same_rows_again() -> None:
    script = Script(OutcomeUnknownError(), OutcomeUnknownError(), None)
    await run(script)
    assert script.sent == [[*OPERATIONS, TOUCH]] * 3


async def test_a_taken_slot_with_our_commit_id_is_our_own_write() -> None:
    script = Script(OutcomeUnknownError(), RowExistsError(), queries=[[slot("mine", 2)]])
    await run(script)
    assert script.asked == [("00", SLOT_KEY, STREAM_END)]


async def test_a_taken_slot_with_another_commit_id_is_a_conflict_even_at_the_first_attempt() -> None:
    script = Script(RowExistsError(), queries=[[slot("theirs", 5)]])
    with pytest.raises(ConcurrencyError, match=r"Counter\.a is at version 7, this copy was loaded at 2") as caught:
        await run(script)
    assert (caught.value.expected, caught.value.actual) == (2, 7)


async def test_a_conflict_after_lost_answers_is_still_a_conflict() -> None:
    script = Script(OutcomeUnknownError(), RowExistsError(), queries=[[slot("theirs", None)]])
    with pytest.raises(ConcurrencyError, match="has moved on"):
        await run(script)


async def test_a_read_back_that_fails_is_tried_again_until_it_answers() -> None:
    script = Script(RowExistsError(), queries=[StoreUnavailableError("away"), [slot("mine", 2)]])
    await run(script)


BEFORE = {"RowKey": "e.Counter.a.9999999997", "cid": "before", "n": 1, "odata.etag": 'W/"before"'}


@pytest.mark.parametrize("refusal", [RowExistsError, RowMissingError])
async def test_a_stream_that_is_gone_is_a_conflict_at_version_0(refusal: type[Exception]) -> None:
    with pytest.raises(ConcurrencyError, match="is at version 0, this copy was loaded at 2"):
        await run(Script(refusal(), queries=[[]]))


async def test_a_stream_that_ends_before_what_was_seen_is_a_conflict_there() -> None:
    with pytest.raises(ConcurrencyError, match="is at version 1, this copy was loaded at 2"):
        await run(Script(RowMissingError(), queries=[[BEFORE | {"RowKey": "e.Counter.a.9999999998"}]]))


async def test_another_commit_before_the_slot_is_a_conflict_at_the_same_version() -> None:
    with pytest.raises(ConcurrencyError, match="has other events up to version 2") as caught:
        await run(Script(RowExistsError(), queries=[[BEFORE | {"odata.etag": 'W/"other"', "cid": "other"}]]))
    assert (caught.value.expected, caught.value.actual) == (2, 2)


async def test_a_refusal_where_nothing_is_in_the_way_is_tried_again() -> None:
    script = Script(RowExistsError(), None, queries=[[BEFORE]])
    await run(script)
    assert script.sent == [[*OPERATIONS, TOUCH]] * 2


async def test_a_refusal_where_nothing_is_in_the_way_for_long_is_unknown() -> None:
    class Orphaned(Script):
        async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
            raise RowExistsError

        async def query(self, partition: str, low: str, high: str, top: int | None = None) -> list[Mapping[str, Any]]:
            return [BEFORE]

    with pytest.raises(AppendOutcomeUnknownError):
        await run(Orphaned(), deadline=0.1)


@pytest.mark.parametrize("after", ["", "before"], ids=["nothing is said", "an id is said"])
async def test_what_a_commit_follows_is_looked_for_when_it_is_not_known(after: str) -> None:
    script = Script(None, queries=[[BEFORE]])
    await run(script, record=replace(RECORD, after=after))
    assert script.sent == [[*OPERATIONS, TOUCH]]


async def test_what_a_commit_follows_is_not_there_when_its_id_is_another() -> None:
    with pytest.raises(ConcurrencyError, match="has other events up to version 2"):
        await run(Script(queries=[[BEFORE]]), record=replace(RECORD, after="another"))


async def test_a_stored_commit_is_known_by_its_place_and_the_tag_of_its_row() -> None:
    stored, found = replace(RECORD), replace(RECORD)
    await run(Script(None), record=stored)
    await run(Script(OutcomeUnknownError(), RowExistsError(), queries=[[slot("mine", 2)]]), record=found)
    assert (stored.tag, found.tag) == ("3 etag", '3 W/"slot"')


FIRST = replace(RECORD, first_version=1, after="")
PRESENCE = "touch", {"PartitionKey": "00", "RowKey": "s.00000000-0000-0000-0000-000000000001"}
META = {"layout": 2, "shards": 64, "sid": "00000000-0000-0000-0000-000000000001"}


async def test_the_first_stream_of_a_shard_is_stored_once_the_layout_row_was_seen() -> None:
    script = Script(RowMissingError(), None, None, queries=[[META]])
    await run(script, record=FIRST)
    assert script.sent == [[*OPERATIONS, PRESENCE], [("create", PRESENCE[1])], [*OPERATIONS, PRESENCE]]
    assert script.asked == [("meta", "store", "store")]


@pytest.mark.parametrize("row", [[META | {"shards": 16}], [META | {"sid": str(UUID(int=2))}]])
async def test_a_first_commit_is_refused_when_the_layout_row_is_another(row: list[dict[str, Any]]) -> None:
    with pytest.raises(StoreMismatchError, match="was deleted and created again, or cleared, since"):
        await run(Script(RowMissingError(), queries=[row]), record=FIRST)


async def test_a_first_commit_of_a_lost_answer_and_of_another_table_is_unknown() -> None:
    with pytest.raises(AppendOutcomeUnknownError):
        await run(Script(OutcomeUnknownError(), RowMissingError(), queries=[[META | {"shards": 16}]]), record=FIRST)


async def test_a_first_commit_to_an_emptied_table_is_stored_behind_the_layout_row() -> None:
    script = Script(RowMissingError(), None, None, None, queries=[[], [META]])
    await run(script, record=FIRST)
    layout = "create", {"PartitionKey": "meta", "RowKey": "store"} | META
    assert script.sent == [[*OPERATIONS, PRESENCE], [layout], [("create", PRESENCE[1])], [*OPERATIONS, PRESENCE]]


@pytest.mark.parametrize("answer", [RowExistsError(), None])
async def test_a_layout_row_that_another_one_wrote_first_counts(answer: Exception | None) -> None:
    other = META | {"sid": str(UUID(int=2))}
    with pytest.raises(StoreMismatchError):
        await run(Script(RowMissingError(), answer, queries=[[], [other]]), record=FIRST)


async def test_a_layout_row_without_an_answer_is_looked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    unknown = OutcomeUnknownError()
    # The commit may be there for all that is known, so its slot is looked at first.
    await run(Script(RowMissingError(), unknown, RowMissingError(), None, None, queries=[[], [META]]), record=FIRST)
    assert ["was emptied while it was open" in message for message in caplog.messages] == [True]


async def test_streams_without_a_layout_row_get_none() -> None:
    script = Script(RowMissingError(), queries=[[]])
    script.streams = [slot("another", 1)]
    with pytest.raises(StoreMismatchError):
        await run(script, record=FIRST)


@pytest.mark.parametrize("answer", [RowExistsError(), OutcomeUnknownError()])
async def test_whoever_else_marks_the_shard_does_it_for_all(answer: Exception) -> None:
    await run(Script(RowMissingError(), answer, None, queries=[[META]]), record=FIRST)


MINE = {"cid": "mine", "first": "0000000003"}
COMMAND = replace(RECORD, command_id="pay-1")
COMMAND_KEY = "c.Counter.a.0da3174c441a36c80c2ecf4b"


async def test_the_row_of_the_command_with_our_commit_id_is_our_own_write() -> None:
    script = Script(
        OutcomeUnknownError(), RowExistsError(), queries=[[{"cid": "mine", "first": "0000000003"}], [slot("mine", 2)]]
    )
    await run(script, record=COMMAND)
    assert script.asked == [("00", COMMAND_KEY, COMMAND_KEY), ("00", SLOT_KEY, STREAM_END)]


@pytest.mark.parametrize("before", [(), (OutcomeUnknownError(),)], ids=["at once", "after a lost answer"])
async def test_a_command_of_another_commit_was_handled(before: tuple[Exception, ...]) -> None:
    script = Script(*before, RowExistsError(), queries=[[{"cid": "theirs", "first": "0000000001"}]])
    with pytest.raises(CommandHandledError, match=r"^Counter\.a: this command was carried out before") as caught:
        await run(script, record=COMMAND)
    assert (caught.value.stream, caught.value.first_version) == ("Counter.a", 1)
    assert not script.queries


async def test_a_command_that_was_forbidden_was_given_up() -> None:
    with pytest.raises(CommandHandledError, match="given up") as caught:
        await run(Script(RowExistsError(), queries=[[{"forbidden": True}]]), record=COMMAND)
    assert caught.value.first_version is None


async def test_a_taken_slot_without_a_row_of_the_command_is_a_conflict() -> None:
    script = Script(RowExistsError(), queries=[[], [slot("theirs", 5)]])
    with pytest.raises(ConcurrencyError, match=r"Counter\.a is at version 7"):
        await run(script, record=COMMAND)
    assert [low for _, low, _ in script.asked] == [COMMAND_KEY, SLOT_KEY]


async def test_a_command_without_a_row_of_a_stream_that_is_gone_is_a_conflict() -> None:
    with pytest.raises(ConcurrencyError, match="is at version 0"):
        await run(Script(RowExistsError(), queries=[[], []]), record=COMMAND)


async def test_a_row_of_the_command_that_cannot_be_read_is_asked_for_again() -> None:
    away, found = StoreUnavailableError("away"), [{"cid": "theirs", "first": "0000000001"}]
    with pytest.raises(CommandHandledError):
        await run(Script(RowExistsError(), queries=[away, found]), record=COMMAND)


async def test_a_definite_refusal_at_first_is_passed_on() -> None:
    with pytest.raises(StoreError, match="not allowed"):
        await run(Script(StoreError("not allowed")))


async def test_a_refusal_after_a_lost_answer_is_unknown() -> None:
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await run(Script(OutcomeUnknownError(), StoreError("not allowed")))
    assert (caught.value.expected, caught.value.commit_id) == (2, "mine")


async def test_an_unknown_outcome_says_what_the_last_failure_was() -> None:
    refused = StoreError("not allowed")
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await run(Script(OutcomeUnknownError(), refused))
    assert caught.value.__cause__ is refused


async def test_silence_until_the_deadline_is_unknown_and_takes_no_longer() -> None:
    class Silent(Script):
        async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
            await asyncio.sleep(60)
            return []

    started = asyncio.get_running_loop().time()
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await run(Silent(), deadline=0.2)
    assert 0.19 <= asyncio.get_running_loop().time() - started < 5
    assert "secret" not in str(caught.value)


async def test_the_wait_the_service_asks_for_is_kept() -> None:
    started = asyncio.get_running_loop().time()
    await run(Script(OutcomeUnknownError(retry_after=0.2), None))
    assert asyncio.get_running_loop().time() - started >= 0.19


async def test_cancelling_goes_through_at_once() -> None:
    task = asyncio.create_task(
        append(Script(OutcomeUnknownError(retry_after=60)), LAYOUT, RECORD, "00", OPERATIONS, deadline=90)
    )
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
