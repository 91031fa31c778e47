"""Plain events: those that need not be read back to know that they come back as they were.

A text, a UUID, a decimal number and a few more are the same after a way through JSON, whatever their value. An event
class is plain when all its fields are of such types, and nothing but pydantic's own code writes and reads them. One of
its events is plain when its values are of exactly those types. What is not known here is not plain, and `codec.py`
proves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from itertools import product
from math import prod
from types import NoneType
from typing import Any, Self
from uuid import UUID

from esazure.events import DomainEvent, EventEnvelope

_TYPES: Mapping[str, type] = {
    "str": str,
    "bool": bool,
    "int": int,
    "uuid": UUID,
    "decimal": Decimal,
    "datetime": datetime,
    "date": date,
}
"""The type that a core schema of this type, with no constraint, gives."""

# Keys of a core schema that change nothing between an object, its JSON, and the object read from it.
_MODEL = {"type", "cls", "schema", "config", "custom_init", "root_model", "metadata", "ref"}
_FIELDS = {"type", "fields", "model_name", "computed_fields"}
_FIELD = {"type", "schema", "metadata"}
_DEFAULT = {"type", "schema", "default", "default_factory", "default_factory_takes_data"}
_NULLABLE = {"type", "schema"}
_ENUM = {"type", "cls", "members", "sub_type", "metadata", "ref"}
_PLAIN = {"type", "metadata", "microseconds_precision"}
_CONFIG = {
    "title": None,
    "extra_fields_behavior": "forbid",
    "allow_inf_nan": False,
    "hide_input_in_errors": True,
    "ser_json_inf_nan": "constants",
}

_MOST_KINDS = 64
"""Sets of types that the fields of one class may have: each field that may be None doubles them."""


class PlainEvents:
    """The plain events of one class; made by `of`."""

    def __init__(self, fields: Mapping[str, tuple[type, ...]]) -> None:
        self._names = tuple(fields)
        self._kinds = frozenset(product(*fields.values()))
        self._checks = tuple(
            (name, _or_none(check) if NoneType in kinds else check)
            for name, kinds in fields.items()
            for kind, check in _CHECKS.items()
            if kind in kinds
        )

    @classmethod
    def of(cls, event_type: type[DomainEvent]) -> Self | None:
        """What tells the plain events of a class, whose schema is built; None when the class is not plain."""
        schema: Any = event_type.__pydantic_core_schema__
        if schema.get("type") == "definitions":
            known = {each["ref"]: each for each in schema["definitions"]}
            schema = schema["schema"]
        else:
            known = {}
        if schema.get("type") != "model" or not schema.keys() <= _MODEL or schema["cls"] is not event_type:
            return None
        if not event_type.model_config.get("frozen"):  # whoever holds one could change it
            return None
        config = {**schema.get("config", {}), "title": None}
        inner = schema["schema"]
        is_plain = config == _CONFIG and not schema.get("custom_init") and not schema.get("root_model")
        if not is_plain or inner.get("type") != "model-fields" or not inner.keys() <= _FIELDS:
            return None
        if inner.get("computed_fields"):
            return None
        fields = {name: _kinds_of(field, known) for name, field in inner["fields"].items()}
        found = {name: kinds for name, kinds in fields.items() if kinds}
        return cls(found) if len(found) == len(fields) and prod(map(len, found.values())) <= _MOST_KINDS else None

    def have(self, event: DomainEvent) -> bool:
        """Whether this event of the class is plain."""
        values = event.__dict__
        if tuple(map(type, values.values())) not in self._kinds or tuple(values) != self._names:
            return False
        for name, is_exact in self._checks:  # noqa: SIM110 - a generator costs more than the rest
            if not is_exact(values[name]):
                return False
        return True


@cache
def _plain_of(event_type: type[DomainEvent]) -> PlainEvents | None:
    return PlainEvents.of(event_type)


def own(envelope: EventEnvelope[Any]) -> EventEnvelope[Any]:
    """For one call of one function of the user: whatever that does to the event, nobody else sees it.

    A plain event holds nothing that can change, so it is handed on as it is.
    """
    event: DomainEvent = envelope.event
    plain = _plain_of(type(event))
    return envelope if plain is not None and plain.have(event) else replace(envelope, event=deepcopy(event))


def _kinds_of(field: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[type, ...]:
    """The types a field may have; none when it is not plain."""
    if not field.keys() <= _FIELD:  # an alias, or it is left out
        return ()
    schema = field["schema"]
    if schema["type"] == "default" and schema.keys() <= _DEFAULT:
        schema = schema["schema"]
    if schema["type"] == "nullable" and schema.keys() <= _NULLABLE:
        inner = _kind_of(schema["schema"], known)
        return () if inner is None else (inner, NoneType)
    kind = _kind_of(schema, known)
    return () if kind is None else (kind,)


def _kind_of(schema: Mapping[str, Any], known: Mapping[str, Any]) -> type | None:
    if schema["type"] == "definition-ref":
        schema = known.get(schema["schema_ref"], schema)
    if schema["type"] == "enum":
        cls: type[Enum] = schema["cls"]
        is_plain = schema.keys() <= _ENUM and schema.get("sub_type") == "str" and issubclass(cls, str)
        return cls if is_plain and _is_plain_enum(cls, schema["members"]) else None
    return _TYPES.get(schema["type"]) if schema.keys() <= _PLAIN else None


def _is_plain_enum(cls: type[Enum], members: Sequence[object]) -> bool:
    """Whether every member is written as a text of its own, by which it is found again."""
    values = [member.value for member in cls]
    return list(cls) == list(members) and all(type(value) is str for value in values) and len({*values}) == len(values)


def _is_short(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _is_in_utc(value: datetime) -> bool:
    return value.tzinfo is UTC or (value.tzinfo is None and not value.fold)


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_CHECKS: Mapping[type, Callable[[Any], bool]] = {int: _is_short, Decimal: Decimal.is_finite, datetime: _is_in_utc}
"""What the type alone does not say."""
