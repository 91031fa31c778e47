"""Events to text and back. Every backend uses this codec and no other.

A line is the event's stored name, a blank, and its JSON. The name picks a class from the aggregate's own union; nothing
stored or received ever chooses what is imported. To read events of an older shape, give the event a pydantic
`model_validator(mode="before")`; to rename a class, pin its old name with `event_type`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic

from pydantic import ValidationError

from esazure.errors import CorruptStreamError, EventNotStorableError, UnknownEventTypeError
from esazure.events import E, is_stored_name
from esazure.plain import PlainEvents
from esazure.proof import prove


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
        """One line; see `fix`.

        Raises:
            EventNotStorableError: see `fix`.
        """
        fixed = self.fix(event)
        if isinstance(fixed, str):
            raise EventNotStorableError(f"{stream}: {fixed}")
        return fixed[0]

    def fix(self, event: E) -> tuple[str, E] | str:
        """One line, and the event as every load will give it: what was read back to prove that it can be.

        An event that is stored and cannot be loaded makes its whole stream unreadable; one that comes back different is
        worse. Both happen more easily than one thinks: with `exclude`, secrets, a subclass in a field,
        `model_construct`. Only plain events (`plain.py`) need no proof. Such a one is returned itself, for nothing in
        it can change, unless a field was left to its default. One that cannot be written as JSON, not be read back, or
        comes back different gives the reason.
        """
        name = event.event_type
        to_json, plain = self._writers[name]
        if plain is not None and plain.have(event):
            try:
                text = to_json(event).decode()
            except Exception:  # noqa: BLE001, S110 - a lone surrogate; the proof says where, without quoting it
                pass
            else:
                # A load sets every field, also one that was left to its default: `model_fields_set` shows it.
                is_whole = len(event.__pydantic_fields_set__) == len(event.__dict__)
                return f"{name} {text}", event if is_whole else self.validators[name](text)
        proved = prove(event)
        return f"{name} cannot be stored: {proved}" if isinstance(proved, str) else (f"{name} {proved[0]}", proved[1])

    def events_of(self, stream: str, first: int, pending: Iterable[tuple[str, E | None]]) -> tuple[E, ...]:
        """What is pending, as a load would give it; nobody else has these objects, but for plain ones."""
        return tuple(
            [  # as a list it is quicker
                self.decode(stream, version, line) if event is None else event
                for version, (line, event) in enumerate(pending, first)
            ]
        )

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
