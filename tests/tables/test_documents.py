"""Documents as rows of a table: each branch of a write whose answers get lost, long texts, listings, clearing."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fake_tables import FakeGateway, FakeTable
from tests.support.flaky_tables import Fate, FlakyGateway

from esazure import CorruptStreamError, StoreError, StoreUnavailableError
from esazure.documents import Document, DocumentPage
from esazure.tables import documents
from esazure.tables.document_rows import Place, Version, rows_for
from esazure.tables.document_writes import put, remove
from esazure.tables.gateway import ITableGateway, Operation, OutcomeUnknownError, RowExistsError

NOISE = "".join(random.Random(1).choices(string.printable[:94], k=3_000_000))  # noqa: S311 - a seed
PLACE = Place.of("c", "a")


async def write(gateway: ITableGateway, text: str | None, seen: str | None, key: str = "a") -> str | None:
    return await put(gateway, Place.of("c", key), text, seen, deadline=5)


async def text_in(table: FakeTable, key: str = "a") -> str | None:
    document = await documents.read(FakeGateway(table), "c", key)
    return None if document is None else document.text


@pytest.fixture
def table() -> FakeTable:
    return FakeTable()


def test_where_a_document_is() -> None:
    """Pinned: another hash, or another spelling, would lose every document."""
    assert [Place.of("views-g1", key) for key in ("", "ada@example.com", "a-b")] == [
        ("views-g1", "d.views-g1.2", "__"),
        ("views-g1", "d.views-g1.c", "ada_40example_2Ecom"),
        ("views-g1", "d.views-g1.6", "a-b"),
    ]


def test_what_a_document_holds() -> None:
    """Pinned, too."""
    seen = Version(0, ("b", "c"), 'W/"1"')
    assert rows_for(PLACE, "text", "a", seen) == [
        {"PartitionKey": PLACE.partition, "RowKey": "a.0", "w": "a,b,c", "d0": "text"}
    ]
    assert rows_for(PLACE, None, "a", seen) == [
        {"PartitionKey": PLACE.partition, "RowKey": "a.0", "w": "a,b,c", "gone": True}
    ]


def test_the_last_eight_writes_are_remembered() -> None:
    seen = Version(0, tuple("23456789"), 'W/"1"')
    assert rows_for(PLACE, "text", "1", seen)[0]["w"] == "1,2,3,4,5,6,7,8"


@given(
    st.builds(
        Version,
        st.integers(0, 9),
        st.lists(st.text("0123456789abcdef", min_size=12, max_size=12), min_size=1, max_size=8).map(tuple),
        st.text("W/\":'%é,0"),
    )
)
def test_a_tag_says_the_version(version: Version) -> None:
    assert Version.parse(version.tag) == version


@pytest.mark.parametrize("tag", ["", "nonsense", "0:a", 'W/"1"', "x::", "10:a:b", "0:a:b\n"])
async def test_what_never_was_a_tag_is_a_conflict_and_no_request(table: FakeTable, tag: str) -> None:
    await write(FakeGateway(table), "before", None)
    gateway = FlakyGateway(table)
    assert await write(gateway, "text", tag) is None
    assert gateway.sent == []


class TestReplacing:
    """Compare and swap, with every kind of loss."""

    @pytest.mark.parametrize(
        "fates", [("before",), ("after",), ("late",), ("late", "late", "before", "after")], ids=str
    )
    async def test_a_lost_answer_is_found_out(self, table: FakeTable, fates: tuple[Fate, ...]) -> None:
        created = FlakyGateway(table, *fates)
        tag = await write(created, "first", None)
        assert tag is not None
        assert await text_in(table) == "first"
        replaced = FlakyGateway(table, *fates)
        newer = await write(replaced, "second", tag)
        assert newer is not None
        deleted = FlakyGateway(table, *fates)
        assert await write(deleted, None, newer) is not None
        assert await text_in(table) is None
        assert [await gateway.deliver() for gateway in (created, replaced, deleted)] == [0, 0, 0]
        assert await text_in(table) is None

    async def test_a_copy_that_arrives_late_does_not_bring_back_what_was_deleted(self, table: FakeTable) -> None:
        gateway = FlakyGateway(table, "late")
        tag = await write(gateway, "text", None)
        assert tag is not None
        assert await write(FakeGateway(table), None, tag) is not None
        assert await gateway.deliver() == 0
        assert await text_in(table) is None

    @pytest.mark.parametrize("wanted", ["create", "replace"])
    async def test_a_conflict_without_losses_is_known_at_once(self, table: FakeTable, wanted: str) -> None:
        first = await write(FakeGateway(table), "first", None)
        second = await write(FakeGateway(table), "second", first)
        requests = table.requests
        assert await write(FakeGateway(table), "mine", first if wanted == "replace" else None) is None
        assert table.requests - requests == (1 if wanted == "replace" else 2)
        assert await text_in(table) == "second"
        assert second != first

    async def test_one_that_is_gone_is_a_conflict(self, table: FakeTable) -> None:
        tag = await write(FakeGateway(table), "first", None)
        await documents.clear(FakeGateway(table), "c", deadline=5)
        assert await write(FakeGateway(table), "mine", tag) is None
        assert await write(FlakyGateway(table, "before"), "mine", tag) is None
        assert table.rows == {}

    async def test_one_that_was_deleted_can_be_created_again(self, table: FakeTable) -> None:
        tag = await write(FakeGateway(table), "first", None)
        assert tag is not None
        deleted = await write(FakeGateway(table), None, tag)
        gateway = FlakyGateway(table)
        assert await write(gateway, "second", tag) is None
        again = await write(gateway, "second", None)
        assert again not in (None, tag, deleted)
        assert await text_in(table) == "second"
        assert len(gateway.sent) == 1 + 2, "and the row that was left is replaced"

    @pytest.mark.parametrize("fate", ["before", "after", "late"])
    async def test_one_that_was_deleted_is_created_again_over_a_lost_answer(self, table: FakeTable, fate: Fate) -> None:
        tag = await write(FakeGateway(table), "first", None)
        assert tag is not None
        await write(FakeGateway(table), None, tag)
        gateway = FlakyGateway(table, fate)
        assert await write(gateway, "second", None) is not None
        assert await gateway.deliver() == 0
        assert await text_in(table) == "second"

    @pytest.mark.parametrize("exists", ["new", "there"])
    async def test_an_own_write_that_others_have_replaced_since_is_a_success_with_an_old_tag(
        self, table: FakeTable, exists: str
    ) -> None:
        async def others() -> None:
            for number in range(7):
                document = await documents.read(FakeGateway(table), "c", "a")
                assert document is not None
                assert await write(FakeGateway(table), f"{document.text} {number}", document.tag)

        seen = await write(FakeGateway(table), "first", None) if exists == "there" else None
        tag = await write(FlakyGateway(table, "after", meanwhile=others), "mine", seen)
        assert tag is not None
        assert await text_in(table) == "mine 0 1 2 3 4 5 6"
        assert await write(FakeGateway(table), "again", tag) is None, "somebody else has written since"

    @pytest.mark.parametrize("fate", ["before", "late"])
    async def test_a_lost_write_that_others_were_quicker_than_is_a_conflict(self, table: FakeTable, fate: Fate) -> None:
        tag = await write(FakeGateway(table), "first", None)

        async def others() -> None:
            assert await write(FakeGateway(table), "theirs", tag)

        gateway = FlakyGateway(table, fate, meanwhile=others)
        assert await write(gateway, "mine", tag) is None
        assert await gateway.deliver() == 0
        assert await text_in(table) == "theirs"

    @pytest.mark.parametrize("fate", ["before", "after", "late"])
    @pytest.mark.parametrize("exists", ["new", "there"])
    async def test_when_too_many_have_written_since_nobody_knows(
        self, table: FakeTable, fate: Fate, exists: str
    ) -> None:
        seen = await write(FakeGateway(table), "first", None) if exists == "there" else None

        async def others() -> None:
            for number in range(9):
                document = await documents.read(FakeGateway(table), "c", "a")
                assert await write(FakeGateway(table), f"{number}", document.tag if document else None)

        with pytest.raises(StoreUnavailableError, match=r"^c: it is unknown whether a document was changed"):
            await write(FlakyGateway(table, fate, meanwhile=others), "mine", seen)
        assert await text_in(table) == "8"

    async def test_no_answer_until_the_deadline_is_unknown(self, table: FakeTable) -> None:
        started = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailableError, match="it is unknown"):
            await put(FlakyGateway(table, *["before"] * 99), PLACE, "text", None, deadline=0.2)
        assert 0.19 <= asyncio.get_running_loop().time() - started < 5

    async def test_a_refusal_is_definite_unless_an_answer_was_lost_before(self, table: FakeTable) -> None:
        class Refusing(FakeGateway):
            def __init__(self, *answers: Exception) -> None:
                super().__init__(table)
                self.answers = list(answers)

            async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
                raise self.answers.pop(0)

        with pytest.raises(StoreError, match=r"^not allowed$"):
            await write(Refusing(StoreError("not allowed")), "text", None)
        refused = StoreError("not allowed")
        with pytest.raises(StoreUnavailableError, match="it is unknown") as caught:
            await write(Refusing(OutcomeUnknownError(), refused), "text", None)
        assert caught.value.__cause__ is refused

    async def test_a_look_that_fails_is_taken_again(self, table: FakeTable) -> None:
        class Blind(FlakyGateway):
            looks = 0

            async def query(self, partition: str, low: str, high: str, top: int | None = None) -> Any:
                self.looks += 1
                if self.looks == 1:
                    raise StoreUnavailableError("away")
                return await super().query(partition, low, high, top)

        gateway = Blind(table, "after")
        assert await write(gateway, "mine", None) is not None
        assert gateway.looks == 2
        assert await write(Blind(table), "other", None) is None

    async def test_cancelling_goes_through_at_once(self, table: FakeTable) -> None:
        class Slow(FakeGateway):
            async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
                raise OutcomeUnknownError(retry_after=60)

        task = asyncio.create_task(write(Slow(table), "text", None))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestErasing:
    """Nothing stays, not even the key."""

    @pytest.mark.parametrize("text", ["short", NOISE])
    async def test_an_erased_document_leaves_no_row_and_takes_one_request(self, table: FakeTable, text: str) -> None:
        tag = await write(FakeGateway(table), text, None)
        assert tag is not None
        requests = table.requests
        assert await remove(FakeGateway(table), PLACE, tag, deadline=5)
        assert table.requests - requests == 1
        assert table.rows == {}

    @pytest.mark.parametrize(
        "fates", [("before",), ("after",), ("late",), ("late", "late", "before", "after")], ids=str
    )
    async def test_a_lost_answer_is_found_out_and_what_is_late_removes_nothing_else(
        self, table: FakeTable, fates: tuple[Fate, ...]
    ) -> None:
        tag = await write(FakeGateway(table), "first", None)
        assert tag is not None
        gateway = FlakyGateway(table, *fates)
        assert await remove(gateway, PLACE, tag, deadline=5)
        assert table.rows == {}
        await write(FakeGateway(table), "second", None)
        assert await gateway.deliver() == 0
        assert await text_in(table) == "second"

    async def test_what_has_changed_or_is_gone_or_never_was_is_not_erased(self, table: FakeTable) -> None:
        tag = await write(FakeGateway(table), "first", None)
        assert tag is not None
        newer = await write(FakeGateway(table), "second", tag)
        assert newer is not None
        assert not await remove(FakeGateway(table), PLACE, tag, deadline=5)
        assert not await remove(FlakyGateway(table, "before"), PLACE, tag, deadline=5)
        assert not await remove(FakeGateway(table), PLACE, "no tag", deadline=5)
        assert await text_in(table) == "second"
        assert await remove(FakeGateway(table), PLACE, newer, deadline=5)
        assert not await remove(FakeGateway(table), PLACE, newer, deadline=5)

    async def test_no_answer_until_the_deadline_is_unknown(self, table: FakeTable) -> None:
        tag = await write(FakeGateway(table), "first", None)
        assert tag is not None
        with pytest.raises(StoreUnavailableError, match="it is unknown"):
            await remove(FlakyGateway(table, *["before"] * 99), PLACE, tag, deadline=0.2)

    async def test_a_refusal_is_definite_unless_an_answer_was_lost_before(self, table: FakeTable) -> None:
        class Refusing(FakeGateway):
            def __init__(self, *answers: Exception) -> None:
                super().__init__(table)
                self.answers = list(answers)

            async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
                raise self.answers.pop(0)

        tag = await write(FakeGateway(table), "first", None)
        assert tag is not None
        with pytest.raises(StoreError, match=r"^not allowed$"):
            await remove(Refusing(StoreError("not allowed")), PLACE, tag, deadline=5)
        refused = StoreError("not allowed")
        with pytest.raises(StoreUnavailableError, match="it is unknown") as caught:
            await remove(Refusing(OutcomeUnknownError(), refused), PLACE, tag, deadline=5)
        assert caught.value.__cause__ is refused

    async def test_a_late_copy_of_the_creation_of_what_was_erased_brings_it_back_as_it_was_created(
        self, table: FakeTable
    ) -> None:
        """So only documents that mean nothing when they are created are erased."""
        gateway = FlakyGateway(table, "late")
        tag = await write(gateway, "created", None)
        assert tag is not None
        tag = await write(FakeGateway(table), "changed", tag)
        assert tag is not None
        assert await remove(FakeGateway(table), PLACE, tag, deadline=5)
        assert await gateway.deliver() == 1
        assert await text_in(table) == "created"


class TestLongTexts:
    """More than one row."""

    async def test_a_shorter_text_leaves_no_rows_of_a_longer_one(self, table: FakeTable) -> None:
        tag: str | None = None
        for length, rows in ((10, 1), (2_900_000, 4), (1_500_000, 2), (2_000_000, 3), (0, 1), (2_900_000, 4)):
            gateway = FlakyGateway(table)
            tag = await write(gateway, NOISE[:length], tag)
            assert tag is not None
            assert len(gateway.sent) == 1
            assert len(table.rows) == rows
            assert await text_in(table) == NOISE[:length]
        await write(FakeGateway(table), None, tag)
        assert len(table.rows) == 1

    async def test_a_replacement_over_a_lost_answer_leaves_none_either(self, table: FakeTable) -> None:
        tag = await write(FakeGateway(table), NOISE, None)
        assert await write(FlakyGateway(table, "after", "before"), "short", tag) is not None
        assert len(table.rows) == 1
        assert await text_in(table) == "short"

    async def test_a_text_that_changes_between_two_pages_is_read_again(self, table: FakeTable) -> None:
        first = await write(FakeGateway(table), NOISE, None)
        old = await FakeGateway(table).query(PLACE.partition, "a.0", "a.9")
        await write(FakeGateway(table), NOISE[::-1], first)
        new = await FakeGateway(table).query(PLACE.partition, "a.0", "a.9")

        class Torn(FakeGateway):
            answers = [[*old[:2], *new[2:]], new[1:], new]  # noqa: RUF012 - for one test

            async def query(self, partition: str, low: str, high: str, top: int | None = None) -> Any:
                return self.answers.pop(0)

        document = await documents.read(Torn(table), "c", "a")
        assert document is not None
        assert document.text == NOISE[::-1]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda rows: rows.pop("a.1"),
            lambda rows: rows.pop("a.0"),
            lambda rows: rows["a.0"].update(parts=7),
            lambda rows: rows["a.0"].update(parts="1"),
            lambda rows: rows["a.1"].update(w="another"),
            lambda rows: rows["a.0"].update(d0="text"),
            lambda rows: rows["a.0"].update(d3=b"noise"),
        ],
    )
    async def test_a_damaged_document_is_an_error_that_quotes_nothing(
        self, table: FakeTable, damage: Callable[[dict[str, dict[str, Any]]], object]
    ) -> None:
        await write(FakeGateway(table), NOISE, None)
        rows: dict[str, Any] = {key: row for (_, key), row in table.rows.items()}
        damage(rows)
        table.rows = {(PLACE.partition, key): row for key, row in rows.items()}
        with pytest.raises(CorruptStreamError, match=r"^c: a document is damaged: ") as caught:
            await documents.read(FakeGateway(table), "c", "a")
        assert NOISE[:9] not in str(caught.value)


class TestListing:
    """Pages, and what is not on them."""

    async def listed(self, table: FakeTable, limit: int) -> list[Document]:
        found: list[Document] = []
        after: str | None = None
        while True:
            page = await documents.page(FakeGateway(table), "c", after, limit)
            assert len(page.documents) == limit or page.next is None
            found += page.documents
            if page.next is None:
                return found
            assert page.next != after
            after = page.next

    @pytest.mark.parametrize("limit", [1, 2, 3, 50, 1_000])
    async def test_pages_hold_every_document_once_also_long_and_similar_ones(
        self, table: FakeTable, limit: int
    ) -> None:
        expected = {}
        for key in ("", "a", "a-", "a-b", "a.", "a.0", "aa", "A", "b", "z~", "é", *map(str, range(30))):
            text = NOISE[:2_000_000] if key in ("a", "7", "é") else key
            expected[key] = (text, await write(FakeGateway(table), text, None, key))
        for key in ("a-b", "3"):
            await write(FakeGateway(table), None, expected.pop(key)[1], key)
        await put(FakeGateway(table), Place.of("c-", "other"), "other", None, deadline=5)
        await put(FakeGateway(table), Place.of("c0", "other"), "other", None, deadline=5)
        found = await self.listed(table, limit)
        assert {document.key: (document.text, document.tag) for document in found} == expected
        assert len(found) == len(expected)
        places = [Place.of("c", document.key) for document in found]
        assert places == sorted(places, key=lambda place: (place.partition, f"{place.name}.0"))

    async def test_one_that_changes_between_two_pages_is_whole(self, table: FakeTable) -> None:
        tag = await write(FakeGateway(table), NOISE, None)

        class Changing(FakeGateway):
            async def pages(self, *args: Any, **options: Any) -> Any:
                first = True
                async for page in super().pages(*args, **options):
                    yield page
                    if first:
                        first = False
                        assert await write(FakeGateway(table), new, tag)

        for new in (NOISE[::-1], "short"):
            page = await documents.page(Changing(table), "c", None, 1)
            assert [document.text for document in page.documents] == [new]
            tag = await write(FakeGateway(table), NOISE, page.documents[0].tag)

    async def test_one_that_is_deleted_between_two_pages_is_not_on_it(self, table: FakeTable) -> None:
        tag = await write(FakeGateway(table), NOISE, None)

        class Deleting(FakeGateway):
            async def pages(self, *args: Any, **options: Any) -> Any:
                async for page in super().pages(*args, **options):
                    yield page
                    await write(FakeGateway(table), None, tag)

        assert await documents.page(Deleting(table), "c", None, 1) == DocumentPage([], None)

    @pytest.mark.parametrize("key", ["note", "a.x", "a.0.0", "_4.0"])
    async def test_a_foreign_row_is_an_error(self, table: FakeTable, key: str) -> None:
        await FakeGateway(table).submit([("create", {"PartitionKey": "d.c.0", "RowKey": key})])
        with pytest.raises(CorruptStreamError, match="not written by this library"):
            await documents.page(FakeGateway(table), "c", None, 9)


class TestClearing:
    """While others work on the same collection."""

    async def fill(self, table: FakeTable, documents_: int) -> None:
        for number in range(documents_):
            await write(FakeGateway(table), "text", None, f"{number}")

    async def test_a_collection_is_cleared_a_hundred_rows_at_a_time(self, table: FakeTable) -> None:
        for collection in ("c", "c-", "c0"):
            await put(FakeGateway(table), Place.of(collection, "a"), NOISE, None, deadline=5)
        rows = len(table.rows) // 3
        for number in range(2_500):
            await write(FakeGateway(table), "text", None, f"{number}")
        gateway = FlakyGateway(table)
        await documents.clear(gateway, "c", deadline=5)
        assert len(table.rows) == 2 * rows
        assert max(len(operations) for operations in gateway.sent) == 100

    @pytest.mark.parametrize("fates", [("before", "after"), ("after", "before"), ("late", "late")], ids=str)
    async def test_lost_answers_are_found_out(self, table: FakeTable, fates: tuple[Fate, ...]) -> None:
        await self.fill(table, 200)
        gateway = FlakyGateway(table, *fates)
        await documents.clear(gateway, "c", deadline=5)
        assert table.rows == {}

    async def test_a_copy_that_arrives_late_deletes_nothing_that_was_written_since(self, table: FakeTable) -> None:
        await self.fill(table, 50)
        gateway = FlakyGateway(table, "late", "late", "late")
        await documents.clear(gateway, "c", deadline=5)
        await self.fill(table, 50)
        assert await gateway.deliver() == 0
        assert len(table.rows) == 50

    async def test_what_others_change_or_delete_meanwhile_is_deleted_too(self, table: FakeTable) -> None:
        await self.fill(table, 60)
        others = list(range(60))

        class Busy(FlakyGateway):
            async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
                if others and operations[0][0] == "delete":
                    key = f"{others.pop()}"
                    document = await documents.read(FakeGateway(table), "c", key)
                    if document is not None:
                        await write(FakeGateway(table), "changed" if len(others) % 2 else None, document.tag, key)
                return await super().submit(operations)

        await documents.clear(Busy(table), "c", deadline=5)
        assert table.rows == {}

    async def test_two_at_once_do_not_disturb_each_other(self, table: FakeTable) -> None:
        await self.fill(table, 300)
        await asyncio.gather(*[documents.clear(FakeGateway(table), "c", deadline=5) for _ in range(3)])
        assert table.rows == {}

    async def test_without_getting_any_further_it_is_unavailable(self, table: FakeTable) -> None:
        class Stuck(FakeGateway):
            async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
                raise RowExistsError

        await self.fill(table, 3)
        with pytest.raises(StoreUnavailableError, match=r"^c: it could not be cleared wholly"):
            await documents.clear(Stuck(table), "c", deadline=0.1)
