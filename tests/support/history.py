"""What a run did, and whether what is left of it is what was promised. Pure; reads rows without the library's help.

I1  the versions of a stream are contiguous, and every commit is whole
I2  what was acknowledged is there exactly once, what conflicted or was refused is not, the rest at most once
I3  everything stored is published, and no outbox row is left
I4  first publications of a stream are in version order, without gaps
I5  nothing is published that is not stored
I6  an event has one message id and one content, however often it is sent
T   who began after somebody was acknowledged has a later version
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support.flaky_broker import Received

ACKNOWLEDGED, CONFLICTED, REFUSED, UNKNOWN = "acknowledged", "conflicted", "refused", "unknown"

_KEY = re.compile(r"([eo])\.(.+)\.(\d{10})")
_LAST = 9_999_999_999


def _now() -> float:
    return time.monotonic()  # looked up at each call, so that a simulation can replace it


@dataclass(slots=True)
class Operation:
    """One attempt to persist; its marker is in each of its events."""

    marker: str
    stream: str
    expected: int
    events: int
    who: str
    began: float = field(default_factory=_now)
    ended: float | None = None
    outcome: str = UNKNOWN
    detail: str = ""

    def texts(self) -> list[str]:
        """What its events say."""
        return [f"{self.marker}.{number}" for number in range(self.events)]

    def end(self, outcome: str, detail: str = "") -> None:
        """What its caller was told."""
        self.outcome, self.detail, self.ended = outcome, detail, _now()

    def __str__(self) -> str:
        ended = "-" if self.ended is None else f"{self.ended:.3f}"
        what = f"{self.marker} by {self.who} on {self.expected} with {self.events}"
        return f"{self.began:.3f}..{ended} {what}: {self.outcome} {self.detail}"


class StoredCommit(NamedTuple):
    """A commit as its rows have it."""

    stream: str
    first: int
    count: int
    texts: list[str]


class Violation(NamedTuple):
    """A broken promise."""

    promise: str
    stream: str
    what: str


def commits_in(rows: Iterable[Mapping[str, Any]]) -> tuple[list[StoredCommit], list[tuple[str, int]]]:
    """The commits, and the stream and first version of each outbox row, in rows of a table."""
    commits, waiting = [], []
    for row in rows:
        found = _KEY.fullmatch(row["RowKey"])
        if found is None:
            continue
        kind, stream, number = found[1], found[2], int(found[3])
        if kind == "o":
            waiting.append((stream, number))
        else:
            texts = [json.loads(line.partition(" ")[2])["text"] for line in str(row["d0"]).split("\n")]
            commits.append(StoredCommit(stream, _LAST - number, int(row["n"]), texts))
    return sorted(commits), sorted(waiting)


def violations(
    operations: Sequence[Operation],
    commits: Sequence[StoredCommit],
    waiting: Sequence[tuple[str, int]] = (),
    messages: Sequence[Received] | None = None,
) -> list[Violation]:
    """Every broken promise; `messages` is None when nothing was to be published."""
    found: list[Violation] = []
    by_stream: dict[str, list[StoredCommit]] = defaultdict(list)
    for commit in commits:
        by_stream[commit.stream].append(commit)
    for stream, stored in by_stream.items():
        found += _shape(stream, stored)
    found += _outcomes(operations, by_stream)
    found += _real_time(operations, by_stream)
    if messages is not None:
        found += [Violation("I3", stream, f"the outbox row of version {first} is left") for stream, first in waiting]
        found += _publication(by_stream, messages)
    return found


def _shape(stream: str, stored: Sequence[StoredCommit]) -> Iterable[Violation]:
    version = 0
    for commit in stored:
        if commit.first != version + 1:
            yield Violation("I1", stream, f"after version {version} comes {commit.first}")
        if commit.count != len(commit.texts):
            yield Violation("I1", stream, f"{commit.count} events are {commit.texts}")
        version = commit.first + commit.count - 1


def _outcomes(operations: Sequence[Operation], by_stream: Mapping[str, Sequence[StoredCommit]]) -> Iterable[Violation]:
    known = {tuple(operation.texts()): operation for operation in operations}
    copies: Counter[str] = Counter()
    for stream, stored in by_stream.items():
        for commit in stored:
            operation = known.get(tuple(commit.texts))
            if operation is None:
                yield Violation("I1", stream, f"nobody made the commit {commit.texts}")
                continue
            copies[operation.marker] += 1
            if (stream, commit.first) != (operation.stream, operation.expected + 1):
                yield Violation("I2", stream, f"{operation.marker} is at version {commit.first} of {stream}")
    ends = {stream: stored[-1].first + stored[-1].count - 1 for stream, stored in by_stream.items()}
    for operation in operations:
        there = copies[operation.marker]
        allowed = {ACKNOWLEDGED: (1,), UNKNOWN: (0, 1)}.get(operation.outcome, (0,))
        if there not in allowed:
            yield Violation("I2", operation.stream, f"{operation.marker} was {operation.outcome} and is {there} times")
        if operation.outcome == CONFLICTED and ends.get(operation.stream, 0) <= operation.expected:
            yield Violation("I2", operation.stream, f"{operation.marker} conflicted with nobody")


def _real_time(operations: Sequence[Operation], by_stream: Mapping[str, Sequence[StoredCommit]]) -> Iterable[Violation]:
    acknowledged = {tuple(each.texts()): each for each in operations if each.outcome == ACKNOWLEDGED}
    for stream, stored in by_stream.items():
        earliest_end = float("inf")
        for commit in reversed(stored):
            operation = acknowledged.get(tuple(commit.texts))
            if operation is None or operation.ended is None:
                continue
            if operation.began > earliest_end:
                yield Violation("T", stream, f"{operation.marker} began after a later version was acknowledged")
            earliest_end = min(earliest_end, operation.ended)


def _publication(by_stream: Mapping[str, Sequence[StoredCommit]], messages: Sequence[Received]) -> Iterable[Violation]:
    stored = {
        (stream, commit.first + index): text
        for stream, commits in by_stream.items()
        for commit in commits
        for index, text in enumerate(commit.texts)
    }
    sent: dict[tuple[str, int], Received] = {}
    last: Counter[str] = Counter()
    for message in messages:
        place = message.stream, message.version
        if place in sent:
            if sent[place] != message:
                yield Violation("I6", message.stream, f"version {message.version} was sent as {sent[place]}, {message}")
            continue
        sent[place] = message
        if message.version != last[message.stream] + 1:
            yield Violation(
                "I4", message.stream, f"version {message.version} was first sent after {last[message.stream]}"
            )
        last[message.stream] = max(last[message.stream], message.version)
        text = stored.get(place)
        if text is None or json.dumps(text) not in repr(message.content):
            yield Violation("I5", message.stream, f"version {message.version} is not stored, or says {text}")
    for stream, version in stored:
        if (stream, version) not in sent:
            yield Violation("I3", stream, f"version {version} was never published")


def report(
    title: str, found: Sequence[Violation], operations: Sequence[Operation], messages: Sequence[Received] = ()
) -> str:
    """For a failed test: the violations, and all that happened on the streams they are about (the first three)."""
    lines = [f"{title}: {len(found)} violations", *(" ".join(violation) for violation in found[:20])]
    for stream in list(dict.fromkeys(violation.stream for violation in found))[:3]:
        lines.append(f"--- {stream}")
        lines += [str(operation) for operation in operations if operation.stream == stream]
        lines.append("sent: " + " ".join(str(message.version) for message in messages if message.stream == stream))
    return "\n".join(lines)
