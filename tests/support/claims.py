"""Histories of customers who want the same e-mail addresses: everything that can happen to them, decided by a seed.

The real `UniqueValues` and `EventsService` over a store in memory. Before and after each call of the store anybody else
may go on: nothing waits, nothing sleeps, the clock is a number. Processes die in the middle, stand still for long, and
have clocks that differ; calls get lost, answers too, requests arrive late or a second time; old commands are sent
again, old versions are released, whatever has happened since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from types import coroutine
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from tests.support.customers import Customer, owners

from esazure import AggregateNotFoundError, AppendOutcomeUnknownError, EsAzureError, EventsService
from esazure.documents import Document
from esazure.errors import StoreUnavailableError, ValueTakenError
from esazure.events import CommitRecord
from esazure.memory import InMemoryStore
from esazure.ports import ViewRecord
from esazure.testing.faults import Crash
from esazure.unique import UniqueValues

T = TypeVar("T")

EXPIRY = 30.0
SKEW = 10.0
"""Seconds by which a client's clock may be wrong, either way."""
NOBODYS = ""
"""The address of a customer who has given up the last one."""

_IDS, _EMAILS = ("a", "b", "c"), ("x", "y")
_KINDS = ("new", "new", "new", "again", "again", "again", "release", "release", "give up", "step by step")
_WRITES = ("refused", "lost", "late", "answer lost", "twice", "dies", "dies late", "dies after")


class Request(NamedTuple):
    """One command, as its sender would send it again."""

    id: str
    email: str
    command_id: str | None
    over: str | None
    """The address it takes in between, in the same commit."""
    creates: bool


class Broken(AssertionError):  # noqa: N818 - it is what the model found
    """A promise was broken in this history."""


@coroutine
def _turn() -> Generator[None, None, None]:
    yield


class History(InMemoryStore):
    """One of them: `play` it."""

    def __init__(self, seed: int, values: type[UniqueValues] = UniqueValues) -> None:
        super().__init__()
        self.done: Counter[str] = Counter()
        self._chance = Random(seed)  # noqa: S311 - not a secret
        self._values = values
        self._now = 0.0
        self._calm = False
        self._troubled = self._chance.choice((0.0, 0.03, 0.1, 0.25))
        self._late: list[Callable[[], Awaitable[object]]] = []
        self._running: list[Coroutine[Any, Any, None]] = []
        self._idle: dict[int, int] = {}
        self._sent: list[Request] = []
        self._released: dict[tuple[str, str], int] = {}
        """Up to which version an address was released for a stream, by calls that came to their end."""
        self._customers = EventsService(self.events(Customer, outbox=False))
        self._plain = values("email", self._quiet(), clock=self._clock_of(0.0), expiry=EXPIRY)

    def play(self) -> Counter[str]:
        """To the end.

        Raises:
            Broken: a promise was broken.
        """
        try:
            self._play()
        finally:
            for process in self._running:
                with suppress(Crash, RuntimeError):  # the one that found it has ended
                    process.throw(Crash)
        return self.done

    def _play(self) -> None:
        chance = self._chance
        left = chance.randint(3, 14)
        while left or self._running:
            if left and (not self._running or chance.random() < 0.12):
                left -= 1
                self._running.append(self._somebody())
            elif self._late and chance.random() < 0.1:
                self._land()
            elif chance.random() < 0.03:
                self._now += chance.choice((1.0, EXPIRY / 2, EXPIRY, 3 * EXPIRY))
            else:
                self._step(chance.choice(self._running))
        self._settle()

    def _step(self, process: Coroutine[Any, Any, None]) -> None:
        """Let one process go on until its next call, or not at all when it stands still for a while."""
        if self._idle.get(id(process), 0):
            self._idle[id(process)] -= 1
            return
        if self._chance.random() < 0.03:
            self._idle[id(process)] = self._chance.randrange(60)
        try:
            process.send(None)
        except (StopIteration, Crash) as end:
            self.done["died"] += isinstance(end, Crash)
        else:
            return
        self._running.remove(process)

    def _land(self, place: int | None = None) -> None:
        action = self._late.pop(self._chance.randrange(len(self._late)) if place is None else place)
        with suppress(EsAzureError):
            at_once(action())
        self._look()

    def _look(self) -> None:
        """Each address has one customer at most, and the claim says so."""
        for email, streams in owners(self).items():
            if email != NOBODYS:
                if len(streams) > 1:
                    raise Broken(f"{email} is the address of {streams}")
                owner = at_once(self._plain.owner(email))
                if owner != streams[0]:
                    raise Broken(f"{email} is the address of {streams[0]}, and claimed by {owner}")

    def _settle(self) -> None:
        """What is late arrives; every reservation expires; then each address is free, or its owner's."""
        self._calm = True
        while self._late:
            self._land()
        self._now += EXPIRY + 2 * SKEW
        mine = owners(self)
        for email in _EMAILS:
            if email not in mine:
                for each in _IDS:
                    self._tidy_up(each, email)
            wants = _last(self._streams.get("Customer.late", ())) != email
            try:
                self._run(self._persist(Request("late", email, None, None, creates=False)))
            except ValueTakenError:
                if email not in mine:
                    raise Broken(f"nobody has {email}, and it is taken for good") from None
            except EsAzureError as error:
                raise Broken(f"{email} can neither be had nor is it taken: {error}") from None
            else:
                if email in mine and wants:
                    raise Broken(f"{email} was given away a second time")
            self._look()

    def _tidy_up(self, id: str, email: str) -> None:
        """Release an address, unless that was done after the last time it was stored."""
        records = self._streams.get(f"Customer.{id}", [])
        last = max((each.last_version for each in records if _last([each]) == email), default=0)
        if last > self._released.get((email, f"Customer.{id}"), 0):
            customer = self._run(self._customers.rehydrate(id))
            self._run(self._emails().release(email, customer))
            self.done["released in the end"] += 1

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            while True:
                work.send(None)
        except StopIteration as done:
            result: T = done.value
            return result

    # What somebody does.

    async def _somebody(self) -> None:
        chance = self._chance
        try:
            kind = chance.choice(_KINDS)
            if kind == "release" or (kind == "again" and not self._sent):
                await self._release_something(chance.choice(_IDS))
            elif kind == "give up":
                await self._give_up(chance.choice(_IDS))
            elif kind == "again":
                await self._persist(chance.choice(self._sent))
            else:
                of, email = chance.choice(_IDS), chance.choice(_EMAILS)
                command_id = f"command {len(self._sent)}" if chance.random() < 0.8 else None
                over = chance.choice(_EMAILS) if chance.random() < 0.2 else None
                request = Request(of, email, command_id, over, creates=f"Customer.{of}" not in self._streams)
                if command_id is not None:
                    self._sent.append(request)
                await (self._step_by_step(request) if kind == "step by step" else self._persist(request))
            self.done[kind] += 1
        except EsAzureError as error:
            self.done[type(error).__name__] += 1

    async def _changed(self, request: Request) -> tuple[Customer, str | None]:
        """The customer with what the request asks for pending, and the address that gives up."""
        customer, old = Customer(request.id), None
        if not request.creates or self._chance.random() < 0.2:
            with suppress(AggregateNotFoundError):
                customer = await self._customers.rehydrate(request.id)
                old = customer.email or None
        for email in (request.over, request.email):
            if email is not None:
                customer.change_email(email)
        return customer, old

    async def _persist(self, request: Request) -> None:
        emails = self._emails()
        customer, old = await self._changed(request)
        if old is not None and not self._calm and self._chance.random() < 0.15:
            old = None  # left to a later release
        try:
            await emails.persist(
                self._customers, customer, request.email, command_id=request.command_id, instead_of=old
            )
        except AppendOutcomeUnknownError as error:
            if self._chance.random() < 0.5:
                raise
            await error.retry()

    async def _step_by_step(self, request: Request) -> None:
        emails = self._emails()
        customer, _ = await self._changed(request)
        if not customer.pending:
            return
        reservation = await emails.reserve(request.email, customer, request.command_id or uuid4().hex)
        try:
            await self._customers.persist(customer, command_id=reservation.command_id)
        except AppendOutcomeUnknownError:
            raise
        except EsAzureError:
            await emails.abandon(reservation)
            raise
        await emails.confirm(reservation)

    async def _release_something(self, id: str) -> None:
        """What a handler of an old event does, for the first time or once more."""
        emails = self._emails()
        records = self._streams.get(f"Customer.{id}", [])
        if records:
            version = self._chance.randint(1, records[-1].last_version)
            customer = await self._customers.rehydrate(id, version=version)
            for email in _EMAILS:
                if email != customer.email:
                    self.done["released"] += await emails.release(email, customer)

    async def _give_up(self, id: str) -> None:
        customer = await self._customers.rehydrate(id)
        old = customer.email
        customer.change_email(NOBODYS)
        await self._customers.persist(customer)
        if old != NOBODYS:
            self.done["released"] += await self._emails().release(old, customer)

    def _emails(self) -> UniqueValues:
        """Those of another process, with a clock of its own."""
        history, skew = self, 0.0 if self._calm else self._chance.uniform(-SKEW, SKEW)

        class Noting(self._values):  # type: ignore[name-defined,misc] # a class that was given
            async def _release(self, key: str, stream: str, version: int) -> bool:
                freed: bool = await super()._release(key, stream, version)
                email = next(each for each in _EMAILS if self._key(each) == key)
                history._released[email, stream] = max(version, history._released.get((email, stream), 0))
                return freed

        return Noting("email", self, clock=self._clock_of(skew), expiry=EXPIRY)

    def _clock_of(self, skew: float) -> Callable[[], datetime]:
        return lambda: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=self._now + skew)

    def _quiet(self) -> InMemoryStore:
        """The same data, for a look from the side."""
        store = InMemoryStore()
        vars(store).update({name: value for name, value in vars(self).items() if name in vars(store)})
        return store

    # What becomes of a call.

    async def _call(self, action: Callable[[], Awaitable[T]], silence: Exception, *, writes: bool) -> T:
        if self._calm:
            return await action()
        await _turn()
        fate = self._fate(writes=writes)
        if fate in ("late", "twice", "dies late", "dies after"):
            self._late.append(action)
        if fate.startswith("dies"):
            if fate == "dies after":
                self._land(-1)
            raise Crash
        if fate == "refused":
            raise StoreUnavailableError("refused")
        if fate in ("late", "lost"):
            raise silence
        answer = await action()
        if writes:
            self._look()
        if fate == "answer lost":
            raise silence
        await _turn()
        return answer

    def _fate(self, *, writes: bool) -> str:
        if self._chance.random() >= self._troubled:
            return "fine"
        return self._chance.choice(_WRITES if writes else ("lost", "dies"))

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        silence = AppendOutcomeUnknownError(record.stream, expected=record.expected_version, commit_id=record.commit_id)
        await self._call(lambda: InMemoryStore.insert(self, record, outbox=outbox, views=views), silence, writes=True)

    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        return await self._call(
            lambda: InMemoryStore.read(self, stream, from_version=from_version, to_version=to_version),
            _silence(),
            writes=False,
        )

    async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> Any:
        return await self._call(
            lambda: InMemoryStore.find_command(self, stream, command_id, forbid=forbid), _silence(), writes=forbid
        )

    async def read_document(self, collection: str, key: str) -> Document | None:
        return await self._call(lambda: InMemoryStore.read_document(self, collection, key), _silence(), writes=False)

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        return await self._call(
            lambda: InMemoryStore.write_document(self, collection, key, text, seen=seen), _silence(), writes=True
        )

    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:
        return await self._call(
            lambda: InMemoryStore.delete_document(self, collection, key, seen=seen, erase=erase),
            _silence(),
            writes=True,
        )


def at_once(work: Awaitable[T]) -> T:
    """In memory nothing waits."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


def _silence() -> StoreUnavailableError:
    return StoreUnavailableError("no answer")


def _last(records: Sequence[CommitRecord]) -> str | None:
    """The address after these commits."""
    return records[-1].payload.rpartition('"email":"')[2].partition('"')[0] if records else None
