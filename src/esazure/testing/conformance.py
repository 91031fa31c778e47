"""What every backend promises, as tests that a binding of a few lines inherits (needs esazure[testing]).

    class TestMyStore(CommitStoreConformance):
        @pytest.fixture
        async def store(self) -> AsyncIterator[CommitStore]:
            async with MyStore(...) as store:
                yield store

        async def overwrite(self, store: MyStore, record: CommitRecord) -> None: ...  # optional, to test damage
        async def remove(self, store: MyStore, record: CommitRecord) -> None: ...  # optional, to test gaps
        def another(self, store: MyStore) -> MyStore: ...  # optional, to test what is there after opening it again

A behaviour that all backends share is pinned here and nowhere else. The tests use ids of their own, so a store may be
shared between them; they run in pytest-asyncio's strict and auto modes.
"""

from __future__ import annotations

import pytest

# Before the imports: pytest can only explain the assertions of modules it rewrites while they are imported.
for _name in (
    *("repository", "command", "outbox", "content", "store", "view"),
    *("history", "opening", "scan", "document", "listing", "relay", "producer", "snapshot"),
):
    pytest.register_assert_rewrite(f"esazure.testing._{_name}_suite")

from esazure.testing._command_suite import CommandPromises, CommandStorePromises  # noqa: E402 - see above
from esazure.testing._content_suite import ContentPromises  # noqa: E402
from esazure.testing._counter import Counter  # noqa: E402
from esazure.testing._document_suite import DocumentPromises  # noqa: E402
from esazure.testing._history_suite import HistoryPromises  # noqa: E402
from esazure.testing._listing_suite import ListingPromises  # noqa: E402
from esazure.testing._opening_suite import OpeningPromises  # noqa: E402
from esazure.testing._outbox_suite import OutboxPromises  # noqa: E402
from esazure.testing._producer_suite import Broker, EventProducerConformance  # noqa: E402
from esazure.testing._relay_suite import RelayPromises  # noqa: E402
from esazure.testing._repository_suite import MakesRepositories, StreamPromises  # noqa: E402
from esazure.testing._scan_suite import ScanPromises  # noqa: E402
from esazure.testing._snapshot_suite import LoadPromises  # noqa: E402
from esazure.testing._store_suite import StorePromises  # noqa: E402
from esazure.testing._view_suite import ViewPromises  # noqa: E402

__all__ = [
    "Broker",
    "CommitStoreConformance",
    "Counter",
    "DocumentStoreConformance",
    "EventProducerConformance",
    "EventsRepositoryConformance",
    "MakesRepositories",
]


class EventsRepositoryConformance(StreamPromises, CommandPromises, OutboxPromises, ContentPromises):
    """For a repository that is not built on a `CommitStore`: bind the fixture `events`."""


class DocumentStoreConformance(DocumentPromises, ListingPromises):
    """For an `IDocumentStore` that keeps no streams: bind the fixture `documents`; optionally `another`."""


class CommitStoreConformance(
    StorePromises,
    HistoryPromises,
    OpeningPromises,
    LoadPromises,
    CommandStorePromises,
    ViewPromises,
    ScanPromises,
    DocumentStoreConformance,
    RelayPromises,
    EventsRepositoryConformance,
):
    """For a `CommitStore`: bind the fixture `store`; optionally `overwrite`, `remove`, `fill` and `another`.

    What a relay needs is tested when the store is an `IOutboxStore`, what reads all streams when it is an
    `IStreamSource`, documents when it is an `IDocumentStore`.
    """
