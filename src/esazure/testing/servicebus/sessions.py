"""A queue whose messages are received session by session: one owner at a time, one lock for all it received.

Builds on `queues.py`. The session's lock is the lock of its messages, so losing the first returns the second.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from esazure.testing.servicebus.clock import Alarm, Clock
from esazure.testing.servicebus.messages import Message, StoredMessage
from esazure.testing.servicebus.queues import Consumer, Queue, QueueSettings
from esazure.testing.servicebus.refusals import lock_lost, not_allowed, session_taken
from esazure.testing.servicebus.waiting import WaitingLine


@dataclass(slots=True, eq=False)
class Session:
    """One session id: who holds it until when, its state, and its part of the queue."""

    owner: Consumer | None = None
    locked_until: float = 0.0
    state: bytes | None = field(default=None, repr=False)
    state_changed_at: float = 0.0
    line: WaitingLine = field(default_factory=WaitingLine)
    locked: dict[uuid.UUID, StoredMessage] = field(default_factory=dict[uuid.UUID, StoredMessage])
    alarm: Alarm | None = None


class SessionQueue(Queue):
    """Messages with a session id, in order within the session."""

    def __init__(
        self,
        clock: Clock,
        path: str,
        settings: QueueSettings,
        changed: Callable[[Queue], None],
        *,
        duplicate_detection_window: float | None = None,
        of_subscription: bool = False,
        dead_letters: Queue | None = None,
    ) -> None:
        super().__init__(
            clock,
            path,
            settings,
            changed,
            duplicate_detection_window=duplicate_detection_window,
            of_subscription=of_subscription,
            dead_letters=dead_letters,
        )
        self.sessions: dict[str, Session] = {}

    # ---- messages

    def _check(self, message: Message) -> None:
        if message.session_id is None:
            raise not_allowed(
                "The SessionId was not set on a message, and it cannot be sent to the entity. Entities that have "
                "session support enabled can only receive messages that have the SessionId set to a valid value."
            )

    def _store(self, stored: StoredMessage) -> None:
        if stored.message.session_id is None:
            text = "Session enabled entity doesn't allow a message whose session identifier is null."
            self._to_dead_letters(stored, "Session id is null.", text)
        else:
            super()._store(stored)

    def _line(self, session_id: str | None) -> WaitingLine:
        return self._session(session_id).line

    def _session(self, session_id: str | None) -> Session:
        # None never gets here: such a message was refused or dead-lettered on its way in.
        return self.sessions.setdefault(session_id or "", Session())

    def _leave_line(self, stored: StoredMessage) -> None:
        super()._leave_line(stored)
        self._line(stored.message.session_id).remove(stored)
        self._forget_if_empty(stored.message.session_id)

    def _hold(self, stored: StoredMessage) -> None:
        session = self._session(stored.message.session_id)
        stored.locked_until = session.locked_until
        if stored.lock_token is not None:
            session.locked[stored.lock_token] = stored

    def _unlock(self, token: uuid.UUID) -> StoredMessage:
        stored = super()._unlock(token)
        self._session(stored.message.session_id).locked.pop(token, None)
        return stored

    def receive_deferred(self, sequence_numbers: Sequence[int], *, delete: bool = False) -> list[StoredMessage]:
        """As the queue's, and only for sessions that are held."""
        for number in sequence_numbers:
            if number in self.deferred:
                self.held_session(self.deferred[number].message.session_id or "")
        return super().receive_deferred(sequence_numbers, delete=delete)

    def renew(self, token: uuid.UUID) -> float:
        """Renewing a message of a session renews the session: there is no other lock."""
        return self.renew_session(self._held(token).message.session_id or "")

    # ---- sessions

    def next_session(self) -> str | None:
        """The free session whose first message is the oldest."""
        candidates = [
            (first.sequence_number, session_id)
            for session_id, session in self.sessions.items()
            if session.owner is None and (first := session.line.first()) is not None
        ]
        return min(candidates)[1] if candidates else None

    def accept(self, session_id: str, owner: Consumer) -> Session:
        """Lock a session, which need not have messages.

        Raises:
            RefusalError: somebody else holds it.
        """
        session = self._session(session_id)
        if session.owner not in (None, owner):
            raise session_taken(session_id)
        session.owner = owner
        self._extend(session_id, session)
        return session

    def renew_session(self, session_id: str) -> float:
        """Hold the session, and all its messages, for the full duration from now; returns until when."""
        session = self.held_session(session_id)
        self._extend(session_id, session)
        return session.locked_until

    def release(self, session_id: str, owner: Consumer) -> None:
        """The owner's link is gone: the session is free at once."""
        session = self.sessions.get(session_id)
        if session is not None and session.owner is owner:
            self._free(session_id, session, failed=False)

    def held_session(self, session_id: str) -> Session:
        """The session, if somebody holds it.

        Raises:
            RefusalError: nobody does, so the caller's lock is lost.
        """
        session = self.sessions.get(session_id)
        if session is None or session.owner is None:
            raise lock_lost("session")
        return session

    def set_state(self, session_id: str, state: bytes | None) -> None:
        """Keep a state with a session that is held, or with None forget it."""
        session = self.held_session(session_id)
        session.state, session.state_changed_at = state, self.clock.now()

    def session_ids(self, updated_after: float | None = None) -> list[str]:
        """Every session that has messages, received or not, or a state; or whose state was set after a time."""
        return sorted(
            session_id
            for session_id, session in self.sessions.items()
            if (session.state is not None and (updated_after is None or session.state_changed_at > updated_after))
            or (updated_after is None and (len(session.line) or session.locked))
        )

    def _extend(self, session_id: str, session: Session) -> None:
        session.locked_until = self.clock.now() + self.settings.lock_duration
        if session.alarm is not None:
            session.alarm.cancel()
        session.alarm = self.clock.alarm(session.locked_until, lambda: self._lose(session_id, session))
        for stored in session.locked.values():
            stored.locked_until = session.locked_until

    def _lose(self, session_id: str, session: Session) -> None:
        owner = session.owner
        self._free(session_id, session, failed=True)
        if owner is not None:
            owner.session_lost()

    def _free(self, session_id: str, session: Session, *, failed: bool) -> None:
        # Microsoft's page "Message sessions" ("Impact of delivery count"): the count of what was not completed goes up
        # when the lock of the session expires, and stays when the session is closed. A broken connection closes it.
        session.owner = None
        if session.alarm is not None:
            session.alarm.cancel()
            session.alarm = None
        for token in list(session.locked):
            self.abandon(token, failed=failed)
        self._forget_if_empty(session_id)
        self._changed(self)

    def _forget_if_empty(self, session_id: str | None) -> None:
        session = self.sessions.get(session_id or "")
        if session is None or session.owner is not None or session.state is not None:
            return
        if not len(session.line) and not session.locked:
            del self.sessions[session_id or ""]
