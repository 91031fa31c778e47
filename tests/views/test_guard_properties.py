"""Whatever comes in whatever order, by however many writers: the newest of each stream is what a view shows."""

from __future__ import annotations

import asyncio
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from tests.support.simulation import SimulatedLoop
from tests.support.watched_store import WatchedStore

from esazure.views import Change

STREAMS = [f"Account.{name}" for name in "abc"]

updates = st.lists(st.tuples(st.sampled_from(STREAMS), st.integers(1, 6)), max_size=20)


class Latest(BaseModel):
    versions: dict[str, int] = {}
    writes: int = 0


def show(stream: str, version: int, *, slow: bool) -> Change[Latest]:
    def change(view: Latest | None) -> Latest:
        shown = view or Latest()
        assert version > shown.versions.get(stream, 0), "an older result is about to replace a newer one"
        return Latest(versions={**shown.versions, stream: version}, writes=shown.writes + 1)

    async def slowly(view: Latest | None) -> Latest:
        await asyncio.sleep(0.1)
        return change(view)

    return slowly if slow else change


@settings(deadline=None)  # machines differ
@given(updates)
def test_one_after_the_other(given_updates: list[tuple[str, int]]) -> None:
    async def work() -> None:
        views = WatchedStore().views(Latest)
        written = [
            await views.update("a", stream, version, show(stream, version, slow=False))
            for stream, version in given_updates
        ]
        view = await views.get("a") or Latest()
        assert view.versions == {
            stream: max(version for each, version in given_updates if each == stream)
            for stream in {stream for stream, _ in given_updates}
        }
        assert view.writes == sum(written)

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(work())


@settings(deadline=None)  # machines differ
@given(updates, st.integers(0, 2**32))
def test_all_at_once(given_updates: list[tuple[str, int]], seed: int) -> None:
    async def work() -> None:
        store, chance = WatchedStore(), Random(seed)  # noqa: S311 - not a secret
        store.turns = lambda: chance.randrange(4)
        written = await asyncio.gather(
            *(
                store.another()
                .views(Latest)
                .update("a", stream, version, show(stream, version, slow=chance.random() < 0.3))
                for stream, version in given_updates
            )
        )
        view = await store.views(Latest).get("a") or Latest()
        assert view.versions == {
            stream: max(version for each, version in given_updates if each == stream)
            for stream in {stream for stream, _ in given_updates}
        }
        assert view.writes == sum(written), "each write that succeeded is there, and no other"

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(work())
