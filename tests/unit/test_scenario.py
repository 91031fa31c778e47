"""given/when/then: says yes to what is right, and no, clearly, to everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NewType
from uuid import UUID

import pytest
from pydantic import BaseModel

from esazure import AggregateRoot, DomainEvent, EventNotStorableError, UnknownEventTypeError, UnusableAggregateError
from esazure.testing import given
from esazure.testing._counter import Counter, Gauge, Incremented, Kept, Noted

GaugeId = NewType("GaugeId", UUID)


class TooMuchError(ValueError):
    """A rule of the domain."""


class Entity:
    """Part of an aggregate, without `__eq__`."""

    def __init__(self, root: Any, name: str) -> None:
        self.root = root
        self.name = name
        self.listener: Callable[[], None] = self.rename

    def rename(self) -> None:
        self.name += "!"


@dataclass
class Shelf:
    """Has an `__eq__` that does not help, because its parts have none."""

    entities: list[Entity] = field(default_factory=list[Entity])


class Box(AggregateRoot[Noted | Incremented, str]):
    """Keeps entities, private state and functions."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.entities: dict[str, list[Entity]] = {}
        self.slot = object()
        self.size: Callable[[], int] = lambda: len(self.entities)
        self.shelf = Shelf()
        self._hidden = 0

    def put(self, name: str) -> None:
        if len(self.entities) > 1:
            raise TooMuchError(f"no room for {name}")
        self.record(Noted(text=name))

    def cheat(self, attribute: str, value: Any) -> None:
        self.record(Incremented(by=1))
        setattr(self, attribute, value)

    def cheat_inside(self) -> None:
        self.record(Incremented(by=1))
        self.entities["a"][0].rename()

    def record_then_raise(self) -> None:
        self.record(Incremented(by=1))
        raise TooMuchError("late")

    async def asynchronous(self) -> None:
        self.record(Incremented(by=1))

    def when(self, event: Noted | Incremented) -> None:
        match event:
            case Noted(text=text):
                self.entities.setdefault(text, []).append(Entity(self, text))
                self.shelf.entities.append(self.entities[text][0])
            case Incremented(by=by):
                self._hidden += by


def test_exactly_these_events_in_this_order() -> None:
    scenario = given(Box, Noted(text="a")).when(lambda box: (box.put("b"), box.record(Incremented(by=2))))
    scenario.then(Noted(text="b"), Incremented(by=2))
    assert scenario.aggregate.version == 3


def test_nothing_recorded_is_an_expectation_too() -> None:
    given(Box).when(lambda box: box.size()).then()
    with pytest.raises(AssertionError, match=r"expected: nothing\n  but the command recorded:\n    Noted"):
        given(Box).when(lambda box: box.put("a")).then()


@pytest.mark.parametrize(
    "expected",
    [
        (),
        (Noted(text="a"),),
        (Incremented(by=1), Noted(text="a")),
        (Noted(text="a"), Incremented(by=2)),
        (Noted(text="a"), Incremented(by=1), Incremented(by=1)),
    ],
)
def test_other_events_fail(expected: tuple[DomainEvent, ...]) -> None:
    with pytest.raises(AssertionError, match="but the command recorded"):
        given(Box).when(lambda box: (box.put("a"), box.record(Incremented(by=1)))).then(*expected)


def test_ids_are_fixed_and_can_be_chosen() -> None:
    class Named(AggregateRoot[Incremented, GaugeId]):
        def when(self, event: Incremented) -> None: ...

    assert given(Counter).aggregate.id == "test"
    assert given(Gauge).aggregate.id == given(Gauge).aggregate.id == UUID("00000000-0000-4000-8000-000000000001")
    assert isinstance(given(Named).aggregate.id, UUID)
    assert given(Counter, id="mine").aggregate.id == "mine"
    assert given(Counter, id="").aggregate.id == ""


def test_the_past_is_the_past() -> None:
    counter = given(Counter, Noted(text="a"), Incremented(by=2)).aggregate
    assert (counter.notes, counter.total, counter.version, counter.pending) == (["a"], 2, 2, ())


def test_errors_are_expected_by_type_and_text() -> None:
    full = given(Box, Noted(text="a"), Noted(text="b")).when(lambda box: box.put("c"))
    full.raises(TooMuchError)
    full.raises(ValueError, match=r"room for c$")
    with pytest.raises(AssertionError, match="does not match 'elsewhere'") as caught:
        full.raises(TooMuchError, match="elsewhere")
    assert isinstance(caught.value.__cause__, TooMuchError)
    with pytest.raises(AssertionError, match="expected KeyError, but the command raised TooMuchError") as caught:
        full.raises(KeyError)
    assert isinstance(caught.value.__cause__, TooMuchError)


def test_an_error_that_did_not_happen_fails() -> None:
    with pytest.raises(AssertionError, match="expected TooMuchError, but the command recorded"):
        given(Box).when(lambda box: box.put("c")).raises(TooMuchError)


def test_an_error_nobody_expected_comes_out_of_then() -> None:
    with pytest.raises(TooMuchError, match="no room"):
        given(Box, Noted(text="a"), Noted(text="b")).when(lambda box: box.put("c")).then()


def test_an_error_after_an_event_was_recorded_fails() -> None:
    with pytest.raises(AssertionError, match="check first, then record"):
        given(Box).when(Box.record_then_raise).raises(TooMuchError)


def test_then_and_raises_need_a_when_and_there_is_only_one() -> None:
    with pytest.raises(AssertionError, match="after when"):
        given(Box).then()
    with pytest.raises(AssertionError, match="after when"):
        given(Box).raises(TooMuchError)
    with pytest.raises(AssertionError, match="one when"):
        given(Box).when(lambda box: None).when(lambda box: None)


def test_an_asynchronous_command_is_refused() -> None:
    with pytest.raises(AssertionError, match="asynchronous"):
        given(Box).when(lambda box: box.asynchronous())


@pytest.mark.parametrize(
    ("attribute", "value"), [("_hidden", 5), ("entities", {}), ("new", 1), ("entities", {"a": 1}), ("slot", 5)]
)
def test_state_changed_outside_when_fails(attribute: str, value: Any) -> None:
    with pytest.raises(AssertionError, match=f"gives another state than the command left: {attribute} is"):
        given(Box, Noted(text="a")).when(lambda box: box.cheat(attribute, value)).then(Incremented(by=1))


def test_state_changed_inside_an_entity_fails() -> None:
    with pytest.raises(AssertionError, match="another state"):
        given(Box, Noted(text="a")).when(Box.cheat_inside).then(Incremented(by=1))


def test_state_changed_without_an_event_fails() -> None:
    with pytest.raises(AssertionError, match="another state"):
        given(Box).when(lambda box: setattr(box, "_hidden", 1)).then()


def test_state_in_slots_counts() -> None:
    class Slotted(AggregateRoot[Incremented, str]):
        __slots__ = ("total",)

        def __init__(self, id: str) -> None:
            super().__init__(id)
            self.total = 0

        def when(self, event: Incremented) -> None:
            self.total += event.by

    given(Slotted).when(lambda it: it.record(Incremented(by=1))).then(Incremented(by=1))
    with pytest.raises(AssertionError, match="total is 7, replayed 0"):
        given(Slotted).when(lambda it: setattr(it, "total", 7)).then()


def test_an_event_that_does_not_come_back_as_it_was_fails() -> None:
    class Forgetful(DomainEvent):
        value: Any

    class Keeper(AggregateRoot[Forgetful, str]):
        def when(self, event: Forgetful) -> None: ...

    with pytest.raises(EventNotStorableError, match="would come back as"):
        given(Keeper).when(lambda it: it.record(Forgetful(value=(1, 2)))).then(Forgetful(value=(1, 2)))
    with pytest.raises(EventNotStorableError, match="would come back as"):
        given(Keeper, Forgetful(value={1}))


def test_an_event_that_cannot_be_stored_fails() -> None:
    kept = Kept(value=float("nan"))
    with pytest.raises(EventNotStorableError):
        given(Counter).when(lambda it: it.record(kept)).then(kept)


def test_state_that_depends_on_a_type_json_does_not_keep_is_found() -> None:
    class Price(BaseModel):
        cents: int

    class Priced(DomainEvent):
        price: Any

    class Product(AggregateRoot[Priced, str]):
        cents = 0

        def when(self, event: Priced) -> None:
            self.cents = event.price.cents

    with pytest.raises(EventNotStorableError, match="would come back as"):
        given(Product).when(lambda it: it.record(Priced(price=Price(cents=1)))).then(Priced(price=Price(cents=1)))


def test_an_undeclared_event_in_the_past_is_refused() -> None:
    with pytest.raises(UnknownEventTypeError):
        given(Gauge, Noted(text="a"))


def test_an_error_inside_when_is_seen_by_the_scenario() -> None:
    class Broken(Counter):
        def when(self, event: Any) -> None:
            raise ZeroDivisionError

    given(Broken).when(lambda it: it.increment()).raises(ZeroDivisionError)
    scenario = given(Broken).when(lambda it: it.increment())
    with pytest.raises(UnusableAggregateError):
        scenario.aggregate.increment()


def test_what_is_no_aggregate_is_refused() -> None:
    with pytest.raises(TypeError, match="aggregate class itself"):
        given(int)
