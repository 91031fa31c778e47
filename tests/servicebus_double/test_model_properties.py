"""Locks and sessions under any order of events: nothing is lost, nothing is with two receivers, order holds."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from esazure.testing.servicebus.clock import Clock
from esazure.testing.servicebus.messages import Message, MessageState, StoredMessage
from esazure.testing.servicebus.namespace import Namespace
from esazure.testing.servicebus.queues import QueueSettings
from esazure.testing.servicebus.sessions import SessionQueue

LOCK = 30
MAX_DELIVERIES = 3


class Owner:
    """A receiver, and the deliveries it believes to hold."""

    def __init__(self) -> None:
        self.session_id: str | None = None
        self.held: list[StoredMessage] = []

    def pump(self) -> None:
        pass

    def session_lost(self) -> None:
        self.session_id, self.held = None, []


class SessionsMachine(RuleBasedStateMachine):
    """Senders, three receivers and time act on one queue with sessions."""

    @initialize()
    def start(self) -> None:
        self.namespace = Namespace(Clock(lambda: 0.0))
        made = self.namespace.add_queue(
            "q", QueueSettings(requires_session=True, lock_duration=LOCK, max_delivery_count=MAX_DELIVERIES)
        )
        assert isinstance(made, SessionQueue)
        self.queue = made
        self.owners = [Owner() for _ in range(3)]
        self.sent = 0
        self.completed: list[int] = []

    def owner(self, data: Any, *, busy: bool) -> Owner:
        return data.draw(st.sampled_from([one for one in self.owners if (one.session_id is not None) is busy]))

    def some_are(self, *, busy: bool) -> bool:
        return any((one.session_id is not None) is busy for one in self.owners)

    @rule(session_id=st.sampled_from("ab"), count=st.integers(1, 3))
    def send(self, session_id: str, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            self.queue.admit([Message(message_id=self.sent, session_id=session_id)])

    @precondition(lambda self: self.some_are(busy=False) and self.queue.next_session() is not None)
    @rule(data=st.data())
    def accept(self, data: Any) -> None:
        owner, session_id = self.owner(data, busy=False), self.queue.next_session()
        assert session_id is not None
        assert all(one.session_id != session_id for one in self.owners)
        self.queue.accept(session_id, owner)
        owner.session_id = session_id

    @precondition(lambda self: self.some_are(busy=True))
    @rule(data=st.data())
    def receive(self, data: Any) -> None:
        owner = self.owner(data, busy=True)
        stored = self.queue.take(owner.session_id)
        if stored is not None:
            assert stored.message.session_id == owner.session_id
            assert all(stored is not held for one in self.owners for held in one.held)
            owner.held.append(stored)

    @precondition(lambda self: self.some_are(busy=True))
    @rule(data=st.data(), how=st.sampled_from(["complete", "abandon", "release", "defer", "dead_letter"]))
    def settle(self, data: Any, how: str) -> None:
        owner = self.owner(data, busy=True)
        if not owner.held:
            return
        stored = owner.held.pop(0)
        token = stored.lock_token
        assert token is not None
        if how == "release":
            self.queue.abandon(token, failed=False)
        else:
            getattr(self.queue, how)(token)
        if how == "complete":
            self.completed.append(stored.message.message_id)

    @precondition(lambda self: self.some_are(busy=True))
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        owner = self.owner(data, busy=True)
        assert owner.session_id is not None
        assert self.queue.renew_session(owner.session_id) == self.namespace.clock.now() + LOCK

    @precondition(lambda self: self.some_are(busy=True))
    @rule(data=st.data())
    def close(self, data: Any) -> None:
        owner = self.owner(data, busy=True)
        assert owner.session_id is not None
        self.queue.release(owner.session_id, owner)
        owner.session_lost()

    @rule(seconds=st.sampled_from([1, 15, LOCK]))
    def wait(self, seconds: int) -> None:
        self.namespace.clock.advance(seconds)

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert self.queue.dead_letters is not None
        places = [stored.message.message_id for state in MessageState for stored in self.queue.in_state(state)]
        places += [stored.message.message_id for stored in self.queue.dead_letters.active]
        assert sorted(places + self.completed) == list(range(1, self.sent + 1))

    @invariant()
    def what_is_locked_is_what_receivers_hold(self) -> None:
        if not hasattr(self, "queue"):
            return
        held = {stored.lock_token for one in self.owners for stored in one.held}
        assert held == set(self.queue.locked)
        assert all(stored.delivery_count < MAX_DELIVERIES for stored in self.queue.in_state(MessageState.ACTIVE))

    @invariant()
    def lines_are_in_order_and_add_up(self) -> None:
        if not hasattr(self, "queue"):
            return
        in_sessions = sorted(
            stored.sequence_number for session in self.queue.sessions.values() for stored in session.line
        )
        assert in_sessions == [stored.sequence_number for stored in self.queue.active]
        for session in self.queue.sessions.values():
            first = session.line.first()
            assert first is None or first.sequence_number == min(stored.sequence_number for stored in session.line)


SessionsMachine.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
TestSessionsMachine = SessionsMachine.TestCase
