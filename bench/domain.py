"""The one account of the benchmark, as esazure has it and as it is written by hand; `peers.py` has it twice more.

An account is opened, then money is deposited; after a load every side says how many deposits there are and the balance.
The hand-written one is the floor: the same pydantic fields, and nothing that a library needs to be safe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Protocol, Self, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict

from esazure import AggregateRoot, DomainEvent
from esazure.snapshots import Snapshotted

OWNER = "Ada"

COMMIT = 3
"""Events a commit, in the streams that are loaded."""

Payload = dict[str, Any]
State = tuple[int, Decimal]
"""What is compared: how many deposits, and the balance."""


def payload(number: int) -> Payload:
    """The fields of one deposit."""
    return {
        "tx_id": uuid4(),
        "at": datetime.now(UTC),
        "amount": Decimal("12.34") + number,
        "currency": "EUR",
        "memo": f"payment no {number} for services",
    }


PAYLOADS = [payload(number) for number in range(1_000)]
"""Made beforehand, so that nobody's time is spent on them."""


def state_after(deposits: int) -> State:
    """What everybody has to find."""
    return deposits, sum((PAYLOADS[number % 1_000]["amount"] for number in range(deposits)), Decimal(0))


def check(found: State, deposits: int) -> None:
    """Stop the benchmark when somebody did other work.

    Raises:
        AssertionError: that is not the account that was stored.
    """
    if found != state_after(deposits):
        raise AssertionError(f"{found} was loaded instead of {state_after(deposits)}")


class Opened(DomainEvent):
    """The first event."""

    owner: str


class Deposited(DomainEvent):
    """All others."""

    tx_id: UUID
    at: datetime
    amount: Decimal
    currency: str
    memo: str


class Account(AggregateRoot[Opened | Deposited]):
    """As esazure has it."""

    owner = ""

    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.count, self.balance = 0, Decimal(0)

    @property
    def state(self) -> State:
        """To be compared."""
        return self.count, self.balance

    @classmethod
    def open(cls) -> Self:
        """A new one."""
        account = cls(uuid4())
        account.record(Opened(owner=OWNER))
        return account

    def deposit(self, fields: Payload) -> None:
        """Once more."""
        self.record(Deposited(**fields))

    def when(self, event: Opened | Deposited) -> None:
        """Apply."""
        match event:
            case Deposited():
                self.count += 1
                self.balance += event.amount
            case Opened():
                self.owner = event.owner


class AccountState(BaseModel):
    """All there is to an account."""

    owner: str
    count: int
    balance: Decimal


class SnapshottedAccount(Account, Snapshotted[AccountState]):
    """The same with snapshots."""

    snapshot_every: ClassVar[int] = 33

    def snapshot(self) -> AccountState:
        """All of it."""
        return AccountState(owner=self.owner, count=self.count, balance=self.balance)

    def restore(self, state: AccountState) -> None:
        """All of it."""
        self.owner, self.count, self.balance = state.owner, state.count, state.balance


class SeldomSnapshottedAccount(SnapshottedAccount):
    """The last one is as far back, and could be further: a load asks for as many rows as could be behind it."""

    snapshot_every: ClassVar[int] = 90


class FloorEvent(BaseModel):
    """An event without a library."""

    model_config = ConfigDict(frozen=True)


class FloorOpened(FloorEvent):
    """`Opened`."""

    owner: str


class FloorDeposited(FloorEvent):
    """`Deposited`."""

    tx_id: UUID
    at: datetime
    amount: Decimal
    currency: str
    memo: str


Line = tuple[str, bytes]
"""An event as the floor stores it: its name and its JSON."""

_NAMES: dict[type[FloorEvent], str] = {FloorOpened: "Opened", FloorDeposited: "Deposited"}
_DUMP: dict[type[FloorEvent], Callable[[Any], bytes]] = {
    cls: cls.__pydantic_serializer__.to_json for cls in (FloorOpened, FloorDeposited)
}
_LOAD: dict[str, Callable[[str | bytes], Any]] = {
    name: cls.__pydantic_validator__.validate_json for cls, name in _NAMES.items()
}


class FloorAccount:
    """The account without a library."""

    def __init__(self, id: UUID) -> None:
        self.id = id
        self.version, self.owner = 0, ""
        self.count, self.balance = 0, Decimal(0)
        self.pending: list[FloorEvent] = []

    @property
    def state(self) -> State:
        """To be compared."""
        return self.count, self.balance

    @classmethod
    def open(cls) -> Self:
        """A new one."""
        account = cls(uuid4())
        account.record(FloorOpened(owner=OWNER))
        return account

    def deposit(self, fields: Payload) -> None:
        """Once more."""
        self.record(FloorDeposited(**fields))

    def record(self, event: FloorEvent) -> None:
        """Apply and keep."""
        self.when(event)
        self.version += 1
        self.pending.append(event)

    def when(self, event: FloorEvent) -> None:
        """Apply."""
        match event:
            case FloorDeposited():
                self.count += 1
                self.balance += event.amount
            case FloorOpened():
                self.owner = event.owner

    def lines(self, *, read_back: bool = False) -> list[Line]:
        """The pending events as they are stored; if asked for, read back and compared, as esazure's codec does."""
        lines = [(_NAMES[type(event)], _DUMP[type(event)](event)) for event in self.pending]
        if read_back and [_LOAD[name](json) for name, json in lines] != self.pending:
            raise AssertionError("an event came back different")
        return lines

    def replay(self, lines: Iterable[tuple[str, str | bytes]]) -> Self:
        """Decode, apply, drop."""
        when = self.when
        for name, json in lines:
            when(_LOAD[name](json))
            self.version += 1
        return self


class FloorStore:
    """A dict of lists."""

    def __init__(self) -> None:
        self._streams: dict[UUID, list[Line]] = {}

    def save(self, account: FloorAccount, *, read_back: bool = False) -> None:
        """Check the version, append."""
        stream = self._streams.setdefault(account.id, [])
        if len(stream) != account.version - len(account.pending):
            raise AssertionError("a conflict")
        stream += account.lines(read_back=read_back)
        account.pending = []

    def load(self, id: UUID) -> FloorAccount:
        """All of it."""
        return FloorAccount(id).replay(self._streams[id])


class _Opens(Protocol):
    @classmethod
    def open(cls) -> Self: ...

    def deposit(self, fields: Payload) -> None: ...


T = TypeVar("T", bound=_Opens)


def account_of(cls: type[T], events: int) -> T:
    """A new account with so many events pending: it was opened, and the rest are deposits."""
    account = cls.open()
    for number in range(events - 1):
        account.deposit(PAYLOADS[number % 1_000])
    return account


async def store(cls: type[T], save: Callable[[T], Awaitable[object]], events: int, *, step: int = COMMIT) -> T:
    """A new account with so many events stored, some at a time."""
    account = cls.open()
    for number in range(1, events):
        if number % step == 0:
            await save(account)
        account.deposit(PAYLOADS[(number - 1) % 1_000])
    await save(account)
    return account
