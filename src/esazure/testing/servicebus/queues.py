"""A queue, the queue of a subscription, or a dead-letter queue: locks, settlement and delivery counts.

States and moves: active -> locked -> gone, active again, deferred or dead-lettered. `sessions.py` adds exclusive
sessions on top; `links.py` is the consumer that takes messages out.
"""

import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from esazure.testing.servicebus.clock import Clock
from esazure.testing.servicebus.entities import Entity
from esazure.testing.servicebus.limits import check_settings
from esazure.testing.servicebus.messages import Message, MessageState, StoredMessage
from esazure.testing.servicebus.refusals import lock_lost, message_not_found
from esazure.testing.servicebus.waiting import WaitingLine


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """What a queue or subscription is created with; seconds throughout."""

    lock_duration: float = 30.0
    max_delivery_count: int = 10
    requires_session: bool = False
    default_ttl: float | None = None
    dead_letter_on_expiry: bool = False

    def __post_init__(self) -> None:
        check_settings(self.lock_duration, self.max_delivery_count, self.default_ttl)


class Consumer(Protocol):
    """What takes messages out of a queue: a receiving link."""

    def pump(self) -> None:
        """Take what there is, as far as credit goes."""

    def session_lost(self) -> None:
        """The session this consumer held is no longer its own."""


class Queue(Entity):
    """Messages without sessions. `changed` tells the broker that consumers may have something to take."""

    def __init__(
        self,
        clock: Clock,
        path: str,
        settings: QueueSettings,
        changed: Callable[["Queue"], None],
        *,
        duplicate_detection_window: float | None = None,
        of_subscription: bool = False,
        dead_letters: "Queue | None" = None,
    ) -> None:
        super().__init__(clock, path, duplicate_detection_window)
        self.settings = settings
        self.of_subscription = of_subscription
        self.dead_letters = dead_letters
        self.active = WaitingLine()
        self.locked: dict[uuid.UUID, StoredMessage] = {}
        self.deferred: dict[int, StoredMessage] = {}
        self.consumers: list[Consumer] = []
        self._changed = changed

    @property
    def requires_session(self) -> bool:
        """Whether messages are received session by session."""
        return self.settings.requires_session

    @property
    def accepts_senders(self) -> bool:
        """False for subscriptions and dead-letter queues."""
        return not self.of_subscription and self.dead_letters is not None

    # ---- in

    def deliver(self, message: Message, enqueued_sequence_number: int) -> None:
        """Take a message from a topic: it passed the topic's checks, so it is never refused here."""
        self._store(StoredMessage(message, next(self._sequence), enqueued_sequence_number, self.clock.now()))

    def _store(self, stored: StoredMessage) -> None:
        limits = [
            seconds for seconds in (stored.message.time_to_live, self.settings.default_ttl) if seconds is not None
        ]
        stored.expires_at = stored.enqueued_at + min(limits) if limits else None
        self._activate(stored)

    def _activate(self, stored: StoredMessage) -> None:
        stored.state, stored.lock_token = MessageState.ACTIVE, None
        expires = stored.expires_at
        stored.set_alarm(None if expires is None else self.clock.alarm(expires, lambda: self._expire(stored)))
        self._line(stored.message.session_id).add(stored)
        self.active.add(stored)
        self._changed(self)

    def _line(self, session_id: str | None) -> WaitingLine:  # noqa: ARG002 - for `sessions.py`
        """The line this session's messages wait in."""
        return self.active

    def _leave_line(self, stored: StoredMessage) -> None:
        self.active.remove(stored)
        stored.set_alarm(None)

    def _expire(self, stored: StoredMessage) -> None:
        self._leave_line(stored)
        if self.settings.dead_letter_on_expiry:
            self._to_dead_letters(stored, "TTLExpiredException", "The message expired and was dead lettered.")

    # ---- out

    def take(self, session_id: str | None = None, *, delete: bool = False) -> StoredMessage | None:
        """The next message, locked, or with `delete` gone; None when nothing waits."""
        stored = self._line(session_id).first()
        if stored is None:
            return None
        self._leave_line(stored)
        if not delete:
            self._lock(stored)
        return stored

    def receive_deferred(self, sequence_numbers: Sequence[int], *, delete: bool = False) -> list[StoredMessage]:
        """Deferred messages by number, all or none, locked unless `delete`."""
        for number in sequence_numbers:
            if number not in self.deferred:
                raise message_not_found(number)
        taken = [self.deferred.pop(number) for number in dict.fromkeys(sequence_numbers)]
        if not delete:
            for stored in taken:
                self._lock(stored)
        return taken

    def peek(self, from_number: int, count: int, session_id: str | None = None) -> list[StoredMessage]:
        """Up to `count` messages in any state from a sequence number on; nothing is locked."""
        everything = itertools.chain.from_iterable(map(self.in_state, MessageState))
        found = [
            stored
            for stored in everything
            if stored.sequence_number >= from_number and session_id in (None, stored.message.session_id)
        ]
        return sorted(found, key=lambda stored: stored.sequence_number)[:count]

    def in_state(self, state: MessageState) -> Iterable[StoredMessage]:
        """Every message in this state, in no order."""
        if state is MessageState.ACTIVE:
            return self.active
        if state is MessageState.LOCKED:
            return self.locked.values()
        return self.deferred.values() if state is MessageState.DEFERRED else self.scheduled.values()

    def _lock(self, stored: StoredMessage) -> None:
        stored.state, stored.lock_token = MessageState.LOCKED, uuid.uuid4()
        self.locked[stored.lock_token] = stored
        self._hold(stored)

    def _hold(self, stored: StoredMessage) -> None:
        """Start or extend the lock from now."""
        token = stored.lock_token
        stored.locked_until = self.clock.now() + self.settings.lock_duration
        if token is not None:
            stored.set_alarm(self.clock.alarm(stored.locked_until, lambda: self.abandon(token)))

    # ---- settlement; every one raises lock-lost when the token is not held

    def complete(self, token: uuid.UUID) -> None:
        """Done: the message is gone."""
        self._unlock(token)

    def abandon(self, token: uuid.UUID, *, failed: bool = True, properties: Mapping[str, Any] | None = None) -> None:
        """Back to its place; `failed` counts the delivery and dead-letters the message when it was the last allowed."""
        stored = self._unlock(token)
        stored.added_properties.update(properties or {})
        if failed:
            stored.delivery_count += 1
            if stored.delivery_count >= self.settings.max_delivery_count and self.dead_letters is not None:
                count = self.settings.max_delivery_count
                text = f"Message could not be consumed after {count} delivery attempts."
                self._to_dead_letters(stored, "MaxDeliveryCountExceeded", text)
                return
        if stored.deferred:
            stored.state = MessageState.DEFERRED
            self.deferred[stored.sequence_number] = stored
        else:
            self._activate(stored)

    def defer(self, token: uuid.UUID, properties: Mapping[str, Any] | None = None) -> None:
        """Aside: only its sequence number brings it back."""
        stored = self._unlock(token)
        stored.added_properties.update(properties or {})
        stored.delivery_count += 1
        stored.state, stored.deferred = MessageState.DEFERRED, True
        self.deferred[stored.sequence_number] = stored

    def dead_letter(
        self,
        token: uuid.UUID,
        reason: str | None = None,
        description: str | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        """To the dead-letter queue, with the reason as application properties."""
        stored = self._unlock(token)
        stored.added_properties.update(properties or {})
        self._to_dead_letters(stored, reason, description)

    def renew(self, token: uuid.UUID) -> float:
        """Hold the lock for its full duration from now; returns until when."""
        stored = self._held(token)
        self._hold(stored)
        return stored.locked_until

    def _held(self, token: uuid.UUID) -> StoredMessage:
        stored = self.locked.get(token)
        if stored is None:
            raise lock_lost()
        return stored

    def _unlock(self, token: uuid.UUID) -> StoredMessage:
        stored = self._held(token)
        del self.locked[token]
        stored.set_alarm(None)
        stored.lock_token = None
        return stored

    def _to_dead_letters(self, stored: StoredMessage, reason: str | None, description: str | None) -> None:
        if self.dead_letters is None:
            self._activate(stored)  # a dead-letter queue has nowhere to put it
            return
        stored.added_properties.update(
            (key, value)
            for key, value in (("DeadLetterReason", reason), ("DeadLetterErrorDescription", description))
            if value is not None
        )
        self.dead_letters.bury(stored, self.path)

    def bury(self, stored: StoredMessage, source: str) -> None:
        """As a dead-letter queue, take a message over from `source`; it no longer expires."""
        self._activate(
            StoredMessage(
                stored.message,
                next(self._sequence),
                stored.enqueued_sequence_number,
                stored.enqueued_at,
                delivery_count=stored.delivery_count,
                dead_letter_source=source,
                added_properties=stored.added_properties,
            )
        )
