"""One stored name in one store object stands for one class."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from esazure import AggregateRoot, DomainEvent
from esazure.memory import InMemoryStore
from esazure.sqlite import SqliteStore
from esazure.store import Store
from esazure.tables import TableStore
from esazure.testing.faults import Faults, FaultyStore

ACCOUNT = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=a2V5;EndpointSuffix=core.windows.net"
STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: InMemoryStore(),
    "sqlite": lambda folder: SqliteStore(folder / "a.db"),
    "tables": lambda _: TableStore.from_connection_string(ACCOUNT),
    "faulty": lambda _: FaultyStore(InMemoryStore(), Faults()),
}


class Paid(DomainEvent):
    amount: int


class Invoice(AggregateRoot[Paid, str]):
    def when(self, event: Paid) -> None: ...


class Other(AggregateRoot[Paid, str]):
    aggregate_type = "Invoice"

    def when(self, event: Paid) -> None: ...


class Card(BaseModel):
    text: str


class Board(BaseModel):
    text: str


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """None of them is open: what is wrong with a class has nothing to do with that."""
    return STORES[request.param](tmp_path)


def test_two_classes_of_one_stored_name_are_refused(store: Store) -> None:
    store.events(Invoice)
    with pytest.raises(ValueError, match=r"test_names\.Invoice and .*test_names\.Other both have the stored name") as e:
        store.events(Other)
    assert "pin another one" in str(e.value)


def test_a_class_may_be_given_any_number_of_times(store: Store) -> None:
    for outbox in (None, True, False):
        store.events(Invoice, outbox=outbox)


def test_a_subclass_has_a_stored_name_of_its_own(store: Store) -> None:
    class LateInvoice(Invoice):
        pass

    store.events(Invoice)
    store.events(LateInvoice)


def test_another_store_object_may_be_given_another_class() -> None:
    InMemoryStore().events(Invoice)
    InMemoryStore().events(Other)


def test_a_class_that_was_refused_does_not_take_the_name(store: Store) -> None:
    store.events(Invoice)
    with pytest.raises(ValueError, match="both have"):
        store.events(Other)
    store.events(Invoice)


def test_nor_does_one_that_was_refused_for_its_views(store: Store) -> None:
    with pytest.raises(TypeError, match="an inline view is"):
        store.events(Other, views=[lambda other: Card(text=other.id)])
    store.events(Invoice)


def test_a_class_that_is_defined_again_is_the_same(store: Store) -> None:
    """As when a cell of a notebook is run once more."""

    def cell() -> type[AggregateRoot[Paid, str]]:
        class Invoice(AggregateRoot[Paid, str]):
            def when(self, event: Paid) -> None: ...

        return Invoice

    first, second = cell(), cell()
    assert first is not second
    store.events(first)
    store.events(second)


def test_a_module_may_be_reloaded(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from tests.unit.test_names import Paid\nfrom esazure import AggregateRoot\n"
    source += "class Receipt(AggregateRoot[Paid, str]):\n    def when(self, event): ...\n"
    (tmp_path / "reloaded_receipts.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded_receipts")
    store.events(module.Receipt)
    store.events(importlib.reload(module).Receipt)
    del sys.modules["reloaded_receipts"]


def test_a_store_keeps_no_class_alive() -> None:
    class Passing(AggregateRoot[Paid, str]):
        def when(self, event: Paid) -> None: ...

    store = InMemoryStore()
    store.events(Passing)
    seen = weakref.ref(Passing)
    del Passing
    gc.collect()
    assert seen() is None, store


def test_the_models_of_two_releases_may_share_a_collection(store: Store) -> None:
    assert store.views(Card).name == store.views(Board, name="card").name
