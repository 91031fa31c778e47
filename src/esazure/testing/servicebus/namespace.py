"""All entities by address, and the consumers to wake when one of them changed.

The model ends here: it has no I/O and no thread. `broker.py` runs it, `double.py` is how users see it.
"""

from collections.abc import Sequence

from esazure.testing.servicebus.clock import Clock
from esazure.testing.servicebus.entities import Entity
from esazure.testing.servicebus.limits import MOST_SQL_RULES, MOST_SUBSCRIPTIONS, check_name, check_path
from esazure.testing.servicebus.queues import Queue, QueueSettings
from esazure.testing.servicebus.refusals import disabled, not_found
from esazure.testing.servicebus.rules import Rule, SqlRule
from esazure.testing.servicebus.sessions import SessionQueue
from esazure.testing.servicebus.topics import Subscription, Topic

DEAD_LETTER_SUFFIX = "/$DeadLetterQueue"
TRANSFER_SUFFIX = "/$Transfer/$DeadLetterQueue"


class Namespace:
    """Addresses are case-insensitive, as on the service."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self._entities: dict[str, Entity] = {}
        # A dict keeps the order of change, so that a run can be repeated.
        self._changed: dict[Queue, None] = {}

    def add_queue(self, name: str, settings: QueueSettings, duplicate_detection_window: float | None = None) -> Queue:
        """A queue and its dead-letter queues."""
        check_path(name)
        return self._add_queue(name, settings, duplicate_detection_window, of_subscription=False)

    def add_topic(self, name: str, duplicate_detection_window: float | None = None) -> Topic:
        """A topic without subscriptions."""
        check_path(name)
        topic = Topic(self.clock, name, duplicate_detection_window)
        self._register(topic)
        return topic

    def add_subscription(
        self, topic: Topic, name: str, settings: QueueSettings, rules: Sequence[Rule] | None = None
    ) -> Queue:
        """A subscription and its dead-letter queues."""
        check_name(name)
        if len(topic.subscriptions) >= MOST_SUBSCRIPTIONS:
            raise ValueError(f"a topic has at most {MOST_SUBSCRIPTIONS} subscriptions")
        if sum(isinstance(rule, SqlRule) for rule in (*topic.rules(), *(rules or ()))) > MOST_SQL_RULES:
            raise ValueError(f"a topic has at most {MOST_SQL_RULES} SQL filters")
        path = f"{topic.path}/Subscriptions/{name}"
        queue = self._add_queue(path, settings, None, of_subscription=True)
        topic.subscriptions.append(Subscription(queue, None if rules is None else tuple(rules)))
        return queue

    def find(self, path: str) -> Entity:
        """The entity at an address, disabled or not.

        Raises:
            RefusalError: there is none.
        """
        entity = self.lookup(path)
        if entity is None:
            raise not_found(path)
        return entity

    def lookup(self, path: str) -> Entity | None:
        """The entity at an address, or None."""
        return self._entities.get(path.strip("/").lower())

    def find_enabled(self, path: str) -> Entity:
        """The entity at an address.

        Raises:
            RefusalError: there is none, or it is disabled.
        """
        entity = self.find(path)
        if entity.disabled:
            raise disabled(path)
        return entity

    def wake_consumers(self) -> None:
        """Let the consumers of every changed queue take what there is, each queue's in turn."""
        while self._changed:
            queue = next(iter(self._changed))
            del self._changed[queue]
            for consumer in list(queue.consumers):
                consumer.pump()
            queue.consumers[:] = queue.consumers[1:] + queue.consumers[:1]

    def wake_all_consumers(self) -> None:
        """As if every queue had changed."""
        self._changed.update((entity, None) for entity in self._entities.values() if isinstance(entity, Queue))
        self.wake_consumers()

    def _add_queue(self, path: str, settings: QueueSettings, window: float | None, *, of_subscription: bool) -> Queue:
        dead_letters = Queue(
            self.clock,
            path + DEAD_LETTER_SUFFIX,
            QueueSettings(lock_duration=settings.lock_duration),
            self._note_change,
            of_subscription=of_subscription,
        )
        kind = SessionQueue if settings.requires_session else Queue
        queue = kind(
            self.clock,
            path,
            settings,
            self._note_change,
            duplicate_detection_window=window,
            of_subscription=of_subscription,
            dead_letters=dead_letters,
        )
        self._register(queue)
        self._register(dead_letters)
        # Messages that could not be forwarded come here. Nothing is forwarded in the double, so it stays empty.
        self._register(
            Queue(
                self.clock,
                path + TRANSFER_SUFFIX,
                QueueSettings(lock_duration=settings.lock_duration),
                self._note_change,
                of_subscription=of_subscription,
            )
        )
        return queue

    def _register(self, entity: Entity) -> None:
        key = entity.path.lower()
        if key in self._entities:
            raise ValueError(f"'{entity.path}' exists already")
        self._entities[key] = entity

    def _note_change(self, queue: Queue) -> None:
        self._changed[queue] = None
