"""The hash of what a command asks for: one for equal commands, another for others, and nothing to read in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import AnyUrl, BaseModel, Field, PrivateAttr, RootModel, Secret, SecretStr, computed_field
from typing_extensions import TypedDict

from esazure.commands import Command

CEST = timezone(timedelta(hours=2))
ID = UUID("12345678-1234-5678-1234-567812345678")


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Kind(Enum):
    A = "a"
    B = "b"


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str
    note: str = field(default="", compare=False)


class Line(BaseModel):
    shop: str
    tip: int = 0


class Opened(TypedDict):
    by: str


class Lines(RootModel[list[Line]]):
    pass


class Ask(Command):
    value: Any


class Other(Command):
    value: Any


class Pay(Command):
    purse: UUID
    amount: Decimal
    lines: list[Line] = Field(default_factory=list[Line])
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    tags: frozenset[str] = frozenset()
    secret: str = Field(default="", exclude=True, repr=False)
    _cache: int = PrivateAttr(default=0)

    @computed_field  # type: ignore[prop-decorator]  # mypy does not know properties below decorators
    @property
    def shown(self) -> str:
        return str(uuid4())


class PayWithReason(Command):
    """A later release of `Pay`."""

    reason: str | None = None
    tags: set[str] = Field(default_factory=set[str])
    amount: Decimal
    purse: UUID


PayWithReason.__name__ = "Pay"


def digest(value: object) -> str:
    return Ask(value=value).digest("pay-1")


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (Decimal("1.0"), Decimal("1.00")),
        (Decimal("1e3"), Decimal(1000)),
        (Decimal("100.10"), Decimal("1001e-1")),
        (1, 1.0),
        (1, True),
        (1, Level.LOW),
        (0.5, Decimal("0.5")),
        (0, -0.0),
        (10**400, Decimal(10) ** 400),
        ("red", Colour.RED),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, frozenset(("z", "y", "x"))),
        ({Decimal("1.0"), 2}, {2, 1}),
        (datetime(2026, 1, 2, 12, tzinfo=CEST), datetime(2026, 1, 2, 10, tzinfo=UTC)),
        (datetime.min.replace(tzinfo=CEST), datetime.min.replace(tzinfo=CEST)),
        (time(12, tzinfo=CEST), time(10, tzinfo=UTC)),
        (timedelta(days=1), timedelta(hours=24)),
        (b"\x00", bytearray(b"\x00")),
        (Money(Decimal(5), "EUR"), Money(Decimal("5.00"), "EUR", "not compared")),
        (Line(shop="bakery"), Line(shop="bakery", tip=0)),
        (Lines([Line(shop="bakery")]), Lines([Line(shop="bakery", tip=0)])),
        (Opened(by="Ada"), {"by": "Ada"}),
        (SecretStr("a"), SecretStr("a")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_equal_values_have_one_hash(one: object, same: object) -> None:
    assert Ask(value=one) == Ask(value=same)
    assert digest(one) == digest(same)
    assert digest([{"deep": one}]) == digest([{"deep": same}])


def test_values_that_differ_have_hashes_that_differ() -> None:
    values: list[object] = [
        *(None, "", "1", 1, -1, 10, Decimal("0.1"), 1e300, "None", "null", [], {}, set(), [1], ["1"], [[1]], {"a": 1}),
        *(
            ["a", "b"],
            ["b", "a"],
            ["ab"],
            {"a": "b"},
            [["a", "b"]],
            {"a"},
            b"",
            b"1",
            "b'1'",
            "\ud800",
            "\\ud800",
            "\x00",
        ),
        *(Kind.A, Kind.B, date(2026, 1, 2), datetime(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02"),  # noqa: DTZ001 - one without
        *(time(1), time(1, tzinfo=UTC), timedelta(1), timedelta(microseconds=1), ID, str(ID), IPv4Address("10.0.0.1")),
        *(AnyUrl("https://a.example/"), "https://a.example/", SecretStr("a"), SecretStr("b"), "a", "**********"),
        *(Secret(5), Secret(6), Secret({"pin": 1}), AnyUrl("https://u:1@a.example/"), AnyUrl("https://u:2@a.example/")),
        *(Money(Decimal(5), "EUR"), Money(Decimal(5), "USD"), Line(shop="a"), Line(shop="b"), Line(shop="a", tip=1)),
        *(float(2**53), 2**53 + 1, Decimal(1000000000000000000000000000001), Decimal(10) ** 30, "e\u0301", "\u00e9"),
    ]
    assert len({digest(value) for value in values}) == len(values)


def test_the_class_the_id_and_each_field_count() -> None:
    pay = Pay(purse=ID, amount=Decimal(5))
    others = [
        pay.digest("pay-2"),
        Pay(purse=UUID(int=1), amount=Decimal(5)).digest("pay-1"),
        Pay(purse=ID, amount=Decimal(6)).digest("pay-1"),
        Pay(purse=ID, amount=Decimal(5), lines=[Line(shop="bakery")]).digest("pay-1"),
        Pay(purse=ID, amount=Decimal(5), at=datetime(2026, 1, 2, tzinfo=UTC)).digest("pay-1"),
        Pay(purse=ID, amount=Decimal(5), tags=frozenset("a")).digest("pay-1"),
        Pay(purse=ID, amount=Decimal(5), secret="left out of JSON").digest("pay-1"),
    ]
    assert len({pay.digest("pay-1"), *others}) == len(others) + 1
    assert Ask(value=1).digest("pay-1") != Other(value=1).digest("pay-1")


def test_what_was_left_out_or_has_its_default_does_not_count() -> None:
    given = Pay(purse=ID, amount=Decimal(5))
    explicit = Pay(purse=ID, amount=Decimal("5.0"), lines=[], tags=frozenset(), secret="")
    later = PayWithReason(purse=ID, amount=Decimal(5))
    assert given.digest("a") == explicit.digest("a") == later.digest("a")
    assert PayWithReason(purse=ID, amount=Decimal(5), reason="gift").digest("a") != later.digest("a")


def test_however_it_was_made_a_command_has_the_same_hash() -> None:
    made = Pay(purse=ID, amount=Decimal(5), lines=[Line(shop="bakery")])
    json = '{"lines": [{"tip": 0, "shop": "bakery"}], "amount": "5.00", "purse": "12345678123456781234567812345678"}'
    mapping: Mapping[str, object] = {"amount": 5, "lines": [{"shop": "bakery"}], "purse": str(ID)}
    copied = made.model_copy(deep=True)
    assert {each.digest("a") for each in (made, Pay.parse(json), Pay.parse(mapping), copied)} == {made.digest("a")}


def test_the_hash_is_pinned_and_the_same_in_every_process() -> None:
    """It is stored, so it must never change."""
    program = (
        "from esazure.commands import Command\nfrom typing import Any\n"
        "class Ask(Command):\n    value: Any\n"
        "print(Ask(value={'b': {'x', 'y', 'z'}, 'a': 1.5}).digest('pay-1'))"
    )
    pinned = digest({"a": 1.5, "b": {"x", "y", "z"}})
    assert pinned == "e9321b9893a9018a9cf2f5fcd205d83291d417bd3d7c6805544c506540006027"
    for seed in ("0", "1"):
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == pinned


def test_nothing_of_it_can_be_read_and_equal_commands_of_two_ids_look_different() -> None:
    ask = Ask(value="payload-marker")
    one, other = ask.digest("pay-1"), ask.digest("pay-2")
    assert one != other
    assert len(one) == 64
    assert set(one + other) <= set("0123456789abcdef")


def test_what_can_be_read_once_is_refused_and_left_as_it_is() -> None:
    lines = iter(["milk", "bread"])
    with pytest.raises(TypeError, match=r"^value: a list_iterator cannot be hashed"):
        digest(lines)
    assert list(lines) == ["milk", "bread"]


def test_what_nobody_can_write_names_its_field_and_not_its_value() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "payload-marker"

    for value, name in (
        (Odd(), "value"),
        ([{"a": Odd()}], "value"),
        (Line.model_construct(shop=Odd()), r"value\.shop"),
    ):
        with pytest.raises(TypeError, match=f"^{name}: a Odd cannot be hashed") as caught:
            digest(value)
        assert "payload-marker" not in str(caught.value)
        assert caught.value.__context__ is None
