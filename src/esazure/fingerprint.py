"""A fingerprint of the code that makes an aggregate's state of its events: it changes when that code does.

It covers the aggregate class, its events and the model of its state, and whatever their code names that belongs to the
same packages: functions, other classes such as value objects, and constants. It is the same in every process that runs
the same code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache, partial, partialmethod, singledispatchmethod
from hashlib import sha256
from operator import attrgetter, itemgetter, methodcaller
from re import Pattern
from sys import stdlib_module_names
from types import CodeType, FunctionType, MappingProxyType, MemberDescriptorType, MethodType, ModuleType, NoneType
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from esazure.aggregate import AggregateRoot

_PLAIN = {bool, int, float, complex, str, bytes, NoneType, Decimal, UUID, date, datetime, time, timedelta, timezone}
_PLAIN |= {range, attrgetter, itemgetter, methodcaller}
_PLAIN_NAMES = {"fractions.Fraction", "zoneinfo.ZoneInfo", "pathlib.PosixPath", "pathlib.WindowsPath"}
"""Types whose repr says everything, and is the same in every process."""

_WRAPPERS: dict[type, tuple[str, ...]] = {
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    MethodType: ("__func__",),
    property: ("fget", "fset", "fdel"),
    cached_property: ("func",),
    partial: ("func", "args", "keywords"),
    partialmethod: ("func", "args", "keywords"),
    singledispatchmethod: ("dispatcher",),
    Pattern: ("pattern", "flags"),
    type(lru_cache(print)): ("__wrapped__",),
}
"""What holds functions and other parts, and where."""

_ADDRESSES = {"ref", "schema_ref", "metadata"}
"""Keys of a core schema whose values every process chooses anew."""

_SET_BY_US = {
    "aggregate_type",
    "event_types",
    "id_type",
    "snapshot_every",
    "_AggregateRoot__parameters",
    "_AggregateRoot__event_classes",
}
"""Names of an aggregate class whose values are not code."""


def fingerprint(aggregate_class: type[AggregateRoot[Any, Any]], state: type[BaseModel], ours: set[type]) -> str:
    """64 hexadecimal digits.

    Args:
        aggregate_class: its events are fingerprinted with it.
        state: the model that its snapshots are written as.
        ours: bases whose code does not count, because it is the library's.
    """
    return _Fingerprint([aggregate_class, state, *aggregate_class.event_types.values()], ours).digest()


class _Fingerprint:
    """Reads classes and functions, each once, in the order in which those before name them."""

    def __init__(self, owners: Sequence[type], ours: set[type]) -> None:
        self._ours = ours
        self._to_read: list[Any] = [*owners]
        self._classes = set(owners)
        self._functions: dict[int, int] = {}
        self._inside: set[int] = set()
        modules = {base.__module__ for owner in owners for base in owner.__mro__ if base not in ours}
        self._packages = {_package(module) for module in modules} - stdlib_module_names - {"pydantic"}

    def digest(self) -> str:
        text = sha256()
        for found in self._to_read:  # which grows meanwhile
            lines = self._lines_of_class(found) if isinstance(found, type) else self._lines_of_function(found)
            for line in lines:
                text.update(f"{line}\n".encode("utf-8", "surrogatepass"))
        return text.hexdigest()

    def _is_theirs(self, found: Any) -> bool:
        """Whether it belongs to one of the packages of the classes it began with."""
        if isinstance(found, ModuleType):
            module = found.__name__
        elif isinstance(found, FunctionType):  # whose __module__ is that of the function it wraps
            module = found.__globals__.get("__name__", "")
        else:
            module = found.__module__
        return found not in self._ours and _package(module) in self._packages

    def _lines_of_class(self, owner: type) -> Iterator[str]:
        for cls in owner.__mro__:
            if cls is owner or (self._is_theirs(cls) and cls not in self._classes):
                self._classes.add(cls)
                for name, value in sorted(vars(cls).items()):
                    is_special = name.startswith("__") and not callable(getattr(value, "__func__", value))
                    if is_special or (name in _SET_BY_US and issubclass(cls, AggregateRoot)):
                        continue
                    if told := self._told(value):
                        yield f"{name}={told}"
        if issubclass(owner, BaseModel):
            yield self._told(_schema(owner))

    def _lines_of_function(self, function: FunctionType) -> Iterator[str]:
        cells = list(_contents(function))
        if self._is_theirs(function):
            code = function.__code__
            yield self._told_code(code)
            yield self._told([function.__defaults__, function.__kwdefaults__, cells])
            names = list(_names(code))
            yield from self._told_globals(function.__globals__, names, set())
        else:  # such as a decorator: what it makes of the functions it holds is not ours to read
            yield f"{function.__module__}.{function.__qualname__}"
            yield self._told([each for each in cells if callable(each)])
        yield self._told(vars(function))

    def _told_globals(self, scope: dict[str, Any], names: list[str], modules: set[str]) -> Iterator[str]:
        for name in names:
            if name in scope:
                value = scope[name]
                if not issubclass(type(value), ModuleType):
                    yield f"{name}={self._told(value)}"
                elif self._is_theirs(value) and value.__name__ not in modules:
                    yield from self._told_globals(vars(value), names, {*modules, value.__name__})

    def _told_code(self, code: CodeType) -> str:
        constants = _listed(
            self._told_code(value) if isinstance(value, CodeType) else self._told(value) for value in code.co_consts
        )
        return f"{code.co_code.hex()} {code.co_exceptiontable.hex()} {code.co_names} {constants}"

    def _told(self, value: Any) -> str:
        """One line about a value; nothing when nothing is known of it."""
        kind: type[Any] = type(value)  # and not isinstance, which lets a lazy object do what it puts off
        if kind in _PLAIN or f"{kind.__module__}.{kind.__qualname__}" in _PLAIN_NAMES:
            return repr(value)
        if issubclass(kind, type):
            return self._told_class(value)
        if kind is FunctionType:
            return self._told_function(value)
        if id(value) in self._inside:
            return "..."
        self._inside.add(id(value))
        try:
            return self._told_parts(value, kind)
        except Exception:  # noqa: BLE001 - user code may raise anything
            return kind.__qualname__
        finally:
            self._inside.discard(id(value))

    def _told_class(self, cls: type) -> str:
        if cls not in self._classes and self._is_theirs(cls):
            self._classes.add(cls)
            self._to_read.append(cls)
        return cls.__qualname__

    def _told_function(self, function: FunctionType) -> str:
        if id(function) not in self._functions:
            self._functions[id(function)] = len(self._functions)
            self._to_read.append(function)
        return f"#{self._functions[id(function)]}"

    def _told_parts(self, value: Any, kind: type) -> str:
        if issubclass(kind, Enum):
            return f"{self._told_class(kind)}.{value.name}"
        if issubclass(kind, (dict, MappingProxyType)):
            return _listed(f"{self._told(key)}: {self._told(each)}" for key, each in value.items())
        if issubclass(kind, (list, tuple, set, frozenset)):
            has_order = issubclass(kind, (list, tuple))  # and not one that every process chooses anew
            return _listed(map(self._told, value if has_order else sorted(value, key=_order)))
        if kind in _WRAPPERS:
            return _listed(self._told(getattr(value, name)) for name in _WRAPPERS[kind])
        if self._is_theirs(kind):
            parts = (f"{name}: {self._told(getattr(value, name, None))}" for name in _attributes(value, kind))
            return self._told_class(kind) + _listed(parts)
        return ""


def _listed(parts: Iterable[str]) -> str:
    return f"[{', '.join(parts)}]"


def _package(module: object) -> str:
    return str(module).partition(".")[0]


def _schema(model: type[BaseModel]) -> object:
    """What pydantic checks and makes of a model."""
    try:
        model.model_rebuild(raise_errors=False)
    except Exception:  # noqa: BLE001 - it has none, and code of its own may raise anything
        return None
    return _without_addresses(model.__pydantic_core_schema__)


def _without_addresses(schema: object) -> object:
    if isinstance(schema, dict):
        return {key: _without_addresses(each) for key, each in schema.items() if key not in _ADDRESSES}
    if isinstance(schema, (list, tuple)):
        return [_without_addresses(each) for each in schema]
    return schema


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _names(value)


def _contents(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # still empty
            continue


def _attributes(value: Any, kind: type) -> Iterator[str]:
    yield from getattr(value, "__dict__", ())
    for cls in kind.__mro__:  # and its slots
        yield from (name for name, member in vars(cls).items() if isinstance(member, MemberDescriptorType))


def _order(value: Any) -> str:
    return getattr(value, "__qualname__", None) or repr(value)
