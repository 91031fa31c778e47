"""Dead letters: what was set aside, and sending it again.

A dead letter is never lost on its way: a copy goes to the topic, and only then it is removed. Read `inbound.py` for how
messages are read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.amqp import AmqpMessageBodyType
from azure.servicebus.exceptions import MessageLockLostError

from esazure.errors import InvalidIdError, SubscriptionError
from esazure.keys import stream_name
from esazure.servicebus.inbound import properties_of, text_of
from esazure.servicebus.links import Link
from esazure.servicebus.sockets import Connection, bounded, take_over_closing
from esazure.servicebus.translation import may_quote_secrets, why_not_received

SCANNED = 1_000
"""Dead letters that are passed over in a search at most: each is locked until its end, and in memory."""

PAGE = 50

ANSWER_SECONDS = 15.0
"""For each answer of the broker."""

LAST_SECONDS = 2.0
"""Without another dead letter, that was the last one."""

_ADDED = frozenset({"DeadLetterReason", "DeadLetterErrorDescription"})
_AGAIN = re.compile(r"(.*)~[0-9a-f]{12}", re.DOTALL)
_LONGEST_ORIGINAL = 115  # 128 is the service's limit, and `~` with twelve digits is added
_LARGEST_INT = 2**31


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was set aside. What was sent by others may lack anything."""

    message_id: str
    stream: str | None
    version: int | None
    type: str | None
    reason: str | None
    """For example `HandlerFailed`, `Malformed`, or the broker's own `MaxDeliveryCountExceeded`."""
    description: str | None = field(repr=False)
    enqueued_at: datetime | None
    """When the message came to the subscription."""
    delivery_count: int
    """How often it was delivered in vain."""


def dead_letter_of(message: ServiceBusReceivedMessage) -> DeadLetter:
    """What is worth knowing about it, without its content."""
    properties = properties_of(message.application_properties)
    version = properties.get("version", "")
    count = message.delivery_count
    return DeadLetter(
        message_id=_id_of(message),
        stream=_stream_of(properties),
        version=int(version) if re.fullmatch("[0-9]{1,10}", version) else None,
        type=properties.get("type"),
        reason=properties.get("DeadLetterReason"),
        description=properties.get("DeadLetterErrorDescription"),
        enqueued_at=message.enqueued_time_utc,
        delivery_count=count if isinstance(count, int) else 0,
    )


def id_of_the_original(message_id: str) -> str:
    """The id without what earlier resubmissions added."""
    again = _AGAIN.fullmatch(message_id)
    return again[1] if again else message_id


def copy_of(message: ServiceBusReceivedMessage, subscription: str) -> ServiceBusMessage:
    """The message once more, with an id that duplicate detection does not know, but knows if it comes a second time."""
    original = id_of_the_original(_id_of(message))
    if len(original) > _LONGEST_ORIGINAL:
        original = sha256(original.encode()).hexdigest()
    place = sha256(f"{subscription}/{message.sequence_number}".encode()).hexdigest()[:12]
    properties = message.application_properties or {}
    return ServiceBusMessage(
        b"".join(message.body),
        message_id=f"{original}~{place}",
        session_id=message.session_id,
        correlation_id=message.correlation_id,
        subject=message.subject,
        content_type=message.content_type,
        to=message.to,
        reply_to=message.reply_to,
        reply_to_session_id=message.reply_to_session_id,
        time_to_live=message.time_to_live,
        application_properties={
            name: _sendable(value) for key, value in properties.items() if (name := text_of(key) or key) not in _ADDED
        },
    )


class DeadLetters:
    """Those of one subscription; opens a connection when it is asked something, and closes it again."""

    def __init__(self, name: str, new_receiver: Callable[[], ServiceBusReceiver], new_link: Callable[[], Link]) -> None:
        self._name = name
        self._new_receiver = new_receiver
        self._new_link = new_link

    async def peek(self, limit: int) -> list[DeadLetter]:
        """See `ServiceBusSubscription.dead_letters`."""
        _check(limit)
        found: list[DeadLetter] = []
        position = 1
        async with self._receiver() as receiver:
            while len(found) < limit:
                page = await receiver.peek_messages(
                    min(PAGE, limit - len(found)), sequence_number=position, timeout=ANSWER_SECONDS
                )
                if not page:
                    break
                found += [dead_letter_of(message) for message in page]
                position = (page[-1].sequence_number or 0) + 1
        return found

    async def resubmit(self, message_ids: Collection[str] | None, limit: int) -> int:
        """See `ServiceBusSubscription.resubmit`."""
        _check(limit)
        wanted = None if message_ids is None else set(message_ids)
        passed_over: list[ServiceBusReceivedMessage] = []
        sent: set[str] = set()
        position = 0
        async with self._receiver() as receiver, self._link() as link:
            while len(sent) < limit and len(passed_over) < SCANNED and wanted != set():
                # One at a time, so that none can come out of its order.
                received = await receiver.receive_messages(1, max_wait_time=LAST_SECONDS)
                if not received:
                    break
                message = received[0]
                if (message.sequence_number or 0) <= position:  # we are through, and the first ones come again
                    passed_over.append(message)
                    break
                position = message.sequence_number or 0
                message_id = _id_of(message)
                # A copy that is back here already failed at once, and would do so for ever.
                unwanted = message_id in sent or (wanted is not None and message_id not in wanted)
                if unwanted or message.body_type is not AmqpMessageBodyType.DATA:
                    passed_over.append(message)
                    continue
                copy = copy_of(message, self._name)
                await link.send([copy], patience=ANSWER_SECONDS)
                with suppress(MessageLockLostError):  # then it comes again, and its copy is a duplicate
                    await receiver.complete_message(message)
                sent.add(copy.message_id or "")
                if wanted is not None:
                    wanted.discard(message_id)
            for message in passed_over:
                with suppress(MessageLockLostError):
                    await receiver.abandon_message(message)
        return len(sent)

    @asynccontextmanager
    async def _receiver(self) -> AsyncIterator[ServiceBusReceiver]:
        receiver = self._new_receiver()
        connections: list[Connection] = []
        take_over_closing(receiver, connections)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await receiver.__aenter__()
            yield receiver
        except Exception as error:  # noqa: BLE001 - it is raised anew, as ours
            why, _ = why_not_received(error)
            cause = None if may_quote_secrets(error) else error
            raise SubscriptionError(f"{self._name}: its dead letters cannot be had: {why}") from cause
        finally:
            for connection in connections:
                connection.polite = True
            await bounded(receiver.close())  # gives back what is still on its way
            for connection in connections:
                await connection.close()

    @asynccontextmanager
    async def _link(self) -> AsyncIterator[Link]:
        link = self._new_link()
        try:
            yield link
        finally:
            await link.close()


def _check(limit: int) -> None:
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")


def _id_of(message: ServiceBusReceivedMessage) -> str:
    message_id: object = message.message_id
    return "" if message_id is None else str(message_id)


def _stream_of(properties: Mapping[str, str]) -> str | None:
    aggregate_type, aggregate_id = properties.get("aggregate_type"), properties.get("aggregate")
    if aggregate_type is None or aggregate_id is None:
        return None
    try:
        return stream_name(aggregate_type, aggregate_id)
    except InvalidIdError:
        return None


def _sendable(value: Any) -> Any:
    if isinstance(value, bytes):
        text = text_of(value)
        return {"TYPE": "BINARY", "VALUE": value} if text is None else text  # the SDK takes bytes for text
    if isinstance(value, int) and not -_LARGEST_INT <= value < _LARGEST_INT:
        return {"TYPE": "LONG", "VALUE": value}  # the SDK would cut it to 32 bits
    return value
