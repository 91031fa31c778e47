"""What the four kinds of link do: take messages in, deliver messages, take requests, deliver replies.

Named from the broker's side: the client's sender is an incoming link here. Faults planned for sends and settlements
are met here.
"""

import logging
import struct
import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from esazure.testing.servicebus.amqp_types import DecodeError, Described, Raw, Ulong
from esazure.testing.servicebus.entities import Entity
from esazure.testing.servicebus.faults import Close, Detach, Drop, Fault, Ignore, Reject
from esazure.testing.servicebus.management import handle_request, handle_token
from esazure.testing.servicebus.performatives import ACCEPTED, Attach, Fields, Outcome, Transfer, rejected
from esazure.testing.servicebus.queues import Queue
from esazure.testing.servicebus.refusals import RefusalError, lock_lost, no_transactions, too_large
from esazure.testing.servicebus.sections import BATCH_FORMAT, Sections, parse_transfer, render
from esazure.testing.servicebus.sessions import SessionQueue

if TYPE_CHECKING:
    from esazure.testing.servicebus.session import Session

LOGGER = logging.getLogger("esazure.testing.servicebus")

_MAX_REQUEST_SIZE = 4 << 20
"""A management request may carry several messages."""


class Link:
    """One direction between a client and one address; `handle` is the number both sides use for it."""

    def __init__(self, session: "Session", attach: Attach, path: str) -> None:
        self.session = session
        self.broker = session.broker
        self.attach = attach
        self.handle = attach.handle
        self.path = path
        self.entity_path = ""
        """The path of the entity that is sent to or received from; empty for requests and replies."""
        self.credit = 0
        self.delivery_count = 0
        self.closed = False

    def pump(self) -> None:
        """Send what there is, as far as credit and windows go."""

    def close(self) -> None:
        """Let go of everything; the peer has been told, or is gone."""
        self.closed = True

    def suffer(self, fault: Fault) -> None:
        """Let a fault happen instead of an answer."""
        if isinstance(fault, Drop):
            self.session.connection.abort()
        elif isinstance(fault, Detach):
            self.session.detach(self, RefusalError(fault.condition, fault.description))
        elif isinstance(fault, Close):
            self.session.connection.close(RefusalError(fault.condition, fault.description))


class OutgoingLink(Link):
    """The client receives; it says by credit how much."""

    def on_flow(self, fields: Fields) -> None:
        """Take new credit, and give back what is left of it when the client drains."""
        granted = fields.number(5, 0) + fields.number(6, 0) - self.delivery_count
        # The count wraps at 32 bits, and ours may have wrapped before the peer's.
        self.credit = max(0, granted + 2**32 if granted < -(2**31) else granted)
        self.pump()
        if fields.flag(8) and not self.closed:
            self.delivery_count = (self.delivery_count + self.credit) & 0xFFFFFFFF
            self.credit = 0
            self.session.send_flow(self, drained=True)

    def deliver(self, tag: bytes, payload: bytes, *, settled: bool) -> int:
        """Send one message for one credit; returns its delivery id."""
        self.credit -= 1
        self.delivery_count = (self.delivery_count + 1) & 0xFFFFFFFF
        return self.session.transfer(self, tag, payload, settled=settled)


class ReplyLink(OutgoingLink):
    """Carries the answers of `$cbs` or of a management node."""

    def __init__(self, session: "Session", attach: Attach, path: str) -> None:
        super().__init__(session, attach, path)
        self._replies: deque[bytes] = deque()

    def answers_to(self, address: str) -> bool:
        """Whether a request means this link with its `reply-to`."""
        target = self.attach.target
        return address == self.attach.name or (target is not None and address == target.address)

    def reply(self, payload: bytes) -> None:
        """Send an answer as soon as there is credit."""
        self._replies.append(payload)
        self.pump()

    def pump(self) -> None:
        """Send the answers that wait."""
        while self._replies and self.credit > 0 and not self.closed:
            self.deliver(struct.pack(">I", self.delivery_count), self._replies.popleft(), settled=True)


class DeliveryLink(OutgoingLink):
    """Takes messages out of a queue, and settles them."""

    def __init__(self, session: "Session", attach: Attach, path: str, queue: Queue) -> None:
        super().__init__(session, attach, path)
        self.queue = queue
        self.entity_path = queue.path
        self.session_id: str | None = None
        self.accepted = False
        """False while the client waits for any session; `attaching.py` answers then."""
        self.stop_waiting: Callable[[], None] = lambda: None
        self._deletes = attach.sender_settle_mode == 1

    def pump(self) -> None:
        """Deliver what waits."""
        if not self.accepted or self.broker.faults.hold_deliveries:
            return
        while self.credit > 0 and not self.closed and not self.session.congested:
            stored = self.queue.take(self.session_id, delete=self._deletes)
            if stored is None:
                return
            token = stored.lock_token
            # The SDK reads the lock token from the delivery tag, as the bytes of a GUID.
            tag = (token or uuid.uuid4()).bytes_le
            delivery_id = self.deliver(tag, render(stored, self.broker.clock.told), settled=token is None)
            if token is not None:
                self.session.unsettled[delivery_id] = (self, token)

    def session_lost(self) -> None:
        """The lock on the session expired: the client learns it by losing the link."""
        self.session.detach(self, lock_lost("session"))

    def close(self) -> None:
        """Stop taking, and free the session."""
        super().close()
        self.stop_waiting()
        if self in self.queue.consumers:
            self.queue.consumers.remove(self)
        if self.session_id is not None and isinstance(self.queue, SessionQueue):
            self.queue.release(self.session_id, self)

    def settle(self, delivery_id: int, token: uuid.UUID, outcome: Described | None, *, answer: bool) -> None:
        """Apply what the client decided about a delivery, and confirm it if an answer is wanted."""
        fault = self.broker.faults.for_settlement(self.entity_path)
        if fault is not None and not isinstance(fault, Reject) and not fault.applied:
            self.suffer(fault)
            return
        del self.session.unsettled[delivery_id]
        confirmation: Raw | Described
        try:
            if isinstance(fault, Reject):
                raise fault.refusal()
            confirmation = _apply(self.queue, token, outcome)
            self.broker.counters.settlements += 1
        except RefusalError as refusal:
            confirmation = rejected(refusal)
        if fault is not None and not isinstance(fault, Reject):
            self.suffer(fault)
        elif answer:
            self.session.confirm(delivery_id, confirmation)


class IncomingLink(Link):
    """The client sends; deliveries may come in several frames."""

    max_size = _MAX_REQUEST_SIZE

    def __init__(self, session: "Session", attach: Attach, path: str) -> None:
        super().__init__(session, attach, path)
        self._first: Transfer | None = None
        self._payload = bytearray()
        self._size = 0
        self._credit_granted = 0

    def grant(self, credit: int) -> None:
        """Let the client send; it is granted more when half of it is used."""
        self._credit_granted = self.credit = credit
        self.session.send_flow(self)

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """Put the frames of a delivery together."""
        first = self._first = self._first or transfer
        self._size += len(payload)
        if self._size <= self.max_size:  # beyond it, only the size is kept
            self._payload += payload
        if transfer.more and not transfer.aborted:
            return
        content, size = bytes(self._payload), self._size
        self._first, self._payload, self._size = None, bytearray(), 0
        self.delivery_count = (self.delivery_count + 1) & 0xFFFFFFFF
        self.credit -= 1
        if self.credit < self._credit_granted // 2:
            self.grant(self._credit_granted)
        if transfer.aborted:
            return
        if first.delivery_id is None:
            raise DecodeError("a delivery without an id")
        if first.in_transaction or transfer.in_transaction:
            self._answer(first.delivery_id, no_transactions())
            return
        # The settled flag may come with any frame of a delivery.
        answer_to = None if first.settled or transfer.settled else first.delivery_id
        if size > self.max_size:
            # The service rejects the delivery and then closes the link, both with the same error.
            self._answer(answer_to, too_large(size, self.max_size))
            self.session.detach(self, too_large(size, self.max_size))
        else:
            self._on_delivery(answer_to, first.message_format, content)

    def _answer(self, delivery_id: int | None, refusal: RefusalError | None = None) -> None:
        if delivery_id is not None:
            self.session.answer(delivery_id, refusal)

    def _on_delivery(self, answer_to: int | None, message_format: int, content: bytes) -> None:
        raise NotImplementedError


class SendLink(IncomingLink):
    """Puts messages into a queue or topic."""

    def __init__(self, session: "Session", attach: Attach, path: str, entity: Entity) -> None:
        super().__init__(session, attach, path)
        self.entity = entity
        self.entity_path = entity.path
        self.max_size = session.broker.max_message_size

    def _on_delivery(self, answer_to: int | None, message_format: int, content: bytes) -> None:
        fault = self.broker.faults.for_send(self.entity_path)
        if isinstance(fault, Reject):
            self._answer(answer_to, fault.refusal())
            return
        if fault is not None and not fault.applied:
            self.suffer(fault)
            return
        try:
            if message_format == BATCH_FORMAT and len(content) > self.broker.max_batch_size:
                raise too_large(len(content), self.broker.max_batch_size)
            messages = parse_transfer(content, message_format)
            self.entity.admit(messages)
        except RefusalError as refusal:
            self._answer(answer_to, refusal)
            return
        except DecodeError as failure:
            self._answer(answer_to, RefusalError("amqp:decode-error", str(failure)))
            return
        self.broker.counters.messages += len(messages)
        if fault is None:
            self._answer(answer_to)
        elif not isinstance(fault, Ignore):
            self.suffer(fault)


class RequestLink(IncomingLink):
    """Takes requests for `$cbs` (no entity) or for the management node of an entity."""

    def __init__(self, session: "Session", attach: Attach, path: str, entity: Entity | None = None) -> None:
        super().__init__(session, attach, path)
        self.entity = entity

    def _on_delivery(self, answer_to: int | None, message_format: int, content: bytes) -> None:  # noqa: ARG002
        self._answer(answer_to)
        request = Sections(content)
        fault = None
        if self.entity is None:
            response = handle_token(self.broker, request)
        else:
            operation = str(request.application_properties.get("operation", "")).removeprefix("com.microsoft:")
            fault = self.broker.faults.for_request(self.entity.path, operation)
            if fault is not None and not isinstance(fault, Reject) and not fault.applied:
                self.suffer(fault)
                return
            refusal = fault.refusal() if isinstance(fault, Reject) else None
            response = handle_request(self.broker, self.entity, operation, request, refusal)
        if fault is not None and not isinstance(fault, Reject):
            self.suffer(fault)
            return
        link = self._reply_link(request.reply_to())
        if link is None:
            LOGGER.warning("%s: no link takes the answer that a request wants", self.path)
        else:
            link.reply(response)

    def _reply_link(self, wanted: str | None) -> ReplyLink | None:
        """The client's receiver whose target, or else name, is what the request gives as `reply-to`.

        A client with one receiver on the node need not say which, and the SDK of Python does not.
        """
        links = [
            link
            for session in (self.session, *self.session.connection.sessions.values())
            for link in session.links.values()
            if isinstance(link, ReplyLink) and link.path.lower() == self.path.lower()
        ]
        named = [link for link in links if wanted is not None and link.answers_to(wanted)]
        if wanted is not None and not named and len(set(links)) > 1:
            return None
        return next(iter(named or links), None)


def _apply(queue: Queue, token: uuid.UUID, outcome: Described | None) -> Raw | Described:
    """Settle a lock as the client's outcome says; returns the outcome to confirm."""
    code = Outcome.ACCEPTED if outcome is None else outcome.descriptor
    fields = Fields(outcome.value) if outcome is not None else Fields([])
    if code == Outcome.ACCEPTED:
        queue.complete(token)
        return ACCEPTED
    if code == Outcome.RELEASED:
        queue.abandon(token, failed=False)
        return Described(Ulong(Outcome.RELEASED), [])
    if code == Outcome.REJECTED:
        described = fields.described(0)
        cause = Fields(described.value) if described is not None else Fields([])
        info = _properties(cause.mapping(2))
        reason = _text(info.pop("DeadLetterReason", None))
        description = _text(info.pop("DeadLetterErrorDescription", cause[1]))
        queue.dead_letter(token, reason, description, info)
        return Described(Ulong(Outcome.REJECTED), [])
    if code == Outcome.MODIFIED:
        properties = _properties(fields.mapping(2))
        if fields.flag(1):
            queue.defer(token, properties)
        else:
            queue.abandon(token, failed=True, properties=properties)
        return Described(Ulong(Outcome.MODIFIED), [fields.flag(0), fields.flag(1)])
    raise RefusalError("amqp:not-implemented", f"the double knows no outcome {code!r}", 501)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _properties(changes: dict[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in changes.items()}
