"""Events to text and back. Every backend uses this codec and no other.

A line is the event's stored name, a blank, and its JSON. The name picks a class from the aggregate's own union; nothing
stored or received ever chooses what is imported. To read events of an older shape, give the event a pydantic
`model_validator(mode="before")`; to rename a class, pin its old name with `event_type`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from types import NoneType
from typing import Any, Generic
from uuid import UUID

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, from_json

from esazure.errors import CorruptStreamError, EventNotStorableError, UnknownEventTypeError
from esazure.events import E, is_stored_name
from esazure.plain import PlainEvents

_DIFFERENT = "what would be read back is not equal to it; are its types comparable, is a field excluded or masked?"
_ZONED = (
    "it has a time in a zone such as Europe/Paris, of which the offset alone would come back: record it in UTC, and "
    "the zone's name in a field of its own"
)

_TIMELESS = {str, int, float, bool, bytes, NoneType, Decimal, UUID, date}


class EventCodec(Generic[E]):
    """The events one aggregate class declares: name to class, class to JSON."""

    def __init__(self, event_types: Mapping[str, type[E]]) -> None:
        for event_type in event_types.values():
            event_type.model_rebuild()  # events build their schemas late; until then their configuration is ignored
        # Bound once: the validator's own method is the fastest way from JSON to a model.
        self.validators: dict[str, Callable[[str], E]] = {
            name: event_type.__pydantic_validator__.validate_json for name, event_type in event_types.items()
        }
        """Stored name -> what reads the JSON behind it, for loops that cannot afford `decode`; they fall back to it."""
        self._writers = {
            name: (event_type.__pydantic_serializer__.to_json, PlainEvents.of(event_type))
            for name, event_type in event_types.items()
        }

    def encode(self, stream: str, event: E) -> str:
        """One line, read back and compared before it is let through; only plain events (`plain.py`) need no proof.

        An event that is stored and cannot be loaded makes its whole stream unreadable; one that comes back different is
        worse. Both happen more easily than one thinks: with `exclude`, secrets, a subclass in a field,
        `model_construct`.

        Raises:
            EventNotStorableError: the event cannot be written as JSON, not be read back, or comes back different.
        """
        name = event.event_type
        to_json, plain = self._writers[name]
        try:
            if plain is not None and plain.have(event):
                return f"{name} {to_json(event).decode()}"
            # Without its warnings: they quote the value.
            json = to_json(event, by_alias=True, warnings=False).decode()
            if "NaN" in json or "Infinity" in json:  # which other readers of JSON refuse; a text may hold the words
                from_json(json, allow_inf_nan=False)
            read = self.validators[name](json)
            if (zoned := zoned_times(event)) and zoned != zoned_times(read):
                why = _ZONED
            elif _stored(read) == _stored(event):
                return f"{name} {json}"
            else:
                why = _DIFFERENT
        except PydanticSerializationError as error:
            why = f"it cannot be written as JSON ({type(error).__name__})"
        except Exception as error:  # noqa: BLE001 - serializers and validators of the event's own may raise anything
            why = f"it cannot be read back: {_reasons(error)}"
        # Outside the handlers, so that no exception which holds the value is chained to it.
        raise EventNotStorableError(f"{stream}: {name} cannot be stored: {why}")

    def decode(self, stream: str, version: int, line: str) -> E:
        """The inverse, validated.

        Raises:
            UnknownEventTypeError: the name is not one of the declared ones.
            CorruptStreamError: the JSON is damaged, or its class no longer accepts it.
        """
        name, _, json = line.partition(" ")
        validate = self.validators.get(name)
        if validate is None:
            if is_stored_name(name):
                raise UnknownEventTypeError(stream, name, tuple(self.validators))
            # What stands in its place may be payload, so it is not quoted.
            raise CorruptStreamError(
                f"{stream}: version {version} cannot be read: it does not begin with a stored name"
            )
        try:
            return validate(json)
        except Exception as error:  # noqa: BLE001 - a validator of the event's own may raise anything
            why = _reasons(error)
        raise CorruptStreamError(f"{stream}: version {version} is stored as {name} but cannot be read: {why}")


def zoned_times(value: object) -> int:
    """How many times are in it whose offset depends on the day, or that are the second of two when clocks are set back.

    JSON has the offset alone: what comes back is equal to it, mostly, and goes on differently.
    """
    if type(value) in _TIMELESS:
        return 0
    if isinstance(value, (datetime, time)):
        return value.fold if value.tzinfo is None else value.tzinfo.utcoffset(None) is None
    if isinstance(value, dict):
        return sum(map(zoned_times, value)) + sum(map(zoned_times, value.values()))
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return sum(map(zoned_times, value))
    if isinstance(value, BaseModel):
        return sum(map(zoned_times, _stored(value)))
    return sum(zoned_times(getattr(value, field.name)) for field in fields(value)) if is_dataclass(value) else 0


def _stored(model: BaseModel) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The fields alone: __eq__ of a model also compares what is not stored, and __dict__ has its cached properties."""
    values = model.__dict__
    return {name: values[name] for name in type(model).model_fields if name in values}, model.__pydantic_extra__


def _reasons(error: Exception) -> str:
    """What pydantic found, without any of the input."""
    if not isinstance(error, ValidationError):
        return type(error).__name__
    found: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    return ", ".join(f"{_place(item['loc'], item['type'])}: {item['type']}" for item in found[:5])


def _place(path: tuple[int | str, ...], kind: str) -> int | str:
    """The field; an undeclared one is not named, because its name is input. Nor are keys further down."""
    if not path:
        return "the event"
    return "a field" if len(path) == 1 and kind == "extra_forbidden" else path[0]
