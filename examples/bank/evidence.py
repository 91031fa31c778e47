"""What is really stored and published, as somebody sees it who has never heard of esazure; and whether that is right.

`observers.py` collects it with sqlite3 and with the plain Azure SDKs. Pure functions here, no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One line of one commit."""

    stream: str
    version: int
    type: str
    body: str


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything in the store."""

    events: frozenset[StoredEvent]
    waiting: frozenset[tuple[str, int]]
    """Outbox rows, by stream and version: commits nobody has published yet."""

    @property
    def streams(self) -> list[str]:
        return sorted({event.stream for event in self.events})

    def of(self, stream: str) -> list[StoredEvent]:
        return sorted((event for event in self.events if event.stream == stream), key=lambda event: event.version)


@dataclass(frozen=True, slots=True)
class Published:
    """One message, as a subscriber gets it."""

    stream: str
    version: int
    subject: str
    session: str
    body: str


def events_of_commit(stream: str, first_version: int, payload: str) -> list[StoredEvent]:
    """A commit holds an event a line: its name, a blank, its JSON."""
    lines = (line.partition(" ") for line in payload.split("\n"))
    return [StoredEvent(stream, version, name, body) for version, (name, _, body) in enumerate(lines, first_version)]


def check_streams(stored: Stored, streams: Iterable[str]) -> None:
    """Versions count from 1 without gaps or doubles, and nothing waits in the outbox."""
    for stream in streams:
        versions = [event.version for event in stored.of(stream)]
        assert versions == list(range(1, len(versions) + 1)), f"{stream} has versions {versions}"
        assert not [row for row in stored.waiting if row[0] == stream], f"{stream} still waits in the outbox"


def check_messages(stored: Stored, messages: Sequence[Published], streams: Iterable[str]) -> None:
    """Each stored event was published, in the order of its stream and in one session; a repeat is allowed."""
    for stream in streams:
        told = list(dict.fromkeys(message for message in messages if message.stream == stream))
        happened = stored.of(stream)
        assert [(m.version, m.subject, m.body) for m in told] == [(e.version, e.type, e.body) for e in happened], stream
        assert len({message.session for message in told}) == 1, f"{stream} was published in several sessions"


def balance_of(events: Iterable[StoredEvent]) -> Decimal:
    """What the stored JSON adds up to."""
    bodies = [json.loads(event.body) for event in events]
    credited = sum(Decimal(body["credited"]["amount"]) for body in bodies if "credited" in body)
    debited = sum(Decimal(body["debited"]["amount"]) for body in bodies if "debited" in body)
    return Decimal(credited) - Decimal(debited)
