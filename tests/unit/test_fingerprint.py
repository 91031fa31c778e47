"""Whatever part of the code is changed, the fingerprint is another one; and it is the same in every process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from tests.unit.test_snapshots import Paid, PurseState

from esazure import AggregateRoot, Snapshotted
from esazure.snapshots import SnapshotCodec

MODULES = ("elsewhere", "shop", "shop.money", "shop.till")

OTHER = """
def keeping(function):
    def kept(*args):
        return function(*args)
    return kept

class Lazy:  # what a web framework has for a request, and whoever touches it outside of one is told off
    @property
    def __class__(self):
        raise RuntimeError

    def __getattribute__(self, name):
        raise RuntimeError
"""

MONEY = """
import decimal
from dataclasses import dataclass

ROUNDING = decimal.ROUND_HALF_EVEN

@dataclass(frozen=True)
class Money:
    amount: decimal.Decimal
    unit: str = "EUR"

    def __add__(self, other):
        return Money(self.amount + other.amount)

class Limit:
    __slots__ = ("most", "__least")
    def __init__(self, most, least):
        self.most, self.__least = most, least

LIMIT = Limit(1000, 10)
FEE = Money(decimal.Decimal("0.10"))

def rounded(amount):
    return amount.quantize(CENT, ROUNDING)

CENT = decimal.Decimal("0.01")
"""

TILL = '''
from __future__ import annotations

import functools
import re
from decimal import Decimal
from enum import Enum, StrEnum
from fractions import Fraction
from operator import attrgetter
from typing import Annotated, Any, ClassVar, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field, field_serializer, model_validator

import elsewhere
import shop
from esazure import AggregateRoot, DomainEvent, Snapshotted
from shop import money
from shop.money import FEE, Money


class Kind(StrEnum):
    CASH = "cash"
    CARD = "card"


class Step(Enum):
    UP = 1
    DOWN = -1


class Size(NamedTuple):
    width: int
    height: int


def in_cents(amount: Decimal) -> Decimal:
    return amount * 100


def fresh() -> list[str]:
    return ["a"]


class Line(BaseModel):
    price: Decimal

    @property
    def doubled(self):
        return self.price * 2


class Sold(DomainEvent):
    price: Annotated[Decimal, AfterValidator(in_cents)]
    kind: Kind = Kind.CASH
    note: str = Field("", alias="remark", max_length=40)
    tags: list[str] = Field(default_factory=fresh)
    lines: tuple[Line, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _older(cls, value: Any) -> Any:
        return {"price": 5} | value


class Counted(DomainEvent):
    pass


class TillState(BaseModel):
    total: Decimal

    @field_serializer("total")
    def _as_text(self, total: Decimal) -> str:
        return str(total + 7)


request = elsewhere.Lazy()


def twice(function):
    def decorated(*args):
        function(*args)
        return function(*args)
    return decorated


def times(number):
    def decorate(function):
        @functools.wraps(function)
        def decorated(*args):
            return [function(*args) for _ in range(number)]
        return decorated
    return decorate


@functools.lru_cache
def cached(amount):
    return amount + 21


@functools.singledispatch
def spelled(value):
    return "one"


@spelled.register
def _(value: int):
    return "another"


class Base(AggregateRoot[Sold | Counted, str]):
    """Is subclassed."""

    def shared(self):
        return 31


class Till(Base, Snapshotted[TillState]):
    rate = Decimal("0.19")
    names = frozenset({"ada", "grace", "alan"})
    sizes = (Size(1, 2), [Step.UP], {Kind.CARD: "plastic"})
    pattern = re.compile("[a-z]+")
    long_pattern = re.compile("a" * 300 + "x?")
    zone = ZoneInfo("Europe/Paris")
    share = Fraction(1, 3)
    sorting = attrgetter("total")
    table: ClassVar[Any] = {Counted: lambda self: 41}
    steps: ClassVar[Any] = functools.partial(pow, 2)
    bound = spelled

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.total = Decimal(0)

    @functools.singledispatchmethod
    def when(self, event):
        raise AssertionError

    @when.register
    def _(self, event: Sold):
        self.total += self.charged(event.price)

    @when.register
    def _counted(self, event: Counted):
        self.total = self.total

    def charged(self, amount, fee=51, *, discount=61):
        try:
            return money.rounded(amount - FEE.amount) + cached(fee) - discount
        except ArithmeticError:
            return None

    @twice
    def decorated(self):
        return 71

    @times(3)
    def repeated(self):
        return 81

    @elsewhere.keeping
    def held(self):
        return 121

    @staticmethod
    def still():
        return 91

    @property
    def whole(self):
        return self.total + 101

    @functools.cached_property
    def kept(self):
        return shop.money.LIMIT

    def asked(self):
        return request

    def nested(self):
        return [(lambda: each + 111)() for each in self.names]

    def snapshot(self):
        return TillState(total=self.total)

    def restore(self, state):
        self.total = state.total
'''

CHANGES = {
    "a handler of singledispatchmethod": ("self.total += self.charged(event.price)", "self.total -= event.price"),
    "which event a handler is for": ("def _counted(self, event: Counted)", "def _counted(self, event: int)"),
    "its default handler": ("raise AssertionError", "raise ValueError"),
    "a constant": ('rate = Decimal("0.19")', 'rate = Decimal("0.20")'),
    "a set": ('"grace", "alan"', '"grace", "edsger"'),
    "a named tuple": ("Size(1, 2)", "Size(2, 1)"),
    "a member of an enum in a list": ("[Step.UP]", "[Step.DOWN]"),
    "a key of a dict": ('{Kind.CARD: "plastic"}', '{Kind.CASH: "plastic"}'),
    "a value of a dict": ('"plastic"', '"paper"'),
    "a pattern": ("[a-z]+", "[a-y]+"),
    "the end of a long pattern": ("x?", "y?"),
    "a flag of a pattern": ('re.compile("[a-z]+")', 're.compile("[a-z]+", re.I)'),
    "a time zone": ("Europe/Paris", "Europe/Berlin"),
    "a fraction": ("Fraction(1, 3)", "Fraction(1, 4)"),
    "what is looked up": ('attrgetter("total")', 'attrgetter("id")'),
    "a function in a table": ("lambda self: 41", "lambda self: 42"),
    "a key of a table": ("{Counted: lambda", "{Sold: lambda"),
    "an argument of partial": ("partial(pow, 2)", "partial(pow, 3)"),
    "a function of singledispatch": ('return "another"', 'return "yet another"'),
    "a default": ("fee=51", "fee=52"),
    "a default of a keyword": ("discount=61", "discount=62"),
    "what is caught": ("except ArithmeticError", "except TypeError"),
    "a function under a decorator": ("return 71", "return 72"),
    "a decorator": ("return function(*args)", "return None"),
    "a function under functools.wraps": ("return 81", "return 82"),
    "an argument of a decorator": ("@times(3)", "@times(4)"),
    "a function under a decorator of another package": ("return 121", "return 122"),
    "a static method": ("return 91", "return 92"),
    "a property": ("self.total + 101", "self.total + 102"),
    "a cached property": ("shop.money.LIMIT", "shop.money.FEE"),
    "a function in a function": ("each + 111", "each + 112"),
    "a method of a base": ("return 31", "return 32"),
    "a function it calls": ("amount + 21", "amount + 22"),
    "a validator of an event": ('{"price": 5} | value', 'value | {"price": 5}'),
    "a validator in an annotation": ("return amount * 100", "return amount * 10"),
    "a factory of a default": ('["a"]', '["b"]'),
    "an alias": ('alias="remark"', 'alias="note"'),
    "a bound": ("max_length=40", "max_length=41"),
    "a value of an enum": ('CASH = "cash"', 'CASH = "notes"'),
    "a default of a field": ("kind: Kind = Kind.CASH", "kind: Kind = Kind.CARD"),
    "a field of the state": ("    total: Decimal\n", "    total: Decimal\n    count: int = 0\n"),
    "how the state is written": ("str(total + 7)", "str(total + 8)"),
    "a method of a model in a field": ("self.price * 2", "self.price * 3"),
    "a method of a value object": ("self.amount + other.amount", "self.amount - other.amount"),
    "a default of a value object": ('unit: str = "EUR"', 'unit: str = "USD"'),
    "a function of a module": ("amount.quantize(CENT, ROUNDING)", "amount"),
    "a constant of a module": ('CENT = decimal.Decimal("0.01")', 'CENT = decimal.Decimal("0.1")'),
    "which constant of another package": ("decimal.ROUND_HALF_EVEN", "decimal.ROUND_UP"),
    "an object of a module": ('FEE = Money(decimal.Decimal("0.10"))', 'FEE = Money(decimal.Decimal("0.20"))'),
    "an object with slots": ("Limit(1000, 10)", "Limit(999, 10)"),
    "a private attribute of an object with slots": ("Limit(1000, 10)", "Limit(1000, 11)"),
    "a revision": ("    rate =", "    snapshot_revision = 2\n    rate ="),
}

SAME = {
    "a comment": ("return 71", "return 71  # still"),
    "the text that documents a class": ("Is subclassed.", "Is a base."),
    "how often": ("    rate =", "    snapshot_every = 7\n    rate ="),
    "code that nothing here names": ("class Kind(", "def unused(): return 1\n\n\nclass Kind("),
}


@pytest.fixture(autouse=True)
def _no_shop_is_left() -> Iterator[None]:
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def tag(before: str = "", after: str = "") -> str:
    """Of the till, in a package where one text is replaced by another."""
    elsewhere, shop, money, till = (sys.modules.setdefault(name, ModuleType(name)) for name in MODULES)
    shop.__dict__.update(money=money, till=till)
    money.__dict__.update(shop=shop)
    exec(OTHER, vars(elsewhere))  # noqa: S102 - ours
    exec(MONEY.replace(before, after) if before else MONEY, vars(money))  # noqa: S102 - ours
    exec(TILL.replace(before, after) if before else TILL, vars(till))  # noqa: S102 - ours
    return SnapshotCodec(till.Till).tag


@pytest.mark.parametrize("change", CHANGES)
def test_it_changes_with(change: str) -> None:
    before, after = CHANGES[change]
    assert (MONEY + TILL).count(before) == 1
    assert tag(before, after) != tag()


@pytest.mark.parametrize("change", SAME)
def test_it_does_not_change_with(change: str) -> None:
    before, after = SAME[change]
    assert (MONEY + TILL).count(before) == 1
    assert tag(before, after) == tag()


def test_it_is_the_same_in_every_process() -> None:
    tags = {
        subprocess.run(
            [sys.executable, "-c", "from tests.unit.test_fingerprint import tag; print(tag())"],
            env={"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert tags == {f"{tag()}\n"}


def test_a_list_that_holds_itself_and_modules_that_name_each_other_come_to_an_end() -> None:
    assert tag("names = frozenset(", "loop = []; loop.append(loop)\n    names = frozenset(") != tag()


def test_what_cannot_be_looked_into_is_left_alone() -> None:
    class Odd(dict[str, str]):
        def items(self) -> Any:
            raise RuntimeError

    class Unfinished(BaseModel):
        later: Missing  # type: ignore[name-defined]  # noqa: F821 - on purpose

    odd = Odd()

    class Purse(AggregateRoot[Paid, str], Snapshotted[PurseState]):
        def when(self, event: Paid) -> None:
            raise NotImplementedError(odd, Unfinished)

        def snapshot(self) -> PurseState:
            raise NotImplementedError

        def restore(self, state: PurseState) -> None:
            raise NotImplementedError

    assert SnapshotCodec(Purse).tag == SnapshotCodec(Purse).tag
