"""Clients who want the same e-mail addresses, over a way that loses, delays and doubles calls, with clocks that differ;
some die, some come back, some send twice at once. All of it in simulated time, fixed by a seed.

After every commit, and at the end, no two customers may have one address.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any, TypeVar

from tests.support.customers import Customer, owners
from tests.support.races import RacyStore

from esazure import (
    AggregateNotFoundError,
    AppendOutcomeUnknownError,
    ConcurrencyError,
    EsAzureError,
    EventsService,
    StoreError,
)
from esazure.errors import CommandHandledError, ValueTakenError
from esazure.testing.faults import Crash
from esazure.unique import UniqueValues

T = TypeVar("T")

EXPIRY = 30.0
SKEW = 10.0
"""Seconds by which a client's clock may be wrong, either way."""

_FAULTS = {
    "slow": 20,
    "late": 6,
    "lost request": 2,
    "lost answer": 3,
    "refused": 3,
    "twice": 2,
    "crash before": 3,
    "crash after": 3,
}
"""Per cent of the writes; a read is as likely to be slow, and otherwise answered."""

_RESIGNS = {"lost": 0.6, "crashed": 0.4}
"""How likely somebody gives up after that."""


class Sea:
    """What all clients share, and what becomes of it."""

    def __init__(
        self, seed: int, *, line: type[Line] | None = None, values: type[UniqueValues] = UniqueValues, clients: int = 32
    ) -> None:
        self.chance = Random(seed)  # noqa: S311 - not a secret
        self.store = RacyStore()
        self.done: Counter[str] = Counter()
        self.found: list[str] = []
        """Two customers with one address, and other broken promises."""
        self.winners: list[str] = []
        """The streams of those who were told that their customer is stored."""
        self.late: list[asyncio.Task[None]] = []
        self.calm = False
        self._line = line or Line
        self._values = values
        self._clients = clients

    def client(self) -> Client:
        """A new process, with a clock of its own."""
        skew = 0.0 if self.calm else self.chance.uniform(-SKEW, SKEW)
        return Client(self._line(self, skew), self._values)

    def look(self) -> None:
        """At every commit: each address has one owner, and its claim says so."""
        for email, streams in owners(self.store).items():
            if len(streams) > 1:
                self.found.append(f"{email} is the address of {streams}")
            document = self.store._documents.get("unique-email", {}).get(sha256(email.encode()).hexdigest())
            claimed_by = None if document is None else json.loads(document.text)["stream"]
            if claimed_by not in streams:
                self.found.append(f"{email} is the address of {streams}, and claimed by {claimed_by}")

    async def settle(self) -> None:
        """No more faults; what is late arrives; and the last reservation expires."""
        self.calm = True
        while self.late:
            await self.late.pop()
        await asyncio.sleep(EXPIRY + 2 * SKEW)

    # One address, and everybody wants it.

    async def race(self) -> Sea:
        """Everybody creates a customer with the same address; then somebody else comes late."""
        await _all(self._create(f"c{number}", "ada") for number in range(self._clients))
        await self.settle()
        self.look()
        mine = owners(self.store).get("ada", [])
        self.done["rounds with a winner"] += bool(mine)
        if not set(self.winners) <= set(mine):
            self.found.append(f"{self.winners} were told that they have it, and it is the address of {mine}")
        await self._check("ada", free=not mine)
        return self

    async def _create(self, id: str, email: str) -> None:
        """One client, until it has an answer, gives up or is dead for good."""
        command_id = f"create {id} 0" if self.chance.random() < 0.8 else None
        await asyncio.sleep(self.chance.uniform(0, 2 * EXPIRY))
        for life in range(1, 12):
            client = self.client()
            twins = 2 if command_id is not None and self.chance.random() < 0.3 else 1
            answers = await _all(client.create(id, email, command_id) for _ in range(twins))
            self.done.update(type(answer).__name__ for answer in answers)
            verdicts = {_verdict(answer) for answer in answers}
            if "won" in verdicts:
                self.winners.append(f"Customer.{id}")
                return
            if "won before" in verdicts:
                return
            if "given up" in verdicts and command_id is not None:
                command_id = f"create {id} {life}"
            for wish in ("lost", "crashed"):
                if wish in verdicts and self.chance.random() < _RESIGNS[wish]:
                    return
            await asyncio.sleep(self.chance.uniform(0, EXPIRY))

    # A few addresses, which wander.

    async def wander(self, changes: int = 12) -> Sea:
        """Customers take addresses, change them, and release old ones late; then everything is cleared up."""
        emails = [f"e{number}" for number in range(self._clients)]
        await _all(
            self._change(f"c{number}", [*emails, *emails][number : number + 2], changes)
            for number in range(self._clients)
        )
        await self.settle()
        for number in range(self._clients):
            await self._tidy_up(f"c{number}", emails)
        self.look()
        mine = owners(self.store)
        for email in emails:
            await self._check(email, free=not mine.get(email))
        return self

    async def _change(self, id: str, emails: Sequence[str], changes: int) -> None:
        command_id = None
        for number in range(changes):
            await asyncio.sleep(self.chance.expovariate(1 / EXPIRY))
            email = self.chance.choice(emails)
            if command_id is None or self.chance.random() < 0.7:  # else the last one is sent again
                command_id = f"change {id} {number}"
            client = self.client()
            work = [client.change(id, email, command_id)]
            if self.chance.random() < 0.2:
                work.append(self.client().change(id, email, command_id))
            elif self.chance.random() < 0.4:
                work.append(self._tidy_up(id, emails))
            self.done.update(type(answer).__name__ for answer in await _all(work))

    async def _tidy_up(self, id: str, emails: Sequence[str]) -> None:
        """Release what the customer does not have; the look at it may be old by then."""
        client = self.client()
        with suppress(EsAzureError, Crash):
            customer = await client.service.rehydrate(id)
            if not self.calm:
                await asyncio.sleep(self.chance.expovariate(1 / EXPIRY))
            for email in emails:
                if email != customer.email:
                    self.done["released"] += await client.emails.release(email, customer)

    async def _check(self, email: str, *, free: bool) -> None:
        try:
            await self.client().create("late", email)
        except ValueTakenError:
            if free:
                self.found.append(f"nobody has {email}, and it is still taken long after the last crash")
        except ConcurrencyError:
            await self._move("late", email, free=free)
        else:
            if not free:
                self.found.append(f"{email} was given away twice")

    async def _move(self, id: str, email: str, *, free: bool) -> None:
        try:
            await self.client().change(id, email, None)
        except ValueTakenError:
            if free:
                self.found.append(f"nobody has {email}, and it is still taken long after the last crash")
        else:
            if not free:
                self.found.append(f"{email} was given away twice")


class Client:
    """What one process does."""

    def __init__(self, line: Line, values: type[UniqueValues]) -> None:
        self.service = EventsService(line.events(Customer))
        self.emails = values("email", line, clock=line.clock, expiry=EXPIRY)

    async def create(self, id: str, email: str, command_id: str | None = None) -> object:
        """Create a customer; without an answer ask again, if the process is still there."""
        customer = Customer.create(id, email)
        attempt: Callable[[], Awaitable[object]] = lambda: self.emails.persist(  # noqa: E731 - `retry` takes its place
            self.service, customer, email, command_id=command_id
        )
        for _ in range(2):
            try:
                return await attempt()
            except AppendOutcomeUnknownError as error:
                attempt = error.retry
        return await attempt()

    async def change(self, id: str, email: str, command_id: str | None) -> object:
        """Give a customer another address, or create it."""
        try:
            customer = await self.service.rehydrate(id)
        except AggregateNotFoundError:
            return await self.create(id, email, command_id)
        old = customer.email
        customer.change_email(email)
        return await self.emails.persist(self.service, customer, email, command_id=command_id, instead_of=old)


class Line(RacyStore):
    """One process's way to the store."""

    def __init__(self, sea: Sea, skew: float) -> None:
        vars(self).update(vars(sea.store))  # the same data
        self.clock = lambda: (
            datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=asyncio.get_running_loop().time() + skew)
        )
        self._sea = sea
        self._dead = False

    async def call(self, method: str, action: Callable[[], Awaitable[T]], silence: Exception) -> T:
        """Whatever can happen to a call."""
        sea, chance = self._sea, self._sea.chance
        kind = self._fate(method)
        await asyncio.sleep(chance.expovariate(1.0))
        if kind == "slow":
            await asyncio.sleep(chance.uniform(0, 2 * EXPIRY))
        self._check_alive(dies=kind == "crash before")
        if kind == "refused":
            raise StoreError("refused")
        if kind == "lost request":
            raise silence
        if kind == "late":
            sea.late.append(asyncio.create_task(self._land(method, action, chance.uniform(0, 3 * EXPIRY))))
            raise silence
        if kind in ("twice", "crash after", "lost answer"):
            with suppress(EsAzureError):
                await self._carry_out(method, action)
        if kind == "lost answer":
            raise silence
        self._check_alive(dies=kind == "crash after")
        try:
            return await self._carry_out(method, action)
        finally:
            await asyncio.sleep(chance.expovariate(1.0))
            self._check_alive()

    def _fate(self, method: str) -> str:
        number = self._sea.chance.uniform(0, 100)
        for kind, share in _FAULTS.items():
            number -= share
            if number < 0 and not self._sea.calm:
                return "fine" if kind != "slow" and method.startswith(("read", "find")) else kind
        return "fine"

    async def _land(self, method: str, action: Callable[[], Awaitable[T]], seconds: float) -> None:
        await asyncio.sleep(seconds)
        with suppress(EsAzureError):
            await self._carry_out(method, action)

    async def _carry_out(self, method: str, action: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await action()
        except CommandHandledError as error:
            self._sea.done["fenced"] += error.first_version is None
            raise
        if method == "insert":
            self._sea.look()
        return answer

    def _check_alive(self, *, dies: bool = False) -> None:
        self._dead = self._dead or dies
        if self._dead:
            raise Crash


def _verdict(answer: object) -> str:
    """What an answer means for who wanted to create a customer."""
    match answer:
        case Crash():
            return "crashed"
        case ValueTakenError():
            return "lost"
        case CommandHandledError():
            return "given up"
        case ConcurrencyError():
            return "won before"  # an attempt without a command id, whose answer did not arrive
        case EsAzureError():
            return "unknown"
        case BaseException():
            raise answer
        case _:
            return "won"


async def _all(work: Any) -> list[Any]:
    coroutines: list[Coroutine[Any, Any, Any]] = list(work)
    return await asyncio.gather(*coroutines, return_exceptions=True)
