"""What every `IEventsRepository` with an outbox promises about it."""

from __future__ import annotations

import pytest

from esazure.aggregate import stream_of
from esazure.context import metadata
from esazure.ports import IEventsRepository, IOutbox
from esazure.testing._counter import Counter, Noted, counter_with, fresh_id


@pytest.mark.asyncio
class OutboxPromises:
    """What is stored waits in the outbox until somebody has published it."""

    @pytest.fixture
    def outbox(self, counters: IEventsRepository[Counter, str]) -> IOutbox:
        """The outbox of the repository most tests use."""
        if counters.outbox is None:
            pytest.skip("this repository keeps no outbox")
        return counters.outbox

    async def test_commits_wait_in_the_outbox_oldest_first(
        self, counters: IEventsRepository[Counter, str], outbox: IOutbox
    ) -> None:
        counter = Counter(fresh_id())
        for number in range(12):
            counter.note(str(number), "x")
            await counters.append(counter, publishing=True)

        waiting = await outbox.unpublished(stream_of(counter), before_version=25)

        assert [commit.first_version for commit in waiting] == list(range(1, 25, 2))
        assert [commit.recorded[0] for commit in waiting] == [Noted(text=str(number)) for number in range(12)]

    async def test_a_commit_in_the_outbox_is_the_commit_that_was_appended(
        self, counters: IEventsRepository[Counter, str], outbox: IOutbox
    ) -> None:
        with metadata(correlation_id="c-1", user="ada \U0001f600 \u2028 \"'\\", extra={"empty": "", "nul": "\x00"}):
            appended = await counters.append(counter_with("a", "b"), publishing=True)
        assert appended is not None

        (waiting,) = await outbox.unpublished(appended.stream, before_version=3)

        assert waiting == appended
        assert waiting.events == appended.events
        assert waiting.payloads == appended.payloads
        assert waiting.metadata["user"] == "ada \U0001f600 \u2028 \"'\\"
        assert waiting.occurred_at == appended.occurred_at
        assert waiting.occurred_at.utcoffset() is not None

    async def test_what_was_published_leaves_the_outbox_and_stays_in_the_stream(
        self, counters: IEventsRepository[Counter, str], outbox: IOutbox
    ) -> None:
        counter = counter_with("a")
        first = await counters.append(counter, publishing=True)
        counter.note("b")
        second = await counters.append(counter, publishing=True)
        assert first is not None
        assert second is not None

        await outbox.mark_published(first)

        assert list(await outbox.unpublished(first.stream, before_version=9)) == [second]
        assert (await counters.rehydrate(counter.id)).notes == ["a", "b"]
