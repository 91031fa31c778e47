"""What a projection may be told, and what it does with the events of one call."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel
from tests.projections.support import (
    Board,
    Card,
    Gadget,
    Passed,
    Put,
    Thing,
    Wiped,
    boards_of,
    cards_of,
    shown,
    stored,
)
from tests.support.watched_store import WatchedStore

from esazure import AggregateNotFoundError, AggregateRoot, DomainEvent, EventEnvelope
from esazure.errors import CorruptStreamError, EventNotStorableError, UnknownEventTypeError
from esazure.generations import Generations
from esazure.handlers import IEventHandler
from esazure.projection import Projection


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


async def only_handler(projection: Projection[Any]) -> IEventHandler:
    (handler,) = await projection.handlers()
    return handler


class Stranger(DomainEvent):
    pass


class TestRegistering:
    def test_it_is_named_as_its_views_are(self, store: WatchedStore) -> None:
        assert boards_of(store).name == "boards"

    def test_it_wants_the_events_it_folds_and_all_of_what_it_reloads(self, store: WatchedStore) -> None:
        projection: Projection[Any] = boards_of(store)
        projection.reload(Gadget)(lambda view, _: view)
        assert projection.interests == {Thing: {Put}, Gadget: {Put, Passed, Wiped}}

    def test_a_function_can_still_be_called(self, store: WatchedStore) -> None:
        projection = Projection(store.views(Board))

        @projection.fold(Thing, Wiped)
        def wiped(view: Board | None, envelope: EventEnvelope[Wiped]) -> Board | None:
            return view

        assert wiped(Board(), None) == Board()  # type: ignore[arg-type]

    def test_an_event_of_another_class_is_refused(self, store: WatchedStore) -> None:
        with pytest.raises(TypeError, match="Stranger is not an event of Thing"):
            boards_of(store).fold(Thing, Stranger)  # type: ignore[arg-type]

    @pytest.mark.parametrize("wrong", [None, dict, "Thing", AggregateRoot])
    def test_only_aggregate_classes_can_be_projected(self, store: WatchedStore, wrong: Any) -> None:
        projection = boards_of(store)
        with pytest.raises(TypeError):
            projection.fold(wrong, Put)
        with pytest.raises(TypeError):
            projection.reload(wrong)

    def test_an_event_has_one_function(self, store: WatchedStore) -> None:
        projection = boards_of(store)
        with pytest.raises(ValueError, match="boards: Put of Thing: an event has one function"):
            projection.fold(Thing, Put)(lambda view, _: view)

    def test_a_class_is_reloaded_by_one_function(self, store: WatchedStore) -> None:
        with pytest.raises(ValueError, match="cards: Thing: an event has one"):
            cards_of(store).reload(Thing)(lambda view, _: view)

    def test_a_class_is_either_folded_or_reloaded(self, store: WatchedStore) -> None:
        with pytest.raises(ValueError, match="either folded or reloaded"):
            boards_of(store).reload(Thing)(lambda view, _: view)
        with pytest.raises(ValueError, match="either folded or reloaded"):
            cards_of(store).fold(Thing, Put)(lambda view, _: view)

    def test_two_classes_under_one_stored_name_are_refused(self, store: WatchedStore) -> None:
        class Renamed(Thing):
            aggregate_type = "Thing"

        with pytest.raises(ValueError, match=r"Wiped of Renamed: .* one class has a stored name"):
            boards_of(store).fold(Renamed, Wiped)(lambda view, _: view)

    def test_reloading_needs_a_source(self, store: WatchedStore) -> None:
        with pytest.raises(ValueError, match="make the projection with source=store"):
            Projection(store.views(Card)).reload(Thing)

    def test_what_was_refused_is_not_registered(self, store: WatchedStore) -> None:
        projection = Projection(store.views(Board))
        with pytest.raises(TypeError):
            projection.fold(Thing, Stranger)  # type: ignore[arg-type]
        projection.fold(Thing, Put)  # and never used as a decorator
        assert projection.interests == {}


class TestHandlers:
    async def test_there_is_one_for_the_active_generation(self, store: WatchedStore) -> None:
        handler = await only_handler(boards_of(store))
        assert handler.name == "boards-g1"
        assert handler.repeatable
        assert handler.interests == {Thing: {Put}}

    async def test_while_a_rebuild_goes_on_there_are_two(self, store: WatchedStore) -> None:
        projection = boards_of(store)
        await projection.views.generations.change(lambda _: Generations(active=3, building=4))
        handlers = await projection.handlers()
        assert [handler.name for handler in handlers] == ["boards-g3", "boards-g4"]
        events = await stored(store, "a", Put(boards=("x",)))
        await handlers[1].handle("Thing.a", events)
        assert shown(store, "boards-g4") == {"x": Board(seen={"Thing.a": [1]})}
        assert store.texts("boards-g3") == {}

    async def test_they_are_equal_from_message_to_message(self, store: WatchedStore) -> None:
        projection = boards_of(store)
        assert await projection.handlers() == await projection.handlers()


class TestFolding:
    async def test_each_event_changes_the_view_it_names(self, store: WatchedStore) -> None:
        handler = await only_handler(boards_of(store))
        events = await stored(store, "a", Put(boards=("x",)), Put(boards=("y",)), Put(boards=("x",)))
        assert await handler.handle("Thing.a", events) == 3
        assert shown(store, "boards-g1") == {
            "x": Board(seen={"Thing.a": [1, 3]}),
            "y": Board(seen={"Thing.a": [2]}),
        }

    async def test_each_view_is_written_once_for_all_events_of_a_call(self, store: WatchedStore) -> None:
        handler = await only_handler(boards_of(store))
        events = await stored(store, "a", *[Put(boards=("x", "y"))] * 5)
        await handler.handle("Thing.a", events)
        assert store.count("write_document boards-g1/") == 2
        assert store.count("read_document boards-g1/") == 2

    async def test_an_event_may_name_a_view_twice_or_none_at_all(self, store: WatchedStore) -> None:
        handler = await only_handler(boards_of(store))
        events = await stored(store, "a", Put(boards=("x", "x")), Put(boards=()))
        assert await handler.handle("Thing.a", events) == 2
        assert shown(store, "boards-g1") == {"x": Board(seen={"Thing.a": [1]})}

    async def test_a_repeat_changes_nothing(self, store: WatchedStore) -> None:
        handler = await only_handler(boards_of(store))
        events = await stored(store, "a", Put(boards=("x",)), Put(boards=("x",)))
        await handler.handle("Thing.a", events)
        before = store.texts("boards-g1")
        await handler.handle("Thing.a", events[:1])
        await handler.handle("Thing.a", events)
        assert store.texts("boards-g1") == before

    async def test_without_a_key_the_aggregates_id_is_meant(self, store: WatchedStore) -> None:
        projection = Projection(store.views(Board))
        projection.fold(Thing, Put)(lambda _, put: Board(seen={"at": [put.version]}))
        events = await stored(store, "ab", Put(boards=()))
        await projection.handle("Thing.ab", events, generation=1)
        assert shown(store, "board-g1") == {"ab": Board(seen={"at": [1]})}

    async def test_a_function_can_delete(self, store: WatchedStore) -> None:
        projection = boards_of(store)
        projection.fold(Thing, Wiped, key=lambda wiped: wiped.event.boards)(lambda _view, _wiped: None)
        events = await stored(store, "a", Put(boards=("x",)), Wiped(boards=("x",)))
        await projection.handle("Thing.a", events, generation=1)
        assert await projection.views.get("x") is None
        await projection.handle("Thing.a", events[:1], generation=1)
        assert await projection.views.get("x") is None
        events = await stored(store, "a", Put(boards=("x",)))
        await projection.handle("Thing.a", events[2:], generation=1)
        assert await projection.views.get("x") == Board(seen={"Thing.a": [3]})

    async def test_when_it_fails_half_way_doing_it_again_is_safe(self, store: WatchedStore) -> None:
        projection = Projection(store.views(Board))
        failing = True

        @projection.fold(Thing, Put, key=lambda put: put.event.boards)
        def put(view: Board | None, envelope: EventEnvelope[Put]) -> Board:
            if failing and "x" not in (view or Board()).seen and envelope.version == 2:
                raise LookupError
            return (view or Board()).with_mark("x", envelope.version)

        events = await stored(store, "a", Put(boards=("one", "two")), Put(boards=("two",)))
        with pytest.raises(LookupError):
            await projection.handle("Thing.a", [events[1]], generation=1)
        await projection.handle("Thing.a", events, generation=1)
        assert shown(store, "board-g1") == {"one": Board(seen={"x": [1]}), "two": Board(seen={"x": [1, 2]})}

    async def test_a_key_that_is_none_is_an_error_and_nothing_is_written(self, store: WatchedStore) -> None:
        projection: Projection[Board] = Projection(store.views(Board))
        nothing: Any = None
        projection.fold(Thing, Put, key=lambda _: [nothing])(lambda view, _: view)
        with pytest.raises(TypeError, match="str or a UUID"):
            await projection.handle("Thing.a", await stored(store, "a", Put(boards=())), generation=1)
        assert store.collections() == set()

    async def test_a_function_that_returns_something_else_is_an_error(self, store: WatchedStore) -> None:
        projection: Projection[Board] = Projection(store.views(Board))
        projection.fold(Thing, Put)(lambda _view, _put: Card(id="a", events=1))  # type: ignore[arg-type,return-value]
        with pytest.raises(EventNotStorableError, match="Card is not Board"):
            await projection.handle("Thing.a", await stored(store, "a", Put(boards=())), generation=1)


class Opened(DomainEvent):
    owner: UUID


class Account(AggregateRoot[Opened]):
    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.owner: UUID | None = None

    def when(self, event: Opened) -> None:
        self.owner = event.owner


class Owned(BaseModel):
    accounts: tuple[UUID, ...] = ()


class TestReloading:
    async def test_a_view_shows_the_aggregate_as_it_is(self, store: WatchedStore) -> None:
        handler = await only_handler(cards_of(store))
        events = await stored(store, "a", Put(boards=("x",)), Passed(), Passed())
        assert await handler.handle("Thing.a", events[:1]) == 3, "it has seen more than it was given"
        assert shown_cards(store) == {"a": Card(id="a", events=3)}

    async def test_it_loads_once_for_all_events_of_a_call(self, store: WatchedStore) -> None:
        handler = await only_handler(cards_of(store))
        events = await stored(store, "a", *[Passed()] * 5)
        before = store.count("read Thing.a")
        await handler.handle("Thing.a", events)
        assert store.count("read Thing.a") == before + 1
        assert store.count("write_document cards-g1/") == 1

    async def test_a_key_may_be_read_from_the_aggregate(self, store: WatchedStore) -> None:
        projection = Projection(store.views(Owned), source=store)

        @projection.reload(Account, key=lambda account: account.owner or "nobody")
        def owned(view: Owned | None, account: Account) -> Owned:
            return Owned(accounts=(*(view or Owned()).accounts, account.id))

        owner, ids = uuid4(), sorted([uuid4(), uuid4()])
        for id_ in ids:
            account = Account(id_)
            account.record(Opened(owner=owner))
            commit = await store.events(Account).append(account)
            assert commit is not None
            await projection.handle(commit.stream, commit.events, generation=1)
        view = await projection.views.get(owner)
        assert view is not None
        assert sorted(view.accounts) == ids

    async def test_one_that_comes_too_late_changes_nothing(self, store: WatchedStore) -> None:
        handler = await only_handler(cards_of(store))
        events = await stored(store, "a", Passed())
        slow, answer = store.another(), store.hooks

        async def somebody_is_quicker() -> None:
            await stored(slow, "a", Passed())
            await cards_of(slow).handle("Thing.a", events, generation=1)

        answer["read_document cards-g1/a"] = somebody_is_quicker
        assert await handler.handle("Thing.a", events) == 1
        assert shown_cards(store) == {"a": Card(id="a", events=2)}

    async def test_a_store_that_has_less_than_the_event_says_is_the_wrong_one(self, store: WatchedStore) -> None:
        events = await stored(store, "a", Passed(), Passed())
        other = WatchedStore()
        with pytest.raises(AggregateNotFoundError):
            await cards_of(other).handle("Thing.a", events, generation=1)
        await stored(other, "a", Passed())
        with pytest.raises(CorruptStreamError, match="event 2 has come, and the store holds only 1"):
            await cards_of(other).handle("Thing.a", events, generation=1)


def shown_cards(store: WatchedStore) -> dict[str, Card]:
    return {
        key: Card.model_validate_json(text.partition('"view":')[2][:-1])
        for key, text in store.texts("cards-g1").items()
    }


class TestReplaying:
    async def test_it_does_what_handling_every_event_does(self, store: WatchedStore) -> None:
        await stored(store, "a", Put(boards=("x", "y")), Passed(), Put(boards=("x",)))
        for projection, generation in ((boards_of(store), 7), (cards_of(store), 7)):
            records = await store.read("Thing.a")
            await projection.replay(records, generation=generation)
        assert shown(store, "boards-g7") == {"x": Board(seen={"Thing.a": [1, 3]}), "y": Board(seen={"Thing.a": [1]})}
        assert store.texts("cards-g7") == {"a": '{"sources":{"Thing.a":3},"view":{"id":"a","events":3}}'}

    async def test_it_does_not_load_what_it_was_given(self, store: WatchedStore) -> None:
        await stored(store, "a", Put(boards=("x",)))
        records = await store.read("Thing.a")
        store.calls.clear()
        for projection in (boards_of(store), cards_of(store)):
            await projection.replay(records, generation=1)
        assert store.count("read Thing.a") == 0

    async def test_an_event_nobody_declares_is_an_error(self, store: WatchedStore) -> None:
        class Later(AggregateRoot[Stranger, str]):
            aggregate_type = "Thing"
            __module__, __qualname__ = Thing.__module__, Thing.__qualname__  # as in a later release

            def when(self, event: Stranger) -> None: ...

        later = Later("a")
        later.record(Stranger())
        await store.events(Later).append(later)
        records = await store.read("Thing.a")
        for projection in (boards_of(store), cards_of(store)):
            with pytest.raises(UnknownEventTypeError):
                await projection.replay(records, generation=1)
        assert store.collections() == set()

    async def test_a_stream_with_a_gap_is_an_error(self, store: WatchedStore) -> None:
        await stored(store, "a", Put(boards=("x",)), Put(boards=("x",)))
        records = await store.read("Thing.a")
        for projection in (boards_of(store), cards_of(store)):
            with pytest.raises(CorruptStreamError, match="after version 0 comes"):
                await projection.replay(records[1:], generation=1)
        assert store.collections() == set()
