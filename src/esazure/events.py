"""Facts: what a user writes (`DomainEvent`), its place in a stream (`EventEnvelope`), the stored unit (`Commit`).

`CommitRecord` is a commit as backends see it: text only. Read `aggregate.py` next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Generic
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar

from esazure.errors import CommandHandledError, CorruptStreamError
from esazure.proof import has_same_fields

_EVENT_IDS = UUID("7d0b5b3a-8f0e-5c43-9a57-6f4a1d3c2b10")
_STORED_NAME = re.compile(r"[^\W\d][\w.:+-]{0,127}")


class DomainEvent(BaseModel):  # noqa: PLW1641 - pydantic makes the hash, of the fields
    """A fact in the user's own words: frozen, and nothing but payload.

    Identity, version, time and metadata are in the envelope, so an event cannot disagree with the stream it is in.
    Unknown fields are refused, NaN and infinity too (JSON has no word for them), and validation errors do not quote
    input. What is stored are the fields. Private attributes, cached properties and computed fields, of the event and of
    any model in it, are not part of it: they begin anew in each event that is read, and equality does not look at them.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # so that the codec can see and refuse it; the default silently stores null
        hide_input_in_errors=True,
        defer_build=True,  # schemas are built at first use, not at import
    )

    event_type: ClassVar[str]
    """The stored name. Defaults to the class name; pin it before renaming the class."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "[" in cls.__name__:  # a generic event with its parameter, to be subclassed; `AggregateRoot` says so
            return
        if "event_type" not in cls.__dict__:
            cls.event_type = cls.__name__
        check_stored_name(cls.__name__, cls.event_type)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or super().__eq__(other):
            return super().__eq__(other)
        return has_same_fields(self, other)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "event_type" in cls.model_fields:
            raise TypeError(
                f"{cls.__name__}: event_type names the class and is no field: event_type: ClassVar[str] = ..."
            )


E = TypeVar("E", bound=DomainEvent, default=DomainEvent)
E_co = TypeVar("E_co", bound=DomainEvent, default=DomainEvent, covariant=True)


def check_stored_name(owner: str, name: object) -> None:
    """Refuse a name that could not be stored and sent everywhere.

    Raises:
        TypeError: not 1 to 128 letters, digits and `_.:+-`, starting with a letter or `_`.
    """
    if not is_stored_name(name):
        raise TypeError(
            f"{owner}: a stored name has 1 to 128 letters, digits or _.:+- and starts with a letter, not {name!r}"
        )


def is_stored_name(name: object) -> bool:
    """Whether this can be the stored name of an event or an aggregate type."""
    return isinstance(name, str) and _STORED_NAME.fullmatch(name) is not None


def _reduced(value: Any) -> tuple[Any, ...]:
    """How a value is copied and pickled: with metadata of its own, for a read-only mapping cannot be."""
    values = [getattr(value, each.name) for each in fields(value)]
    return type(value), tuple(dict(each) if isinstance(each, MappingProxyType) else each for each in values)


@dataclass(frozen=True, slots=True)
class EventEnvelope(Generic[E_co]):
    """One event at its place in one stream. `version` counts from 1 without gaps."""

    event: E_co = field(repr=False)
    aggregate_type: str
    aggregate_id: str
    version: int
    occurred_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    __reduce__ = _reduced

    @property
    def type(self) -> str:
        """The event's stored name."""
        return self.event.event_type

    @property
    def event_id(self) -> UUID:
        """The same for the same stream and version, on every machine and at every replay."""
        return uuid5(_EVENT_IDS, f"{self.aggregate_type}/{self.version}/{self.aggregate_id}")


@dataclass(slots=True, unsafe_hash=True)  # frozen would be five times as slow to make, and a load makes thousands
class CommitRecord:
    """A commit as it is stored: what a backend keeps, and all that it needs to know. Nobody changes one.

    `stream` is the encoded name (`keys.stream_name`), `payload` one line an event: its stored name, a blank, its JSON.
    """

    stream: str
    commit_id: str
    first_version: int
    count: int
    occurred_at: str
    """ISO 8601 in UTC."""
    metadata: str = field(repr=False)
    """A JSON object of strings."""
    payload: str = field(repr=False)
    command_id: str | None = None
    """The command this commit carries out, if its sender named it; no second commit of the stream has the same."""
    snapshot: str | None = field(default=None, repr=False)
    """The state of the aggregate after this commit, as `snapshots.py` writes it: a tag, a blank, and what follows."""
    request: str | None = None
    """The hash of what the command asked for, if its sender gave it."""
    after: str = field(default="", repr=False, compare=False)
    """The identity of the commit that has to be before this one; not stored. Empty for the first, or if not known."""
    tag: str = field(default="", repr=False, compare=False)
    """Set by a store that knows stored commits by something else than their ids."""

    @property
    def identity(self) -> str:
        """What a stored commit is told from all others by that might be in its place."""
        return self.tag or self.commit_id

    @property
    def last_version(self) -> int:
        """The version of the stream once this commit is stored."""
        return self.first_version + self.count - 1

    def has_snapshot(self, tag: str, to_version: int | None) -> bool:
        """Whether it has a snapshot of this tag, and of a version not beyond this one."""
        found = self.snapshot is not None and tag != "" and self.snapshot.startswith(f"{tag} ")
        return found and (to_version is None or self.last_version <= to_version)

    @property
    def expected_version(self) -> int:
        """The version of the stream this commit was decided on."""
        return self.first_version - 1


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """What a store remembers of a command: its commit, or that there was nothing to store for it.

    Without either it is forbidden: it was never answered and never will be.
    """

    first_version: int | None = None
    """Where its commit begins; None when it stored nothing."""
    answered_at: int | None = None
    """The version of the stream when there was nothing to store for it; None when it has a commit."""
    request: str | None = None
    """The hash of what it asked for, if its sender gave it."""

    @property
    def is_forbidden(self) -> bool:
        """No commit with this id may ever get in, though it was not answered."""
        return self.first_version is None and self.answered_at is None

    def as_error(self, stream: str) -> CommandHandledError:
        """What refuses a commit with the same id."""
        return CommandHandledError(stream, self.first_version, answered_at=self.answered_at, request=self.request)


@dataclass(frozen=True, slots=True)
class Commit(Generic[E]):
    """The events recorded since the load, stored and published as one."""

    record: CommitRecord
    aggregate_type: str
    aggregate_id: str
    occurred_at: datetime
    store_id: UUID
    """Which store holds it; makes message ids differ between stores that share a topic."""
    metadata: Mapping[str, str] = field(repr=False)
    recorded: tuple[E, ...] = field(repr=False)
    """The events alone, oldest first."""
    __reduce__ = _reduced

    @property
    def commit_id(self) -> str:
        """Random, and the same however often the commit is sent: it tells an own write from somebody else's."""
        return self.record.commit_id

    @property
    def stream(self) -> str:
        """The encoded stream name, for logs and errors."""
        return self.record.stream

    @property
    def token(self) -> str:
        """`<stream>@<last version>`, for `IViews.wait_for`: read your own writes."""
        return f"{self.record.stream}@{self.record.last_version}"

    @property
    def command_id(self) -> str | None:
        """The command this commit carries out, if its sender named it."""
        return self.record.command_id

    @property
    def first_version(self) -> int:
        """The version of the first event."""
        return self.record.first_version

    @property
    def last_version(self) -> int:
        """The version of the last event, and of the aggregate."""
        return self.record.last_version

    @property
    def events(self) -> tuple[EventEnvelope[E], ...]:
        """The events, each with its place; made when asked for."""
        return tuple(
            EventEnvelope(event, self.aggregate_type, self.aggregate_id, version, self.occurred_at, self.metadata)
            for version, event in enumerate(self.recorded, start=self.first_version)
        )

    @property
    def payloads(self) -> tuple[str, ...]:
        """Each event's JSON exactly as it is stored, aligned with `events`."""
        return tuple(line.partition(" ")[2] for line in self.record.payload.split("\n"))


def decode_time(record: CommitRecord) -> datetime:
    """The stored time.

    Raises:
        CorruptStreamError: not an ISO 8601 time with a zone.
    """
    try:
        occurred_at = datetime.fromisoformat(record.occurred_at)
    except ValueError:
        occurred_at = None
    if occurred_at is None or occurred_at.tzinfo is None:
        raise CorruptStreamError(f"{record.stream}: the time at version {record.first_version} is damaged")
    return occurred_at


def decode_metadata(record: CommitRecord) -> Mapping[str, str]:
    """The stored metadata.

    Raises:
        CorruptStreamError: not a JSON object of strings.
    """
    try:
        found: object = json.loads(record.metadata)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise CorruptStreamError(f"{record.stream}: the metadata at version {record.first_version} is damaged")
    return MappingProxyType(found)
