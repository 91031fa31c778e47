"""What `$cbs` and the management node of an entity answer.

One function per operation; what is not among them is answered with 501, loudly, and never accepted in silence.
`links.py` calls `handle_token` and `handle_request`.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from esazure.testing.servicebus.amqp_types import Array, DecodeError, Int, Long, Symbol, Timestamp
from esazure.testing.servicebus.entities import Entity
from esazure.testing.servicebus.performatives import path_of
from esazure.testing.servicebus.queues import Queue
from esazure.testing.servicebus.refusals import RefusalError, bad_argument, not_allowed, not_found, too_large
from esazure.testing.servicebus.sections import Sections, parse_message, render, render_response
from esazure.testing.servicebus.sessions import SessionQueue

if TYPE_CHECKING:
    from esazure.testing.servicebus.broker import Broker

LOGGER = logging.getLogger("esazure.testing.servicebus")

_RECEIVE_AND_DELETE = 0
_DEFAULT_PAGE = 100
_END_OF_TIME = 253_402_300_799.0
"""The last second of the year 9999."""
MANAGEMENT = "/$management"


def handle_token(broker: "Broker", request: Sections) -> bytes:
    """Answer a put-token: any token will do, unless tokens are to be refused.

    As the service does, 404 for an entity that is not there: clients learn here that it is missing, before they attach.
    """
    broker.counters.tokens += 1
    operation = request.application_properties.get("operation")
    audience = str(request.application_properties.get("name") or "")
    path = path_of(audience)
    if operation != "put-token":
        status, text = 501, f"The operation '{operation}' is not part of the double."
    elif not audience:
        status, text = 400, "The name of an entity is missing."
    elif broker.faults.refuse_tokens:
        status, text = 401, "Unauthorized"
    elif path and broker.namespace.lookup(path.lower().removesuffix(MANAGEMENT)) is None:
        status, text = 404, not_found(audience).description
    else:
        status, text = 202, "Accepted"
    answer = {"status-code": Int(status), "status-description": text}
    return render_response(request.raw_message_id(), answer, None)


def handle_request(
    broker: "Broker", entity: Entity, operation: str, request: Sections, refusal: RefusalError | None = None
) -> bytes:
    """Run a management operation and render its answer, or that of `refusal` if one is planned."""
    broker.counters.requests[operation] += 1
    try:
        if refusal is not None:
            raise refusal
        if operation not in _OPERATIONS:
            LOGGER.warning("management operation %r is not part of the double", operation)
        known, run = _OPERATIONS.get(operation, (None, _unsupported))
        value = run(broker, entity, _Arguments(request.value(), known))
    except RefusalError as refused:
        answer = {
            "statusCode": Int(refused.status),
            "statusDescription": refused.description,
            # The SDK ignores a condition that is not a symbol.
            "errorCondition": Symbol(refused.condition),
        }
        return render_response(request.raw_message_id(), answer, {})
    status, text = (204, "No Content") if value is None else (200, "OK")
    return render_response(
        request.raw_message_id(), {"statusCode": Int(status), "statusDescription": text}, value or {}
    )


class _Arguments:
    """The body of a request: a map, read with the types the operation needs."""

    def __init__(self, body: Any, known: str | None) -> None:
        if not isinstance(body, dict):
            raise bad_argument("The body of a management request is a map.")
        self._body: dict[Any, Any] = body
        # What an argument asks for and does not get would otherwise be missed in silence.
        unknown = [] if known is None else sorted(str(name) for name in self._body if name not in known.split())
        if unknown:
            LOGGER.warning("arguments %s of a management operation are not part of the double", unknown)
            raise RefusalError("amqp:not-implemented", f"Not part of the double: {', '.join(unknown)}.", 501)

    def _get(self, name: str, expected: type | tuple[type, ...], *, default: Any = None) -> Any:
        value = self._body.get(name)
        if value is None:
            return default
        if not isinstance(value, expected) or isinstance(value, bool):
            raise bad_argument(f"'{name}' has the wrong type.")
        return value

    def number(self, name: str, default: int) -> int:
        return int(self._get(name, int, default=default))

    def time(self, name: str) -> float | None:
        """Seconds since 1970, by the client's clock."""
        value = self._get(name, Timestamp)
        return None if value is None else int(value) / 1000

    def text(self, name: str) -> str | None:
        value = self._get(name, str)
        return None if value is None else str(value)

    def octets(self, name: str) -> bytes | None:
        value = self._get(name, bytes)
        return None if value is None else bytes(value)

    def session_id(self) -> str:
        value = self.text("session-id")
        if value is None:
            raise bad_argument("'session-id' is missing.")
        return value

    def each(self, name: str, expected: type) -> list[Any]:
        """A list or array that must be there, of one type."""
        values = self._get(name, list)
        if values is None:
            raise bad_argument(f"'{name}' is missing.")
        if not all(isinstance(value, expected) for value in values):
            raise bad_argument(f"'{name}' has items of the wrong type.")
        return list(values)

    def tokens(self) -> Sequence[uuid.UUID]:
        return self.each("lock-tokens", uuid.UUID)

    def properties(self) -> dict[str, Any]:
        changes = self._get("properties-to-modify", dict, default={})
        return {str(name): value for name, value in changes.items()}


def _unsupported(_broker: "Broker", _entity: Entity, _arguments: "_Arguments") -> dict[str, Any]:
    raise RefusalError("amqp:not-implemented", "The operation is not part of the double.", 501)


def _queue(entity: Entity) -> Queue:
    if not isinstance(entity, Queue):
        raise not_allowed("A topic has no messages to receive.")
    return entity


def _sessions(entity: Entity) -> SessionQueue:
    if not isinstance(entity, SessionQueue):
        raise not_allowed("The entity does not have sessions.")
    return entity


def _timestamp(broker: "Broker", seconds: float) -> Timestamp:
    return Timestamp(broker.clock.told(seconds) * 1000)


def _renew_lock(broker: "Broker", entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    queue = _queue(entity)
    return {"expirations": Array(_timestamp(broker, queue.renew(token)) for token in arguments.tokens())}


def _renew_session_lock(broker: "Broker", entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    return {"expiration": _timestamp(broker, _sessions(entity).renew_session(arguments.session_id()))}


def _schedule_message(broker: "Broker", entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    if not entity.accepts_senders:
        raise not_allowed("Messages cannot be sent to this entity.")
    items = [_Arguments(item, _SCHEDULED).octets("message") or b"" for item in arguments.each("messages", dict)]
    for item in items:
        if len(item) > broker.max_message_size:
            raise too_large(len(item), broker.max_message_size)
    try:
        messages = [parse_message(item) for item in items]
    except DecodeError as failure:
        raise bad_argument(f"A message cannot be read: {failure}") from None
    return {"sequence-numbers": Array(map(Long, entity.admit(messages)))}


def _cancel_scheduled_message(_broker: "Broker", entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    entity.cancel_scheduled(arguments.each("sequence-numbers", int))
    return {}


def _peek_message(broker: "Broker", entity: Entity, arguments: _Arguments) -> dict[str, Any] | None:
    start, count = arguments.number("from-sequence-number", 0), arguments.number("message-count", 1)
    found = _queue(entity).peek(start, max(0, count), arguments.text("session-id"))
    return (
        {"messages": [{"message": render(stored, broker.clock.told, peeked=True)} for stored in found]}
        if found
        else None
    )


def _receive_by_sequence_number(broker: "Broker", entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    delete = arguments.number("receiver-settle-mode", 1) == _RECEIVE_AND_DELETE
    session_id = arguments.text("session-id")
    if session_id is not None:
        _sessions(entity).held_session(session_id)
    taken = _queue(entity).receive_deferred(arguments.each("sequence-numbers", int), delete=delete)
    # The SDK reads the token from beside the message, and before 7.15 from inside it.
    items = [{"message": render(stored, broker.clock.told), "lock-token": stored.lock_token} for stored in taken]
    return {"messages": items}


def _update_disposition(_broker: "Broker", entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    queue, properties = _queue(entity), arguments.properties()
    session_id = arguments.text("session-id")
    if session_id is not None:
        _sessions(entity).held_session(session_id)
    status = arguments.text("disposition-status")
    for token in arguments.tokens():
        if status == "completed":
            queue.complete(token)
        elif status == "abandoned":
            queue.abandon(token, properties=properties)
        elif status == "suspended":
            reason, description = arguments.text("deadletter-reason"), arguments.text("deadletter-description")
            queue.dead_letter(token, reason, description, properties)
        elif status == "defered":  # so spelled on the wire
            queue.defer(token, properties)
        else:
            raise bad_argument(f"The disposition '{status}' is unknown.")
    return {}


def _get_session_state(_broker: "Broker", entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    session = _sessions(entity).sessions.get(arguments.session_id())
    return {"session-state": None if session is None else session.state}


def _set_session_state(broker: "Broker", entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    state = arguments.octets("session-state")
    if len(state or b"") > broker.max_message_size:
        raise too_large(len(state or b""), broker.max_message_size)
    _sessions(entity).set_state(arguments.session_id(), state)
    return {}


def _get_message_sessions(broker: "Broker", entity: Entity, arguments: _Arguments) -> dict[str, Any] | None:
    after = arguments.time("last-updated-time")
    if after is not None:
        # The SDKs send the last moment there is when they want every session.
        after = None if after >= _END_OF_TIME else broker.clock.heard(after)
    skip, top = arguments.number("skip", 0), arguments.number("top", _DEFAULT_PAGE)
    page = _sessions(entity).session_ids(after)[max(0, skip) :][: max(0, top)]
    return {"skip": Int(skip + len(page)), "sessions-ids": page} if page else None


_SCHEDULED = "message message-id partition-key session-id via-partition-key"
_OPERATIONS: dict[str, tuple[str, Callable[["Broker", Entity, _Arguments], dict[str, Any] | None]]] = {
    "cancel-scheduled-message": ("sequence-numbers", _cancel_scheduled_message),
    "get-message-sessions": ("last-updated-time skip top", _get_message_sessions),
    "get-session-state": ("session-id", _get_session_state),
    "peek-message": ("from-sequence-number message-count session-id", _peek_message),
    "receive-by-sequence-number": ("receiver-settle-mode sequence-numbers session-id", _receive_by_sequence_number),
    "renew-lock": ("lock-tokens", _renew_lock),
    "renew-session-lock": ("session-id", _renew_session_lock),
    "schedule-message": ("messages", _schedule_message),
    "set-session-state": ("session-id session-state", _set_session_state),
    "update-disposition": (
        "deadletter-description deadletter-reason disposition-status lock-tokens properties-to-modify session-id",
        _update_disposition,
    ),
}
"""What each takes, and what it does."""
