"""Which link an attach becomes, or why it is refused: addresses, sessions, and the wait for a free session.

`session.py` calls `on_attach`; the links are in `links.py`.
"""

import logging
from typing import TYPE_CHECKING, Any

from esazure.testing.servicebus.amqp_types import Described, Long, Symbol, Uint, Ulong
from esazure.testing.servicebus.faults import Reject
from esazure.testing.servicebus.links import (
    DeliveryLink,
    IncomingLink,
    Link,
    OutgoingLink,
    ReplyLink,
    RequestLink,
    SendLink,
)
from esazure.testing.servicebus.management import MANAGEMENT
from esazure.testing.servicebus.performatives import COORDINATOR, Attach, Code
from esazure.testing.servicebus.queues import Queue
from esazure.testing.servicebus.refusals import RefusalError, no_session_in_time, no_transactions, not_allowed
from esazure.testing.servicebus.sessions import SessionQueue

if TYPE_CHECKING:
    from esazure.testing.servicebus.session import Session

LOGGER = logging.getLogger("esazure.testing.servicebus")

_TOKENS = "$cbs"
_SESSION_FILTER = Symbol("com.microsoft:session-filter")
_TRANSFER_DESTINATION = Symbol("com.microsoft:transfer-destination-address")
_TIMEOUT = "com.microsoft:timeout"
_DEFAULT_TIMEOUT_MS = 60_000
_TICKS_AT_EPOCH = 621_355_968_000_000_000
"""1970 in .NET's count of 100 ns since the year 1, in which the service gives the lock of a session."""


def on_attach(session: "Session", attach: Attach) -> None:
    """Answer an attach: accept it, refuse it, or let it wait for a session."""
    terminus = attach.source if attach.peer_receives else attach.target
    path = terminus.path if terminus is not None else ""
    LOGGER.debug("attach %s %r", "receiver" if attach.peer_receives else "sender", path)
    is_entity = path.lower() != _TOKENS and not path.lower().endswith(MANAGEMENT)
    fault = session.broker.faults.for_attach(path) if is_entity else None
    if fault is not None and not isinstance(fault, Reject):
        placeholder = session.links[attach.handle] = Link(session, attach, path)
        placeholder.suffer(fault)
        return
    try:
        if isinstance(fault, Reject):
            raise fault.refusal()
        link = _link_for(session, attach, path)
    except RefusalError as refusal:
        _refuse(Link(session, attach, path), refusal)
        return
    session.links[attach.handle] = link
    if isinstance(link, DeliveryLink):
        try:
            _attach_receiver(link)
        except RefusalError as refusal:
            _refuse(link, refusal)
    else:
        _accept(link)


def _link_for(session: "Session", attach: Attach, path: str) -> Link:
    if COORDINATOR in (terminus.code for terminus in (attach.source, attach.target) if terminus is not None):
        raise no_transactions()
    if _TRANSFER_DESTINATION in attach.properties:
        raise RefusalError("amqp:not-implemented", "Sending via another entity is not part of the double.", 501)
    if path.lower() == _TOKENS:
        return ReplyLink(session, attach, path) if attach.peer_receives else RequestLink(session, attach, path)
    if path.lower().endswith(MANAGEMENT):
        entity = session.broker.namespace.find_enabled(path[: -len(MANAGEMENT)])
        if attach.peer_receives:
            return ReplyLink(session, attach, path)
        return RequestLink(session, attach, path, entity)
    entity = session.broker.namespace.find_enabled(path)
    if not attach.peer_receives:
        if not entity.accepts_senders:
            raise not_allowed(f"Messages cannot be sent to '{path}'.")
        return SendLink(session, attach, path, entity)
    if not isinstance(entity, Queue):
        raise not_allowed("A receiver cannot be attached to a topic, only to its subscriptions.")
    return DeliveryLink(session, attach, path, entity)


def _attach_receiver(link: DeliveryLink) -> None:
    filters = link.attach.source.filters if link.attach.source is not None else {}
    if _SESSION_FILTER not in filters:
        if link.queue.requires_session:
            raise not_allowed(
                "It is not possible for an entity that requires sessions to create a non-sessionful message receiver."
            )
        _accept(link)
        return
    if not isinstance(link.queue, SessionQueue):
        raise not_allowed(
            "A sessionful message receiver cannot be created on an entity that does not require sessions."
        )
    wanted = filters[_SESSION_FILTER]
    if isinstance(wanted, Described):
        wanted = wanted.value
    if wanted is not None and not isinstance(wanted, str):
        raise not_allowed("A session id is text.")
    session_id = link.queue.next_session() if wanted is None else wanted
    if session_id is not None:
        _accept_session(link, link.queue, session_id)
    else:
        _WaitForSession(link, link.queue)


class _WaitForSession:
    """A receiver that takes any session waits until one is free, or for as long as it said it would.

    It is the queue's consumer meanwhile. The time is real time: it is the client that waits, not the broker.
    """

    def __init__(self, link: DeliveryLink, queue: SessionQueue) -> None:
        self._link = link
        self._queue = queue
        timeout = link.attach.properties.get(_TIMEOUT)
        if not isinstance(timeout, int) or timeout < 0:
            timeout = _DEFAULT_TIMEOUT_MS
        self._timer = link.session.connection.loop.call_later(timeout / 1000, self._give_up)
        link.stop_waiting = self._stop
        queue.consumers.append(self)

    def pump(self) -> None:
        """Accept a session when there is one."""
        session_id = self._queue.next_session()
        if session_id is not None and not self._link.session.connection.closed:
            self._stop()
            _accept_session(self._link, self._queue, session_id)

    def session_lost(self) -> None:
        """It has none to lose."""

    def _give_up(self) -> None:
        self._stop()
        _refuse(self._link, no_session_in_time())

    def _stop(self) -> None:
        self._timer.cancel()
        if self in self._queue.consumers:
            self._queue.consumers.remove(self)


def _accept_session(link: DeliveryLink, queue: SessionQueue, session_id: str) -> None:
    accepted = queue.accept(session_id, link)
    link.session_id = session_id
    ticks = int(link.broker.clock.told(accepted.locked_until) * 10_000_000) + _TICKS_AT_EPOCH
    properties = {Symbol("com.microsoft:locked-until-utc"): Long(ticks)}
    _accept(link, {_SESSION_FILTER: session_id}, properties)


def _accept(link: Link, filters: dict[Symbol, Any] | None = None, properties: dict[Symbol, Any] | None = None) -> None:
    attach, broker = link.attach, link.broker
    if isinstance(link, SendLink):
        properties = {Symbol("com.microsoft:max-message-batch-size"): Ulong(broker.max_batch_size)}
    link.session.send(
        Code.ATTACH,
        attach.name,
        Uint(attach.handle),
        not attach.peer_receives,
        *attach.settle_modes(),
        None if attach.source is None else attach.source.echo(filters),
        None if attach.target is None else attach.target.echo(),
        None,
        None,
        Uint(0) if isinstance(link, OutgoingLink) else None,
        Ulong(broker.max_message_size),
        None,
        None,
        properties,
    )
    if isinstance(link, IncomingLink):
        link.grant(broker.faults.sender_credit)
    elif isinstance(link, DeliveryLink):
        link.accepted = True
        link.queue.consumers.append(link)


def _refuse(link: Link, refusal: RefusalError) -> None:
    """Refuse a link as AMQP has it: an attach without our terminus, then a detach that says why."""
    attach = link.attach
    LOGGER.debug("refused %r: %s", link.path, refusal)
    source, target = (None, attach.target) if attach.peer_receives else (attach.source, None)
    link.session.send(
        Code.ATTACH,
        attach.name,
        Uint(attach.handle),
        not attach.peer_receives,
        None,
        None,
        None if source is None else source.echo(),
        None if target is None else target.echo(),
        None,
        None,
        Uint(0) if attach.peer_receives else None,
    )
    link.session.detach(link, refusal)
