"""Inline views: a view of one aggregate, stored in the transaction of each of its commits.

    def account_card(account: Account) -> AccountCard: ...

    accounts = store.events(Account, views=[account_card])
    await accounts.view(account_card).get(account_id)      # one request, and never behind

For views of several aggregates see `projection.py`. Read `repository.py` next.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from re import fullmatch
from typing import Any, Generic, cast, get_type_hints

from pydantic import BaseModel
from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, TId, id_text
from esazure.errors import AggregateNotFoundError, EventNotStorableError, StoreError
from esazure.fingerprint import fingerprint
from esazure.keys import stream_name
from esazure.lifecycle import looked_at
from esazure.ports import ICommitStore, ViewRecord
from esazure.proof import prove

A = TypeVar("A", bound=AggregateRoot[Any, Any])
V = TypeVar("V", bound=BaseModel)

_NAME = r"[A-Za-z][A-Za-z0-9_]{0,19}"


class InlineView(Generic[A, V]):
    """What is known of one view function."""

    def __init__(self, aggregate_class: type[A], function: Callable[[A], V]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", "")
        self.model = _model_of(function, self.name)
        schema = json.dumps(self.model.model_json_schema(), sort_keys=True)
        code = fingerprint(aggregate_class, self.model, function)
        self.shape = sha256(f"{code} {schema}".encode()).hexdigest()[:16]

    def record_of(self, aggregate: A) -> ViewRecord:
        """The view of an aggregate as it is now.

        Raises:
            EventNotStorableError: the view would not come back as it is.
            UnusableAggregateError: the function records.
        """
        with looked_at(aggregate):
            view: object = self.function(aggregate)
        if type(view) is not self.model:
            why = f"the function returned {type(view).__name__}, not {self.model.__name__}"
        else:
            proved = prove(view)
            if not isinstance(proved, str):
                return ViewRecord(self.name, self.shape, aggregate.version, proved[0])
            why = proved
        raise EventNotStorableError(f"the view {self.name} of {type(aggregate).__name__} cannot be stored: {why}")

    def view_of(self, record: ViewRecord) -> V | None:
        """The stored view; None when it is behind, made by other code, or damaged: it is computed anew then."""
        if record.version != record.latest or record.shape != self.shape:
            return None
        try:
            return self._read(record.text)
        except Exception:  # noqa: BLE001 - the same
            return None

    def _read(self, text: str) -> V:
        return cast("V", self.model.__pydantic_validator__.validate_json(text))


def _model_of(function: Callable[[Any], V], name: str) -> type[V]:
    model: object = None
    if fullmatch(_NAME, name):
        try:
            model = get_type_hints(function).get("return")
        except NameError as error:
            raise TypeError(f"the types in the signature of {name} must be importable: {error.name} is not") from None
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or model is BaseModel:
        raise TypeError(
            "an inline view is a function with a name of 1 to 20 letters, digits and _ that says which pydantic model "
            f"it returns, as in def card(account: Account) -> AccountCard, not {function!r}"
        )
    return cast("type[V]", model)


class InlineViewReader(Generic[A, V, TId]):
    """Reads one inline view by aggregate id; made by a repository's `view`."""

    def __init__(
        self,
        view: InlineView[A, V],
        aggregate_class: type[A],
        store: ICommitStore,
        rehydrate: Callable[[TId], Awaitable[A]],
    ) -> None:
        self._view = view
        self._class = aggregate_class
        self._store = store
        self._rehydrate = rehydrate

    async def get(self, id: TId) -> V | None:
        """The view as of the last commit, or None when nothing is stored under this id. One request.

        It brings the view and the version of the stream. When the view is of another version, because a process that
        does not know it stored the last commit, or is missing, or was made by other code, it is computed from the
        events and kept.

        Raises:
            StoreError: the store could not be read.
            CorruptStreamError, UnknownEventTypeError: see `IEventsRepository.rehydrate`.
        """
        stream = stream_name(self._class.aggregate_type, id_text(id))
        seen = await self._store.read_view(stream, self._view.name)
        view = None if seen is None else self._view.view_of(seen)
        if view is not None:
            return view
        try:
            aggregate = await self._rehydrate(id)
        except AggregateNotFoundError:
            return None
        record = self._view.record_of(aggregate)
        with suppress(StoreError):  # who may only read, or is throttled, gets the view all the same
            # When somebody else has written it since, theirs may be newer; if it is not, the next read sees that.
            await self._store.write_view(stream, record, seen=seen)
        return self._view.view_of(replace(record, latest=record.version))


def inline_views(
    aggregate_class: type[Any], functions: Sequence[Callable[[Any], Any]]
) -> dict[Callable[[Any], Any], InlineView[Any, Any]]:
    """The views of one aggregate class.

    Raises:
        TypeError: not a view function.
        ValueError: two of one name.
    """
    views = {function: InlineView(aggregate_class, function) for function in functions}
    if len({view.name for view in views.values()}) < len(views):
        raise ValueError("two inline views have the same name: rename one of them")
    return views
