"""What a test sees of the broker: copies that do not change when the broker goes on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from esazure.testing.servicebus.messages import MessageState, StoredMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSnapshot:
    """A message in an entity. Its repr leaves out what may be confidential: body and application properties."""

    sequence_number: int
    message_id: Any
    session_id: str | None
    subject: str | None
    correlation_id: Any
    content_type: str | None
    to: str | None
    reply_to: str | None
    body: bytes = field(repr=False)
    application_properties: Mapping[str, Any] = field(repr=False)
    """As sent, plus what settling added."""
    state: MessageState
    delivery_count: int
    """Deliveries that failed so far."""
    enqueued_at: datetime
    expires_at: datetime | None
    dead_letter_reason: str | None
    dead_letter_error_description: str | None

    @classmethod
    def of(cls, stored: StoredMessage, told: Callable[[float], float]) -> "MessageSnapshot":
        """The message as it is now."""
        message = stored.message
        added = stored.added_properties
        return cls(
            sequence_number=stored.sequence_number,
            message_id=message.message_id,
            session_id=message.session_id,
            subject=message.subject,
            correlation_id=message.correlation_id,
            content_type=message.content_type,
            to=message.to,
            reply_to=message.reply_to,
            body=b"" if message.wire is None else message.wire.content(),
            application_properties={**message.properties, **added},
            state=stored.state,
            delivery_count=stored.delivery_count,
            enqueued_at=datetime.fromtimestamp(told(stored.enqueued_at), UTC),
            expires_at=None if stored.expires_at is None else datetime.fromtimestamp(told(stored.expires_at), UTC),
            dead_letter_reason=added.get("DeadLetterReason"),
            dead_letter_error_description=added.get("DeadLetterErrorDescription"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What the broker saw since it was made."""

    connections: int
    """TCP connections, also those that were refused."""
    open_connections: int
    tokens: int
    messages: int
    """Messages that were accepted, duplicates included."""
    settlements: int
    """Settlements over a receiver's link that took effect."""
    requests: Mapping[str, int]
    """Management requests by operation."""
