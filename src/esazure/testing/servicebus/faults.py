"""What can go wrong on purpose: the faults a test plans, and the switches it flips.

A planned fault meets the next matching send, settlement, management request or attach. `Drop(applied=True)` is the one
that matters most: the broker did it, and the client never hears so. `broker.py` owns the instance; `links.py`,
`management.py` and `attaching.py` ask it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from esazure.testing.servicebus.refusals import RefusalError

if TYPE_CHECKING:
    from esazure.testing.servicebus.broker import Broker

DEFAULT_SENDER_CREDIT = 1000


@dataclass(frozen=True, slots=True)
class Drop:
    """The TCP connection breaks with nothing said; `applied` says whether the broker did its part before."""

    applied: bool = False


@dataclass(frozen=True, slots=True)
class Ignore:
    """No answer ever comes and the connection stays; `applied` says whether the broker did its part."""

    applied: bool = False


@dataclass(frozen=True, slots=True)
class Reject:
    """The broker says no, for example with `com.microsoft:server-busy`; nothing is done."""

    condition: str
    description: str = "refused by a planned fault"

    def refusal(self) -> RefusalError:
        """As the broker's own refusals."""
        return RefusalError(self.condition, self.description)


@dataclass(frozen=True, slots=True)
class Detach:
    """The link is closed under the operation, for example with `amqp:link:detach-forced`."""

    condition: str = "amqp:link:detach-forced"
    description: str = "detached by a planned fault"
    applied: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is closed properly under the operation, for example with `amqp:connection:forced`."""

    condition: str = "amqp:connection:forced"
    description: str = "closed by a planned fault"
    applied: bool = False


Fault = Drop | Ignore | Reject | Detach | Close


class _Hook(Enum):
    SEND = "send"
    SETTLEMENT = "settlement"
    REQUEST = "request"
    ATTACH = "attach"


@dataclass(slots=True, eq=False)
class PlannedFault:
    """A fault waiting for its operation. `hits` counts the operations it met."""

    fault: Fault
    remaining: int | None
    hits: int = 0
    _hook: _Hook = field(default=_Hook.SEND, repr=False)
    _entity: str | None = field(default=None, repr=False)
    _operation: str | None = field(default=None, repr=False)

    def cancel(self) -> None:
        """Meet nothing more."""
        self.remaining = 0

    def meets(self, hook: _Hook, path: str, operation: str | None) -> bool:
        """Whether this is an operation the fault was planned for; if so, one less remains."""
        if self.remaining == 0 or hook is not self._hook:
            return False
        if self._entity is not None and self._entity != _plain(path):
            return False
        if self._operation is not None and self._operation != operation:
            return False
        self.hits += 1
        if self.remaining is not None:
            self.remaining -= 1
        return True


class Faults:
    """The faults of one double; every method can be called from any thread."""

    def __init__(self, broker: "Broker") -> None:
        self._broker = broker
        self._planned: list[PlannedFault] = []
        self._refuse_connections = False
        self._refuse_tokens = False
        self._hold_deliveries = False
        self._stop_reading = False
        self._sender_credit = DEFAULT_SENDER_CREDIT

    # ---- planned

    def next_send(self, fault: Fault, *, times: int | None = 1, entity: str | None = None) -> PlannedFault:
        """Meet the next `times` sends (None: all), to `entity` if given. A batch is one send."""
        return self._plan(_Hook.SEND, fault, times, entity)

    def next_settlement(self, fault: Fault, *, times: int | None = 1, entity: str | None = None) -> PlannedFault:
        """Meet the next `times` completes, abandons, defers and dead-letters that come over a receiver's link."""
        return self._plan(_Hook.SETTLEMENT, fault, times, entity)

    def next_request(
        self, fault: Fault, *, times: int | None = 1, entity: str | None = None, operation: str | None = None
    ) -> PlannedFault:
        """Meet the next `times` management requests, such as `renew-lock` or `schedule-message`."""
        return self._plan(_Hook.REQUEST, fault, times, entity, operation)

    def next_attach(self, fault: Fault, *, times: int | None = 1, entity: str | None = None) -> PlannedFault:
        """Meet the next `times` senders or receivers that open; for an attach, `applied` makes no difference."""
        return self._plan(_Hook.ATTACH, fault, times, entity)

    def clear(self) -> None:
        """Forget what is planned and flip every switch back; disabled entities stay disabled."""

        def back_to_normal() -> None:
            self._planned.clear()
            self._refuse_connections = self._refuse_tokens = False
            self._sender_credit = DEFAULT_SENDER_CREDIT
            self._set_hold_deliveries(value=False)
            self._set_stop_reading(value=False)

        self._broker.act(back_to_normal)

    # ---- switches

    @property
    def refuse_connections(self) -> bool:
        """New TCP connections are dropped at once."""
        return self._refuse_connections

    @refuse_connections.setter
    def refuse_connections(self, value: bool) -> None:
        self._refuse_connections = value

    @property
    def refuse_tokens(self) -> bool:
        """Every token put to `$cbs` is answered with 401."""
        return self._refuse_tokens

    @refuse_tokens.setter
    def refuse_tokens(self, value: bool) -> None:
        self._refuse_tokens = value

    @property
    def hold_deliveries(self) -> bool:
        """Receivers get nothing; what waits is delivered when this is switched off."""
        return self._hold_deliveries

    @hold_deliveries.setter
    def hold_deliveries(self, value: bool) -> None:
        self._broker.act(lambda: self._set_hold_deliveries(value=value))

    @property
    def stop_reading(self) -> bool:
        """Connections are half open: the broker takes no bytes from any of them, and so answers nothing."""
        return self._stop_reading

    @stop_reading.setter
    def stop_reading(self, value: bool) -> None:
        self._broker.act(lambda: self._set_stop_reading(value=value))

    @property
    def sender_credit(self) -> int:
        """How many messages a sender's link may send before it must be granted more; for links opened from now on."""
        return self._sender_credit

    @sender_credit.setter
    def sender_credit(self, value: int) -> None:
        if value < 0:
            raise ValueError(f"credit cannot be {value}")
        self._sender_credit = value

    # ---- at once

    def drop_connections(self) -> int:
        """Break every TCP connection with nothing said; returns how many."""
        return self._broker.act(self._broker.drop_connections)

    def close_connections(
        self, condition: str = "amqp:connection:forced", description: str = "closed by a test"
    ) -> int:
        """Close every connection properly, with an error; returns how many."""
        return self._broker.act(lambda: self._broker.close_connections(RefusalError(condition, description)))

    def detach_links(
        self,
        condition: str = "amqp:link:detach-forced",
        description: str = "detached by a test",
        *,
        entity: str | None = None,
    ) -> int:
        """Close every sender and receiver, of `entity` if given, with an error; returns how many."""
        matches: Callable[[str], bool] = (lambda _: True) if entity is None else (lambda path: _plain(path) == wanted)
        wanted = _plain(entity or "")
        return self._broker.act(lambda: self._broker.detach_links(RefusalError(condition, description), matches))

    def disable(self, entity: str) -> None:
        """Refuse all use of an entity, and close the links it has, with `com.microsoft:entity-disabled`."""
        self._broker.act(lambda: self._broker.disable(entity))

    def enable(self, entity: str) -> None:
        """Undo `disable`."""

        def enable() -> None:
            self._broker.namespace.find(entity).disabled = False

        self._broker.act(enable)

    # ---- asked by the broker

    def for_send(self, path: str) -> Fault | None:
        """The fault this send meets."""
        return self._meet(_Hook.SEND, path)

    def for_settlement(self, path: str) -> Fault | None:
        """The fault this settlement meets."""
        return self._meet(_Hook.SETTLEMENT, path)

    def for_request(self, path: str, operation: str) -> Fault | None:
        """The fault this management request meets."""
        return self._meet(_Hook.REQUEST, path, operation)

    def for_attach(self, path: str) -> Fault | None:
        """The fault this attach meets."""
        return self._meet(_Hook.ATTACH, path)

    def _meet(self, hook: _Hook, path: str, operation: str | None = None) -> Fault | None:
        for planned in self._planned:
            if planned.meets(hook, path, operation):
                if planned.remaining == 0:
                    self._planned.remove(planned)
                return planned.fault
        return None

    def _plan(
        self, hook: _Hook, fault: Fault, times: int | None, entity: str | None, operation: str | None = None
    ) -> PlannedFault:
        if times is not None and times < 1:
            raise ValueError(f"a fault cannot happen {times} times")
        entity = None if entity is None else _plain(entity)
        planned = PlannedFault(fault, times, _hook=hook, _entity=entity, _operation=operation)
        self._broker.act(lambda: self._planned.append(planned))
        return planned

    def _set_hold_deliveries(self, *, value: bool) -> None:
        self._hold_deliveries = value
        if not value:
            self._broker.namespace.wake_all_consumers()

    def _set_stop_reading(self, *, value: bool) -> None:
        self._stop_reading = value
        for connection in self._broker.connections:
            connection.set_reading(allowed=not value)


def _plain(path: str) -> str:
    return path.strip("/").lower()
