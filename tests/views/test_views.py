"""One view at a time: what is stored, what is refused, and that older never replaces newer."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, computed_field, field_validator
from tests.support.simulation import SimulatedLoop
from tests.support.watched_store import WatchedStore
from tests.views.support import OTHER, STREAM, Balance, nothing, plus, to

from esazure.errors import (
    CommitTooLargeError,
    CorruptStreamError,
    EventNotStorableError,
    InvalidIdError,
    RetryLaterError,
    StoreUnavailableError,
    ViewOutdatedError,
)
from esazure.memory import InMemoryStore
from esazure.views import Views


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
def views(store: WatchedStore) -> Views[Balance]:
    return store.views(Balance)


class TestOneView:
    async def test_there_is_none_until_one_is_written(self, views: Views[Balance]) -> None:
        assert await views.get("a") is None

    async def test_what_a_change_returns_is_what_is_read(self, views: Views[Balance]) -> None:
        assert await views.update("a", STREAM, 1, to(5))
        assert await views.get("a") == Balance(amount=5)

    async def test_a_change_gets_the_view_as_it_is(self, views: Views[Balance]) -> None:
        await views.update("a", STREAM, 1, to(5))
        await views.update("a", STREAM, 2, plus(1))
        assert await views.get("a") == Balance(amount=6)

    async def test_a_change_may_be_asynchronous(self, views: Views[Balance]) -> None:
        async def change(view: Balance | None) -> Balance:
            await asyncio.sleep(0)
            return Balance(amount=7)

        await views.update("a", STREAM, 1, change)
        assert await views.get("a") == Balance(amount=7)

    async def test_the_document_says_what_it_was_made_of(self, store: WatchedStore, views: Views[Balance]) -> None:
        await views.update("a", STREAM, 3, to(5))
        await views.update("a", OTHER, 1, to(6))
        assert {key: json.loads(text) for key, text in store.texts("balance-g1").items()} == {
            "a": {"sources": {STREAM: 3, OTHER: 1}, "view": {"amount": 6, "owner": "Ada"}}
        }

    async def test_a_uuid_and_its_text_are_the_same_key(self, views: Views[Balance]) -> None:
        key = uuid4()
        await views.update(key, STREAM, 1, to(5))
        assert await views.get(str(key)) == await views.get(key) == Balance(amount=5)

    async def test_a_member_of_a_str_enum_is_its_value(self, views: Views[Balance]) -> None:
        class Bank(StrEnum):
            MAIN = "main"

            def __str__(self) -> str:
                return "printed differently"

        await views.update(Bank.MAIN, STREAM, 1, to(5))
        assert await views.get("main") == Balance(amount=5)

    @pytest.mark.parametrize("key", [None, 5, b"a", ("a",)])
    async def test_a_key_is_a_text_or_a_uuid(self, store: WatchedStore, views: Views[Balance], key: Any) -> None:
        for call in (views.get(key), views.update(key, STREAM, 1, to(5)), views.wait_for(key, f"{STREAM}@1")):
            with pytest.raises(TypeError, match="str or a UUID"):
                await call
        assert store.collections() == set()

    @pytest.mark.parametrize("key", ["é" * 200, "\ud800"])
    async def test_a_key_no_backend_could_hold_is_refused(self, views: Views[Balance], key: str) -> None:
        for call in (views.get(key), views.update(key, STREAM, 1, to(5))):
            with pytest.raises(InvalidIdError):
                await call


class TestTheGuard:
    @pytest.mark.parametrize("version", [1, 2, 3])
    async def test_a_version_that_is_shown_already_changes_nothing(self, views: Views[Balance], version: int) -> None:
        await views.update("a", STREAM, 3, to(5))

        def change(view: Balance | None) -> Balance:
            raise AssertionError("it must not be called")

        assert not await views.update("a", STREAM, version, change)
        assert await views.get("a") == Balance(amount=5)

    async def test_each_stream_has_a_version_of_its_own(self, views: Views[Balance]) -> None:
        await views.update("a", STREAM, 9, to(5))
        assert await views.update("a", OTHER, 1, plus(1))
        assert await views.get("a") == Balance(amount=6)

    async def test_of_several_changes_only_those_are_applied_that_are_not_shown(self, views: Views[Balance]) -> None:
        await views.update("a", STREAM, 2, to(10))
        assert await views.advance("a", STREAM, [(2, plus(1)), (3, plus(2)), (5, plus(4))], generation=1)
        assert await views.get("a") == Balance(amount=16)
        assert not await views.update("a", STREAM, 5, plus(100))

    async def test_what_was_deleted_is_not_brought_back_by_older_events(self, views: Views[Balance]) -> None:
        await views.update("a", STREAM, 2, nothing)
        assert not await views.update("a", STREAM, 1, to(5))
        assert await views.get("a") is None

    async def test_a_newer_event_may_bring_it_back(self, views: Views[Balance]) -> None:
        await views.update("a", STREAM, 2, nothing)
        assert await views.update("a", STREAM, 3, plus(5))
        assert await views.get("a") == Balance(amount=5)

    async def test_when_a_change_raises_nothing_is_written(self, store: WatchedStore, views: Views[Balance]) -> None:
        await views.update("a", STREAM, 1, to(5))
        before = store.texts("balance-g1")

        def change(view: Balance | None) -> Balance:
            raise LookupError

        with pytest.raises(LookupError):
            await views.advance("a", STREAM, [(2, plus(1)), (3, change)], generation=1)
        assert store.texts("balance-g1") == before

    async def test_a_change_is_made_again_on_what_another_writer_left(
        self, store: WatchedStore, views: Views[Balance]
    ) -> None:
        seen: list[Balance | None] = []

        async def change(view: Balance | None) -> Balance:
            seen.append(view)
            await asyncio.sleep(0)
            return plus(1)(view)

        store.hooks["write_document"] = lambda: store.another().views(Balance).update("a", OTHER, 1, to(40))
        assert await views.update("a", STREAM, 1, change)
        assert seen == [None, Balance(amount=40)]
        assert await views.get("a") == Balance(amount=41)

    async def test_a_change_is_not_made_again_when_the_other_writer_made_it(
        self, store: WatchedStore, views: Views[Balance]
    ) -> None:
        store.hooks["write_document"] = lambda: store.another().views(Balance).update("a", STREAM, 2, plus(3))
        assert not await views.update("a", STREAM, 1, plus(1))
        assert await views.get("a") == Balance(amount=3)

    async def test_twenty_writers_of_one_view_lose_nothing(self, store: WatchedStore) -> None:
        writers = [store.another().views(Balance) for _ in range(20)]
        done = await asyncio.gather(
            *(writer.update("a", f"Account.{number}", 1, plus(1)) for number, writer in enumerate(writers))
        )
        assert all(done)
        assert await store.views(Balance).get("a") == Balance(amount=20)

    async def test_an_answer_that_was_lost_does_no_harm(self, store: WatchedStore, views: Views[Balance]) -> None:
        await views.update("a", STREAM, 1, to(5))
        store.loses_answer = len(store.calls) + 2  # after the read the write
        with pytest.raises(StoreUnavailableError):
            await views.update("a", STREAM, 2, plus(1))
        assert not await views.update("a", STREAM, 2, plus(1))
        assert await views.get("a") == Balance(amount=6)

    def test_whoever_always_meets_others_gives_up_after_a_while(self) -> None:
        class Contended(InMemoryStore):
            attempts = 0

            async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
                self.attempts += 1
                return None

        store = Contended()
        with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
            began = runner.get_loop().time()
            with pytest.raises(RetryLaterError, match="others"):
                runner.run(store.views(Balance).update("a", STREAM, 1, to(5)))
            assert 30 <= runner.get_loop().time() - began < 32
        assert 60 < store.attempts < 500, "with pauses"


class Loose(BaseModel):
    value: Any = None


class Hidden(BaseModel):
    pin: SecretStr


class Dropping(BaseModel):
    kept: int = 0
    lost: int = Field(default=0, exclude=True)


class WithMemory(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = 0
    _memory: int = PrivateAttr(default=0)

    @computed_field  # type: ignore[prop-decorator]  # as pydantic says
    @property
    def double(self) -> int:
        return 2 * self.number


class Colour(StrEnum):
    RED = "red"


class Dated(BaseModel):
    at: datetime


class Picky(BaseModel):
    number: int = 0

    @field_validator("number")
    @classmethod
    def small(cls, number: int) -> int:
        if number > 9:
            raise RuntimeError("secret payload")
        return number


class Richer(Balance):
    more: int = 1


class TestWhatCanBeStored:
    @pytest.mark.parametrize(
        ("model", "make"),
        [
            (Loose, lambda: Loose(value=object())),
            (Loose, lambda: Loose(value=float("nan"))),
            (Loose, lambda: Loose(value=Decimal("1.5"))),
            (Loose, lambda: Loose(value=Colour.RED)),
            (Loose, lambda: Loose(value=[Counter("secret")])),
            (Dated, lambda: Dated(at=datetime(2024, 7, 1, tzinfo=ZoneInfo("Europe/Paris")))),
            (Loose, lambda: Loose(value="secret \ud800")),
            (Loose, lambda: Loose.model_construct(value=Balance())),
            (Hidden, lambda: Hidden(pin=SecretStr("secret payload"))),
            (Dropping, lambda: Dropping(lost=5)),
            (Picky, lambda: Picky.model_construct(number=10)),
            (Balance, Richer),
            (Balance, lambda: {"amount": 5}),
            (Balance, lambda: "secret payload"),
        ],
    )
    async def test_what_would_not_come_back_as_it_is_is_refused(
        self, store: WatchedStore, model: type[BaseModel], make: Callable[[], Any]
    ) -> None:
        with pytest.raises(EventNotStorableError) as refused:
            await store.views(model).update("a", STREAM, 1, lambda _: make())
        assert store.collections() == set()
        assert "secret" not in str(refused.value)
        assert refused.value.__cause__ is None
        assert refused.value.__context__ is None

    async def test_a_refusal_names_the_field(self, store: WatchedStore) -> None:
        with pytest.raises(EventNotStorableError, match=r"^loose: a view cannot be stored: value\.1: its class, tuple"):
            await store.views(Loose).update("a", STREAM, 1, lambda _: Loose(value=[1, (2,)]))

    async def test_what_a_view_has_beside_its_fields_begins_anew_in_each_that_is_read(
        self, store: WatchedStore
    ) -> None:
        view, views = WithMemory(number=2), store.views(WithMemory)
        view._memory = 5
        await views.update("a", STREAM, 1, lambda _: view)
        read = await views.get("a")
        assert read is not None
        assert (read.number, read.double, read._memory) == (2, 4, 0)

    async def test_a_model_is_read_with_its_own_rules(self, store: WatchedStore) -> None:
        class Own(BaseModel):
            model_config = ConfigDict(strict=True, extra="forbid", populate_by_name=True, ser_json_bytes="base64")
            id: UUID = Field(alias="the-id")
            price: Decimal
            tags: tuple[str, ...] = ()
            data: bytes = b""

            @field_validator("data", mode="before")
            @classmethod
            def from_base64(cls, data: Any) -> Any:
                return b"\x00\xff" if isinstance(data, str) else data

        view = Own(id=uuid4(), price=Decimal("1.10"), tags=("é", "}"), data=b"\x00\xff")
        views = store.views(Own)
        await views.update("a", STREAM, 1, lambda _: view)
        assert await views.get("a") == view

    async def test_a_view_that_is_too_large_is_refused(self, store: WatchedStore, views: Views[Balance]) -> None:
        with pytest.raises(CommitTooLargeError):
            await views.update("a", STREAM, 1, lambda _: Balance(owner="a" * 3_700_000))
        assert store.collections() == set()


class TestWhatIsStoredAlready:
    @pytest.mark.parametrize(
        ("text", "fields"),
        [
            ('{"sources":{},"view":{"amount":"secret","owner":["secret"]}}', "(amount, owner)"),
            ('{"sources":{},"view":"secret"}', "any more:"),
        ],
    )
    async def test_a_view_of_another_shape_asks_for_a_rebuild(
        self, store: WatchedStore, views: Views[Balance], text: str, fields: str
    ) -> None:
        await store.put("balance-g1", "secret key", text)
        for call in (views.get("secret key"), views.list(), views.update("secret key", STREAM, 1, to(5))):
            with pytest.raises(ViewOutdatedError) as outdated:
                await call
            assert fields in str(outdated.value)
            assert "rebuild" in str(outdated.value)
            assert "secret" not in str(outdated.value)
            assert outdated.value.__context__ is None
        assert store.texts("balance-g1") == {"secret key": text}

    async def test_undeclared_fields_are_not_named(self, store: WatchedStore) -> None:
        class Strict(BaseModel):
            model_config = ConfigDict(extra="forbid")

        await store.put("strict-g1", "a", '{"sources":{},"view":{"secret":1}}')
        with pytest.raises(ViewOutdatedError) as outdated:
            await store.views(Strict).get("a")
        assert "secret" not in str(outdated.value)

    async def test_a_validator_that_fails_is_a_shape_that_does_not_fit(self, store: WatchedStore) -> None:
        await store.put("picky-g1", "a", '{"sources":{},"view":{"number":10}}')
        with pytest.raises(ViewOutdatedError) as outdated:
            await store.views(Picky).get("a")
        assert "secret" not in str(outdated.value)
        assert outdated.value.__context__ is None

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"sources":{}}', '{"view":null}', '{"sources":{"a":"x"},"view":null}', '{"sources":']
    )
    async def test_a_document_nobody_wrote_so_is_damaged(
        self, store: WatchedStore, views: Views[Balance], text: str
    ) -> None:
        await store.put("balance-g1", "a", text)
        with pytest.raises(CorruptStreamError, match="balance-g1: the document of a view is damaged"):
            await views.get("a")


class TestNames:
    def test_the_models_name_is_the_default(self) -> None:
        assert InMemoryStore().views(Balance).name == "balance"

    @pytest.mark.parametrize("name", ["a", "a" * 80, "customer_details-2"])
    def test_it_can_be_chosen(self, name: str) -> None:
        assert InMemoryStore().views(Balance, name=name).name == name

    @pytest.mark.parametrize(
        "name", ["", "A", "1a", "a" * 81, "a b", "a\n", "ä", "positions-a", "parked-a", "rebuild-a", "unique-a"]
    )
    def test_a_name_that_cannot_be_or_is_taken_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="1 to 80"):
            InMemoryStore().views(Balance, name=name)

    def test_a_view_is_a_pydantic_model(self) -> None:
        wrong: Any = dict
        with pytest.raises(TypeError, match="pydantic model"):
            InMemoryStore().views(wrong)

    async def test_views_of_two_names_do_not_touch(self, store: WatchedStore, views: Views[Balance]) -> None:
        await views.update("a", STREAM, 1, to(5))
        assert await store.views(Balance, name="others").get("a") is None


class TestLists:
    async def fill(self, views: Views[Balance], *, deleted: Collection[int] = ()) -> None:
        for number in range(10):
            await views.update(f"k{number}", STREAM, 1, nothing if number in deleted else to(number))

    async def amounts(self, views: Views[Balance], limit: int) -> list[list[int]]:
        pages, after = [], None
        while True:
            page = await views.list(after=after, limit=limit)
            pages.append([view.amount for view in page.views])
            after = page.next
            if after is None:
                return pages

    async def test_there_is_nothing_to_list(self, views: Views[Balance]) -> None:
        assert await self.amounts(views, 5) == [[]]

    async def test_every_view_is_on_one_page(self, views: Views[Balance]) -> None:
        await self.fill(views)
        assert await self.amounts(views, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert await self.amounts(views, 10) == [list(range(10))]

    async def test_deleted_views_are_left_out_and_pages_are_full_all_the_same(self, views: Views[Balance]) -> None:
        await self.fill(views, deleted={1, 2, 3, 7, 9})
        assert await self.amounts(views, 2) == [[0, 4], [5, 6], [8]]

    @pytest.mark.parametrize("limit", [0, -1, 1_001])
    async def test_a_page_has_its_limits(self, store: WatchedStore, views: Views[Balance], limit: int) -> None:
        with pytest.raises(ValueError, match="1 to 1,000"):
            await views.list(limit=limit)
        assert store.calls == []

    async def test_a_token_nobody_gave_is_refused(self, views: Views[Balance]) -> None:
        with pytest.raises(ValueError, match="token"):
            await views.list(after="nonsense")
