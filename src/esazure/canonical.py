"""One text for equal values: what `Command.digest` hashes.

Values that are equal in Python have the same text, whatever their order, scale or zone: sets and mappings are sorted,
1, 1.0 and Decimal("1.00") are one number, 12:00+02:00 and 10:00Z one moment. Texts are stable over processes and
versions of Python, because stored hashes depend on them: never change what is written here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_jsonable_python

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EXACT = Context(prec=MAX_PREC, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


def canonical(value: object) -> str:
    """The text.

    Raises:
        TypeError: a value of a class of which nobody knows how to write it; names the field, and not the value.
    """
    return _text(_plain(value, ""))


def _text(plain: object) -> str:
    return json.dumps(plain, separators=(",", ":"), sort_keys=True)


def _plain(value: Any, field: str) -> object:  # noqa: PLR0911, PLR0912, C901 - one line for each kind of value
    """The value as lists and texts, each beginning with what it is."""
    match value:
        case None:
            return None
        case str():  # also of an enumeration, which is equal to its text
            return str.__str__(value)
        case bool() | int() | float() | Decimal():
            return ["number", _number(Decimal(value))]
        case Enum():
            return [type(value).__name__, _plain(value.value, field)]
        case BaseModel():
            return [type(value).__name__, _fields(value, field)]
        case Secret() | SecretStr() | SecretBytes():
            return [type(value).__name__, _plain(value.get_secret_value(), field)]
        case UUID():
            return ["UUID", str(value)]
        case bytes() | bytearray():
            return ["bytes", value.hex()]
        case datetime() if value.utcoffset() is not None:
            return ["moment", str((value - _EPOCH) // _MICROSECOND)]
        case time() if (offset := value.utcoffset()) is not None:
            at = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond)
            return ["time", str((at - offset) // _MICROSECOND)]
        case datetime() | date() | time():
            return [type(value).__name__, value.isoformat()]
        case timedelta():
            return ["duration", str(value // _MICROSECOND)]
        case Mapping():
            pairs = [[_plain(key, field), _plain(item, field)] for key, item in value.items()]
            return ["mapping", sorted(pairs, key=_text)]
        case AbstractSet():
            return ["set", sorted((_plain(item, field) for item in value), key=_text)]
        case Sequence():
            return ["list", [_plain(item, field) for item in value]]
    if is_dataclass(value):
        parts = {part.name: _plain(getattr(value, part.name), field) for part in fields(value) if part.compare}
        return [type(value).__name__, parts]
    if not isinstance(value, Iterator):  # which would be empty afterwards
        try:
            if type(value).__module__ == "ipaddress":  # which pydantic does not write before 2.12
                return [type(value).__name__, str(value)]
            return [type(value).__name__, to_jsonable_python(value)]  # URLs, paths
        except PydanticSerializationError:
            pass
    raise TypeError(
        f"{field}: a {type(value).__name__} cannot be hashed: give it as a dataclass or a pydantic model, or override "
        "`digest`"
    )


def _fields(model: BaseModel, field: str) -> dict[str, object]:
    values = vars(model)
    asked = {
        name: values[name]
        for name, known in type(model).model_fields.items()
        if name in model.model_fields_set and not _is_default(values[name], known)
    }
    asked.update(model.model_extra or {})
    return {name: _plain(value, f"{field}.{name}" if field else name) for name, value in asked.items()}


def _is_default(value: object, known: FieldInfo) -> bool:
    """Whether leaving it out would have given this. One that depends on other fields is never asked for."""
    if known.default_factory_takes_validated_data:
        return False
    default = known.get_default(call_default_factory=True)
    return bool(value == default)


def _number(value: Decimal) -> str:
    """Without the zeros it was written with; nothing is rounded."""
    return str(_EXACT.normalize(value)) if value else "0"
