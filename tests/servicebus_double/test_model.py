"""The broker's rules without a network and without waiting: locks, sessions, dead letters, schedules, time to live."""

from typing import Any

import pytest

from esazure.testing.servicebus.clock import Clock
from esazure.testing.servicebus.messages import Message, MessageState, StoredMessage
from esazure.testing.servicebus.namespace import Namespace
from esazure.testing.servicebus.queues import Queue, QueueSettings
from esazure.testing.servicebus.refusals import RefusalError
from esazure.testing.servicebus.rules import correlation_rule, sql_rule
from esazure.testing.servicebus.sessions import SessionQueue
from esazure.testing.servicebus.waiting import WaitingLine


class Owner:
    """A consumer that notes what it is told."""

    def __init__(self) -> None:
        self.pumped = 0
        self.lost = 0

    def pump(self) -> None:
        self.pumped += 1

    def session_lost(self) -> None:
        self.lost += 1


@pytest.fixture
def namespace() -> Namespace:
    return Namespace(Clock(lambda: 1_000_000.0))


def queue(namespace: Namespace, name: str = "q", window: float | None = None, **settings: Any) -> Queue:
    return namespace.add_queue(name, QueueSettings(**settings), window)


def session_queue(namespace: Namespace, **settings: Any) -> SessionQueue:
    made = queue(namespace, "sessions", requires_session=True, **settings)
    assert isinstance(made, SessionQueue)
    return made


def fill(target: Queue, *names: str, **fields: Any) -> None:
    """Messages whose subject is the name and whose session, if any is needed, its first letter."""
    target.admit(
        [Message(subject=name, session_id=name[0] if target.requires_session else None, **fields) for name in names]
    )


def names(messages: Any) -> list[str | None]:
    return [stored.message.subject for stored in messages]


def take(source: Queue, session_id: str | None = None) -> StoredMessage:
    stored = source.take(session_id)
    assert stored is not None
    assert stored.lock_token is not None
    return stored


def dead(source: Queue) -> list[tuple[str | None, str | None]]:
    assert source.dead_letters is not None
    return [(s.message.subject, s.added_properties.get("DeadLetterReason")) for s in source.dead_letters.active]


def refused(condition: str) -> Any:
    return pytest.raises(RefusalError, match=condition)


class TestLocks:
    def test_a_completed_message_is_gone(self, namespace: Namespace) -> None:
        q = queue(namespace)
        fill(q, "1")
        q.complete(take(q).lock_token)
        assert [list(q.in_state(state)) for state in MessageState] == [[], [], [], []]

    def test_a_lock_is_settled_once(self, namespace: Namespace) -> None:
        q = queue(namespace)
        fill(q, "1")
        token = take(q).lock_token
        q.complete(token)
        for again in (q.complete, q.abandon, q.defer, q.dead_letter, q.renew):
            with refused("message-lock-lost"):
                again(token)

    def test_an_expired_lock_gives_the_message_back_at_its_place(self, namespace: Namespace) -> None:
        q = queue(namespace, lock_duration=30)
        fill(q, "1", "2", "3")
        token = take(q).lock_token
        namespace.clock.advance(29.9)
        assert names(q.active) == ["2", "3"]
        namespace.clock.advance(0.1)
        assert names(q.active) == ["1", "2", "3"]
        assert take(q).delivery_count == 1
        with refused("message-lock-lost"):
            q.complete(token)

    def test_renewing_counts_from_now(self, namespace: Namespace) -> None:
        q = queue(namespace, lock_duration=30)
        fill(q, "1")
        token = take(q).lock_token
        namespace.clock.advance(20)
        assert q.renew(token) == namespace.clock.now() + 30
        namespace.clock.advance(29)
        q.complete(token)

    def test_released_is_not_a_failed_delivery(self, namespace: Namespace) -> None:
        q = queue(namespace, max_delivery_count=1)
        fill(q, "1")
        q.abandon(take(q).lock_token, failed=False)
        assert [stored.delivery_count for stored in q.active] == [0]

    def test_settled_messages_leave_no_alarm_behind(self, namespace: Namespace) -> None:
        q = queue(namespace, default_ttl=1000)
        for number in range(500):
            fill(q, str(number))
            q.complete(take(q).lock_token)
        assert len(namespace.clock._alarms) < 200
        assert namespace.clock.next_due() is None

    def test_deleting_on_receipt_locks_nothing(self, namespace: Namespace) -> None:
        q = queue(namespace)
        fill(q, "1")
        stored = q.take(delete=True)
        assert stored is not None
        assert stored.lock_token is None
        assert not q.locked


class TestDeadLetters:
    def test_the_last_allowed_delivery_ends_there(self, namespace: Namespace) -> None:
        q = queue(namespace, max_delivery_count=2, lock_duration=5)
        fill(q, "1")
        q.abandon(take(q).lock_token)
        assert dead(q) == []
        take(q)
        namespace.clock.advance(5)
        assert names(q.active) == []
        assert dead(q) == [("1", "MaxDeliveryCountExceeded")]

    def test_a_dead_letter_keeps_its_origin_and_stays(self, namespace: Namespace) -> None:
        q = queue(namespace)
        fill(q, "1")
        q.dead_letter(take(q).lock_token, "bad", "very", {"extra": 1})
        graveyard = q.dead_letters
        assert graveyard is not None
        stored = take(graveyard)
        assert stored.dead_letter_source == "q"
        assert stored.added_properties == {
            "extra": 1,
            "DeadLetterReason": "bad",
            "DeadLetterErrorDescription": "very",
        }
        graveyard.dead_letter(stored.lock_token)
        for _ in range(20):
            graveyard.abandon(take(graveyard).lock_token)
        assert len(graveyard.active) == 1

    def test_dead_letter_queues_take_no_senders(self, namespace: Namespace) -> None:
        q = queue(namespace)
        assert q.accepts_senders
        assert q.dead_letters is not None
        assert not q.dead_letters.accepts_senders


class TestDeferring:
    def test_only_the_number_brings_it_back(self, namespace: Namespace) -> None:
        q = queue(namespace)
        fill(q, "1")
        q.defer(take(q).lock_token, {"why": "later"})
        assert q.take() is None
        with refused("message-not-found"):
            q.receive_deferred([1, 2])
        assert len(q.deferred) == 1
        (stored,) = q.receive_deferred([1])
        assert stored.added_properties == {"why": "later"}
        q.abandon(stored.lock_token)
        assert names(q.deferred.values()) == ["1"]
        q.receive_deferred([1], delete=True)
        assert not q.deferred
        assert not q.locked

    def test_in_a_session_only_its_owner_gets_it(self, namespace: Namespace) -> None:
        q, owner = session_queue(namespace), Owner()
        fill(q, "a")
        q.accept("a", owner)
        q.defer(take(q, "a").lock_token)
        q.release("a", owner)
        with refused("session-lock-lost"):
            q.receive_deferred([1])
        q.accept("a", owner)
        assert names(q.receive_deferred([1])) == ["a"]


class TestSessions:
    def test_one_owner_at_a_time(self, namespace: Namespace) -> None:
        q, first, second = session_queue(namespace), Owner(), Owner()
        q.accept("a", first)
        with refused("session-cannot-be-locked"):
            q.accept("a", second)
        q.release("a", second)
        with refused("session-cannot-be-locked"):
            q.accept("a", second)
        q.release("a", first)
        q.accept("a", second)

    def test_the_next_is_the_free_one_with_the_oldest_message(self, namespace: Namespace) -> None:
        q = session_queue(namespace)
        assert q.next_session() is None
        fill(q, "b1", "a1", "b2")
        assert q.next_session() == "b"
        q.accept("b", Owner())
        assert q.next_session() == "a"
        q.accept("a", Owner())
        assert q.next_session() is None

    def test_a_lost_session_gives_back_everything_and_tells_its_owner(self, namespace: Namespace) -> None:
        q, owner = session_queue(namespace, lock_duration=30), Owner()
        fill(q, "a1", "a2", "a3")
        q.accept("a", owner)
        token = take(q, "a").lock_token
        take(q, "a")
        namespace.clock.advance(20)
        assert q.renew_session("a") == namespace.clock.now() + 30
        namespace.clock.advance(29)
        assert owner.lost == 0
        namespace.clock.advance(1)
        assert owner.lost == 1
        assert names(q.active) == ["a1", "a2", "a3"]
        assert [stored.delivery_count for stored in q.active] == [1, 1, 0]
        with refused("message-lock-lost"):
            q.complete(token)
        with refused("session-lock-lost"):
            q.renew_session("a")

    def test_a_closed_session_gives_back_what_was_received_and_counts_no_delivery(self, namespace: Namespace) -> None:
        q, owner = session_queue(namespace, max_delivery_count=1), Owner()
        fill(q, "a1", "a2")
        for _ in range(3):
            q.accept("a", owner)
            take(q, "a")
            q.release("a", owner)
        assert names(q.active) == ["a1", "a2"]
        assert [stored.delivery_count for stored in q.active] == [0, 0]

    def test_renewing_a_message_renews_its_session(self, namespace: Namespace) -> None:
        q, owner = session_queue(namespace, lock_duration=30), Owner()
        fill(q, "a1")
        q.accept("a", owner)
        stored = take(q, "a")
        namespace.clock.advance(20)
        q.renew(stored.lock_token)
        namespace.clock.advance(20)
        assert stored.locked_until == namespace.clock.now() + 10
        q.complete(stored.lock_token)

    def test_a_session_with_nothing_in_it_is_forgotten(self, namespace: Namespace) -> None:
        q, owner = session_queue(namespace), Owner()
        fill(q, "a", "b")
        q.accept("a", owner)
        q.complete(take(q, "a").lock_token)
        assert q.session_ids() == ["b"]
        q.release("a", owner)
        assert list(q.sessions) == ["b"]
        q.accept("c", owner).state = b""
        q.release("c", owner)
        assert q.session_ids() == ["b", "c"]

    def test_a_message_without_a_session_is_refused_with_all_its_batch(self, namespace: Namespace) -> None:
        q = session_queue(namespace)
        with refused("not-allowed"):
            q.admit([Message(session_id="a"), Message()])
        assert len(q.active) == 0


class TestAdmission:
    def test_a_refused_batch_is_no_duplicate_when_sent_again(self, namespace: Namespace) -> None:
        made = namespace.add_queue("s", QueueSettings(requires_session=True), 60)
        with refused("not-allowed"):
            made.admit([Message(message_id="1", session_id="a"), Message(message_id="2")])
        made.admit([Message(message_id="1", session_id="a")])
        assert len(made.active) == 1

    def test_a_duplicate_is_dropped_until_the_window_has_passed(self, namespace: Namespace) -> None:
        q = queue(namespace, window=60)
        assert q.admit([Message(message_id="1"), Message(message_id="1"), Message(message_id="2")]) == [1, 0, 2]
        namespace.clock.advance(59)
        assert q.admit([Message(message_id="1")]) == [0]
        namespace.clock.advance(1)
        assert q.admit([Message(message_id="1")]) == [3]
        assert len(q.active) == 3

    def test_messages_without_an_id_are_no_duplicates(self, namespace: Namespace) -> None:
        q = queue(namespace, window=60)
        assert q.admit([Message(), Message()]) == [1, 2]

    def test_scheduled_messages_come_in_order_of_time_with_new_numbers(self, namespace: Namespace) -> None:
        q, now = queue(namespace), namespace.clock.now()
        q.admit([Message(subject="late", scheduled_at=now + 20), Message(subject="soon", scheduled_at=now + 10)])
        q.admit([Message(subject="past", scheduled_at=now - 1), Message(subject="cancelled", scheduled_at=now + 5)])
        q.cancel_scheduled([4])
        with refused("message-not-found"):
            q.cancel_scheduled([1, 4])
        assert names(q.active) == ["past"]
        namespace.clock.advance(100)
        assert names(q.active) == ["past", "soon", "late"]
        assert [stored.sequence_number for stored in q.active] == [3, 5, 6]
        assert [stored.enqueued_sequence_number for stored in q.active] == [3, 2, 1]

    @pytest.mark.parametrize(("dead_letters", "buried"), [(True, [("1", "TTLExpiredException")]), (False, [])])
    def test_the_shorter_time_to_live_counts(
        self, *, namespace: Namespace, dead_letters: bool, buried: list[tuple[str, str]]
    ) -> None:
        q = queue(namespace, default_ttl=10, dead_letter_on_expiry=dead_letters)
        fill(q, "1", time_to_live=5)
        fill(q, "2", time_to_live=50)
        namespace.clock.advance(5)
        assert names(q.active) == ["2"]
        assert dead(q) == buried
        namespace.clock.advance(5)
        assert names(q.active) == []

    def test_a_locked_message_expires_when_it_comes_back(self, namespace: Namespace) -> None:
        q = queue(namespace, lock_duration=30, default_ttl=10)
        fill(q, "1")
        stored = take(q)
        namespace.clock.advance(20)
        assert q.locked
        q.abandon(stored.lock_token)
        namespace.clock.catch_up()
        assert q.take() is None

    def test_peeking_sees_every_state_and_respects_start_count_and_session(self, namespace: Namespace) -> None:
        q = session_queue(namespace)
        fill(q, "a1", "b1", "a2", "a3")
        fill(q, "a4", scheduled_at=namespace.clock.now() + 10)
        q.accept("a", Owner())
        take(q, "a")
        q.defer(take(q, "a").lock_token)
        assert names(q.peek(1, 10)) == ["a1", "b1", "a2", "a3", "a4"]
        assert names(q.peek(2, 2)) == ["b1", "a2"]
        assert names(q.peek(1, 10, "a")) == ["a1", "a2", "a3", "a4"]


class TestTopics:
    def test_without_subscriptions_messages_are_accepted_and_dropped(self, namespace: Namespace) -> None:
        assert namespace.add_topic("t").admit([Message(), Message()]) == [1, 2]

    def test_rules_are_alternatives_and_make_one_copy(self, namespace: Namespace) -> None:
        topic = namespace.add_topic("t")
        made = {
            name: namespace.add_subscription(topic, name, QueueSettings(), rules)
            for name, rules in {
                "all": None,
                "none": [],
                "one": [correlation_rule(subject="1")],
                "both": [correlation_rule(subject="1"), sql_rule("sys.Label IN ('1', '2')")],
            }.items()
        }
        topic.admit([Message(subject="1"), Message(subject="2"), Message(subject="3")])
        arrived = {name: names(subscription.active) for name, subscription in made.items()}
        assert arrived == {"all": ["1", "2", "3"], "none": [], "one": ["1"], "both": ["1", "2"]}

    def test_copies_are_settled_apart_and_remember_the_number_in_the_topic(self, namespace: Namespace) -> None:
        topic = namespace.add_topic("t")
        first = namespace.add_subscription(topic, "first", QueueSettings())
        topic.admit([Message(subject="1")])
        second = namespace.add_subscription(topic, "second", QueueSettings())
        topic.admit([Message(subject="2")])
        first.complete(take(first).lock_token)
        assert names(first.active) == names(second.active) == ["2"]
        stored = take(second)
        assert (stored.sequence_number, stored.enqueued_sequence_number) == (1, 2)

    def test_duplicates_are_dropped_before_they_fan_out(self, namespace: Namespace) -> None:
        topic = namespace.add_topic("t", 60)
        subscription = namespace.add_subscription(topic, "s", QueueSettings())
        topic.admit([Message(message_id="1"), Message(message_id="1")])
        assert len(subscription.active) == 1

    def test_a_scheduled_message_fans_out_at_its_time(self, namespace: Namespace) -> None:
        topic = namespace.add_topic("t")
        subscription = namespace.add_subscription(topic, "s", QueueSettings())
        topic.admit([Message(scheduled_at=namespace.clock.now() + 10)])
        assert len(subscription.active) == 0
        namespace.clock.advance(10)
        assert len(subscription.active) == 1

    def test_a_message_without_a_session_is_dead_lettered_by_a_subscription_with_sessions(
        self, namespace: Namespace
    ) -> None:
        topic = namespace.add_topic("t")
        subscription = namespace.add_subscription(topic, "s", QueueSettings(requires_session=True))
        topic.admit([Message(subject="1")])
        assert dead(subscription) == [("1", "Session id is null.")]


class TestNamespace:
    def test_addresses_have_no_case(self, namespace: Namespace) -> None:
        q = queue(namespace, "Some.Queue")
        assert namespace.find("/some.queue/") is q
        assert namespace.find("SOME.QUEUE/$deadletterqueue") is q.dead_letters
        with refused("not-found"):
            namespace.find("other")

    @pytest.mark.parametrize("name", ["", "/", "a//b", " a", "a$b", "$cbs"])
    def test_what_is_no_name_is_refused(self, namespace: Namespace, name: str) -> None:
        with pytest.raises(ValueError, match="not a name"):
            namespace.add_topic(name)

    def test_a_name_is_used_once(self, namespace: Namespace) -> None:
        queue(namespace, "q")
        with pytest.raises(ValueError, match="exists"):
            namespace.add_topic("Q")

    @pytest.mark.parametrize(
        "settings",
        [{"lock_duration": 0}, {"max_delivery_count": 0}, {"default_ttl": 0}],
        ids=lambda each: next(iter(each)),
    )
    def test_settings_that_make_no_sense_are_refused(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(settings))):
            QueueSettings(**settings)

    def test_consumers_of_a_changed_queue_are_woken_in_turn(self, namespace: Namespace) -> None:
        q, other = queue(namespace), queue(namespace, "other")
        first, second, elsewhere = Owner(), Owner(), Owner()
        q.consumers += [first, second]
        other.consumers.append(elsewhere)
        fill(q, "1")
        namespace.wake_consumers()
        assert (first.pumped, second.pumped, elsewhere.pumped) == (1, 1, 0)
        assert q.consumers == [second, first]
        namespace.wake_all_consumers()
        assert elsewhere.pumped == 1


class TestClock:
    def test_alarms_ring_once_in_order_of_time(self) -> None:
        clock, rung = Clock(lambda: 0.0), list[str]()
        clock.alarm(2, lambda: rung.append("two"))
        cancelled = clock.alarm(1, lambda: rung.append("one"))
        clock.alarm(2, lambda: rung.append("two again"))
        clock.alarm(3, lambda: rung.append("three"))
        cancelled.cancel()
        cancelled.cancel()
        assert clock.next_due() == 2
        clock.advance(2)
        clock.advance(0)
        assert rung == ["two", "two again"]
        assert clock.next_due() == 3

    def test_an_alarm_may_set_another_that_is_due_already(self) -> None:
        clock, rung = Clock(lambda: 0.0), list[str]()
        clock.alarm(1, lambda: clock.alarm(1, lambda: rung.append("second")) and None)
        clock.advance(1)
        assert rung == ["second"]

    def test_only_the_earliest_alarm_is_announced(self) -> None:
        clock, announced = Clock(lambda: 0.0), list[float | None]()
        clock.sooner = lambda: announced.append(clock.next_due())
        for due in (5, 7, 3):
            clock.alarm(due, lambda: None)
        assert announced == [5, 3]

    def test_time_does_not_go_back(self) -> None:
        with pytest.raises(ValueError, match="back"):
            Clock().advance(-1)


class TestWaitingLine:
    def test_one_that_comes_back_takes_its_place(self) -> None:
        line = WaitingLine()
        stored = [StoredMessage(Message(), number, number, 0.0) for number in range(5)]
        for one in stored:
            line.add(one)
        line.remove(stored[2])
        line.remove(stored[2])
        line.remove(stored[0])
        assert line.first() is stored[1]
        line.add(stored[0])
        line.add(stored[0])
        assert [one.sequence_number for one in line] == [0, 1, 3, 4]
        for one in list(line):
            line.remove(one)
        assert line.first() is None
        assert len(line) == 0
