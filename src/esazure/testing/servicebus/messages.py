"""A message as it was sent, and as one entity stores it.

`sections.py` makes the first from bytes and bytes from the second; `queues.py` moves the second between states.
"""

import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from esazure.testing.servicebus.clock import Alarm

if TYPE_CHECKING:
    from esazure.testing.servicebus.sections import Sections


class MessageState(enum.Enum):
    """Where a stored message is."""

    ACTIVE = "active"
    LOCKED = "locked"
    DEFERRED = "deferred"
    SCHEDULED = "scheduled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a sender sent. One message fans out to many subscriptions, so it never changes."""

    wire: "Sections | None" = field(default=None, repr=False)
    """The bytes; None only in tests that have no network."""
    message_id: Any = None
    session_id: str | None = None
    correlation_id: Any = None
    subject: str | None = None
    to: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    content_type: str | None = None
    time_to_live: float | None = None
    partition_key: str | None = None
    scheduled_at: float | None = None
    """By the sender's clock."""
    properties: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)


@dataclass(slots=True, eq=False)
class StoredMessage:
    """One copy of a message in one queue, subscription or dead-letter queue."""

    message: Message
    sequence_number: int
    enqueued_sequence_number: int
    enqueued_at: float
    expires_at: float | None = None
    state: MessageState = MessageState.ACTIVE
    deferred: bool = False
    """Also true while a deferred message is locked: abandoned, it is deferred again."""
    delivery_count: int = 0
    """Deliveries that failed so far, so 0 on the first."""
    lock_token: uuid.UUID | None = None
    locked_until: float = 0.0
    dead_letter_source: str | None = None
    added_properties: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """What settling added: the reason of a dead letter, properties changed by an abandon."""
    alarm: Alarm | None = field(default=None, repr=False)
    """The one thing time will do to it in its state: expire it, unlock it or activate it."""

    def set_alarm(self, alarm: Alarm | None) -> None:
        """Replace what time will do."""
        if self.alarm is not None:
            self.alarm.cancel()
        self.alarm = alarm
