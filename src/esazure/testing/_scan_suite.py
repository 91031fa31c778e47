"""What every `IStreamSource` promises whoever reads all streams of a type: each of them, whole, once.

Read `_document_suite.py` next.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from esazure.errors import CommandHandledError
from esazure.events import CommitRecord
from esazure.keys import MAX_DENSE_COMMIT_BYTES, stream_name
from esazure.ports import IStreamSource, ViewRecord
from esazure.testing._binding import StoreBinding
from esazure.testing._counter import commit_of
from esazure.testing._hostile import dense, hostile_ids


@pytest.mark.asyncio
class ScanPromises(StoreBinding):
    """Uses the fixture `store`; a `CommitStore` whose streams cannot be listed is left out."""

    @pytest.fixture
    def source(self, store: Any) -> IStreamSource:
        """The store, as whoever reads all streams sees it."""
        if not hasattr(store, "scan"):
            pytest.skip("this store is not an IStreamSource")
        stream_source: IStreamSource = store
        return stream_source

    @pytest.fixture
    def aggregate_type(self) -> str:
        """A type nobody has used."""
        return f"T{uuid4().hex}"

    async def test_of_an_unknown_type_there_is_nothing(self, source: IStreamSource, aggregate_type: str) -> None:
        assert await scan(source, aggregate_type) == {}

    async def test_every_stream_is_found_once_and_whole(self, source: IStreamSource, aggregate_type: str) -> None:
        expected = {}
        for number in range(40):
            stream = stream_name(aggregate_type, f"{number}")
            commits = [
                commit_of(stream, 1, "a", "b"),
                *[commit_of(stream, 3 + each, "c") for each in range(number % 4)],
            ]
            await self.fill(source, commits)
            for name in ("card", "other")[: number % 3]:
                await source.write_view(stream, ViewRecord(name, "0" * 16, 1, "{}"), seen=None)
            expected[stream] = commits
        assert await scan(source, aggregate_type) == expected

    async def test_a_partition_is_always_in_the_same_order_and_goes_on_behind_each_stream(
        self, source: IStreamSource, aggregate_type: str
    ) -> None:
        for name in ("b", "a", "a-", "a_", "a.", "A", "B", "aa", "", "10", "9", "\u00e9", "\U0001f600"):
            await self.fill(source, [commit_of(stream_name(aggregate_type, name), 1, "a")])
        for partition in source.partitions:
            streams = await names(source, partition, aggregate_type)
            assert await names(source, partition, aggregate_type) == streams
            for number, stream in enumerate(streams):
                assert await names(source, partition, aggregate_type, after=stream) == streams[number + 1 :]

    async def test_with_after_a_partition_goes_on_behind_that_stream(
        self, source: IStreamSource, aggregate_type: str
    ) -> None:
        for number in range(30):
            await self.fill(source, [commit_of(stream_name(aggregate_type, f"{number}"), 1, "a")])
        for partition in source.partitions:
            streams = await names(source, partition, aggregate_type)
            for number, stream in enumerate(streams):
                assert await names(source, partition, aggregate_type, after=stream) == streams[number + 1 :]
            before, gone = stream_name(aggregate_type, "-"), stream_name(aggregate_type, "15x")
            assert await names(source, partition, aggregate_type, after=before) == streams
            assert await names(source, partition, aggregate_type, after=gone) == [
                each for each in streams if each > gone
            ]

    async def test_types_whose_names_begin_alike_are_left_out(self, source: IStreamSource, aggregate_type: str) -> None:
        others = [aggregate_type + end for end in ("X", "-1", "-", ".1", "_", ":a", "0")]
        others += [aggregate_type[:-1], aggregate_type.lower(), f"X{aggregate_type}"]
        streams = [stream_name(each, "1") for each in (aggregate_type, *others)]
        for stream in streams:
            await self.fill(source, [commit_of(stream, 1, "a")])
        assert list(await scan(source, aggregate_type)) == streams[:1]
        for other, stream in zip(others, streams[1:], strict=True):
            assert list(await scan(source, other)) == [stream]

    async def test_every_hostile_id_is_found(self, source: IStreamSource, aggregate_type: str) -> None:
        streams = [stream_name(aggregate_type, name) for name in hostile_ids(aggregate_type)[::4]]
        slots = asyncio.Semaphore(16)

        async def store(stream: str) -> None:
            async with slots:
                await source.insert(commit_of(stream, 1, stream), outbox=False)

        await asyncio.gather(*map(store, streams))
        assert sorted(await scan(source, aggregate_type)) == sorted(streams)

    async def test_more_streams_than_a_page_holds_are_all_found(
        self, source: IStreamSource, aggregate_type: str
    ) -> None:
        expected = {}
        for number in range(260):
            stream = stream_name(aggregate_type, f"{number}")
            expected[stream] = [commit_of(stream, version, "a") for version in range(1, 6)]
            await self.fill(source, expected[stream])
        assert await scan(source, aggregate_type) == expected

    async def test_a_stream_of_more_commits_than_a_page_holds_is_whole(
        self, source: IStreamSource, aggregate_type: str
    ) -> None:
        expected = {}
        for name, count in (("a", 3), ("b", 2_500), ("c", 3)):
            stream = stream_name(aggregate_type, name)
            expected[stream] = [commit_of(stream, version, "a") for version in range(1, count + 1)]
            await self.fill(source, expected[stream])
        assert await scan(source, aggregate_type) == expected

    async def test_large_commits_are_whole(self, source: IStreamSource, aggregate_type: str) -> None:
        expected = {}
        for name in ("a", "b", "c"):
            stream = stream_name(aggregate_type, name)
            large = dense(MAX_DENSE_COMMIT_BYTES - 100)
            expected[stream] = [commit_of(stream, 1, "a"), commit_of(stream, 2, large), commit_of(stream, 3, "c")]
            for commit in expected[stream]:
                await source.insert(commit, outbox=False)
        assert await scan(source, aggregate_type) == expected

    async def test_what_is_stored_beside_commits_is_left_out(self, source: IStreamSource, aggregate_type: str) -> None:
        stream, never = stream_name(aggregate_type, "a"), stream_name(aggregate_type, "b")
        commits = [commit_of(stream, version, "a", command_id=f"pay-{version}") for version in (1, 2, 3)]
        for commit in commits:
            view = ViewRecord("card", "0" * 16, commit.last_version, "{}")
            await source.insert(commit, outbox=True, views=[view])
        for each in (stream, never):
            await source.find_command(each, "never", forbid=True)
        with pytest.raises(CommandHandledError):
            await source.insert(commit_of(never, 1, "a", command_id="never"), outbox=True)
        await source.write_view(never, ViewRecord("card", "0" * 16, 1, "{}"), seen=None)
        assert await scan(source, aggregate_type) == {stream: commits}

    async def test_what_is_there_before_is_found_once_and_whole_while_others_write(
        self, source: IStreamSource, aggregate_type: str
    ) -> None:
        streams = [stream_name(aggregate_type, f"{number}") for number in range(0, 300, 2)]
        for stream in streams:
            await self.fill(source, [commit_of(stream, 1, "a")])
        found: list[str] = []
        for partition in source.partitions:
            async for records in source.scan(partition, aggregate_type):
                found.append(records[0].stream)
                assert [record.first_version for record in records] == list(range(1, len(records) + 1))
                if len(found) % 10 == 1 and len(found) < len(streams):
                    await source.insert(commit_of(streams[-len(found)], 2, "b"), outbox=False)
                    new = stream_name(aggregate_type, f"{len(found)}")
                    await source.insert(commit_of(new, 1, "a"), outbox=False)
        assert len(set(found)) == len(found)
        assert set(found) >= set(streams)

    async def test_a_scan_can_be_given_up(self, source: IStreamSource, aggregate_type: str) -> None:
        for number in range(10):
            await self.fill(source, [commit_of(stream_name(aggregate_type, f"{number}"), 1, "a")])
        for partition in source.partitions:
            async for _ in source.scan(partition, aggregate_type):
                break
        await source.insert(commit_of(stream_name(aggregate_type, "0"), 2, "b"), outbox=False)
        assert len(await scan(source, aggregate_type)) == 10


async def scan(source: IStreamSource, aggregate_type: str) -> dict[str, list[CommitRecord]]:
    """All streams of a type, in every partition."""
    found: dict[str, list[CommitRecord]] = {}
    for partition in source.partitions:
        async for records in source.scan(partition, aggregate_type):
            assert records[0].stream not in found, "a stream is in one partition, and there once"
            found[records[0].stream] = list(records)
    return found


async def names(source: IStreamSource, partition: str, aggregate_type: str, *, after: str | None = None) -> list[str]:
    """The streams of a type in a partition."""
    return [records[0].stream async for records in source.scan(partition, aggregate_type, after=after)]
