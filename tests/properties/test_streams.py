"""Whatever happens in whatever order, nothing is lost, doubled, or published out of order.

Several copies of a few aggregates act, conflict, lose answers, crash between append and dispatch, and are swept up
after; a model that is nothing but lists says what must be true after each step.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.unit.doubles import TroubledProducer, TroubledStore, broker_down

from esazure import (
    AggregateNotFoundError,
    AppendOutcomeUnknownError,
    ConcurrencyError,
    EventsService,
    StoreUnavailableError,
    UnusableAggregateError,
)
from esazure.aggregate import stream_of
from esazure.state import state_of
from esazure.testing._counter import Counter, Noted

pytestmark = pytest.mark.long

T = TypeVar("T")
IDS = ("a", "A")


class CrashError(BaseException):
    """The process died here."""


class Streams(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = TroubledStore()
        self.producer = TroubledProducer()
        self.service = EventsService(self.store.events(Counter), self.producer)
        self.copies: list[Counter] = []
        self.written = 0
        self.acknowledged: dict[str, list[str]] = {each: [] for each in IDS}
        self.refused: set[str] = set()
        self.seen: dict[str, list[str]] = {each: [] for each in IDS}

    def teardown(self) -> None:
        self.producer.troubles.clear()
        for each in IDS:
            self.sweep_up(each)
        for each in IDS:
            assert self.published(each) == self.stored(each), "after a sweep everything stored is published"
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def stored(self, id: str) -> list[str]:
        try:
            return self.run(self.service.rehydrate(id)).notes
        except AggregateNotFoundError:
            return []

    def published(self, id: str) -> list[str]:
        """The texts of the first publications; asserts that their versions are 1, 2, 3, ..."""
        first: dict[int, str] = {}
        for message in self.producer.messages:
            if message.correlation_id == id:
                version, text = int(message.properties["version"]), json.loads(message.body)["text"]
                assert first.setdefault(version, text) == text, "a version means one event for ever"
        assert list(first) == list(range(1, len(first) + 1)), "first publications are in order and without gaps"
        return list(first.values())

    def sweep_up(self, id: str) -> None:
        """What a relay does."""
        outbox = self.store.events(Counter).outbox
        assert outbox is not None
        for commit in self.run(outbox.unpublished(stream_of(Counter(id)), before_version=10**9)):
            self.run(self.producer.dispatch(commit))
            self.run(outbox.mark_published(commit))

    @rule(id=st.sampled_from(IDS))
    def load(self, id: str) -> None:
        try:
            self.copies.append(self.run(self.service.rehydrate(id)))
        except AggregateNotFoundError:
            self.copies.append(Counter(id))

    @precondition(lambda self: self.copies)
    @rule(data=st.data(), count=st.integers(1, 3))
    def act(self, data: st.DataObject, count: int) -> None:
        counter = data.draw(st.sampled_from(self.copies))
        for _ in range(count):
            self.written += 1
            before = counter.version
            try:
                counter.note(str(self.written))
            except UnusableAggregateError:
                assert state_of(counter).in_doubt is not None
                assert counter.version == before

    @precondition(lambda self: any(copy.pending for copy in self.copies))
    @rule(
        data=st.data(),
        answer=st.sampled_from([None, None, None, "lost on the way there", "lost on the way back", "refused", "crash"]),
        broker=st.sampled_from([None, None, "down", "crash"]),
    )
    def persist(self, data: st.DataObject, answer: str | None, broker: str | None) -> None:
        counter = data.draw(st.sampled_from([copy for copy in self.copies if copy.pending]))
        pending = [event.text for event in counter.pending if isinstance(event, Noted)]
        doubtful = state_of(counter).in_doubt
        troubles: dict[str | None, Any] = {"refused": StoreUnavailableError("later"), "crash": CrashError()}
        self.store.troubles = [troubles.get(answer, answer)]
        self.producer.troubles = [{None: None, "down": broker_down(), "crash": CrashError()}[broker]]
        attempt = len(self.store.inserted)
        try:
            commit = self.run(self.service.persist(counter))
        except ConcurrencyError:
            assert [event.text for event in counter.pending if isinstance(event, Noted)] == pending
            self.refused.update(pending)
        except (StoreUnavailableError, AppendOutcomeUnknownError):
            assert len(counter.pending) == len(pending)
        except CrashError:
            self.copies.remove(counter)
            if not counter.pending:  # it died after the append, before the answer could be used
                self.acknowledged[counter.id].extend(pending)
        else:
            assert commit is not None
            assert counter.pending == ()
            self.acknowledged[counter.id].extend(pending)
        finally:
            self.store.troubles.clear()
            self.producer.troubles.clear()
        if doubtful is not None:
            assert self.store.inserted[attempt] == doubtful.commit_id, "only the same commit may be sent again"

    @rule(id=st.sampled_from(IDS), broker=st.sampled_from([None, "down", "down", "crash"]))
    def write_undisturbed(self, id: str, broker: str | None) -> None:
        """A fresh copy always gets in, so that streams grow and outboxes fill up."""
        self.written += 1
        text = str(self.written)
        try:
            counter = self.run(self.service.rehydrate(id))
        except AggregateNotFoundError:
            counter = Counter(id)
        counter.note(text)
        self.producer.troubles = [{None: None, "down": broker_down(), "crash": CrashError()}[broker]]
        try:
            self.run(self.service.persist(counter))
        except CrashError:
            assert broker == "crash"
        finally:
            self.producer.troubles.clear()
        assert counter.pending == ()
        self.acknowledged[id].append(text)

    @rule(id=st.sampled_from(IDS))
    def relay(self, id: str) -> None:
        self.sweep_up(id)

    @rule(id=st.sampled_from(IDS))
    def relay_dies_after_its_first_message(self, id: str) -> None:
        outbox = self.store.events(Counter).outbox
        assert outbox is not None
        for commit in self.run(outbox.unpublished(stream_of(Counter(id)), before_version=10**9))[:1]:
            self.run(self.producer.dispatch(commit))

    @invariant()
    def nothing_is_lost_doubled_or_changed(self) -> None:
        for each in IDS:
            stored = self.stored(each)
            assert stored[: len(self.seen[each])] == self.seen[each], "what was once stored stays as it was"
            self.seen[each] = stored
            assert len(set(stored)) == len(stored), "nothing is stored twice"
            assert set(self.acknowledged[each]) <= set(stored), "what was acknowledged is stored"
            assert not self.refused & set(stored), "what conflicted is not stored"

    @invariant()
    def what_is_stored_is_published_or_waits(self) -> None:
        for each in IDS:
            stored, published = self.stored(each), self.published(each)
            assert stored[: len(published)] == published
            waiting = self.run(self.store.unpublished(stream_of(Counter(each)), before_version=10**9))
            versions = {
                version for record in waiting for version in range(record.first_version, record.last_version + 1)
            }
            assert versions >= set(range(len(published) + 1, len(stored) + 1))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("portion", range(4))
def test_a_thousand_histories_of_fifty_steps(portion: int) -> None:
    portion_of_them = settings(
        max_examples=250, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    logging.disable(logging.WARNING)  # every lost answer is logged, rightly, and pytest would keep them all
    try:
        run_state_machine_as_test(Streams, settings=portion_of_them)
    finally:
        logging.disable(logging.NOTSET)
