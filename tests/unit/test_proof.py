"""What is equal and yet not the same is not stored as if it were, and every refusal says where it is."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import (
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    model_serializer,
)
from typing_extensions import TypedDict

from esazure import DomainEvent
from esazure.proof import is_alike, prove


class Level(IntEnum):
    LOW = 1


class State(StrEnum):
    OPEN = "open"


class Text(str):
    __slots__ = ()


class Moment(datetime):
    pass


class Pair(NamedTuple):
    left: int


class Price(BaseModel):
    cents: int
    _cache: dict[str, str] = PrivateAttr(default_factory=dict[str, str])


class Discount(Price):
    pass


@dataclass
class Line:
    price: Price
    anything: Any = None


@dataclass
class SpecialLine(Line):
    pass


@dataclass
class Counted:
    names: list[str]
    count: int = field(init=False, default=0)
    note: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        self.count = len(self.names)


class Typed(TypedDict):
    anything: Any


class Event(DomainEvent):
    model_config = ConfigDict(extra="allow")

    anything: Any = None
    thing: object = None
    by_key: dict[Any, Any] = Field(default_factory=dict[Any, Any])
    lines: list[Line] = Field(default_factory=list[Line])
    prices: list[Price] = Field(default_factory=list[Price])
    typed: Typed | None = None
    numbers: Sequence[int] = Field(default_factory=list[int])
    amounts: defaultdict[str, int] | None = None
    queue: deque[int] | None = None
    rounded: Annotated[float, PlainSerializer(abs)] = 0.0
    at: datetime | None = None
    _private: str = PrivateAttr(default="")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"anything": Level.LOW}, "anything"),
        ({"thing": State.OPEN}, "thing"),
        ({"anything": [1, {"marker": Text("marker")}]}, "anything.1.0"),
        ({"anything": Counter("aab")}, "anything"),
        ({"anything": OrderedDict(a=1)}, "anything"),
        ({"anything": [defaultdict(int)]}, "anything.0"),
        ({"anything": {"marker": (1,)}}, "anything.0"),
        ({"anything": Pair(1)}, "anything"),
        ({"anything": {1}}, "anything"),
        ({"anything": frozenset({1})}, "anything"),
        ({"anything": Decimal(1)}, "anything"),
        ({"anything": Fraction(1)}, "anything"),
        ({"anything": {1: "marker"}}, "anything.0"),
        ({"by_key": {State.OPEN: 1}}, "by_key.0"),
        ({"by_key": {"a": 1, 2: 1}}, "by_key.1"),
        ({"lines": [Line(Price(cents=1)), Line(Discount(cents=1))]}, "lines.1.price"),
        ({"lines": [Line(Price(cents=1), anything=[State.OPEN])]}, "lines.0.anything.0"),
        ({"lines": [SpecialLine(Price(cents=1))]}, "lines.0"),
        ({"prices": [Discount(cents=1)]}, "prices.0"),
        ({"prices": [Price(cents=1), Price.model_construct(cents="marker")]}, "prices.1.cents"),
        ({"prices": [Price.model_construct()]}, "prices.0.cents"),
        ({"typed": {"anything": State.OPEN}}, "typed.0"),
        ({"numbers": (1, 2)}, "numbers"),
        ({"amounts": defaultdict(lambda: 5)}, "amounts"),
        ({"queue": deque([1], maxlen=3)}, "queue"),
        ({"rounded": -0.0}, "rounded"),
        ({"at": Moment(2024, 1, 1, tzinfo=timezone(timedelta(hours=1)))}, "at"),
        ({"at": datetime(1890, 1, 1, tzinfo=timezone(timedelta(minutes=9, seconds=21)))}, "at"),
        ({"anything": ["fine", b"\xff"]}, "anything.1"),
        ({"anything": {"marker": {"marker": "\ud800"}}}, "anything.0.0"),
        ({"anything": {"\ud800": 1}}, "anything.0"),
        ({"anything": [[float("nan")]]}, "anything.0.0"),
        ({"lines": [Line(Price(cents=1), anything=object())]}, "lines.0.anything"),
        ({"marker": (1,)}, "undeclared fields.0"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused_with_its_path_and_never_its_value(
    fields: dict[str, Any], path: str
) -> None:
    event = Event().model_copy(update=fields)
    if "marker" in fields:
        event = Event(**fields)
    reason = prove(event)
    assert isinstance(reason, str)
    assert reason.removeprefix("it cannot be read back: ").startswith(f"{path}: ")
    assert "marker" not in reason


@pytest.mark.parametrize(
    "fields",
    [
        {"anything": [1, 1.5, -0.0, True, None, "a", {"b": [], "a": {}}]},
        {"lines": [Line(Price(cents=1), anything={"a": [1]})]},
        {"amounts": defaultdict(int, a=1), "queue": deque([1])},
        {"typed": {"anything": 1}, "numbers": [1]},
    ],
)
def test_what_comes_back_as_it_was_is_read_into_objects_of_its_own(fields: dict[str, Any]) -> None:
    event = Event(**fields)
    proved = prove(event)
    assert not isinstance(proved, str)
    assert proved[1] == event
    assert repr(proved[1]) == repr(event)
    for name, value in fields.items():
        assert getattr(proved[1], name) is not value


def test_every_field_of_a_dataclass_is_compared_and_one_it_computes_is_not_read() -> None:
    class Sorted(DomainEvent):
        counted: Counted

    proved = prove(Sorted(counted=Counted(["a", "b"], note=[1])))
    assert not isinstance(proved, str)
    assert proved[1].counted.count == 2
    assert str(prove(Sorted(counted=Counted([], note=("marker",))))).startswith("counted.note: its class, tuple")
    miscounted = Sorted(counted=Counted(["marker"]))
    miscounted.counted.count = 5
    assert str(prove(miscounted)).startswith("counted.count: what would be read back is not equal")


class Stubborn:
    """Cannot be compared, and is read by code that fails."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        raise RuntimeError(self.text)

    __hash__ = None  # type: ignore[assignment]  # as nothing that changes has one


def test_code_of_its_own_that_fails_is_refused_at_its_field() -> None:
    def fail(value: object) -> object:
        if isinstance(value, str):
            raise TypeError(value)
        return value

    class Failing(DomainEvent):
        model_config = ConfigDict(arbitrary_types_allowed=True)

        number: int
        read: Annotated[object, BeforeValidator(fail)] = Field(default=None, alias="as-read")
        compared: Annotated[
            Stubborn | None,
            PlainSerializer(lambda it: it and it.text),
            BeforeValidator(lambda it: Stubborn(it) if isinstance(it, str) else it),
        ] = None

    event = Failing(number=1)
    reason = prove(event.model_copy(update={"read": "marker"}))
    assert reason == "it cannot be read back: read: TypeError"
    reason = prove(event.model_copy(update={"compared": Stubborn("marker")}))
    assert str(reason).startswith("compared: what would be read back is not equal to it")
    assert "marker" not in str(reason)


def test_a_value_that_holds_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append([circle])
    assert str(prove(Event.model_construct(anything=circle))).startswith("anything.0.0.0.")


def test_a_value_of_another_class_is_refused_with_what_to_do() -> None:
    assert prove(Event(at=Moment(2024, 1, 1, tzinfo=UTC))) == (
        "at: its class, Moment, would come back as datetime: make it a value of datetime itself, or declare the field "
        "as Moment"
    )


def test_what_a_serializer_adds_is_counted_and_never_named() -> None:
    class Chatty(DomainEvent):
        model_config = ConfigDict(extra="forbid")
        amount: int

        @model_serializer
        def write(self) -> dict[str, object]:
            return {"amount": "many", "marker": 1}

    assert prove(Chatty(amount=1)) == ("it cannot be read back: amount: int_parsing, the event: extra_forbidden")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_cannot_be_written(number: float) -> None:
    assert prove(Event(anything=[1.0, number])) == "anything.1: it cannot be written as JSON (ValueError)"


def test_the_order_of_a_dictionary_does_not_matter_whatever_its_values_hold_privately() -> None:
    one, other = Price(cents=1), Price(cents=1)
    one._cache["text"] = "marker"
    assert one != other
    assert is_alike({"a": one, "b": 2}, {"b": 2, "a": other})


def test_what_is_in_a_set_keeps_its_class() -> None:
    class Tagged(DomainEvent):
        levels: frozenset[int]

    assert not isinstance(prove(Tagged(levels=frozenset({1, 2}))), str)
    tagged = Tagged.model_construct(levels=frozenset({Level.LOW}))
    assert str(prove(tagged)).startswith("levels: its class, Level, would come back as int")


def test_values_that_are_one_thing_come_back() -> None:
    class Reached(DomainEvent):
        page: AnyUrl
        address: IPv4Address
        path: PurePosixPath

    event = Reached(page=AnyUrl("https://a.example/b"), address=IPv4Address("192.0.2.1"), path=PurePosixPath("a/b"))
    assert prove(event) == ('{"page":"https://a.example/b","address":"192.0.2.1","path":"a/b"}', event)


def test_a_field_called_as_an_attribute_of_a_queue_is_named() -> None:
    class Queue(DomainEvent):
        maxlen: Annotated[float, PlainSerializer(abs)]

    assert str(prove(Queue(maxlen=-1.0))).startswith("maxlen: ")


@pytest.mark.parametrize(("written", "path"), [([1], "numbers.1"), ([1, 2, 3], "numbers.2"), ([1, 3], "numbers.1")])
def test_a_list_that_would_come_back_shorter_or_longer_is_refused_where_it_ends(written: list[int], path: str) -> None:
    def write(_: list[int]) -> list[int]:
        return written

    class Masked(DomainEvent):
        numbers: Annotated[list[int], PlainSerializer(write)]

    assert str(prove(Masked(numbers=[1, 2]))).startswith(f"{path}: what would be read back is not equal")


@pytest.mark.parametrize(("depth", "path"), [(9, ["anything", *"0" * 9]), (10, ["anything", *"0" * 9, "..."])])
def test_a_path_has_ten_names_at_most(depth: int, path: list[str]) -> None:
    inner: Any = float("nan")
    for _ in range(depth):
        inner = [inner]
    assert str(prove(Event(anything=inner))).startswith(f"{'.'.join(path)}: ")


@pytest.mark.parametrize("sign", [1, -1])
def test_an_offset_with_seconds_is_refused_as_one_that_would_not_come_back(sign: int) -> None:
    zone = timezone(sign * timedelta(minutes=9, seconds=21))
    assert prove(Event(at=datetime(1890, 1, 1, tzinfo=zone))) == (
        "at: its offset from UTC would not come back: record it in UTC"
    )


def test_private_attributes_are_no_part_of_an_event_at_any_depth() -> None:
    event = Event(prices=[Price(cents=1)], lines=[Line(Price(cents=2))])
    event._private = "marker"
    for price in (event.prices[0], event.lines[0].price):
        price._cache["text"] = "marker"
    proved = prove(event)
    assert not isinstance(proved, str)
    text, read = proved
    assert "marker" not in text
    assert read == event
    assert event == read
    assert read._private == ""
    assert read != Event(prices=[Price(cents=1)], lines=[Line(Price(cents=3))])
    assert read != Event(prices=[Price(cents=1)])


class Simple(DomainEvent):
    value: str


def test_events_of_two_classes_are_not_equal_and_other_things_are_no_events() -> None:
    class Other(DomainEvent):
        value: str

    assert Simple(value="a") != Other(value="a")
    assert Simple(value="a") != "a"
    assert hash(Simple(value="a")) == hash(Simple(value="a"))
    assert not is_alike([Price(cents=1)], (Price(cents=1),))
    assert not is_alike({"a": Price(cents=1)}, {"b": Price(cents=1)})
