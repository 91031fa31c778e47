"""Snapshots: the state of an aggregate beside the commit that completed it, so that a load need not begin at the first.

    class Account(AggregateRoot[AccountEvent], Snapshotted[AccountState]):
        snapshot_every = 100

        def snapshot(self) -> AccountState: ...
        def restore(self, state: AccountState) -> None: ...

A snapshot is a copy, and never trusted: one that is damaged, of another stream, version or shape, or made by other code
is passed over, and the events are replayed. Read `repository.py` next.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from hashlib import sha256
from typing import Any, ClassVar, Generic, cast, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import TypeVar, get_original_bases

from esazure.aggregate import AggregateRoot, stream_of
from esazure.fingerprint import fingerprint
from esazure.keys import MAX_SNAPSHOT_CHARACTERS
from esazure.lifecycle import looked_at, place_of
from esazure.proof import is_alike, prove
from esazure.state import state_of

__all__ = ["Snapshotted"]

S = TypeVar("S", bound=BaseModel)
A = TypeVar("A", bound=AggregateRoot[Any, Any])

_DIGEST = 16
_MOST_EVENTS = 500  # so that the last snapshot is always in the first page that any store reads, of 1,000 commits
_log = logging.getLogger("esazure.snapshots")


class Snapshotted(ABC, Generic[S]):
    """Beside `AggregateRoot`, for aggregates with long streams: keeps the whole state as a pydantic model now and then.

    Worth it from some hundred events on. The state is stored with the commit and found by the query of the load; there
    is no other request. A state that takes more than 100,000 characters of JSON is not kept.
    """

    snapshot_every: ClassVar[int] = 100
    """How many events behind the last snapshot a commit has to be to get one; from 1 to 500."""

    snapshot_revision: ClassVar[int] = 1
    """Raise it when something else than code of the application changes what the events make of the state.

    Such as an installed library, or a setting. The application's code is seen without: see `fingerprint.py`.
    """

    @abstractmethod
    def snapshot(self) -> S:
        """The whole state. Nothing of it may be left out: `restore` has nothing else."""

    @abstractmethod
    def restore(self, state: S) -> None:
        """Set the state of a new aggregate to this, as if every event had been applied."""


class _NotTakenError(Exception):
    """Why a state cannot be kept; holds no value."""


class SnapshotCodec(Generic[A]):
    """Takes and restores the snapshots of one aggregate class; made by `snapshots_of`."""

    def __init__(self, aggregate_class: Any) -> None:
        self._class = aggregate_class
        self._model = _model_of(aggregate_class)
        self.every: int = aggregate_class.snapshot_every
        """How many events behind the last snapshot a commit has to be to get one."""
        if type(self.every) is not int or not 1 <= self.every <= _MOST_EVENTS:
            raise TypeError(
                f"{aggregate_class.__name__}.snapshot_every is a number of events from 1 to {_MOST_EVENTS}, "
                f"not {self.every!r}: a load reads as many commits to find the last snapshot"
            )
        code = fingerprint(aggregate_class, self._model)
        self.tag = sha256(f"{aggregate_class.snapshot_revision} {code}".encode()).hexdigest()[:_DIGEST]
        """Changes with the code that makes the state of the events."""

    def take(self, aggregate: A, payload: str) -> str | None:
        """The state as it is now, to be stored beside the payload; None when none is due, or it would not come back.

        It never stands in the way of a commit: what is wrong with it is logged. The next commit tries again.
        """
        is_due = aggregate.version - state_of(aggregate).snapshot_version >= self.every
        if not is_due or len(payload) > MAX_SNAPSHOT_CHARACTERS:
            return None
        stream = stream_of(aggregate)
        taken: Any = aggregate
        try:
            with looked_at(aggregate):
                state = taken.snapshot()
            proved = prove(state) if type(state) is self._model else "snapshot returned something else than its model"
            if isinstance(proved, str):
                raise _NotTakenError(proved)  # noqa: TRY301 - said below, like what user code raises
            text, read = proved
            copy = self._class(aggregate.id)
            state_of(copy).stored_version = aggregate.version
            copy.restore(self._read(text))  # not the one that is compared, because the copy may work on it
            if state_of(copy).pending:
                why = "restore must not record"
            elif not is_alike(read, copy.snapshot()):
                why = "what is restored from it is another state"
            elif len(text) > MAX_SNAPSHOT_CHARACTERS:
                why = f"{len(text):,} characters, at most {MAX_SNAPSHOT_CHARACTERS:,} are kept"
            else:
                return f"{self.tag} {self._digest(stream, aggregate.version, text)} {text}"
        except _NotTakenError as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - user code may raise anything
            why = f"{type(error).__name__} at {place_of(error)}"
        _log.warning("%s: no snapshot at version %d: %s", stream, aggregate.version, why)
        return None

    def restore(self, aggregate: A, version: int, snapshot: str) -> bool:
        """Set the state of a new aggregate to the snapshot of a version; False when it must not be used.

        The aggregate must not be used either then, for it may be half restored.
        """
        stream = stream_of(aggregate)
        tag, _, content = snapshot.partition(" ")
        digest, _, text = content.partition(" ")
        why = "it is not what was written"
        if tag == self.tag and digest == self._digest(stream, version, text):
            restored: Any = aggregate
            state = state_of(aggregate)
            state.stored_version = state.snapshot_version = version
            try:
                restored.restore(self._read(text))
            except Exception as error:  # noqa: BLE001 - user code may raise anything
                why = f"{type(error).__name__} at {place_of(error)}"
            else:
                if not state.pending:
                    return True
                why = "restore must not record"
        _log.warning("%s: the snapshot of version %d is not used: %s", stream, version, why)
        return False

    def _read(self, text: str) -> BaseModel:
        return cast("BaseModel", self._model.__pydantic_validator__.validate_json(text))

    def _digest(self, stream: str, version: int, text: str) -> str:
        return sha256(f"{stream}\n{version}\n{self.tag}\n{text}".encode()).hexdigest()[:_DIGEST]


def snapshots_of(aggregate_class: type[A]) -> SnapshotCodec[A] | None:
    """How the snapshots of this class are taken; None when it has none.

    Raises:
        TypeError: it does not say which model its state is, or `snapshot_every` is not from 1 to 500.
    """
    return SnapshotCodec(aggregate_class) if issubclass(aggregate_class, Snapshotted) else None


def _model_of(aggregate_class: type[Any]) -> type[BaseModel]:
    for cls in aggregate_class.__mro__:
        for base in get_original_bases(cls):
            if get_origin(base) is Snapshotted:
                (model,) = get_args(base)
                if isinstance(model, type) and issubclass(model, BaseModel):
                    return model
    raise TypeError(
        f"{aggregate_class.__name__} must say which pydantic model its state is, as in Snapshotted[AccountState]"
    )
