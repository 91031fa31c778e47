"""Events to text and back: what is stored, what is refused, and what no message may quote."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializerFunctionWrapHandler,
    computed_field,
    field_validator,
    model_serializer,
    model_validator,
)

from esazure import CorruptStreamError, DomainEvent, EventNotStorableError, UnknownEventTypeError
from esazure.codec import EventCodec


class Colour(Enum):
    RED = "red"


class Money(BaseModel):
    amount: Decimal
    ratio: float = 1.0


class Rich(DomainEvent):
    id: UUID
    at: datetime
    day: date
    price: Money
    colour: Colour
    wait: timedelta
    raw: bytes
    tags: frozenset[str]
    pair: tuple[int, str]
    maybe: int | None = None


class Named(DomainEvent):
    event_type = "person-named:v1"
    first_name: str = Field(alias="firstName")


class Measured(DomainEvent):
    price: Money


class Anything(DomainEvent):
    value: Any = None


RICH = Rich(
    id=UUID(int=7),
    at=datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC),
    day=date(2024, 2, 29),
    price=Money(amount=Decimal("10.10")),
    colour=Colour.RED,
    wait=timedelta(days=-1, microseconds=1),
    raw="na\u00efve".encode(),
    tags=frozenset({"a"}),
    pair=(1, "x"),
)


def codec(*event_types: type[DomainEvent]) -> EventCodec[Any]:
    return EventCodec({event_type.event_type: event_type for event_type in event_types})


def test_a_line_is_the_stored_name_a_blank_and_the_json() -> None:
    assert codec(Anything).encode("s", Anything(value=["\n", "\u2028"])) == 'Anything {"value":["\\n","\u2028"]}'


def test_rich_types_come_back_equal() -> None:
    its = codec(Rich)
    line = its.encode("s", RICH)
    assert "\n" not in line
    assert its.decode("s", 1, line) == RICH


def test_pinned_names_and_aliases_are_what_is_stored() -> None:
    its = codec(Named)
    event = Named(firstName="Ada")
    assert its.encode("s", event) == 'person-named:v1 {"firstName":"Ada"}'
    assert its.decode("s", 1, 'person-named:v1 {"firstName":"Ada"}') == event


def test_older_shapes_are_read_through_a_validator_of_the_event() -> None:
    class Moved(DomainEvent):
        street: str
        country: str

        @model_validator(mode="before")
        @classmethod
        def upcast(cls, data: Any) -> Any:
            return {"country": "DE", **data}

    assert codec(Moved).decode("s", 1, 'Moved {"street":"x"}') == Moved(street="x", country="DE")


@pytest.mark.parametrize(
    "name", ["os:system", "os.system", "builtins.eval", "antigravity", "esazure.tables", "__main__"]
)
def test_a_stored_name_never_chooses_what_is_imported(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(UnknownEventTypeError) as caught:
        codec(Anything).decode("s", 1, f'{name} {{"value":"payload-marker"}}')
    assert caught.value.name == name
    assert set(sys.modules) == before
    assert "payload-marker" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        [float("-inf")],
        {"a": {"b": float("nan")}},
        "\ud800",
        ["\udfff"],
        {"\ud800": 1},
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("seen_before", [False, True])
def test_what_json_cannot_say_is_refused(value: Any, *, seen_before: bool) -> None:
    its = codec(Anything)
    if seen_before:
        its.encode("s", Anything(value=1))
    with pytest.raises(EventNotStorableError, match="s: Anything cannot be stored"):
        its.encode("s", Anything.model_construct(value=value))


def test_configuration_holds_for_a_class_nobody_used_before() -> None:
    class Untouched(DomainEvent):
        value: Any = None

    its = codec(Untouched)  # before the class has built its schema
    its.encode("s", Untouched(value=1))
    with pytest.raises(EventNotStorableError):
        its.encode("s", Untouched(value=[float("nan")]))


def test_nan_in_a_model_inside_the_event_is_refused() -> None:
    its = codec(Measured)
    its.encode("s", Measured(price=Money(amount=Decimal(1))))
    with pytest.raises(EventNotStorableError):
        its.encode("s", Measured(price=Money(amount=Decimal(1), ratio=float("nan"))))


@pytest.mark.parametrize(
    "value",
    [[[[]]] * 2_000, 10**5_000, "x" * 10_000],
    ids=["many brackets", "digits beyond what a parser takes", "long"],
)
def test_suspicious_lines_are_read_back_before_they_are_stored(value: Any) -> None:
    its = codec(Anything)
    its.encode("s", Anything(value=1))
    try:
        line = its.encode("s", Anything.model_construct(value=value))
    except EventNotStorableError:
        assert value == 10**5_000
    else:
        assert its.decode("s", 1, line).value == value


@pytest.mark.parametrize("depth", [150, 180, 199, 200, 201, 254, 255, 256, 300, 1_000])
def test_depth_is_either_refused_or_comes_back(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    its = codec(Anything)
    its.encode("s", Anything(value=1))  # the first of its type is always read back; the others only when in doubt
    try:
        line = its.encode("s", Anything.model_construct(value=value))
    except EventNotStorableError:
        assert depth > 150
    else:
        assert its.decode("s", 1, line).value == value


class Net(BaseModel):
    cents: int

    @computed_field
    def gross(self) -> int:
        return self.cents * 119 // 100


class Computed(DomainEvent):
    net: Net
    nets: list[Net]

    @computed_field
    def total(self) -> int:
        return self.net.cents


class StrictNet(BaseModel):
    model_config = ConfigDict(extra="forbid")
    cents: int

    @model_serializer
    def write(self) -> dict[str, Any]:
        return {"cents": self.cents, "kind": "net"}


class Tagged(DomainEvent):
    nets: list[StrictNet]

    @model_serializer(mode="wrap")
    def write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**write(self), "kind": "tagged"}


def test_what_is_computed_from_the_fields_is_not_stored_at_any_depth() -> None:
    event = Computed(net=Net(cents=100), nets=[Net(cents=1)])
    line = codec(Computed).encode("s", event)
    assert line == 'Computed {"net":{"cents":100},"nets":[{"cents":1}]}'
    assert codec(Computed).decode("s", 1, line) == event


def test_what_a_serializer_adds_to_the_fields_is_not_stored_at_any_depth() -> None:
    event = Tagged(nets=[StrictNet(cents=1), StrictNet(cents=2)])
    line = codec(Tagged).encode("s", event)
    assert line == 'Tagged {"nets":[{"cents":1},{"cents":2}]}'
    assert codec(Tagged).decode("s", 1, line) == event


@pytest.mark.parametrize(
    "line",
    [
        'Anything {"value":"payload-marker',
        'Anything {"payload-marker":1}',
        'Anything ["payload-marker"]',
        'Anything {"value":1}payload-marker',
        "Anything \x00payload-marker",
        "Anything  {\"value\":'payload-marker'}",
        '{"value":"payload-marker"}',
        'Anything\t{"value":"payload-marker"}',
        "Rich {}",
        'Rich {"id":"payload-marker","price":{"payload-marker":1},"colour":"payload-marker"}',
        "",
        " ",
    ],
)
def test_damage_is_an_error_without_its_text(line: str) -> None:
    with pytest.raises(CorruptStreamError, match=r"s: version 7") as caught:
        codec(Anything, Rich).decode("s", 7, line)
    assert "payload-marker" not in str(caught.value) + repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("error", [KeyError, TypeError, ValueError, AttributeError, RecursionError])
def test_a_validator_of_the_event_that_fails_is_a_corrupt_stream(error: type[Exception]) -> None:
    class Fussy(DomainEvent):
        text: str

        @field_validator("text")
        @classmethod
        def check(cls, text: str) -> str:
            if text == "payload-marker":
                raise error(text)
            return text

    with pytest.raises(CorruptStreamError) as caught:
        codec(Fussy).decode("s", 1, 'Fussy {"text":"payload-marker"}')
    assert "payload-marker" not in str(caught.value)


@pytest.mark.parametrize("json", ["NaN", "[Infinity]", "1e999", "-1e999"])
def test_numbers_that_json_does_not_have_are_refused_where_a_float_is_declared(json: str) -> None:
    class Typed(DomainEvent):
        value: float | list[float]

    with pytest.raises(CorruptStreamError):
        codec(Typed).decode("s", 1, f'Typed {{"value":{json}}}')


class Address(BaseModel):
    zip: str


class AmericanAddress(Address):
    state: str


class Moved(DomainEvent):
    to: Address
    token: SecretStr | None = None
    note: str = Field(default="", exclude=True)
    times: int = 1


@pytest.mark.parametrize("seen_before", [False, True])
@pytest.mark.parametrize(
    "event",
    [
        Moved(to=AmericanAddress(zip="1", state="payload-marker")),
        Moved(to=Address(zip="1"), token=SecretStr("payload-marker")),
        Moved(to=Address(zip="1"), note="payload-marker"),
        Moved(to=Address(zip="1")).model_copy(update={"times": "payload-marker"}),
        Moved.model_construct(to=Address(zip="1"), times="payload-marker"),
        Moved.model_construct(to="payload-marker"),
    ],
    ids=["a subclass in a field", "a secret", "an excluded field", "a bad copy", "a bad construct", "another type"],
)
def test_an_event_that_would_not_come_back_as_it_is_is_refused(event: Moved, *, seen_before: bool) -> None:
    codec = EventCodec({"Moved": Moved})
    if seen_before:
        codec.encode("S.a", Moved(to=Address(zip="1")))
    with pytest.raises(EventNotStorableError) as caught:
        codec.encode("S.a", event)
    assert "payload-marker" not in str(caught.value)
    assert caught.value.__context__ is None, "what is chained would quote the value"


class Measure(DomainEvent):
    """Keeps what it has computed, beside its fields."""

    value: float

    @cached_property
    def doubled(self) -> float:
        return self.value * 2


def test_what_an_event_has_computed_and_kept_is_not_stored_and_in_nobodys_way() -> None:
    codec = EventCodec({"Measure": Measure})
    event = Measure(value=1.5)
    assert event.doubled == 3
    assert codec.encode("Thing.a", event) == 'Measure {"value":1.5}'


class Open(DomainEvent):
    """Takes any field."""

    model_config = ConfigDict(extra="allow")


def test_fields_that_are_not_declared_have_to_come_back_as_well() -> None:
    codec = EventCodec({"Open": Open})
    assert codec.encode("Thing.a", Open(pair=[1, 2])) == 'Open {"pair":[1,2]}'  # type: ignore[call-arg]
    with pytest.raises(EventNotStorableError, match=r"undeclared fields\.0: its class, tuple"):
        codec.encode("Thing.a", Open(pair=(1, 2)))  # type: ignore[call-arg]


class Inner(BaseModel):
    times: dict[str, list[datetime]]


@dataclass(slots=True)
class Slotted:
    at: datetime


class Timed(DomainEvent):
    at: datetime | None = None
    of_day: time | None = None
    inner: Inner | None = None
    slotted: Slotted | None = None
    anything: Any = None


PARIS = ZoneInfo("Europe/Paris")
SUMMER, WINTER = datetime(2024, 7, 1, tzinfo=PARIS), datetime(2024, 1, 1, tzinfo=PARIS)


@pytest.mark.parametrize(
    "event",
    [
        Timed(at=SUMMER),
        Timed(at=WINTER),
        Timed(at=datetime(2024, 10, 27, 0, 30, tzinfo=UTC).astimezone(PARIS)),  # the first 02:30 of that night
        Timed(at=datetime(2024, 10, 27, 2, 30, fold=1)),  # noqa: DTZ001 - on purpose
        Timed(of_day=time(2, 30, tzinfo=PARIS)),
        Timed(inner=Inner(times={"a": [SUMMER]})),
        Timed(slotted=Slotted(SUMMER)),
    ],
    ids=range(7),
)
def test_a_time_whose_zone_would_not_come_back_is_refused_on_every_day_of_the_year(event: Timed) -> None:
    with pytest.raises(EventNotStorableError, match=r"a time in a zone such as .*: record it in UTC") as error:
        EventCodec({"Timed": Timed}).encode("Thing.a", event)
    assert "2024" not in str(error.value)


def test_the_second_of_two_times_in_a_night_is_not_stored_as_the_first() -> None:
    class Plain(DomainEvent):
        at: datetime

    with pytest.raises(EventNotStorableError):
        EventCodec({"Plain": Plain}).encode("Thing.a", Plain(at=datetime(2024, 10, 27, 2, 30, fold=1)))  # noqa: DTZ001 - on purpose


@pytest.mark.parametrize(
    "at",
    [datetime.now(UTC), SUMMER.astimezone(UTC), SUMMER.astimezone(timezone(timedelta(hours=2))), datetime(2024, 1, 1)],  # noqa: DTZ001 - on purpose
)
def test_other_times_come_back_and_can_be_recorded_again(at: datetime) -> None:
    codec = EventCodec({"Timed": Timed})
    line = codec.encode("Thing.a", Timed(at=at, of_day=at.time(), anything=None))
    assert codec.encode("Thing.a", codec.decode("Thing.a", 1, line)) == line


class Booked(DomainEvent):
    at: datetime

    @cached_property
    def local(self) -> datetime:
        return self.at.astimezone(PARIS)


class Zoned(DomainEvent):
    """Keeps the name of the zone in its JSON."""

    at: Annotated[
        datetime,
        PlainSerializer(lambda at: f"{at.isoformat()} {at.tzinfo.key}"),
        BeforeValidator(lambda at: _with_zone(at) if isinstance(at, str) else at),
    ]


def _with_zone(text: str) -> datetime:
    at, zone = text.split()
    return datetime.fromisoformat(at).astimezone(ZoneInfo(zone))


def test_a_time_in_a_zone_that_is_not_stored_or_does_come_back_is_no_reason_to_refuse() -> None:
    booked = Booked(at=datetime(2024, 7, 1, tzinfo=UTC))
    assert booked.local.hour == 2
    assert EventCodec({"Booked": Booked}).encode("Thing.a", booked) == 'Booked {"at":"2024-07-01T00:00:00Z"}'
    codec = EventCodec({"Zoned": Zoned})
    for at in (SUMMER, datetime(2024, 10, 27, 1, 30, tzinfo=UTC).astimezone(PARIS)):
        assert codec.decode("Thing.a", 1, codec.encode("Thing.a", Zoned(at=at))).at.tzinfo is PARIS
    fixed = datetime(2024, 7, 1, tzinfo=timezone(timedelta(hours=2)), fold=1)
    assert EventCodec({"Booked": Booked}).encode("Thing.a", Booked(at=fixed))
