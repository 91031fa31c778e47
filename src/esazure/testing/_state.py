"""Whether two aggregates are in the same state, also where the state holds objects that do not define equality."""

from __future__ import annotations

from dataclasses import is_dataclass
from types import FunctionType, MemberDescriptorType, MethodType
from typing import Any

from esazure.aggregate import AggregateRoot

_MISSING = object()


def differences(live: AggregateRoot[Any, Any], replayed: AggregateRoot[Any, Any]) -> list[str]:
    """The attributes that differ, private ones included, each as a phrase."""
    one, other = _attributes(live), _attributes(replayed)
    return [
        f"{name} is {one.get(name)!r}, replayed {other.get(name)!r}"
        for name in sorted(one.keys() | other.keys())
        if not _same(one.get(name, _MISSING), other.get(name, _MISSING), {(id(live), id(replayed))})
    ]


def _attributes(thing: object) -> dict[str, Any]:
    """What an object holds, in its dict or in slots; of an aggregate without the library's own."""
    found: dict[str, Any] = dict(getattr(thing, "__dict__", {}))
    for base in type(thing).__mro__:
        for name, slot in vars(base).items():
            if isinstance(slot, MemberDescriptorType) and hasattr(thing, slot.__name__):
                found[name] = getattr(thing, slot.__name__)
    return {name: value for name, value in found.items() if not name.startswith("_AggregateRoot__")}


def _same(one: Any, other: Any, compared: set[tuple[int, int]]) -> bool:  # noqa: PLR0911 - one for each kind of value
    """Equal, or made of equal parts: an entity inside an aggregate often has no `__eq__`."""
    if one is other or one == other or (id(one), id(other)) in compared:
        return True
    if type(one) is not type(other):
        return False
    compared.add((id(one), id(other)))  # an entity may know its aggregate
    match one:
        case dict():
            return one.keys() == other.keys() and all(_same(one[key], other[key], compared) for key in one)
        case list() | tuple():
            return len(one) == len(other) and all(_same(*pair, compared) for pair in zip(one, other, strict=True))
        case FunctionType():
            return one.__code__ is other.__code__  # the same lambda, made by two calls of __init__
        case MethodType():
            return one.__func__ is other.__func__ and _same(one.__self__, other.__self__, compared)
        case _:
            return _is_its_parts(one) and _same(_attributes(one), _attributes(other), compared)


def _is_its_parts(thing: object) -> bool:
    """Whether comparing the attributes is fair: no `__eq__` has said already that the two differ."""
    decides = any("__eq__" in vars(base) for base in type(thing).__mro__[:-1])
    return is_dataclass(thing) or not decides
