"""A topic: copies every admitted message into the subscriptions whose rules match. Without subscriptions it is dropped.

Duplicate detection and scheduling happen here, before the copies are made (`entities.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from esazure.testing.servicebus.clock import Clock
from esazure.testing.servicebus.entities import Entity
from esazure.testing.servicebus.messages import StoredMessage
from esazure.testing.servicebus.queues import Queue
from esazure.testing.servicebus.rules import Rule


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue and what it wants: None is everything, several rules are alternatives, and no rules want nothing."""

    queue: Queue
    rules: Sequence[Rule] | None

    def wants(self, stored: StoredMessage) -> bool:
        """Whether any rule matches; however many do, there is one copy."""
        return self.rules is None or any(rule.matches(stored.message) for rule in self.rules)


class Topic(Entity):
    """Only senders attach here; receivers attach to the subscriptions."""

    def __init__(self, clock: Clock, path: str, duplicate_detection_window: float | None) -> None:
        super().__init__(clock, path, duplicate_detection_window)
        self.subscriptions: list[Subscription] = []

    def rules(self) -> list[Rule]:
        """The rules of all its subscriptions."""
        return [rule for subscription in self.subscriptions for rule in subscription.rules or ()]

    def _store(self, stored: StoredMessage) -> None:
        for subscription in self.subscriptions:
            if subscription.wants(stored):
                subscription.queue.deliver(stored.message, stored.sequence_number)
