"""What a binding may give to a conformance suite beside its fixtures. Read `_repository_suite.py` next."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from esazure.events import CommitRecord


class StoreBinding:
    """What the suites of a store can use; a binding overrides what it can."""

    async def overwrite(self, store: Any, record: CommitRecord) -> None:  # noqa: ARG002 - for bindings
        """Put `record`, whatever it says, where a commit with its stream and first version is stored."""
        pytest.skip("this binding cannot overwrite a stored commit")

    async def remove(self, store: Any, record: CommitRecord) -> None:  # noqa: ARG002 - for bindings
        """Take this commit out of its stream and leave everything else."""
        pytest.skip("this binding cannot remove a stored commit")

    async def fill(self, store: Any, records: Sequence[CommitRecord]) -> None:
        """Store many commits of one stream, oldest first. A binding may override it with something faster."""
        for record in records:
            await store.insert(record, outbox=False)

    def another(self, store: Any) -> AbstractAsyncContextManager[Any]:  # noqa: ARG002 - for bindings
        """The same store opened once more, as by another process."""
        pytest.skip("this binding cannot open its store a second time")
