"""What every store promises that has to be opened: no call works before and after, streams and documents alike."""

from __future__ import annotations

import gc
import warnings
from typing import Any, Protocol

import pytest

from esazure.documents import IDocumentStore
from esazure.errors import StoreError, StoreUnavailableError
from esazure.ports import IOutboxStore, IStreamSource
from esazure.repository import CommitStore
from esazure.testing._binding import StoreBinding
from esazure.testing._calls import ABOVE, CALLS, STREAM

_NOT_OPENED = {"partitions"}  # which may be known without


@pytest.mark.asyncio
class OpeningPromises(StoreBinding):
    """A binding gives `store` and `another`."""

    async def test_every_call_of_the_ports_is_tried(self) -> None:
        ports: tuple[type[Protocol], ...] = (IOutboxStore, IStreamSource, IDocumentStore)  # type: ignore[valid-type]
        public = {name for port in ports for name in dir(port) if not name.startswith("_")}
        assert public == set(CALLS)

    @pytest.mark.parametrize("when", ["never opened", "closed"])
    async def test_a_store_that_is_not_open_says_so_at_every_call(self, store: CommitStore, when: str) -> None:
        other: Any = self.another(store)
        if not isinstance(other, CommitStore):
            pytest.skip("this binding has nothing to open")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if when == "closed":
                async with other:
                    await other.read(STREAM)
            for name, call in (CALLS | ABOVE).items():
                if name in _NOT_OPENED or (name == "store_id" and when == "closed"):
                    continue
                with pytest.raises(StoreError, match="not open") as caught:
                    await call(other)
                assert not isinstance(caught.value, StoreUnavailableError), f"{name}: nothing to be tried again"
            del other
            gc.collect()
        assert list(await store.read(STREAM)) == []
