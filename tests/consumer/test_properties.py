"""Whatever order messages come in, whoever dies or fails: each handler sees each event in order, none is skipped."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.consumer.support import Deposited, Documents, Noted, Opened, Recorder, outcome, store_events

from esazure import EventEnvelope
from esazure.consumer import Consumer
from esazure.errors import PoisonMessageError, RetryLaterError, StoreUnavailableError
from esazure.integration import IntegrationMessage
from esazure.memory import InMemoryStore

STREAMS = ("ada", "grace")
WORKERS = 2


class CrashError(BaseException):
    """The worker dies here."""


TROUBLES: dict[str, type[BaseException] | None] = {
    "none": None,
    "fails": ValueError,
    "poison": PoisonMessageError,
    "away": RetryLaterError,
    "dies": CrashError,
}


@dataclass(frozen=True)
class Deliver:
    """Hand a message to a worker, while something may be wrong."""

    message: int
    worker: int
    attempt: int
    handler: str
    """What is wrong with the handlers: before or after they have noted the event."""
    after: bool
    documents: int | None
    """Which call for a document fails, counted from the beginning of this delivery."""
    dies: bool
    """Whether the worker dies of that."""


@dataclass(frozen=True)
class Restart:
    """The worker begins anew."""

    worker: int


@dataclass(frozen=True)
class Resume:
    """An operator resumes whatever is parked."""


def plans() -> st.SearchStrategy[list[Any]]:
    workers = st.integers(0, WORKERS - 1)
    trouble = st.builds(
        Deliver,
        message=st.integers(0, 20),
        worker=workers,
        attempt=st.integers(1, 3),
        handler=st.sampled_from(list(TROUBLES)),
        after=st.booleans(),
        documents=st.one_of(st.none(), st.integers(1, 5)),
        dies=st.booleans(),
    )
    step = st.one_of(
        trouble,
        st.builds(quiet, message=st.integers(0, 20), worker=workers),
        st.builds(Restart, worker=workers),
        st.builds(Resume),
    )
    return st.lists(step, max_size=25)


def quiet(message: int, worker: int = 0) -> Deliver:
    return Deliver(message, worker, 1, "none", after=False, documents=None, dies=False)


EVENTS = st.lists(st.sampled_from(["opened", "deposited", "noted"]), min_size=1, max_size=6)
KINDS = {"opened": Opened(), "deposited": Deposited(amount=1), "noted": Noted()}


@dataclass
class World:
    """A store, two workers, and what must be true of them at any time."""

    kinds: Sequence[list[str]]
    store: InMemoryStore = field(default_factory=InMemoryStore)
    view: Recorder = field(default_factory=lambda: Recorder("view"))
    mail: Recorder = field(default_factory=lambda: Recorder("mail", repeatable=False))
    messages: list[IntegrationMessage] = field(default_factory=list[IntegrationMessage])
    excuses: int = 0
    """For repeating an effect: it was not written down, or another worker had the stream before."""
    unsaid: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    """Worker and message: a handler may have failed there for good, which could not be written down."""
    last_worker: dict[str, int] = field(default_factory=dict[str, int])
    highest: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def __post_init__(self) -> None:
        self.documents = Documents(self.store)
        self.consumer = Consumer(
            "worker", [self.view, self.mail], positions=self.documents, source=self.store, attempts=3
        )
        self.lanes = [self.consumer.lane() for _ in range(WORKERS)]
        self.wanted = {
            account: [version for version, name in enumerate(names, start=1) if name != "noted"]
            for account, names in zip(STREAMS, self.kinds, strict=True)
        }

    async def fill(self) -> None:
        for account, names in zip(STREAMS, self.kinds, strict=True):
            self.messages += await store_events(self.store, account, *[KINDS[name] for name in names])

    async def take(self, step: Deliver | Restart | Resume) -> None:
        match step:
            case Deliver():
                event(f"became {await self.deliver(step)}")
            case Restart():
                self.restart(step.worker)
            case Resume():
                for parked in await self.consumer.parked():
                    await self.consumer.resume(parked.handler, parked.stream)
                    self.last_worker[parked.stream.removeprefix("Account.")] = WORKERS
        await self.check_positions()
        self.check_seen()

    def restart(self, worker: int) -> None:
        self.lanes[worker] = self.consumer.lane()
        self.unsaid = {(other, message) for other, message in self.unsaid if other != worker}

    async def deliver(self, plan: Deliver) -> str:
        message = self.messages[plan.message % len(self.messages)]
        began = len(self.documents.calls)

        def handler(envelope: EventEnvelope[Any]) -> BaseException | None:
            kind = TROUBLES[plan.handler]
            return None if kind is None else kind("x")

        def documents(call: str, collection: str) -> BaseException | None:
            if plan.documents is None or len(self.documents.calls) - began != plan.documents:
                return None
            return CrashError() if plan.dies else StoreUnavailableError("away")

        self.excuses += (plan.after and plan.handler != "none") or plan.documents is not None
        self.excuses += self.last_worker.get(message.correlation_id, plan.worker) != plan.worker
        self.last_worker[message.correlation_id] = plan.worker
        for recorder in (self.view, self.mail):
            recorder.trouble, recorder.after = (None, handler) if plan.after else (handler, None)
        if plan.after:
            self.documents.after = documents
        else:
            self.documents.before = documents
        try:
            became = await outcome(self.lanes[plan.worker], message, plan.attempt)
        except CrashError:
            self.restart(plan.worker)
            return "died"
        else:
            if became == "wait" and plan.handler in ("fails", "poison"):
                self.unsaid.add((plan.worker, message.message_id))
            return became
        finally:
            for recorder in (self.view, self.mail):
                recorder.trouble = recorder.after = None
            self.documents.before = self.documents.after = lambda call, collection: None

    async def check_positions(self) -> None:
        for account in STREAMS:
            document = await self.store.read_document("positions-worker", f"Account.{account}")
            said = {"positions": {}, "parked": {}} if document is None else json.loads(document.text)
            for handler, position in said["positions"].items():
                assert position >= self.highest.get((account, handler), 0), "a position went back"
                self.highest[account, handler] = position
            for handler, (version, _) in said["parked"].items():
                assert version > said["positions"].get(handler, 0), "parked at what is done"

    def check_seen(self) -> None:
        for recorder in (self.view, self.mail):
            for account in STREAMS:
                first_times = list(dict.fromkeys(recorder.versions(account)))
                assert first_times == self.wanted[account][: len(first_times)], "skipped, or out of order"

    async def finish(self) -> None:
        """Nothing is wrong any more, and everything comes once more."""
        for number in range(len(self.messages)):
            message, worker = self.messages[number], number % WORKERS
            became = await self.deliver(quiet(number, worker))
            if (worker, message.message_id) in self.unsaid and became == "HandlerFailed":  # it still had to be said
                became = await self.deliver(quiet(number, worker))
            assert became == "done"
        await self.take(Resume())
        for recorder in (self.view, self.mail):
            for account in STREAMS:
                assert set(recorder.versions(account)) == set(self.wanted[account])
        assert await self.consumer.parked() == []
        repeats = sum(count - 1 for count in Counter(self.mail.seen).values())
        assert repeats <= self.excuses


@pytest.mark.long
@given(kinds=st.tuples(EVENTS, EVENTS), steps=plans())
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_handler_sees_every_event_in_order_whatever_happens(
    kinds: tuple[list[str], list[str]], steps: list[Any]
) -> None:
    async def work() -> None:
        world = World(kinds)
        await world.fill()
        for step in steps:
            await world.take(step)
        await world.finish()

    asyncio.run(work())


@given(
    kinds=st.tuples(EVENTS, EVENTS),
    order=st.lists(st.integers(0, 20), max_size=30),
    restarts=st.sets(st.integers(0, 30)),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_while_nothing_fails_nothing_is_repeated_however_messages_come(
    kinds: tuple[list[str], list[str]], order: list[int], restarts: set[int]
) -> None:
    async def work() -> None:
        world = World(kinds)
        await world.fill()
        for number, message in enumerate([*order, *range(len(world.messages))]):
            if number in restarts:
                await world.take(Restart(0))
            assert await world.deliver(quiet(message)) == "done"
        for recorder in (world.view, world.mail):
            assert {account: recorder.versions(account) for account in STREAMS} == world.wanted

    asyncio.run(work())
