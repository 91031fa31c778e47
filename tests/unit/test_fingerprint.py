"""Whatever part of the code is changed, the fingerprint is another one; and it is the same in every process."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module, invalidate_caches, reload
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from time import sleep, time
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from esazure import AggregateRoot, DomainEvent, Snapshotted, fingerprint
from esazure.inline import InlineView
from esazure.memory import InMemoryStore
from esazure.snapshots import SnapshotCodec

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
import installed
import shop.proxy
from esazure import AggregateRoot, DomainEvent, Snapshotted
from other.deep import module
from shop import REBATE, data
from . import money
from .money import FEE, Money


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


class Basket(BaseModel):
    fruits: frozenset[str] = frozenset({"apple", "pear", "plum", "fig"})


class TillState(BaseModel):
    total: Decimal
    basket: Basket = Basket()

    @field_serializer("total")
    def _as_text(self, total: Decimal) -> str:
        return str(total + 7)


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


CREDITS = Sold | None


class Fee(Enum):
    LOW = ("low", 3)

    def __new__(cls, value, percent):
        fee = object.__new__(cls)
        fee._value_, fee.percent = value, percent
        return fee


class Meta(type):
    def __call__(cls, *given):
        return 131


class Hidden(BaseModel):
    _secret: int = 141


def net(gross, tax):
    return gross - tax


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

    def late(self):
        from shop.late import LATE
        return LATE

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
    "a union": ("CREDITS = Sold | None", "CREDITS = Sold | int"),
    "an attribute of a member": ('("low", 3)', '("low", 4)'),
    "a metaclass": ("return 131", "return 132"),
    "a private attribute": ("_secret: int = 141", "_secret: int = 142"),
    "the order of parameters": (
        "def net(gross, tax):\n    return gross - tax",
        "def net(tax, gross):\n    return gross - tax",
    ),
    "a module that is imported when it is needed": ("LATE = 151", "LATE = 152"),
    "a package": ("REBATE = 161", "REBATE = 162"),
    "a package above what is imported": ("prec = 28", "prec = 27"),
    "an object in the place of a module": ("value = 181", "value = 182"),
    "a module beside the package": ("return function(*args, elsewhere=1)", "return function(*args)"),
    "a module that such a module imports": ("FURTHER = 171", "FURTHER = 172"),
}

SAME = {
    "a comment": ("return 71", "return 71  # still"),
    "empty lines": ("return 71", "return 71\n\n"),
    "an installed library": ("INSTALLED = 1", "INSTALLED = 2"),
    "a module that nothing here imports": ("WEB = 1", "WEB = 2"),
}

SOURCES = {
    "elsewhere": """
import further

def keeping(function):
    def kept(*args):
        return function(*args, elsewhere=1)
    return kept
""",
    "further": "FURTHER = 171",
    "installed": "INSTALLED = 1",
    "other": "import decimal\nPRECISION = decimal.getcontext().prec = 28",
    "other.deep": "",
    "other.deep.module": "",
    "shop": "REBATE = 161\ndata = {}",
    "shop.proxy": """
import sys

class Proxy:
    value = 181

    def __getattr__(self, name):
        return None

sys.modules[__name__] = Proxy()
""",
    "shop.late": "LATE = 151",
    "shop.money": MONEY,
    "shop.till": TILL,
    "shop.web": "from shop import till\nWEB = 1",
}


class Application(MetaPathFinder, InspectLoader):
    """Modules that are nowhere but here."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        """As if the package were a zip file, and the others were files."""
        if name == "shop.data":
            return ModuleSpec(name, None, is_package=True)  # a directory of that name
        if name not in self.sources:
            return None
        folder = "/srv/lib/site-packages" if name == "installed" else "/srv"
        origin = None if name.startswith("shop") else f"{folder}/{name}.py"
        is_package = any(other.startswith(f"{name}.") for other in self.sources)
        spec = ModuleSpec(name, self, origin=origin, is_package=is_package)
        spec.has_location = origin is not None
        return spec

    def get_source(self, fullname: str) -> str:
        """What is compiled and run."""
        return self.sources[fullname]


@pytest.fixture(autouse=True)
def _modules_are_left_as_they_were() -> Iterator[None]:
    finders, modules = sys.meta_path[:], dict(sys.modules)
    yield
    sys.meta_path[:] = finders
    for name in sys.modules.keys() - modules:
        del sys.modules[name]


def till(sources: Mapping[str, str] = SOURCES) -> Any:
    """The aggregate of an application, imported anew."""
    for name in SOURCES.keys() & sys.modules:
        del sys.modules[name]
    sys.meta_path[:] = [Application(sources), *(each for each in sys.meta_path if not isinstance(each, Application))]
    return import_module("shop.till").Till


def tag(before: str = "", after: str = "") -> str:
    """Of the till, in an application where one text is replaced by another."""
    if before:
        assert sum(source.count(before) for source in SOURCES.values()) == 1
    return SnapshotCodec(
        till({name: source.replace(before, after) if before else source for name, source in SOURCES.items()})
    ).tag


@pytest.mark.parametrize("change", CHANGES)
def test_it_changes_with(change: str) -> None:
    assert tag(*CHANGES[change]) != tag()


@pytest.mark.parametrize("change", SAME)
def test_it_does_not_change_with(change: str) -> None:
    assert tag(*SAME[change]) == tag()


def test_it_is_the_same_in_every_process_and_after_whatever_was_done_before() -> None:
    tags = {
        subprocess.run(  # noqa: S603 - ours
            [sys.executable, "-c", f"import sys; {before}from tests.unit.test_fingerprint import tag; print(tag())"],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed, before in (("1", ""), ("2", "import zoneinfo, decimal; "), ("3", "import shelve; "))
    }
    assert tags == {f"{tag()}\n"}


def test_nothing_is_imported_to_find_it() -> None:
    tag()
    assert "shop.late" not in sys.modules
    assert "shop.web" not in sys.modules


def test_a_package_that_was_given_more_folders_is_searched_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "further_on.py").write_text("")
    monkeypatch.setattr(fingerprint, "_STARTED", 1e12)
    till()
    assert fingerprint._spec_of("shop.further_on") is None
    sys.modules["shop"].__path__ = [str(tmp_path)]  # as `pkgutil.extend_path` does
    spec = fingerprint._spec_of("shop.further_on")
    assert spec is not None
    assert spec.origin == str(tmp_path / "further_on.py")


def test_a_class_keeps_it_and_another_class_of_the_same_name_has_its_own() -> None:
    first = till()
    before = SnapshotCodec(first).tag
    second = till(SOURCES | {"shop.money": MONEY.replace("ROUND_HALF_EVEN", "ROUND_UP")})
    assert SnapshotCodec(second).tag != before == SnapshotCodec(first).tag


@pytest.mark.parametrize("lost", ["shop.till", "shop.money"])
def test_where_code_cannot_be_found_a_warning_says_so_and_nothing_has_the_same(
    lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    tags: set[str] = set()
    for _ in range(2):
        found = till()
        sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, Application)]
        spec = sys.modules[lost].__spec__
        assert spec is not None
        spec.loader = None
        with caplog.at_level(logging.WARNING, "esazure"):
            tags |= {SnapshotCodec(found).tag, SnapshotCodec(found).tag}
    assert len(tags) == 2
    warning = f"Till: the code of {lost} cannot be found, or was changed while this process ran: "
    assert [message.startswith(warning) for message in caplog.messages] == [True, True]


def test_a_file_that_was_changed_while_the_process_ran_may_not_be_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "accounts_written_now.py").write_text(ACCOUNTS)
    (tmp_path / "fees.py").write_text("def fee(): return 1")
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING, "esazure"):
        SnapshotCodec(import_module("accounts_written_now").Account)
    assert "Account: the code of accounts_written_now cannot be found, or was changed while" in caplog.text


RELEASES = {"r1": "FEE = 1", "r2": "FEE = 2"}
"""They differ in one constant of a module beside the aggregate."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with both releases, of which `current` is the first; its modules can be imported."""
    for release, fee in RELEASES.items():
        (tmp_path / release).mkdir()
        (tmp_path / release / "accounts.py").write_text(ACCOUNTS)
        (tmp_path / release / "fees.py").write_text(f"{fee}\n\ndef fee(): return FEE")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path / "current")
    return tmp_path


def started(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The aggregate in a process that starts now."""
    sleep(0.02)  # the clock of files is behind by a few milliseconds
    for name in ("accounts", "fees"):
        sys.modules.pop(name, None)
    sys.path_importer_cache.clear()
    invalidate_caches()
    monkeypatch.setattr(fingerprint, "_STARTED", time())
    account = import_module("accounts").Account
    sleep(0.02)
    return account


def link(server: Path, release: str) -> None:
    (server / "new").symlink_to(release)
    (server / "new").replace(server / "current")


def link_twice(server: Path, release: str) -> None:
    if not (server / "current").is_symlink():
        (server / "current").symlink_to("stage")
    (server / "new").symlink_to(release)
    (server / "new").replace(server / "stage")


def move(server: Path, release: str) -> None:
    if (server / "current").exists():
        (server / "current").rename(server / "last")
    (server / release).rename(server / "current")


def overwrite(server: Path, release: str) -> None:
    (server / "current").mkdir(exist_ok=True)
    for file in (server / release).iterdir():
        shutil.copy2(file, server / "current")  # with its times


def overwrite_what_is_new(server: Path, release: str) -> None:
    overwrite(server, release) if release == "r1" else shutil.copy2(server / release / "fees.py", server / "current")


def archive(server: Path, release: str) -> None:
    with zipfile.ZipFile(server / "new", "w") as file:
        for module in (server / release).iterdir():
            file.write(module, module.name)
    (server / "new").replace(server / "current")


@pytest.mark.parametrize("deploy", [link, link_twice, move, overwrite, overwrite_what_is_new, archive])
def test_a_process_that_looks_after_a_deployment_has_the_tag_of_neither_release(
    server: Path,
    deploy: Callable[[Path, str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    deploy(server, "r1")
    first = [SnapshotCodec(started(monkeypatch)).tag for _ in range(2)]
    late = started(monkeypatch)
    assert caplog.messages == []
    deploy(server, "r2")
    between = SnapshotCodec(late).tag
    assert caplog.messages[0].startswith("Account: the code of ")
    caplog.clear()
    second = [SnapshotCodec(started(monkeypatch)).tag for _ in range(2)]
    assert caplog.messages == []
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert len({first[0], between, second[0]}) == 3


def test_a_module_that_was_loaded_again_may_not_be_what_its_classes_run(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(server, "r1")
    before = started(monkeypatch)
    tag = SnapshotCodec(before).tag
    (server / "r1" / "accounts.py").write_text(ACCOUNTS.replace("- fee()", "+ fee()"))
    after = reload(sys.modules["accounts"]).Account
    assert SnapshotCodec(before).tag == tag != SnapshotCodec(after).tag


@pytest.mark.parametrize("name", ["when", "open", "restore"])
def test_a_method_that_was_replaced_makes_another_tag(
    server: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    link(server, "r1")
    tag = SnapshotCodec(started(monkeypatch)).tag
    account = started(monkeypatch)
    setattr(account, name, account.snapshot)  # which is in the code of the module
    assert SnapshotCodec(account).tag != tag
    assert caplog.messages == []


def test_a_class_made_by_a_function_has_the_tag_of_what_it_was_made_with() -> None:
    def account(factor: int, default: int = 1, only: int = 1, attribute: int = 1, function: int = 1) -> Any:
        def given(amount: int) -> int:
            return amount

        def doubled(amount: int) -> int:
            return 2 * amount

        changed = doubled if function == 2 else given

        class State(BaseModel):
            total: int

        class Account(AggregateRoot[Paid, str], Snapshotted[State]):
            plus = attribute

            def when(self, event: Paid, minus: int = default, *, times: int = only) -> None:
                self.total = changed(event.amount) * factor * times - minus

            def snapshot(self) -> State:
                return State(total=self.total)

            def restore(self, state: State) -> None:
                self.total = state.total

        return Account

    def tag_of(**given: int) -> str:
        return SnapshotCodec(account(**{"factor": 1, **given})).tag

    names = ("factor", "default", "only", "attribute", "function")
    assert len({tag_of(), *(tag_of(**{name: 2}) for name in names)}) == 6
    assert tag_of(factor=2) == tag_of(factor=2)


class Paid(DomainEvent):
    amount: int


@pytest.mark.parametrize("file", ["fees.py", "another.py"])
@pytest.mark.parametrize("module", ["fees", "tests.unit.test_fingerprint"])
def test_a_function_that_was_replaced_is_not_what_was_found(
    server: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, file: str, module: str
) -> None:
    link(server, "r1")
    account = started(monkeypatch)
    names: dict[str, Any] = {"__name__": module}
    exec(compile("def fee(): return 7", file, "exec"), names)  # noqa: S102 - the point
    monkeypatch.setattr(sys.modules["fees"], "fee", names["fee"])
    SnapshotCodec(account)
    assert "Account: the code of fees cannot be found, or was changed" in caplog.text


def test_a_class_of_code_that_is_in_no_module_has_a_tag_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    tags: set[str] = set()
    for _ in range(2):
        names: dict[str, Any] = {}
        exec(ACCOUNTS.replace("from fees import fee", "def fee(): return 1"), names)  # noqa: S102 - the point
        tags.add(SnapshotCodec(names["Account"]).tag)
    assert len(tags) == 2
    assert caplog.messages[0].startswith("Account: the code of builtins cannot be found")


async def test_an_object_that_fails_whatever_it_is_asked_is_left_alone(
    server: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Lazy:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    link(server, "r1")
    tag = SnapshotCodec(started(monkeypatch)).tag
    account = started(monkeypatch)
    account.lazy = sys.modules["accounts"].lazy = Lazy()  # type: ignore[attr-defined] # there for this test
    assert SnapshotCodec(account).tag == tag
    assert caplog.messages == []


VIEWS = """
from accounts import Account
from pydantic import BaseModel
from fees import FEE

class Card(BaseModel):
    total: int

def card(account: Account) -> Card:
    return Card(total=account.total + 1)
"""


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("views.py", "account.total + 1", "account.total + 2"),
        ("views.py", "total: int", "total: int = 0"),
        ("accounts.py", "- fee()", "+ fee()"),
        ("fees.py", "FEE = 1", "FEE = 3"),
    ],
)
def test_the_shape_of_an_inline_view_changes_with_the_code_that_makes_it(
    server: Path, monkeypatch: pytest.MonkeyPatch, file: str, before: str, after: str
) -> None:
    def shape() -> str:
        sys.modules.pop("views", None)
        account = started(monkeypatch)
        views = import_module("views")
        assert views.Account is account
        return InlineView(account, views.card).shape

    link(server, "r1")
    (server / "r1" / "views.py").write_text(VIEWS)
    first = shape()
    assert shape() == first
    path = server / "r1" / file
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    assert shape() != first


async def test_a_view_that_other_code_wrote_last_is_computed_anew(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two releases with the same model take turns; each sees what its own code makes of all commits."""
    store, releases = InMemoryStore(), []
    for plus in (1, 2):
        link(server, "r1")
        (server / "r1" / "views.py").write_text(VIEWS.replace("+ 1", f"+ {plus}"))
        sys.modules.pop("views", None)
        account = started(monkeypatch)
        views = import_module("views")
        releases.append((store.events(account, views=[views.card]), views.card))
        if plus == 1:
            first = account("a")
            first.open()
            await releases[0][0].append(first)
        monkeypatch.setattr(fingerprint, "_STARTED", 1e12)
    for _ in range(2):
        for plus, (accounts, card) in enumerate(releases, start=1):
            total = (await accounts.rehydrate("a")).total
            assert (await accounts.view(card).get("a")).total == total + plus
            changed = await accounts.rehydrate("a")
            changed.open()
            await accounts.append(changed)


RUN = """
import asyncio, sys
from accounts import Account
from esazure.sqlite import SqliteStore

async def main():
    async with SqliteStore("accounts.db") as store:
        accounts = store.events(Account)
        if sys.argv[1:]:
            account = Account("a")
            account.open()
        else:
            account = await accounts.rehydrate("a")
        print(account.applied, account.total)
        await accounts.append(account)

asyncio.run(main())
"""
ACCOUNTS = """
from fees import fee
from pydantic import BaseModel
from esazure import AggregateRoot, DomainEvent, Snapshotted

class Opened(DomainEvent):
    amount: int

class State(BaseModel):
    total: int

class Account(AggregateRoot[Opened, str], Snapshotted[State]):
    snapshot_every = 1

    def __init__(self, id):
        super().__init__(id)
        self.applied = self.total = 0

    def open(self):
        self.record(Opened(amount=100))

    def when(self, event):
        self.applied += 1
        self.total += event.amount - fee()

    def snapshot(self):
        return State(total=self.total)

    def restore(self, state):
        self.total = state.total
"""


def test_a_release_that_changes_a_file_beside_the_aggregate_passes_over_what_the_last_one_has_kept(
    tmp_path: Path,
) -> None:
    def run(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603 - ours
            [sys.executable, "run.py", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "accounts.py").write_text(ACCOUNTS)
    (tmp_path / "fees.py").write_text("def fee(): return 1")
    assert run("open") == "1 99\n"
    assert run() == "0 99\n"  # out of the snapshot
    (tmp_path / "fees.py").write_text("def fee(): return 10")
    assert run() == "1 90\n"


def test_what_is_no_python_counts_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_STARTED", 1e12)
    module = ModuleType("shop.fast")
    module.__file__ = str(tmp_path / "fast.so")
    digests: list[str] = []
    for content in (b"\x7fELF 1", b"\x7fELF 2", b"\x7fELF 2"):
        (tmp_path / "fast.so").write_bytes(content)
        monkeypatch.setitem(sys.modules, "shop.fast", module)
        found = fingerprint._module("shop.fast")
        assert found is not None
        digests.append(found.digest)
    assert digests[0] != digests[1] == digests[2]


@pytest.mark.parametrize("script", ["script.py", "script"])
def test_a_script_counts_as_its_file_whatever_its_name(tmp_path: Path, script: str) -> None:
    def tag_of_script() -> str:
        run = subprocess.run([sys.executable, script], cwd=tmp_path, check=True, capture_output=True, text=True)  # noqa: S603 - ours
        assert run.stderr == ""
        return run.stdout

    lines = "from esazure.snapshots import SnapshotCodec\nprint(SnapshotCodec(Account).tag)"
    (tmp_path / script).write_text(ACCOUNTS + lines)
    (tmp_path / "fees.py").write_text("def fee(): return 1")
    before = tag_of_script()
    assert tag_of_script() == before
    (tmp_path / "fees.py").write_text("def fee(): return 10")
    assert tag_of_script() != before


class Broken(MetaPathFinder):
    """Fails at everything it is asked for but the modules of the interpreter."""

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        """Raises for what nobody else has."""
        if name in ("shop.gone", "shop.late"):
            raise RuntimeError
        return None


def test_what_cannot_be_imported_is_no_reason_to_fail() -> None:
    lines = "def fails():\n    from ....beyond import x\n    import shop.gone.deep\n\nfrom shop.late import *\n"
    found = till(SOURCES | {"shop.till": lines + TILL.lstrip().replace("from __future__ import annotations\n", "")})
    sys.meta_path.insert(0, Broken())
    assert len(SnapshotCodec(found).tag) == 16


def test_a_loader_that_fails_is_as_one_that_does_not_know(caplog: pytest.LogCaptureFixture) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(name)

    found = till()
    loader = sys.modules["shop.money"].__spec__.loader  # type: ignore[union-attr]
    loader.get_code = fail  # type: ignore[union-attr]
    with caplog.at_level(logging.WARNING, "esazure"):
        assert len(SnapshotCodec(found).tag) == 16
    assert "Till: the code of " in caplog.text
