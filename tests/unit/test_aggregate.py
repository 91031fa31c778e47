"""Recording, declaring and refusing."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, ClassVar, Generic, NewType
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict, Field
from tests.unit.doubles import TroubledStore
from typing_extensions import TypeAliasType, TypeVar

from esazure import (
    AggregateRoot,
    AppendOutcomeUnknownError,
    DomainEvent,
    EventNotStorableError,
    InvalidIdError,
    UnknownEventTypeError,
    UnusableAggregateError,
    metadata,
)
from esazure.aggregate import as_class, stream_of
from esazure.codec import EventCodec
from esazure.errors import CorruptStreamError
from esazure.lifecycle import replay
from esazure.memory import InMemoryEventsRepository
from esazure.state import state_of
from esazure.testing._counter import Counter, CounterEvent, Emptied, Gauge, Incremented, Kept, Noted, commit_of

E = TypeVar("E", bound=DomainEvent)
Id = TypeVar("Id", bound=UUID | str)
OtherE = TypeVar("OtherE", bound=DomainEvent)
CustomerId = NewType("CustomerId", str)
OrderId = NewType("OrderId", UUID)
Alias = TypeAliasType("Alias", Incremented | Noted)


class Base(AggregateRoot[E, str], Generic[E]):
    """A team's own base class, still generic."""

    def when(self, event: E) -> None: ...


class BaseWithAnyId(AggregateRoot[E, Id], Generic[Id, E]):
    """The same with both parameters, in another order."""

    def when(self, event: E) -> None: ...


class BaseOfBase(Base[OtherE], Generic[OtherE]):
    """One more floor, with a type variable of its own."""


class Explosive(AggregateRoot[Incremented | Noted | Emptied, str]):
    """Half-changes its state, then fails, at `Noted`; records inside `when` at `Emptied`."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.total = 0

    def when(self, event: Incremented | Noted | Emptied) -> None:
        self.total += 1
        if isinstance(event, Noted):
            raise ZeroDivisionError
        if isinstance(event, Emptied):
            self.record(Incremented(by=1))


def test_recording_applies_the_event_and_counts_it() -> None:
    counter = Counter("c")
    assert (counter.version, counter.pending) == (0, ())
    counter.note("a")
    counter.increment(2)
    assert (counter.version, counter.notes, counter.total) == (2, ["a"], 2)
    assert counter.pending == (Noted(text="a"), Incremented(by=2))
    assert repr(counter) == "<Counter c at version 2, 2 pending>"


async def test_the_token_counts_what_is_stored_and_nothing_that_is_pending() -> None:
    counters, counter = InMemoryEventsRepository(Counter), Counter("a b")
    counter.note("a", "b")
    assert counter.token == "Counter.a_20b@0"
    commit = await counters.append(counter)
    assert commit is not None
    counter.note("c")
    assert counter.token == commit.token == "Counter.a_20b@2"


async def test_the_token_of_a_loaded_copy_is_the_version_it_was_loaded_at() -> None:
    counters, counter = InMemoryEventsRepository(Counter), Counter("a")
    for text in ("a", "b", "c"):
        counter.note(text)
        await counters.append(counter)
    assert (await counters.rehydrate("a")).token == "Counter.a@3"
    assert (await counters.rehydrate("a", version=2)).token == "Counter.a@2"


def test_the_token_of_an_id_that_cannot_be_a_key_is_refused() -> None:
    with pytest.raises(InvalidIdError):
        _ = Counter("\ud800").token


def test_an_event_whose_when_fails_is_not_recorded_and_the_copy_is_unusable() -> None:
    aggregate = Explosive("e")
    aggregate.record(Incremented(by=1))
    with pytest.raises(ZeroDivisionError):
        aggregate.record(Noted(text="payload-marker"))
    assert (aggregate.version, aggregate.pending) == (1, (Incremented(by=1),))
    with pytest.raises(UnusableAggregateError, match="half changed; load it again") as caught:
        aggregate.record(Incremented(by=1))
    assert "payload-marker" not in str(caught.value)
    assert (aggregate.version, aggregate.total) == (1, 2)


def test_recording_inside_when_is_refused_and_nothing_is_recorded() -> None:
    aggregate = Explosive("e")
    with pytest.raises(UnusableAggregateError, match="must not record"):
        aggregate.record(Emptied())
    assert (aggregate.version, aggregate.pending) == (0, ())


def test_an_undeclared_event_is_refused_before_it_is_applied() -> None:
    gauge = Gauge(uuid4())
    with pytest.raises(UnknownEventTypeError) as caught:
        gauge.record(Noted(text="payload-marker"))  # type: ignore[arg-type]
    assert (caught.value.name, caught.value.known) == ("Noted", ("Incremented",))
    assert "payload-marker" not in str(caught.value)
    gauge.record(Incremented(by=1))
    assert gauge.version == 1


def test_another_class_under_a_declared_name_is_refused() -> None:
    class Impostor(Noted):
        event_type = "Noted"

    counter = Counter("c")
    with pytest.raises(UnknownEventTypeError):
        counter.record(Impostor(text="a"))
    assert counter.pending == ()


@pytest.mark.parametrize("id", ["3f2a1c9e-0d4b-4c55-9d0a-3b1c2d4e5f60", 1, None, b"a"])
def test_an_id_of_another_type_is_refused(id: Any) -> None:
    with pytest.raises(InvalidIdError, match="Gauge ids are UUID"):
        Gauge(id)


def test_a_uuid_is_not_a_text_id() -> None:
    with pytest.raises(InvalidIdError, match="Counter ids are str, not UUID"):
        Counter(uuid4())  # type: ignore[arg-type]


def test_the_id_and_what_is_pending_cannot_be_replaced() -> None:
    counter = Counter("c")
    for name in ("id", "version", "pending"):
        with pytest.raises(AttributeError):
            setattr(counter, name, "x")


def test_events_and_id_type_are_read_from_the_type_parameters() -> None:
    assert list(Counter.event_types) == ["Incremented", "Noted", "Kept", "Emptied"]
    assert (Counter.id_type, Gauge.id_type) == (str, UUID)


def test_a_subclass_inherits_the_declaration_under_a_name_of_its_own() -> None:
    class Sub(Counter):
        pass

    assert Sub.event_types == Counter.event_types
    assert (Sub.id_type, Sub.aggregate_type) == (str, "Sub")


def test_generic_bases_of_a_team_resolve_to_what_is_given_at_last() -> None:
    class One(Base[Noted]):
        pass

    class Two(BaseOfBase[Noted | Incremented]):
        pass

    class Three(BaseWithAnyId[UUID, Noted]):
        pass

    class Four(One):
        pass

    class Mixin:
        pass

    class Five(Mixin, Base[Kept]):
        pass

    assert (dict(One.event_types), One.id_type) == ({"Noted": Noted}, str)
    assert (dict(Two.event_types), Two.id_type) == ({"Noted": Noted, "Incremented": Incremented}, str)
    assert (dict(Three.event_types), Three.id_type) == ({"Noted": Noted}, UUID)
    assert dict(Four.event_types) == {"Noted": Noted}
    assert dict(Five.event_types) == {"Kept": Kept}
    assert dict(Base.event_types) == {}


def test_new_types_of_uuid_and_str_are_ids() -> None:
    class Customer(AggregateRoot[Noted, CustomerId]):
        def when(self, event: Noted) -> None: ...

    class Order(AggregateRoot[Noted, OrderId]):
        def when(self, event: Noted) -> None: ...

    assert (Customer.id_type, Order.id_type) == (str, UUID)
    assert Customer(CustomerId("c")).id == "c"


def test_a_named_union_is_unwrapped() -> None:
    class Aliased(AggregateRoot[Alias, str]):  # type: ignore[type-var]
        def when(self, event: Any) -> None: ...

    assert dict(Aliased.event_types) == {"Incremented": Incremented, "Noted": Noted}


def test_named_unions_inside_a_union_are_unwrapped() -> None:
    class Aliased(AggregateRoot[Alias | Kept, str]):  # type: ignore[type-var]
        def when(self, event: Any) -> None: ...

    assert list(Aliased.event_types) == ["Incremented", "Noted", "Kept"]


def test_a_new_type_of_a_new_type_is_an_id() -> None:
    class Order(AggregateRoot[Noted, NewType("Special", OrderId)]):  # type: ignore[misc]
        def when(self, event: Noted) -> None: ...

    assert Order.id_type is UUID


def test_a_member_of_a_text_enum_is_its_value() -> None:
    class Country(str, Enum):  # noqa: UP042 - a StrEnum prints its value, this kind does not
        DE = "de"

    assert stream_of(Counter(Country.DE)) == stream_of(Counter("de"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ((Noted, int), "ids are UUID or str"),
        ((int, str), "not an event class"),
        ((DomainEvent, str), "not an event class"),
        ((Noted | None, str), "not an event class"),
    ],
)
def test_wrong_type_parameters_are_refused_at_the_class(parameters: tuple[Any, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):

        class Wrong(AggregateRoot[parameters]):  # type: ignore[misc, valid-type, type-arg]
            pass


def test_a_class_without_events_is_refused() -> None:
    with pytest.raises(TypeError, match="say which events"):

        class Bare(AggregateRoot):  # type: ignore[type-arg]
            pass

    with pytest.raises(TypeError, match="declares no events"):
        as_class(Base)
    for nonsense in (int, Counter("c"), stream_of):
        with pytest.raises(TypeError, match="give the aggregate class itself"):
            as_class(nonsense)  # type: ignore[arg-type]


def test_two_events_under_one_stored_name_are_refused() -> None:
    class Renamed(DomainEvent):
        event_type = "Noted"

    with pytest.raises(TypeError, match="both stored as 'Noted'"):

        class Ambiguous(AggregateRoot[Noted | Renamed, str]):
            def when(self, event: Noted | Renamed) -> None: ...


def test_stored_names_are_the_class_names_unless_pinned() -> None:
    class Fresh(DomainEvent):
        pass

    class Pinned(DomainEvent):
        event_type: ClassVar[str] = "shop.order-placed:v2"

    class Derived(Pinned):
        pass

    class Renamed(Counter):
        aggregate_type = "Counter-v0"

    assert (Fresh.event_type, Pinned.event_type, Derived.event_type) == ("Fresh", "shop.order-placed:v2", "Derived")
    assert Renamed.aggregate_type == "Counter-v0"
    assert "event_type" not in Pinned.model_fields


@pytest.mark.parametrize("name", ["", "1st", "has blank", "a/b", "a\n", "x" * 129, "\ud800", 5, None])
def test_a_name_that_cannot_be_stored_is_refused_at_the_class(name: Any) -> None:
    with pytest.raises(TypeError, match="stored name"):
        type("Odd", (DomainEvent,), {"event_type": name, "__annotations__": {"event_type": ClassVar[str]}})
    with pytest.raises(TypeError, match="stored name"):
        type("Odd", (Counter,), {"aggregate_type": name})


def test_events_are_frozen_and_refuse_unknown_fields_nan_and_quoting() -> None:
    noted = Noted(text="a")
    with pytest.raises(ValueError, match="frozen"):
        noted.text = "b"  # type: ignore[misc]
    with pytest.raises(ValueError, match="extra_forbidden") as caught:
        Noted(text="a", more="payload-marker")  # type: ignore[call-arg]
    assert "payload-marker" not in str(caught.value)

    class Measured(DomainEvent):
        value: float

    with pytest.raises(ValueError, match="finite"):
        Measured(value=float("nan"))


def counter_codec() -> EventCodec[Any]:
    return EventCodec(Counter.event_types)


def test_replaying_stops_at_the_version_that_was_asked_for() -> None:
    counter = Counter("c")
    commits = [commit_of("Counter.c", 1, "a"), commit_of("Counter.c", 2, "b", "c")]
    replay(counter, commits, counter_codec(), to=2)
    assert (counter.notes, counter.version, counter.pending) == (["a", "b"], 2, ())


@pytest.mark.parametrize("first", [1, 3, 4])
def test_replaying_a_gap_or_an_overlap_is_refused(first: int) -> None:
    commits = [commit_of("Counter.c", 1, "a"), commit_of("Counter.c", first, "b")]
    with pytest.raises(CorruptStreamError, match="rows were removed"):
        replay(Counter("c"), commits, counter_codec(), to=None)


def test_a_when_that_refuses_a_stored_event_is_a_corrupt_stream() -> None:
    explosive = Explosive("e")
    with pytest.raises(CorruptStreamError, match=r"Explosive\.when refused the stored Noted of version 1") as caught:
        replay(explosive, [commit_of("Explosive.e", 1, "payload-marker")], EventCodec(Explosive.event_types), to=None)
    assert re.search(r"with ZeroDivisionError at test_aggregate\.py:\d+;", str(caught.value))
    assert caught.value.__cause__ is caught.value.__context__ is None, "its text may quote the event"
    assert "payload-marker" not in str(caught.value)


def test_recording_while_replaying_is_refused() -> None:
    class Echo(AggregateRoot[CounterEvent, str]):
        def when(self, event: CounterEvent) -> None:
            self.record(Incremented(by=1))

    with pytest.raises(CorruptStreamError, match="Unusable"):
        replay(Echo("e"), [commit_of("Echo.e", 1, "a")], EventCodec(Echo.event_types), to=None)


def test_two_aggregates_share_nothing() -> None:
    one, another = Counter("c"), Counter("c")
    one.note("a")
    assert state_of(one) is not state_of(another)
    assert (another.version, another.pending, another.notes) == (0, (), [])


def test_an_event_type_that_would_be_a_field_is_refused_at_definition() -> None:
    with pytest.raises(TypeError, match=r"Shadowed: event_type names the class and is no field"):

        class Shadowed(DomainEvent):
            event_type: str = "Moved"  # type: ignore[misc]


def test_recording_what_is_no_event_is_refused() -> None:
    account = Counter("a")
    with pytest.raises(UnknownEventTypeError, match="unknown event type 'str'"):
        account.record("not an event")  # type: ignore[arg-type]
    assert account.pending == ()


LOOKS: list[Callable[[AggregateRoot[Any, Any]], object]] = [
    lambda dated: dated.version,
    lambda dated: dated.token,
    lambda dated: dated.pending,
    copy.copy,
    copy.deepcopy,
    pickle.dumps,
]


class Dated(AggregateRoot[Incremented, str]):
    """Looks at what the library knows of it while it applies an event."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.seen: list[str] = []

    def when(self, event: Incremented) -> None:
        self.seen.append(repr(self))
        if event.by >= 0:
            LOOKS[event.by](self)


@pytest.mark.parametrize("look", range(len(LOOKS)))
def test_what_a_replay_does_not_know_is_not_to_be_read_while_an_event_is_applied(look: int) -> None:
    dated = Dated("d")
    with pytest.raises(UnusableAggregateError, match=r"^Dated\.d: when\(\) must not (read|be copied)"):
        dated.record(Incremented(by=look))
    loaded = Dated("d")
    codec = EventCodec(Dated.event_types)
    with pytest.raises(CorruptStreamError, match="refused the stored Incremented of version 1 with UnusableAggregate"):
        replay(loaded, [replace(commit_of("Dated.d", 1, "x"), payload=f'Incremented {{"by": {look}}}')], codec, to=None)


def test_an_aggregate_that_is_shown_while_an_event_is_applied_looks_as_it_does_in_a_replay() -> None:
    dated, loaded = Dated("d"), Dated("d")
    dated.record(Incremented(by=-1))
    dated.record(Incremented(by=-1))
    line = 'Incremented {"by": -1}'
    record = replace(commit_of("Dated.d", 1, "x", "y"), payload=f"{line}\n{line}")
    replay(loaded, [record], EventCodec(Dated.event_types), to=None)
    assert dated.seen == loaded.seen == ["<Dated d, applying an event>"] * 2


class Lines(BaseModel):
    names: list[str]


class Opened(DomainEvent):
    items: list[str] = Field(default_factory=list[str])
    by_shop: dict[str, int] = Field(default_factory=dict[str, int])
    tags: set[str] = Field(default_factory=set[str])
    lines: Lines = Field(default_factory=lambda: Lines(names=[]))


class Added(DomainEvent):
    item: str


class Cart(AggregateRoot[Opened | Added, str]):
    """Keeps the values of its first event as its state, and changes them."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.first = Opened()

    def when(self, event: Opened | Added) -> None:
        match event:
            case Opened():
                self.first = event
            case Added():
                self.first.items.append(event.item)
                self.first.by_shop[event.item] = 1
                self.first.tags.add(event.item)
                self.first.lines.names.append(event.item)


OPENED = Opened(items=["pen"], by_shop={"pen": 1}, tags={"pen"}, lines=Lines(names=["pen"]))


async def test_what_becomes_of_the_values_of_an_event_after_it_was_recorded_is_no_history() -> None:
    carts, cart, draft = InMemoryEventsRepository(Cart), Cart("c"), OPENED.model_copy(deep=True)
    cart.record(draft)
    cart.record(Added(item="ink"))
    draft.lines.names.append("paper")
    draft.items.clear()
    assert cart.pending == (OPENED, Added(item="ink"))
    cart.pending[0].items.append("glue")  # type: ignore[union-attr]
    assert cart.pending[0] == OPENED
    commit = await carts.append(cart)
    assert commit is not None
    assert commit.recorded == (OPENED, Added(item="ink"))
    assert (await carts.rehydrate("c", version=1)).first == OPENED
    assert (await carts.rehydrate("c")).first == cart.first
    assert cart.first.items == ["pen", "ink"]


class Renamed(DomainEvent):
    model_config = ConfigDict(frozen=False)
    name: str
    reason: str | None = None


class Named(AggregateRoot[Renamed, str]):
    event = Renamed(name="")

    def when(self, event: Renamed) -> None:
        self.event = event


async def test_an_event_that_is_not_frozen_is_fixed_like_any_other() -> None:
    names, aggregate, draft = InMemoryEventsRepository(Named), Named("n"), Renamed(name="a", reason="b")
    aggregate.record(draft)
    draft.name = "changed"
    assert aggregate.event.name == "a"
    aggregate.event.name = "changed"
    commit = await names.append(aggregate)
    assert commit is not None
    assert commit.recorded == (Renamed(name="a", reason="b"),)


@pytest.mark.parametrize("frozen", [True, False])
async def test_a_field_that_was_left_to_its_default_looks_to_when_as_it_will_to_a_replay(*, frozen: bool) -> None:
    class Hired(DomainEvent):
        model_config = ConfigDict(frozen=frozen)
        name: str
        reason: str | None = None

    class Employee(AggregateRoot[Hired, str]):
        given: tuple[str, ...] = ()

        def when(self, event: Hired) -> None:
            self.given = (*self.given, *sorted(event.model_fields_set))

    names, aggregate = InMemoryEventsRepository(Employee), Employee("n")
    aggregate.record(Hired(name="a"))
    aggregate.record(Hired(name="a", reason="b"))
    await names.append(aggregate)
    assert (await names.rehydrate("n")).given == aggregate.given == ("name", "reason") * 2


def test_what_cannot_be_stored_is_refused_where_it_is_recorded_and_nothing_has_changed() -> None:
    counter = Counter("c")
    counter.note("a")
    with pytest.raises(EventNotStorableError, match=r"^Counter\.c: Kept cannot be stored: value\.0: its class, tuple"):
        counter.record(Kept(value=[(1, 2)]))
    counter.note("b")
    assert (counter.notes, counter.version) == (["a", "b"], 2)
    assert counter.pending == (Noted(text="a"), Noted(text="b"))


class Slotted(Counter):
    """With a slot beside its `__dict__`."""

    __slots__ = ("extra",)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda counter: pickle.loads(pickle.dumps(counter))],  # noqa: S301 - made here
    ids=["plain", "deep", "pickle"],
)
@pytest.mark.parametrize("kind", [Counter, Slotted])
def test_a_copy_shares_nothing_of_what_the_library_keeps(
    copied: Callable[[Counter], Counter], kind: type[Counter]
) -> None:
    counter = kind("c")
    counter.note("a")
    state_of(counter).persisting = True
    other = copied(counter)
    assert (other.id, other.version, other.pending) == ("c", 1, (Noted(text="a"),))
    assert not state_of(other).persisting
    other.note("b")
    state_of(counter).persisting = False
    counter.increment(1)
    assert counter.pending == (Noted(text="a"), Incremented(by=1))
    assert other.pending == (Noted(text="a"), Noted(text="b"))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])  # noqa: S301 - our own
async def test_a_copy_of_a_copy_in_doubt_sends_the_very_same_commit(copied: Callable[[Counter], Counter]) -> None:
    counters, counter = TroubledStore("lost").events(Counter), Counter("c")
    counter.note("a")
    with metadata(user="u"), pytest.raises(AppendOutcomeUnknownError):
        await counters.append(counter)
    other = copied(counter)
    first, second = state_of(counter).in_doubt, state_of(other).in_doubt
    assert first is not None
    assert second == first
    assert second is not None
    assert second.metadata == {"user": "u"}
    with pytest.raises(UnusableAggregateError, match="it is unknown whether its last commit was stored"):
        other.note("b")


def test_what_the_library_keeps_of_an_aggregate_does_not_show_what_is_pending() -> None:
    counter = Counter("c")
    counter.note("payload-marker")
    assert "payload-marker" not in repr(vars(counter)["_AggregateRoot__state"])


class CopiedByHand(Counter):
    def __copy__(self) -> CopiedByHand:
        other = self.__class__.__new__(self.__class__)
        other.__dict__.update(self.__dict__)
        return other


def test_a_copy_made_by_hand_that_shares_what_is_pending_is_refused() -> None:
    counter = CopiedByHand("c")
    other = copy.copy(counter)
    with pytest.raises(UnusableAggregateError, match=r"shares what is pending .*: copy with copy\.copy"):
        other.note("b")
    counter.note("a")
    assert counter.pending == (Noted(text="a"),)


class Forgetful(AggregateRoot[Noted, str]):
    def __init__(self, id: str) -> None:
        self.text = id

    def when(self, event: Noted) -> None: ...


@dataclass
class Decorated(AggregateRoot[Noted, str]):
    text: str = ""

    def when(self, event: Noted) -> None: ...


@pytest.mark.parametrize("kind", [Forgetful, Decorated])
@pytest.mark.parametrize(
    "use",
    [
        lambda aggregate: aggregate.record(Noted(text="a")),
        lambda aggregate: aggregate.id,
        lambda aggregate: aggregate.version,
        lambda aggregate: aggregate.token,
        lambda aggregate: aggregate.pending,
        copy.copy,
        stream_of,
    ],
)
def test_an_init_that_never_reaches_ours_is_named_at_first_use(kind: Any, use: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\.__init__ did not call super\(\).__init__\(id\): write"):
        use(kind("a"))


@pytest.mark.parametrize("kind", [Forgetful, Decorated])
async def test_an_init_that_never_reaches_ours_is_named_by_a_repository(kind: Any) -> None:
    with pytest.raises(TypeError, match="__init__"):
        await InMemoryEventsRepository(kind).rehydrate("a")
    with pytest.raises(TypeError, match="__init__"):
        await InMemoryEventsRepository(kind).append(kind("a"))


def test_an_aggregate_without_its_init_can_still_be_shown() -> None:
    assert repr(Forgetful("payload-marker")) == "<Forgetful whose __init__ did not call super().__init__(id)>"


def test_a_when_that_is_no_plain_function_is_refused_at_the_class() -> None:
    with pytest.raises(TypeError, match=r"Later\.when must be a plain function"):

        class Later(AggregateRoot[Noted, str]):
            async def when(self, event: Noted) -> None: ...  # type: ignore[override]

    with pytest.raises(TypeError, match=r"Slowly\.when must be a plain function"):

        class Slowly(AggregateRoot[Noted, str]):
            def when(self, event: Noted) -> Any:
                yield event


def test_a_when_that_returns_something_is_refused_at_the_first_event() -> None:
    async def later() -> None: ...

    class Returning(AggregateRoot[Noted, str]):
        def when(self, event: Noted) -> Any:
            return later()

    returning = Returning("r")
    with pytest.raises(UnusableAggregateError, match=r"Returning\.when must return nothing"):
        returning.record(Noted(text="a"))
    assert returning.pending == ()


T = TypeVar("T")


class Changed(DomainEvent, Generic[T]):
    """To be given a type, and a name."""

    value: T


class PriceChanged(Changed[int]):
    pass


class Opens(AggregateRoot[Noted, str]):
    def when(self, event: Noted) -> None: ...


class Closes(AggregateRoot[Kept, str]):
    def when(self, event: Kept) -> None: ...


def test_a_generic_event_is_stored_under_the_name_of_the_class_that_gives_it_a_type() -> None:
    class Priced(AggregateRoot[PriceChanged, str]):
        def when(self, event: PriceChanged) -> None: ...

    priced = Priced("a")
    priced.record(PriceChanged(value=1))
    assert dict(Priced.event_types) == {"PriceChanged": PriceChanged}
    assert priced.pending == (PriceChanged(value=1),)


@pytest.mark.parametrize("member", [Changed, Changed[int]])
def test_a_generic_event_without_a_name_of_its_own_is_refused(member: Any) -> None:
    with pytest.raises(TypeError, match=r"is generic: name it, as in class PriceChanged\(Changed\[int\]\)"):

        class Priced(AggregateRoot[member, str]):
            def when(self, event: Any) -> None: ...


def test_bases_that_disagree_about_the_events_are_refused_unless_the_class_says_which() -> None:
    with pytest.raises(TypeError, match="its bases have different events or ids: say which it has"):

        class Both(Opens, Closes):  # type: ignore[misc]
            pass

    class Said(Opens, Closes, AggregateRoot[Noted | Kept, str]):  # type: ignore[misc]
        pass

    class Same(Opens, AggregateRoot[Noted, str]):
        pass

    assert list(Said.event_types) == ["Noted", "Kept"]
    assert list(Same.event_types) == ["Noted"]


def test_a_forgotten_type_parameter_of_a_generic_base_is_refused_at_the_class() -> None:
    with pytest.raises(TypeError, match="Bare: a base is generic: say which events it has"):

        class Bare(Base):  # type: ignore[type-arg]
            pass


def test_annotations_around_the_events_say_nothing() -> None:
    class Annotates(AggregateRoot[Annotated[Noted | Annotated[Kept, "x"], "y"], str]):
        def when(self, event: Any) -> None: ...

    assert list(Annotates.event_types) == ["Noted", "Kept"]


def test_events_given_as_text_are_refused_at_the_class() -> None:
    with pytest.raises(TypeError, match="defined before the aggregate"):

        class Textual(AggregateRoot["Noted | Kept", str]):
            def when(self, event: Any) -> None: ...


class WithName(AggregateRoot[Noted, str]):
    def __init__(self, id: str, name: str) -> None:
        super().__init__(id)
        self.name = name

    def when(self, event: Noted) -> None: ...


def test_an_init_that_a_load_could_not_call_is_refused_before_anything_is_stored() -> None:
    with pytest.raises(TypeError, match=r"^WithName\.__init__ must accept the id alone, for a load calls it so"):
        as_class(WithName)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must accept the id alone"):
        InMemoryEventsRepository(WithName)  # type: ignore[arg-type]
