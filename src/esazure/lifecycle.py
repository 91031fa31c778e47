"""What repositories and the test kit do with an aggregate: replay its stream, check it, note what was stored of it.

Read `ports.py` next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import length_hint
from pathlib import Path
from typing import Any
from uuid import UUID

from esazure.aggregate import AggregateRoot, E, stream_of
from esazure.codec import EventCodec
from esazure.errors import CorruptStreamError, StoreMismatchError, UnusableAggregateError
from esazure.events import Commit, CommitRecord
from esazure.state import state_of, why_not


def check_persistable(aggregate: AggregateRoot[Any, Any]) -> None:
    """Refuse a copy whose pending events must not be stored.

    Raises:
        UnusableAggregateError: an earlier `when` failed, or another task is persisting this copy.
    """
    state = state_of(aggregate)
    if state.unusable is not None or state.persisting:
        raise UnusableAggregateError(f"{stream_of(aggregate)} cannot be persisted: {why_not(state)}")


def check_home(aggregate: AggregateRoot[Any, Any], store_id: UUID) -> None:
    """Refuse a copy whose events are in another store, or may be.

    Raises:
        StoreMismatchError: it was loaded or persisted there.
    """
    state = state_of(aggregate)
    home = state.store_id if state.in_doubt is None else state.in_doubt.store_id
    if home is not None and home != store_id:
        raise StoreMismatchError(
            f"{stream_of(aggregate)} belongs to the store {home}, and this one is {store_id}: "
            "persist it where it was loaded or first persisted, or load it from this store"
        )


@contextmanager
def looked_at(aggregate: AggregateRoot[Any, Any]) -> Iterator[None]:
    """Code of the user gets it to look at: nothing may be recorded inside."""
    state = state_of(aggregate)
    state.persisting = True
    try:
        yield
    finally:
        state.persisting = False


def accept(aggregate: AggregateRoot[Any, Any], commit: Commit[Any]) -> None:
    """The commit is durable: its events are no longer pending."""
    state = state_of(aggregate)
    state.in_doubt = None
    state.stored_version = commit.last_version
    state.store_id = commit.store_id
    state.head = commit.record.identity
    if commit.record.snapshot is not None:
        state.snapshot_version = commit.last_version
    del state.pending[: commit.record.count]


def replay(
    aggregate: AggregateRoot[E, Any], records: Iterable[CommitRecord], codec: EventCodec[E], *, to: int | None
) -> None:
    """Apply stored commits, oldest first, up to and including version `to`.

    Decode, apply, drop: keeping the events of a long stream costs more than reading them.

    Raises:
        CorruptStreamError: a gap or an overlap between commits, a damaged payload, or a `when` that refuses an event.
        UnknownEventTypeError: a stored name is not declared.
    """
    state = state_of(aggregate)
    when, validators = aggregate.when, codec.validators
    version = state.stored_version
    state.applying = True
    try:
        for record in records:
            lines = record.payload.split("\n")
            if record.first_version != version + 1 or record.count != len(lines):
                raise CorruptStreamError(
                    f"{record.stream}: after version {version} comes a commit of {record.count} events at "
                    f"{record.first_version} with {len(lines)} payloads: rows were removed, or written by others"
                )
            if to is not None:
                del lines[to - version :]
            left = iter(lines)
            try:
                for line in left:
                    name, _, json = line.partition(" ")
                    when(validators[name](json))
                version += len(lines)
                continue
            except Exception as error:  # noqa: BLE001 - user code may raise anything
                why = f"{type(error).__name__} at {place_of(error)}"
            # Outside the handler: the text of that exception may quote the event, so it is not chained.
            version += len(lines) - length_hint(left)
            event = codec.decode(record.stream, version, line)  # raises when it was not `when` that failed
            raise CorruptStreamError(
                f"{record.stream}: {type(aggregate).__name__}.when refused the stored {event.event_type} of "
                f"version {version} with {why}; it must accept every event ever stored"
            )
    finally:
        state.applying = False
    state.stored_version = version


def place_of(error: BaseException) -> str:
    """The file and line that raised it: what can be said of an exception whose text may quote a payload."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
