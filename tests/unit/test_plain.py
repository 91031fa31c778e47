"""Plain events are stored unread: what is called plain comes back equal, and what might not is not called so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import enum_schema

from esazure import DomainEvent
from esazure.codec import EventCodec
from esazure.errors import EventNotStorableError
from esazure.plain import PlainEvents


class Colour(StrEnum):
    RED = "red"
    GREEN = "gr\u00fcn"


class Everything(DomainEvent):
    """A field of every plain type; two of one enumeration, which pydantic then defines apart."""

    text: str
    flag: bool
    count: int
    id: UUID
    amount: Decimal
    at: datetime
    day: date
    colour: Colour
    other_colour: Colour = Colour.RED
    note: str | None = None
    paid: Decimal | None = None
    until: datetime | None = None
    described: str = Field(default="x", description="what people read", title="Described")


class Nothing(DomainEvent):
    pass


def plain(event_type: type[DomainEvent]) -> PlainEvents | None:
    event_type.model_rebuild()
    return PlainEvents.of(event_type)


def is_plain(event: DomainEvent) -> bool:
    found = plain(type(event))
    return found is not None and found.have(event)


def anything(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "text": "x",
        "flag": True,
        "count": 1,
        "id": uuid4(),
        "amount": Decimal("1.5"),
        "at": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        "day": date(2026, 1, 2),
        "colour": Colour.GREEN,
    }
    return {**values, **changes}


times = st.datetimes(
    timezones=st.sampled_from([UTC, None, timezone(timedelta(hours=1)), timezone(timedelta(seconds=1))])
)
values = st.fixed_dictionaries(
    {
        "text": st.text(),
        "flag": st.booleans(),
        "count": st.integers() | st.integers(-(10**40), 10**40),
        "id": st.uuids(),
        "amount": st.decimals(),
        "at": times,
        "day": st.dates(),
        "colour": st.sampled_from(Colour),
        "other_colour": st.sampled_from(Colour),
        "note": st.none() | st.text(),
        "paid": st.none() | st.decimals(allow_nan=False),
        "until": st.none() | times,
        "described": st.text(st.characters(codec=None, categories=None)),
    }
)


@given(values)
@example(anything(text="\ud800", other_colour=Colour.RED, note=None, paid=None, until=None, described=""))
@settings(max_examples=2_000, deadline=None)
@pytest.mark.long
def test_a_plain_event_comes_back_equal_or_cannot_be_written(fields: dict[str, Any]) -> None:
    event = Everything.model_construct(**fields)  # not validated, like a copy that was changed
    if not is_plain(event):
        return
    codec = EventCodec({"Everything": Everything})
    try:
        line = codec.encode("stream", event)
    except EventNotStorableError:
        assert any(
            "\ud800" <= letter <= "\udfff" for text in fields.values() if isinstance(text, str) for letter in text
        )
        return
    found = codec.decode("stream", 1, line)
    assert found.__dict__ == event.__dict__
    assert [type(value) for value in found.__dict__.values()] == [type(value) for value in event.__dict__.values()]


@pytest.mark.parametrize("event", [Nothing(), Everything(**anything()), Everything(**anything(note="a", until=None))])
def test_what_people_write_every_day_is_plain(event: DomainEvent) -> None:
    assert is_plain(event)


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "changes",
    [
        {"text": Text("x")},
        {"text": 1},
        {"text": None},
        {"flag": 1},
        {"count": 2**63},
        {"count": -(2**63) - 1},
        {"count": 10**40},
        {"count": True},
        {"amount": Decimal("NaN")},
        {"amount": Decimal("-Infinity")},
        {"paid": Decimal("sNaN")},
        {"amount": 1.5},
        {"at": datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=1)))},
        {"until": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
        {"day": datetime(2026, 1, 1, tzinfo=UTC)},
        {"colour": "red"},
        {"id": "7d0b5b3a-8f0e-5c43-9a57-6f4a1d3c2b10"},
        {"unknown": "x"},
    ],
    ids=str,
)
def test_an_event_with_another_kind_of_value_is_not(changes: dict[str, Any]) -> None:
    assert not is_plain(Everything(**anything()).model_copy(update=changes))


def test_an_event_that_lacks_a_field_or_has_another_in_its_place_is_not() -> None:
    assert not is_plain(Everything.model_construct(text="x"))
    event = Everything(**anything())
    event.__dict__["more"] = event.__dict__.pop("described")
    assert not is_plain(event)


@dataclass
class Pair:
    left: str


class Inner(BaseModel):
    left: str


class Numbered(Enum):
    ONE = 1


class Odd(StrEnum):
    RED = "red"

    @classmethod
    def _missing_(cls, value: object) -> Odd:
        return cls.RED


def fields_of(config: ConfigDict | None = None, **annotations: Any) -> type[DomainEvent]:
    """An event class with these fields."""
    namespace = {"__annotations__": annotations, "__module__": __name__, "model_config": config or {}}
    return type("Made", (DomainEvent,), namespace)


@pytest.mark.parametrize(
    "annotation",
    [
        float,
        bytes,
        timedelta,
        SecretStr,
        Any,
        object,
        Pair,
        Inner,
        Numbered,
        list[str],
        tuple[str, ...],
        dict[str, str],
        set[str],
        Literal["a"],
        int | str,
        UUID | str,
        int | str | None,
        Annotated[str, Field(min_length=1)],
        Annotated[str, Field(pattern="a")],
        Annotated[int, Field(gt=0)],
        Annotated[Decimal, Field(max_digits=5)],
        Annotated[str, Field(alias="other")],
        Annotated[str, Field(validation_alias="other")],
        Annotated[str, Field(serialization_alias="other")],
        Annotated[str, Field(exclude=True)],
        Annotated[str | None, Field(exclude=True)],
        Annotated[str, Field(strict=True)],
        Annotated[str, BeforeValidator(str.upper)],
        Annotated[str, PlainSerializer(str.upper)],
        Annotated[str | None, PlainSerializer(lambda value: value)],
    ],
)
def test_a_class_with_another_kind_of_field_is_not(annotation: Any) -> None:
    assert plain(fields_of(ok=str)) is not None
    assert plain(fields_of(ok=str, field=annotation)) is None


def test_a_class_with_code_of_its_own_is_not() -> None:
    class Validated(DomainEvent):
        text: str

        @field_validator("text")
        @classmethod
        def _strip(cls, value: str) -> str:
            return value.strip()

    class Serialized(DomainEvent):
        text: str

        @field_serializer("text")
        def _upper(self, value: str) -> str:
            return value.upper()

    class Upcasting(DomainEvent):
        text: str

        @model_validator(mode="before")
        @classmethod
        def _read_older(cls, value: Any) -> Any:
            return value

    class Checked(DomainEvent):
        text: str

        @model_validator(mode="after")
        def _check(self) -> Checked:
            return self

    class Computed(DomainEvent):
        text: str

        @computed_field
        def shout(self) -> str:
            return self.text.upper()

    class Initialised(DomainEvent):
        text: str

        def __init__(self, **fields: Any) -> None:
            super().__init__(**fields)

    class Finished(DomainEvent):
        text: str

        def model_post_init(self, context: Any) -> None:
            pass

    classes = [Validated, Serialized, Upcasting, Checked, Computed, Initialised, Finished]
    assert [cls.__name__ for cls in classes if plain(cls) is not None] == []


@pytest.mark.parametrize(
    "config",
    [
        ConfigDict(str_to_upper=True),
        ConfigDict(str_max_length=3),
        ConfigDict(extra="ignore"),
        ConfigDict(frozen=False),
        ConfigDict(extra="allow"),
        ConfigDict(allow_inf_nan=True),
        ConfigDict(strict=True),
        *([ConfigDict(ser_json_temporal="milliseconds")] if "ser_json_temporal" in ConfigDict.__annotations__ else []),
        ConfigDict(coerce_numbers_to_str=True),
        ConfigDict(alias_generator=AliasGenerator(serialization_alias=str.upper)),
        ConfigDict(alias_generator=str.upper),
    ],
    ids=str,
)
def test_a_class_with_another_configuration_is_not(config: ConfigDict) -> None:
    made = type(
        "Made", (DomainEvent,), {"__annotations__": {"text": str}, "__module__": __name__, "model_config": config}
    )
    assert plain(made) is None


def test_a_class_that_is_only_named_or_described_differently_is() -> None:
    class Titled(DomainEvent):
        """What people read."""

        model_config = ConfigDict(title="Another name")
        event_type = "renamed"
        text: str

    assert is_plain(Titled(text="x"))


def test_a_class_that_keeps_the_values_of_enumerations_is_not() -> None:
    class Valued(DomainEvent):
        model_config = ConfigDict(use_enum_values=True)
        colour: Colour

    assert plain(Valued) is None


def test_an_enumeration_that_never_fails_is_trusted_for_its_members_alone() -> None:
    made = fields_of(odd=Odd)
    found = plain(made)
    assert found is None or not found.have(made.model_construct(odd="unknown"))


class Shouting(StrEnum):
    """Two that are written as the same text."""

    RED = "red"
    GREEN = "green"

    @property
    def value(self) -> str:  # type: ignore[override]
        return "colour"


class Red:
    """Lets pydantic know one colour of two."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return enum_schema(Colour, [Colour.RED], sub_type="str")


@pytest.mark.parametrize("annotation", [Shouting, Annotated[Colour, Red]])
def test_an_enumeration_of_which_a_member_is_not_found_again_is_not(annotation: Any) -> None:
    assert plain(fields_of(colour=annotation)) is None


def test_a_member_that_would_come_back_as_another_is_refused() -> None:
    made = fields_of(colour=Shouting)
    codec = EventCodec({"Made": made})
    refused = 0
    for member in Shouting:
        try:
            line = codec.encode("Thing.a", made.model_construct(colour=member))
        except EventNotStorableError:
            refused += 1
        else:
            assert codec.decode("Thing.a", 1, line) == made.model_construct(colour=member)
    assert refused == 1


def test_a_class_with_a_great_many_fields_that_may_be_missing_is_proved_each_time() -> None:
    assert plain(fields_of(**{f"field_{number}": str | None for number in range(6)})) is not None
    assert plain(fields_of(**{f"field_{number}": str | None for number in range(7)})) is None
