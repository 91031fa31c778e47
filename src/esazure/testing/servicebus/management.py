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
from esazure.testing.servicebus.queues import Queue
from esazure.testing.servicebus.refusals import RefusalError, bad_argument, not_allowed
from esazure.testing.servicebus.sections import Sections, parse_message, render, render_response
from esazure.testing.servicebus.sessions import SessionQueue

if TYPE_CHECKING:
    from esazure.testing.servicebus.broker import Broker

LOGGER = logging.getLogger("esazure.testing.servicebus")

_RECEIVE_AND_DELETE = 0
_DEFAULT_PAGE = 100


def handle_token(broker: "Broker", request: Sections) -> bytes:
    """Answer a put-token: any token will do, unless tokens are to be refused."""
    broker.counters.tokens += 1
    status, text = (401, "Unauthorized") if broker.faults.refuse_tokens else (202, "Accepted")
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
        run = _OPERATIONS.get(operation, _unsupported)
        value = run(entity, _Arguments(request.value()))
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

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise bad_argument("The body of a management request is a map.")
        self._body: dict[Any, Any] = body

    def _get(self, name: str, expected: type | tuple[type, ...], *, default: Any = None) -> Any:
        value = self._body.get(name)
        if value is None:
            return default
        if not isinstance(value, expected):
            raise bad_argument(f"'{name}' has the wrong type.")
        return value

    def number(self, name: str, default: int) -> int:
        return int(self._get(name, int, default=default))

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


def _unsupported(_entity: Entity, _arguments: "_Arguments") -> dict[str, Any]:
    raise RefusalError("amqp:not-implemented", "The operation is not part of the double.", 501)


def _queue(entity: Entity) -> Queue:
    if not isinstance(entity, Queue):
        raise not_allowed("A topic has no messages to receive.")
    return entity


def _sessions(entity: Entity) -> SessionQueue:
    if not isinstance(entity, SessionQueue):
        raise not_allowed("The entity does not have sessions.")
    return entity


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(seconds * 1000)


def _renew_lock(entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    queue = _queue(entity)
    return {"expirations": Array(_timestamp(queue.renew(token)) for token in arguments.tokens())}


def _renew_session_lock(entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    return {"expiration": _timestamp(_sessions(entity).renew_session(arguments.session_id()))}


def _schedule_message(entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    if not entity.accepts_senders:
        raise not_allowed("Messages cannot be sent to this entity.")
    items = [_Arguments(item).octets("message") for item in arguments.each("messages", dict)]
    try:
        messages = [parse_message(item or b"") for item in items]
    except DecodeError as failure:
        raise bad_argument(f"A message cannot be read: {failure}") from None
    return {"sequence-numbers": Array(map(Long, entity.admit(messages)))}


def _cancel_scheduled_message(entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    entity.cancel_scheduled(arguments.each("sequence-numbers", int))
    return {}


def _peek_message(entity: Entity, arguments: _Arguments) -> dict[str, Any] | None:
    start, count = arguments.number("from-sequence-number", 0), arguments.number("message-count", 1)
    found = _queue(entity).peek(start, max(0, count), arguments.text("session-id"))
    return {"messages": [{"message": render(stored, peeked=True)} for stored in found]} if found else None


def _receive_by_sequence_number(entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    delete = arguments.number("receiver-settle-mode", 1) == _RECEIVE_AND_DELETE
    taken = _queue(entity).receive_deferred(arguments.each("sequence-numbers", int), delete=delete)
    # The SDK reads the token from beside the message, and before 7.15 from inside it.
    items = [{"message": render(stored, with_token=True), "lock-token": stored.lock_token} for stored in taken]
    return {"messages": items}


def _update_disposition(entity: Entity, arguments: _Arguments) -> dict[str, Any]:
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


def _get_session_state(entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    session = _sessions(entity).sessions.get(arguments.session_id())
    return {"session-state": None if session is None else session.state}


def _set_session_state(entity: Entity, arguments: _Arguments) -> dict[str, Any]:
    _sessions(entity).held_session(arguments.session_id()).state = arguments.octets("session-state")
    return {}


def _get_message_sessions(entity: Entity, arguments: _Arguments) -> dict[str, Any] | None:
    skip, top = arguments.number("skip", 0), arguments.number("top", _DEFAULT_PAGE)
    page = _sessions(entity).session_ids()[max(0, skip) :][: max(0, top)]
    return {"skip": Int(skip + len(page)), "sessions-ids": page} if page else None


_OPERATIONS: dict[str, Callable[[Entity, _Arguments], dict[str, Any] | None]] = {
    "cancel-scheduled-message": _cancel_scheduled_message,
    "get-message-sessions": _get_message_sessions,
    "get-session-state": _get_session_state,
    "peek-message": _peek_message,
    "receive-by-sequence-number": _receive_by_sequence_number,
    "renew-lock": _renew_lock,
    "renew-session-lock": _renew_session_lock,
    "schedule-message": _schedule_message,
    "set-session-state": _set_session_state,
    "update-disposition": _update_disposition,
}
