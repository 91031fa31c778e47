"""Sets of handlers and consumers: mistakes are said when they are made, not when a message comes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel
from tests.consumer.support import Account, Customer, Deposited, Greeted, Noted, Opened, Recorder, deposits

from esazure import AggregateRoot, EventEnvelope, EventsService
from esazure.consumer import Consumer
from esazure.errors import CorruptStreamError, RetryLaterError, StoreError, StoreUnavailableError
from esazure.handlers import EventHandlers, IEventHandler, IHandlerSet, Interests, Reactions
from esazure.memory import InMemoryStore
from esazure.projection import Projection

BAD_NAMES = ["", "Mail", "1st", "a b", "a/b", "a.b", "a" * 81, "é", "a\n"]


def customers() -> EventsService[Customer, str]:
    return EventsService(InMemoryStore().events(Customer))


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_not_be_a_key_is_refused(name: str) -> None:
    for make in (EventHandlers, Reactions):
        with pytest.raises(ValueError, match="1 to 80"):
            make(name)
    with pytest.raises(ValueError, match="1 to 80"):
        Consumer(name, [], positions=None, source=None)


@pytest.mark.parametrize("name", ["a", "mail", "mail-2", "mail_2", "a" * 80])
def test_a_name_is_kept_as_it_is(name: str) -> None:
    assert EventHandlers(name).name == name
    assert Reactions(name).name == name
    assert Consumer(name, [], positions=None, source=None).name == name


def test_the_decorator_gives_the_function_back() -> None:
    handlers, reactions = EventHandlers("mail"), Reactions("bank")

    async def welcome(envelope: EventEnvelope[Opened]) -> None: ...
    def greet(customer: Customer, envelope: EventEnvelope[Opened]) -> None: ...

    assert handlers.on(Account, Opened)(welcome) is welcome
    assert reactions.on(Account, Opened, changes=customers(), id=lambda envelope: "ada")(greet) is greet


def test_interests_are_what_was_registered() -> None:
    handlers = EventHandlers("mail")
    for owner, event in ((Account, Opened), (Account, Noted), (Customer, Greeted)):
        handlers.on(owner, event)(print)
    assert handlers.interests == {Account: {Opened, Noted}, Customer: {Greeted}}
    assert list(handlers.handlers()) == [handlers]
    assert not handlers.repeatable
    assert Reactions("bank").repeatable


def test_an_event_the_aggregate_does_not_declare_is_refused_with_those_it_does() -> None:
    with pytest.raises(TypeError, match=r"Greeted is not an event of Account: those are Deposited, Noted, Opened"):
        EventHandlers("mail").on(Account, Greeted)
    with pytest.raises(TypeError, match="Greeted is not an event of Account"):
        Reactions("bank").on(Account, Greeted, changes=customers(), id=lambda envelope: "ada")


@pytest.mark.parametrize("owner", [Opened, "Account", None, object, AggregateRoot])
def test_what_is_not_an_aggregate_class_is_refused(owner: Any) -> None:
    with pytest.raises(TypeError):
        EventHandlers("mail").on(owner, Opened)


def test_two_handlers_for_one_event_need_two_sets() -> None:
    handlers, reactions = EventHandlers("mail"), Reactions("bank")
    handlers.on(Account, Opened)(print)
    with pytest.raises(ValueError, match="mail has a handler for Opened of Account already"):
        handlers.on(Account, Opened)(print)
    handlers.on(Customer, Opened)(print)  # another aggregate's event of the same class is another event

    def greet(customer: Customer, envelope: EventEnvelope[Opened]) -> None: ...

    reactions.on(Account, Opened, changes=customers(), id=lambda envelope: "ada")(greet)
    with pytest.raises(ValueError, match="bank has a handler for Opened of Account already"):
        reactions.on(Account, Opened, changes=customers(), id=lambda envelope: "ada")(greet)


def test_a_reaction_is_a_plain_function() -> None:
    async def greet(customer: Customer, envelope: EventEnvelope[Opened]) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        Reactions("bank").on(Account, Opened, changes=customers(), id=lambda envelope: "ada")(greet)


def test_since_needs_a_zone() -> None:
    with pytest.raises(ValueError, match="zone"):
        EventHandlers("mail", since=datetime(2027, 1, 1))  # noqa: DTZ001 - the mistake
    EventHandlers("mail", since=datetime(2027, 1, 1, tzinfo=UTC))


def test_two_handlers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two handlers are named mail"):
        Consumer("worker", [EventHandlers("mail"), Recorder("mail")], positions=None, source=None)


def test_two_classes_stored_under_one_name_are_refused() -> None:
    class Other(AggregateRoot[Opened, str]):
        aggregate_type = "Account"

        def when(self, event: Opened) -> None: ...

    one, other = EventHandlers("one"), EventHandlers("other")
    one.on(Account, Opened)(print)
    other.on(Other, Opened)(print)
    with pytest.raises(ValueError, match="two classes are stored as Account"):
        Consumer("worker", [one, other], positions=None, source=None)


def test_numbers_and_thin_without_a_source_are_refused() -> None:
    with pytest.raises(ValueError, match="attempts must be at least 1, not 0"):
        Consumer("worker", [], positions=None, source=None, attempts=0)
    with pytest.raises(ValueError, match="needs a source"):
        Consumer("worker", [], positions=None, source=None, thin=True)


class Balance(BaseModel):
    """A view."""

    amount: int = 0


def folded(projection: Projection[Balance]) -> Projection[Balance]:
    """Register a function which is wrong for good after an event that it missed."""

    @projection.fold(Account, Deposited)
    def add(view: Balance | None, envelope: EventEnvelope[Deposited]) -> Balance:
        return Balance(amount=(0 if view is None else view.amount) + envelope.event.amount)

    return projection


WITHOUT_HISTORY = pytest.mark.parametrize("lacks", [{"positions"}, {"source"}, {"positions", "source"}])


def lacking(lacks: set[str], store: InMemoryStore, *sets: IHandlerSet) -> Consumer:
    return Consumer(
        "worker",
        sets,
        positions=None if "positions" in lacks else store,
        source=None if "source" in lacks else store,
    )


@WITHOUT_HISTORY
def test_a_projection_that_folds_is_refused_without_history(lacks: set[str]) -> None:
    store = InMemoryStore()
    with pytest.raises(ValueError, match=r"balance folds events, .* give its consumer `positions` and `source`"):
        lacking(lacks, store, Recorder(), folded(Projection(store.views(Balance))))


@WITHOUT_HISTORY
async def test_a_fold_that_is_registered_later_is_refused_when_a_lane_is_made_or_used(lacks: set[str]) -> None:
    store = InMemoryStore()
    projection = Projection(store.views(Balance))
    consumer = lacking(lacks, store, projection)
    lane = consumer.lane()
    folded(projection)
    with pytest.raises(ValueError, match="balance folds events"):
        consumer.lane()
    with pytest.raises(ValueError, match="balance folds events"):
        await lane.handle((await deposits(store, "ada", 0))[0])


async def test_a_projection_that_folds_is_served_when_there_is_history() -> None:
    store = InMemoryStore()
    views = store.views(Balance)
    consumer = lacking(set(), store, folded(Projection(views)))
    await consumer.lane().handle((await deposits(store, "ada", 2))[-1])
    assert await views.get("ada") == Balance(amount=3)


@WITHOUT_HISTORY
async def test_a_projection_that_reloads_needs_no_history(lacks: set[str]) -> None:
    store = InMemoryStore()
    views = store.views(Balance)
    projection = Projection(views, source=store)

    @projection.reload(Account)
    def show(view: Balance | None, account: Account) -> Balance:
        return Balance(amount=account.balance)

    consumer = lacking(lacks, store, projection)
    await consumer.lane().handle((await deposits(store, "ada", 2))[-1])
    assert await views.get("ada") == Balance(amount=3)


async def test_what_is_registered_after_the_consumer_was_made_is_served_as_well() -> None:
    store, handlers, got = InMemoryStore(), EventHandlers("mail"), []
    consumer = Consumer("worker", [handlers], positions=store, source=None)
    messages = await deposits(store, "ada", 2)
    lane = consumer.lane()
    await lane.handle(messages[0])
    assert consumer.metrics.ignored == 1

    handlers.on(Account, Deposited)(lambda envelope: got.append(envelope.version))
    for message in messages[1:]:
        await lane.handle(message)

    assert got == [2, 3]


class Changing:
    """A set whose handlers are others from time to time, and that is asked by awaiting it."""

    name = "view"
    interests: Interests = {Account: frozenset({Opened, Deposited})}  # noqa: RUF012 - as the interface has it
    needs_history = False

    def __init__(self, *handlers: IEventHandler) -> None:
        self.now: Sequence[IEventHandler] = handlers
        self.error: Exception | None = None

    async def handlers(self) -> Sequence[IEventHandler]:
        if self.error is not None:
            raise self.error
        return self.now


async def test_a_set_is_asked_for_its_handlers_at_each_message() -> None:
    store = InMemoryStore()
    first, second = Recorder("view-g1"), Recorder("view-g2")
    generations = Changing(first)
    lane = Consumer("worker", [generations], positions=store, source=store).lane()
    messages = await deposits(store, "ada", 2)
    await lane.handle(messages[0])
    generations.now = (first, second)
    await lane.handle(messages[1])
    generations.now = (second,)
    await lane.handle(messages[2])
    assert first.seen == [("ada", 1), ("ada", 2)]
    assert second.seen == [("ada", 1), ("ada", 2), ("ada", 3)]


async def test_two_of_one_name_are_noticed_when_they_appear() -> None:
    store = InMemoryStore()
    generations = Changing(Recorder("view-g1"))
    lane = Consumer("worker", [generations], positions=store, source=store).lane()
    generations.now = (Recorder("view-g1"), Recorder("view-g1"))
    with pytest.raises(ValueError, match="two handlers are named view-g1"):
        await lane.handle((await deposits(store, "ada", 0))[0])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreUnavailableError("away"), StoreUnavailableError),
        (StoreError("refused"), RetryLaterError),
        (CorruptStreamError("damaged"), RetryLaterError),
    ],
)
async def test_when_a_set_cannot_say_its_handlers_the_message_waits(
    error: Exception, expected: type[Exception]
) -> None:
    store, recorder = InMemoryStore(), Recorder()
    generations = Changing(recorder)
    lane = Consumer("worker", [generations], positions=store, source=store, attempts=1).lane()
    (message,) = await deposits(store, "ada", 0)
    generations.error = error
    with pytest.raises(expected, match=str(error)):
        await lane.handle(message)
    generations.error = None
    await lane.handle(message)
    assert recorder.seen == [("ada", 1)]
