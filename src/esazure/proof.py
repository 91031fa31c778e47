"""Proof that a model comes back from its JSON as it is: one for events, inline views and snapshots.

What is stored of a model are its fields. Private attributes, cached properties and computed fields are not: they begin
anew in what is read. Pure functions; no reason that is given holds a value, only declared names and positions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import copysign
from types import NoneType
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

M = TypeVar("M", bound=BaseModel)

_DIFFERENT = "what would be read back is not equal to it; are its types comparable, is a field excluded or masked?"
_OTHER_CLASS = "its class, {0}, would come back as {1}: make it a value of {1} itself, or declare the field as {0}"
_ZONED = (
    "it has a time in a zone such as Europe/Paris, of which the offset alone would come back: record it in UTC, and "
    "the zone's name in a field of its own"
)

_SIMPLE = {str, int, bool, bytes, NoneType, UUID, date, timedelta}
_ADDED = {"extra_forbidden", "unexpected_keyword_argument"}
_DEPTH = 10
"""Names of a path that are said, at most."""

_Difference = tuple[tuple[str, ...], str]
"""The path to it, and what it is."""


def prove(value: M) -> tuple[str, M] | str:
    """The JSON of a model and what is read from it, which is alike; or why it cannot be stored."""
    model = type(value)
    write, read = model.__pydantic_serializer__.to_json, model.__pydantic_validator__.validate_json
    try:
        # Without its warnings: they quote the value. `round_trip` leaves out computed fields.
        text = write(value, by_alias=True, round_trip=True, warnings=False).decode()
        if "NaN" in text or "Infinity" in text:  # which other readers of JSON refuse; a text may hold the words
            from_json(text, allow_inf_nan=False)
    except Exception as error:  # noqa: BLE001 - serializers of the model's own may raise anything
        return f"{_name(_unwritable(value))}: it cannot be written as JSON ({type(error).__name__})"
    try:
        try:
            found = read(text)
        except ValidationError as error:
            text = _declared(text, error)
            found = read(text)
        difference = _difference(value, found)
    except Exception as error:  # noqa: BLE001 - validators and comparisons of its own may raise anything
        return f"it cannot be read back: {_reasons(value, error, text)}"
    return (text, found) if difference is None else f"{_name(difference[0])}: {difference[1]}"


def is_alike(one: object, other: object) -> bool:
    """Whether two values and the fields of all models in them are equal, whatever their private attributes are."""
    if one == other:
        return True
    if type(one) is not type(other):
        return False
    return has_same_fields(one, other)


def has_same_fields(one: Any, other: Any) -> bool:
    """`is_alike` for two values of one class that are not equal."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_alike(part, other[key]) for key, part in one.items())
    parts, others = _parts(one), _parts(other)
    return (
        parts is not None
        and others is not None
        and [name for name, _ in parts] == [name for name, _ in others]
        and all(is_alike(part, another) for (_, part), (_, another) in zip(parts, others, strict=True))
    )


def _difference(one: Any, other: Any) -> _Difference | None:  # noqa: C901, PLR0911 - a case for each kind of value
    """Where two values are not equal, or not of the same class."""
    kind = type(one)
    if kind is not type(other):
        return (), _OTHER_CLASS.format(kind.__name__, type(other).__name__)
    if kind in _SIMPLE:
        return None if one == other else ((), _DIFFERENT)
    if isinstance(one, (float, Decimal)):  # -0.0 == 0.0
        return None if one == other and copysign(1, one) == copysign(1, other) else ((), _DIFFERENT)
    if isinstance(one, (datetime, time)):
        return _difference_in_time(one, other)
    if isinstance(one, (set, frozenset)):
        return _difference_in_sets(one, other)
    parts = _parts(one)
    if parts is None:
        return None if _is_equal(one, other) else ((), _DIFFERENT)
    others = _parts(other) or []
    hidden = any(getattr(one, name, None) != getattr(other, name, None) for name in ("default_factory", "maxlen"))
    if isinstance(one, (dict, deque)) and hidden:
        return (), _DIFFERENT
    for (name, part), (another, its) in zip(parts, others, strict=False):
        if name != another:
            return (name,), _DIFFERENT
        if part is not its and (found := _difference(part, its)) is not None:
            return (name, *found[0]), found[1]
    if len(parts) != len(others):
        longer = max(parts, others, key=len)
        return (longer[min(len(parts), len(others))][0],), _DIFFERENT
    return None


def _is_equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - a comparison of its own may raise anything
        return False


def _difference_in_time(one: Any, other: Any) -> _Difference | None:
    zone, its = one.tzinfo, other.tzinfo
    # JSON has the offset alone. An offset that depends on the day, or on which of two equal times it is, is lost.
    if zone is None or zone.utcoffset(None) is None:
        if zone != its or one.fold != other.fold:
            return (), _ZONED
    elif its is None or its.utcoffset(None) != zone.utcoffset(None):
        return (), "its offset from UTC would not come back: record it in UTC"
    return None if one == other else ((), _DIFFERENT)


def _difference_in_sets(one: Any, other: Any) -> _Difference | None:
    if one != other:
        return (), _DIFFERENT
    its = {element: element for element in other}
    found = (_difference(element, its[element]) for element in one)
    return next((((), each[1]) for each in found if each is not None), None)


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """What a value is made of, each under a name that is no input; None when it is one thing."""
    if isinstance(value, BaseModel):
        values = value.__dict__
        found = [(name, values[name]) for name in type(value).model_fields if name in values]
        return [*found, ("undeclared fields", value.__pydantic_extra__)] if value.__pydantic_extra__ else found
    if isinstance(value, dict):
        return [(str(at), part) for at, item in enumerate(value.items()) for part in item]
    if isinstance(value, (list, tuple, deque)):
        return [(str(at), part) for at, part in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value) if hasattr(value, field.name)]
    return None


def _unwritable(value: BaseModel) -> tuple[str, ...]:
    """The path to what cannot be written."""
    write = type(value).__pydantic_serializer__.to_json
    names = list(type(value).model_fields)
    bad = [
        name
        for name in names
        if not _works(
            lambda name=name: from_json(  # type: ignore[misc]  # a default is how a lambda keeps its name
                write(value, include={name}, by_alias=True, round_trip=True, warnings=False), allow_inf_nan=False
            )
        )
    ]
    if len(bad) == len(names) > 1:  # code of its own writes all of it at once
        bad = [name for name, part in _parts(value) or () if not _is_writable(part)]
    if not bad:
        return ()
    path, part = [bad[0]], value.__dict__.get(bad[0])
    for _ in range(_DEPTH):  # no deeper: a value that holds itself has no end
        found = next((each for each in _parts(part) or () if not _is_writable(each[1])), None)
        if found is None:
            break
        path.append(found[0])
        part = found[1]
    return tuple(path)


def _is_writable(value: object) -> bool:
    return _works(lambda: from_json(to_json(value, inf_nan_mode="constants"), allow_inf_nan=False))


def _works(function: Callable[[], object]) -> bool:
    try:
        function()
    except Exception:  # noqa: BLE001 - serializers of its own may raise anything
        return False
    return True


def _declared(text: str, error: ValidationError) -> str:
    """The JSON without what a serializer has added to the fields; the error when that is not all there is to it."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if any(item["type"] not in _ADDED for item in found):
        raise error
    data = from_json(text)
    for item in found:
        *path, last = item["loc"]
        inner = data
        for part in path:
            inner = inner[part]
        del inner[last]
    return to_json(data).decode()


def _reasons(value: BaseModel, error: Exception, text: str) -> str:
    """What pydantic found, without any of the input."""
    if not isinstance(error, ValidationError):
        return f"{_name(_unreadable(value, from_json(text)))}: {type(error).__name__}"
    found: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    return ", ".join(
        f"{_name(tuple(_known(value, item['loc'])) or _unwritable(value))}: {item['type']}" for item in found[:5]
    )


def _unreadable(value: BaseModel, data: Any) -> tuple[str, ...]:
    """The field whose own code fails in a way that pydantic does not collect: it does so without the others, too."""
    read = type(value).__pydantic_validator__.validate_json
    bad: list[str] = []
    for key, part in data.items() if isinstance(data, dict) else ():
        try:
            read(to_json({key: part}))
        except ValidationError:
            pass
        except Exception:  # noqa: BLE001 - the same
            bad.append(key)
    return tuple(_known(value, bad)) if len(bad) == 1 else ()


def _known(value: Any, place: Sequence[int | str]) -> Iterator[str]:
    """The names in a place that are declared, and positions; a key of a dictionary is input, so it is counted."""
    for part in place:
        if isinstance(value, BaseModel):
            declared = {field.validation_alias or field.alias or name: name for name, field in _fields(value).items()}
            name = declared.get(part, part if part in declared.values() else None)
            if name is None:
                return
            yield name
            value = value.__dict__.get(name)
        elif isinstance(value, dict):
            keys = [str(key) for key in value]
            if str(part) not in keys:
                continue
            at = keys.index(str(part))
            yield str(at)
            value = list(value.values())[at]
        elif isinstance(value, (list, tuple, deque)):
            if isinstance(part, int) and part < len(value):
                yield str(part)
                value = value[part]
        elif is_dataclass(value) and part in {field.name for field in fields(value)}:
            yield str(part)
            value = getattr(value, str(part), None)
        # Else it is the member of a union that was tried.


def _fields(value: BaseModel) -> Any:
    return type(value).model_fields


def _name(path: Sequence[str]) -> str:
    return ".".join([*path[:_DEPTH], "..."] if len(path) > _DEPTH else path) or "the event"
