"""A rebuild gives what live work gives, misses nothing that happens meanwhile, and nobody ever reads half of it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from tests.projections.support import (
    Board,
    Gadget,
    Passed,
    Put,
    Thing,
    Worker,
    boards_of,
    cards_of,
    in_order,
    shown,
    simulated,
    stored,
)
from tests.support.watched_store import WatchedStore

from esazure.errors import CorruptStreamError, StoreUnavailableError, UnknownEventTypeError
from esazure.generations import Generations
from esazure.projection import Projection
from esazure.rebuild import RebuildProgress, RebuildReport, rebuild
from esazure.testing._counter import commit_of


async def filled(streams: int = 12) -> WatchedStore:
    """Things and gadgets that feed a few boards, one of them all of them."""
    store = WatchedStore()
    store.turns = lambda: 0
    for number in range(streams):
        kind = Gadget if number % 3 == 2 else Thing
        boards = ("all", f"b{number % 4}")
        await stored(store, f"s{number:02}", Put(boards=boards), Passed(), Put(boards=("all",)), kind=kind)
    store.calls.clear()
    store.turns = lambda: 1
    return store


def boards(store: WatchedStore) -> Projection[Board]:
    return boards_of(store, Thing, Gadget)


async def live(store: WatchedStore) -> None:
    """The views as workers keep them."""
    worker = Worker(boards(store), store)
    for kind in (Thing, Gadget):
        async for records in store.scan("0", kind.aggregate_type):
            await worker.deliver(records[0].stream, records[-1].last_version)


async def generations(store: WatchedStore) -> Generations:
    return await store.another().views(Board, name="boards").generations.get()


class TestTheResult:
    def test_it_equals_the_live_views(self) -> None:
        async def work() -> None:
            store = await filled()
            await live(store)
            before = shown(store, "boards-g1")
            await rebuild(boards(store), store)
            assert shown(store, "boards-g2") == before == await in_order(store)

        simulated(work())

    def test_reloaded_views_equal_too(self) -> None:
        async def work() -> None:
            store = await filled()
            report = await rebuild(cards_of(store), store)
            page = await cards_of(store).views.list()
            assert sorted(view.id for view in page.views) == [
                f"s{number:02}" for number in range(12) if number % 3 != 2
            ]
            assert {view.events for view in page.views} == {3}
            assert report.streams == 8

        simulated(work())

    def test_views_that_should_not_be_there_are_gone(self) -> None:
        async def work() -> None:
            store = await filled()
            views = boards(store).views
            await views.update("wrong", "Thing.gone", 1, lambda _: Board())
            await rebuild(boards(store), store)
            assert await store.another().views(Board, name="boards").get("wrong") is None

        simulated(work())

    def test_the_report_says_what_was_done(self) -> None:
        async def work() -> None:
            store = await filled()
            report = await rebuild(boards(store), store)
            assert report == RebuildReport("boards", 2, False, 12, 36, report.seconds)  # noqa: FBT003
            assert 4.0 <= report.seconds < 5.0, "two pauses, so that everybody notices"
            assert (await rebuild(boards(store), store)).generation == 3

        simulated(work())

    def test_only_the_new_generation_is_left(self) -> None:
        async def work() -> None:
            store = await filled()
            await live(store)
            await rebuild(boards(store), store)
            assert store.collections() == {"views", "boards-g2"}
            assert await generations(store) == Generations(active=2)
            await rebuild(boards(store), store)
            assert store.collections() == {"views", "boards-g3"}

        simulated(work())

    def test_a_store_without_events_gives_no_views(self) -> None:
        async def work() -> None:
            store = WatchedStore()
            await boards(store).views.update("wrong", "Thing.gone", 1, lambda _: Board())
            assert (await rebuild(boards(store), store)).streams == 0
            assert store.collections() == {"views"}

        simulated(work())

    @pytest.mark.parametrize("concurrency", [1, 3, 50])
    def test_it_works_on_so_many_streams_at_a_time(self, concurrency: int) -> None:
        async def work() -> None:
            store = await filled()
            projection, most, now = boards(store), 0, 0
            replay = projection.replay

            async def counted(*args: Any, **kwargs: Any) -> None:
                nonlocal most, now
                now += 1
                most = max(most, now)
                await asyncio.sleep(0.01)
                await replay(*args, **kwargs)
                now -= 1

            projection.replay = counted  # type: ignore[method-assign]
            await rebuild(projection, store, concurrency=concurrency)
            assert shown(store, "boards-g2") == await in_order(store)
            assert most == {1: 1, 3: 2, 50: 12}[concurrency], "one for each of the two classes, or shared out"

        simulated(work())

    async def test_what_cannot_be_done_is_refused_before_anything_is_changed(self) -> None:
        store = WatchedStore()
        with pytest.raises(ValueError, match="concurrency must be at least 1"):
            await rebuild(boards(store), store, concurrency=0)
        with pytest.raises(ValueError, match="needs its functions"):
            await rebuild(Projection(store.views(Board)), store)
        assert store.calls == []


class TestReaders:
    def test_they_see_the_old_views_and_then_the_new_ones_and_never_half(self) -> None:
        async def work() -> None:
            store = await filled()
            views = boards(store).views
            old = {key: Board(seen={"old": [1]}) for key in await in_order(store)}
            for key, board in old.items():
                await views.update(key, "Thing.old", 1, lambda _, board=board: board)
            new = await in_order(store)
            readers, over = [store.another().views(Board, name="boards") for _ in range(3)], asyncio.Event()
            swaps = 0

            async def read(number: int) -> None:
                nonlocal swaps
                reader, was_new = readers[number], False
                while not over.is_set():
                    found = {key: await reader.get(key) for key in new}
                    # One by one they may straddle the swap: each view is old or new, and never old again.
                    for key, board in found.items():
                        assert board in (old[key], new[key])
                        assert board == new[key] or not was_new
                    listed = (await reader.list()).views
                    assert listed in (tuple(old[key] for key in sorted(old)), tuple(new[key] for key in sorted(new)))
                    swaps += not was_new and listed != tuple(old[key] for key in sorted(old))
                    was_new = was_new or found == new
                    await asyncio.sleep(0.05)

            async def rebuilding() -> None:
                await asyncio.sleep(0.5)
                await rebuild(boards(store.another()), store)
                await asyncio.sleep(1.5)
                over.set()

            await asyncio.gather(rebuilding(), *(read(number) for number in range(3)))
            assert swaps == 3

        simulated(work())

    def test_while_it_runs_the_old_views_are_kept_up_to_date(self) -> None:
        async def work() -> None:
            store = await filled()
            await live(store)
            worker = Worker(boards(store.another()), store)

            async def write_in_the_middle() -> None:
                await stored(store.another(), "s00", Put(boards=("all",)))
                await worker.deliver("Thing.s00", 4)
                view = await worker.projection.views.get("all")
                assert view is not None
                assert view.seen["Thing.s00"] == [1, 3, 4]

            own = store.another()
            own.hooks["scan Gadget"] = write_in_the_middle
            await rebuild(boards(own), own)
            assert shown(store, "boards-g2") == await in_order(store)

        simulated(work())


class TestLiveWrites:
    @pytest.mark.parametrize("seed", range(30))
    def test_nothing_that_happens_meanwhile_is_missed_or_doubled(self, seed: int) -> None:
        async def work() -> None:
            chance = Random(seed)  # noqa: S311 - not a secret
            store = await filled()
            store.turns = lambda: chance.randrange(3)
            await live(store)
            workers = [Worker(boards(store.another()), store.another()) for _ in range(2)]
            over, queue = asyncio.Event(), asyncio.Queue[tuple[str, int]]()

            async def write() -> None:
                while not over.is_set():
                    number = chance.randrange(16)  # some of them new
                    kind = Gadget if number % 3 == 2 else Thing
                    events = await stored(
                        store.another(), f"s{number:02}", Put(boards=("all", f"b{chance.randrange(4)}")), kind=kind
                    )
                    queue.put_nowait((f"{kind.aggregate_type}.s{number:02}", events[-1].version))
                    await asyncio.sleep(chance.random() / 4)

            async def handle(worker: Worker) -> None:
                while not (over.is_set() and queue.empty()):
                    if queue.empty():
                        await asyncio.sleep(0.01)
                        continue
                    message = queue.get_nowait()
                    await asyncio.sleep(chance.random() / 2)  # out of order between the two
                    await worker.deliver(*message)

            async def rebuilding() -> None:
                await asyncio.sleep(chance.random())
                await rebuild(boards(store.another()), store.another(), concurrency=chance.choice([1, 4, 16]))
                await asyncio.sleep(chance.random())
                over.set()

            await asyncio.gather(write(), rebuilding(), *(handle(worker) for worker in workers))
            assert (await generations(store)).active == 2
            assert shown(store, "boards-g2") == await in_order(store)
            assert "boards-g1" not in store.collections()

        simulated(work())

    def test_a_worker_that_knows_of_the_rebuild_at_the_last_moment_misses_nothing(self) -> None:
        """It asked just before the announcement, and relies on that for a second."""

        async def work() -> None:
            store = await filled()
            worker = Worker(boards(store.another()), store.another())
            assert len(await worker.projection.handlers()) == 1
            rebuilding = asyncio.create_task(rebuild(boards(store.another()), store.another()))
            await asyncio.sleep(0.99)
            events = await stored(store, "s00", Put(boards=("all",)))
            assert len(await worker.projection.handlers()) == 1, "it does not know yet"
            await worker.deliver("Thing.s00", events[-1].version)
            await rebuilding
            assert shown(store, "boards-g2") == await in_order(store)

        simulated(work())

    def test_an_event_stored_behind_the_scan_is_handled_by_a_worker_that_knows(self) -> None:
        async def work() -> None:
            store = await filled()
            worker = Worker(boards(store.another()), store.another())
            await worker.projection.handlers()

            async def behind_the_scan() -> None:
                await stored(store.another(), "s00", Put(boards=("all",)))
                await stored(store.another(), "a-new-one", Put(boards=("all",)))

            own = store.another()
            own.hooks["write_document rebuild-boards-g2/Thing"] = behind_the_scan
            await rebuild(boards(own), own)
            missing = shown(store, "boards-g2")["all"].seen
            assert missing["Thing.s00"] == [1, 3], "not by the rebuild"
            assert "Thing.a-new-one" not in missing
            await worker.deliver("Thing.s00", 4)
            await worker.deliver("Thing.a-new-one", 1)
            assert shown(store, "boards-g2") == await in_order(store)

        simulated(work())


class TestGoingOn:
    async def stopped_at(self, store: WatchedStore, stream: str, **options: Any) -> None:
        """A rebuild that fails at a stream."""
        own = store.another()

        async def fail() -> None:
            raise StoreUnavailableError("away")

        own.hooks[f"write_document boards-g2/{stream}"] = fail
        with pytest.raises(StoreUnavailableError, match="away"):
            await rebuild(boards(own), own, **options)

    def test_it_goes_on_at_its_checkpoints(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("esazure.rebuild.CHECKPOINT_STREAMS", 2)

        async def work() -> None:
            store = WatchedStore()
            for number in range(10):
                await stored(store, f"s{number}", Put(boards=(f"b{number}",)))
            await self.stopped_at(store, "b7", concurrency=1)
            assert store.texts("rebuild-boards-g2") == {"Thing/0": '{"after": "Thing.s5"}'}
            assert await generations(store) == Generations(active=1, building=2)
            report = await rebuild(boards_of(store), store, concurrency=1)
            assert (report.resumed, report.streams, report.generation) == (True, 4, 2)
            assert shown(store, "boards-g2") == await in_order(store)
            assert store.collections() == {"views", "boards-g2"}

        simulated(work())

    def test_a_checkpoint_is_also_written_after_some_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def work() -> None:
            store = WatchedStore()
            for number in range(5):
                await stored(store, f"s{number}", Put(boards=(f"b{number}",)))
            own = store.another()
            own.hooks["write_document boards-g2/b2"] = lambda: asyncio.sleep(6)
            own.hooks["write_document boards-g2/b4"] = lambda: asyncio.sleep(3_600)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(rebuild(boards_of(own), own, concurrency=1), 60)
            assert store.texts("rebuild-boards-g2") == {"Thing/0": '{"after": "Thing.s2"}'}

        simulated(work())

    def test_it_can_start_over_instead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("esazure.rebuild.CHECKPOINT_STREAMS", 1)

        async def work() -> None:
            store = await filled()
            await self.stopped_at(store, "b3")
            report = await rebuild(boards(store), store, fresh=True)
            assert (report.resumed, report.streams, report.generation) == (False, 12, 3)
            assert shown(store, "boards-g3") == await in_order(store)
            assert store.collections() == {"views", "boards-g3"}
            assert await generations(store) == Generations(active=3)

        simulated(work())

    def test_starting_over_without_an_earlier_one_is_a_rebuild(self) -> None:
        async def work() -> None:
            store = await filled()
            assert (await rebuild(boards(store), store, fresh=True)).generation == 2
            assert store.collections() == {"views", "boards-g2"}

        simulated(work())

    def test_one_that_was_stopped_while_it_cleaned_up_only_cleans_up(self) -> None:
        async def work() -> None:
            store = await filled()
            await live(store)
            own = store.another()

            async def fail() -> None:
                raise StoreUnavailableError("away")

            own.hooks["clear_documents boards-g1"] = fail
            with pytest.raises(StoreUnavailableError):
                await rebuild(boards(own), own)
            assert await generations(store) == Generations(active=2, dropping=(1,))
            report = await rebuild(boards(store), store)
            assert (report.resumed, report.streams, report.generation) == (True, 0, 2)
            assert store.collections() == {"views", "boards-g2"}

        simulated(work())

    def test_a_damaged_checkpoint_is_an_error(self) -> None:
        async def work() -> None:
            store = await filled()
            for text in ("", "[]", "{}", '{"after": 5}'):
                await store.put("rebuild-boards-g2", "Thing/0", text)
                with pytest.raises(CorruptStreamError, match="the checkpoint Thing/0 is damaged"):
                    await rebuild(boards(store), store)
            assert (await generations(store)).active == 1

        simulated(work())


class TestTwoAtOnce:
    @pytest.mark.parametrize("seed", range(20))
    def test_they_meet_at_the_end(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("esazure.rebuild.CHECKPOINT_STREAMS", 2)

        async def work() -> None:
            chance = Random(seed)  # noqa: S311 - not a secret
            store = await filled()
            store.turns = lambda: chance.randrange(4)

            async def one() -> RebuildReport:
                await asyncio.sleep(chance.random() * 5)
                return await rebuild(boards(store.another()), store.another(), concurrency=chance.choice([1, 8]))

            reports = await asyncio.gather(one(), one(), one())
            now = await generations(store)
            assert now == Generations(active=max(report.generation for report in reports))
            assert shown(store, f"boards-g{now.active}") == await in_order(store)
            assert store.collections() == {"views", f"boards-g{now.active}"}

        simulated(work())

    @pytest.mark.parametrize("seed", range(10))
    def test_one_that_starts_over_is_joined_by_the_other(self, seed: int) -> None:
        async def work() -> None:
            chance = Random(seed)  # noqa: S311 - not a secret
            store = await filled()

            async def one(*, fresh: bool) -> RebuildReport:
                own = store.another()
                own.turns = lambda: chance.randrange(4)
                own.hooks["write_document boards-g2/all"] = lambda: asyncio.sleep(1)
                return await rebuild(boards(own), own, concurrency=1, fresh=fresh)

            first = asyncio.create_task(one(fresh=False))
            await asyncio.sleep(chance.random() * 2.9)
            reports = await asyncio.gather(first, one(fresh=True))
            now = await generations(store)
            assert now.building is None
            assert {report.generation for report in reports} == {now.active}
            assert shown(store, f"boards-g{now.active}") == await in_order(store)
            assert store.collections() == {"views", f"boards-g{now.active}"}

        simulated(work())

    def test_one_that_hung_until_others_had_done_two_more_leaves_nothing(self) -> None:
        async def work() -> None:
            store = await filled()
            hung, own = asyncio.Event(), store.another()
            own.hooks["write_document boards-g2/all"] = hung.wait
            first = asyncio.create_task(rebuild(boards(own), own))
            await asyncio.sleep(3)
            await rebuild(boards(store.another()), store.another())
            await rebuild(boards(store.another()), store.another())
            hung.set()
            assert (await first).generation == 3
            assert await generations(store) == Generations(active=3)
            assert store.collections() == {"views", "boards-g3"}
            assert shown(store, "boards-g3") == await in_order(store)

        simulated(work())

    def test_a_checkpoint_of_the_other_is_kept_until_the_next_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("esazure.rebuild.CHECKPOINT_STREAMS", 2)

        async def work() -> None:
            store = WatchedStore()
            for number in range(6):
                await stored(store, f"s{number}", Put(boards=(f"b{number}",)))
            own, checkpoints = store.another(), []
            theirs = '{"after": "Thing.s0"}'
            own.hooks["write_document rebuild-boards-g2/"] = lambda: store.put("rebuild-boards-g2", "Thing/0", theirs)
            for number in (2, 4):

                async def look() -> None:
                    checkpoints.append(store.texts("rebuild-boards-g2"))

                own.hooks[f"write_document boards-g2/b{number}"] = look
            await rebuild(boards_of(own), own, concurrency=1)
            assert checkpoints == [{"Thing/0": theirs}, {"Thing/0": '{"after": "Thing.s3"}'}]

        simulated(work())

    def test_what_the_other_gives_up_meanwhile_is_left_to_it(self) -> None:
        async def work() -> None:
            store = await filled()
            theirs = Generations(active=2, building=4, dropping=(1, 3))
            own = store.another()
            own.hooks["clear_documents boards-g1"] = lambda: (
                store.another().views(Board, name="boards").generations.change(lambda _: theirs)
            )
            await rebuild(boards(own), own)
            assert await generations(store) == Generations(active=2, building=4, dropping=(3,))

        simulated(work())

    def test_one_that_is_done_does_not_help_with_the_next(self) -> None:
        async def work() -> None:
            store = await filled()
            first_may_go_on, third_may_go_on = asyncio.Event(), asyncio.Event()
            own, another = store.another(), store.another()
            own.hooks["write_document boards-g2/all"] = first_may_go_on.wait
            another.hooks["write_document boards-g3/all"] = third_may_go_on.wait
            first = asyncio.create_task(rebuild(boards(own), own))
            await asyncio.sleep(3)
            await rebuild(boards(store.another()), store.another())
            third = asyncio.create_task(rebuild(boards(another), another))
            await asyncio.sleep(3)
            first_may_go_on.set()
            report = await first
            assert (report.generation, report.streams) == (2, 12)
            third_may_go_on.set()
            assert (await third).generation == 3
            assert store.collections() == {"views", "boards-g3"}

        simulated(work())


class TestFailures:
    def test_a_function_that_raises_stops_it_and_the_note_says_where(self) -> None:
        async def work() -> None:
            store = await filled()
            await live(store)
            before = shown(store, "boards-g1")
            projection = Projection(store.views(Board, name="boards"), source=store)

            @projection.fold(Thing, Put)
            def put(view: Board | None, envelope: Any) -> Board:
                raise LookupError("of the user's own") from ValueError("a cause")

            with pytest.raises(LookupError, match="of the user's own") as failed:
                await rebuild(projection, store, concurrency=1)
            assert failed.value.__notes__ == ["while boards was rebuilt from Thing.s00"]
            assert isinstance(failed.value.__cause__, ValueError)
            assert await generations(store) == Generations(active=1, building=2)
            assert shown(store, "boards-g1") == before

        simulated(work())

    def test_a_stream_that_cannot_be_read_stops_it(self) -> None:
        async def work() -> None:
            store = await filled()
            await store.insert(commit_of("Thing.strange", 1, "a note is no event of a thing"), outbox=False)
            with pytest.raises(UnknownEventTypeError, match=r"Thing.strange: unknown event type 'Noted'"):
                await rebuild(boards(store), store)
            assert (await generations(store)).active == 1

        simulated(work())

    def test_cancelled_it_goes_on_the_next_time(self) -> None:
        async def work() -> None:
            store = await filled()
            for pause in (0.5, 2.0, 2.001, 3.0):
                rebuilding = asyncio.create_task(rebuild(boards(store), store))
                await asyncio.sleep(pause)
                rebuilding.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await rebuilding
            await rebuild(boards(store), store)
            now = await generations(store)
            assert shown(store, f"boards-g{now.active}") == await in_order(store)
            assert store.collections() == {"views", f"boards-g{now.active}"}

        simulated(work())


class TestProgress:
    def test_it_grows_to_the_end(self) -> None:
        async def work() -> None:
            store = await filled(60)
            store.hooks = {f"write_document boards-g2/b{number}": lambda: asyncio.sleep(0.5) for number in range(4)}
            told: list[RebuildProgress] = []
            await rebuild(boards(store), store, concurrency=1, progress=told.append)
            assert told[0] == RebuildProgress(0, 0, 0, 2, 0.0)
            assert (told[-1].streams, told[-1].events, told[-1].partitions_done) == (60, 180, 2)
            assert told[-1].partitions == 2
            assert 4 <= len(told) <= 70
            for before, after in pairwise(told):
                assert before.streams <= after.streams
                assert before.seconds <= after.seconds
            assert any(0 < progress.streams < 60 for progress in told)

        simulated(work())

    def test_it_is_told_at_most_ten_times_a_second(self) -> None:
        async def work() -> None:
            store = await filled(60)
            store.turns = lambda: 0
            told: list[RebuildProgress] = []
            report = await rebuild(boards(store), store, progress=told.append)
            assert len(told) <= report.seconds * 10 + 2

        simulated(work())
