"""The two small structures of an entity: messages waiting in sequence order, and message ids seen lately."""

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from esazure.testing.servicebus.clock import Clock
from esazure.testing.servicebus.messages import StoredMessage


class WaitingLine:
    """Messages by sequence number. One that comes back takes its old place, in logarithmic time."""

    def __init__(self) -> None:
        self._messages: dict[int, StoredMessage] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[StoredMessage]:
        return iter([self._messages[number] for number in sorted(self._messages)])

    def add(self, stored: StoredMessage) -> None:
        """Put it at the place of its sequence number."""
        if stored.sequence_number not in self._messages:
            heapq.heappush(self._order, stored.sequence_number)
        self._messages[stored.sequence_number] = stored

    def remove(self, stored: StoredMessage) -> None:
        """Take it out; nothing happens when it is not here."""
        if self._messages.pop(stored.sequence_number, None) is None:
            return
        # Only the front is cleaned: a number further back is skipped when it gets there.
        while self._order and self._order[0] not in self._messages:
            heapq.heappop(self._order)

    def first(self) -> StoredMessage | None:
        """The one with the lowest sequence number."""
        return self._messages[self._order[0]] if self._order else None


class DuplicateWindow:
    """Message ids seen within the last `seconds`."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._seen: OrderedDict[Any, float] = OrderedDict()

    def is_new(self, message_id: Any) -> bool:
        """Whether this id was not seen within the window; it counts as seen from now on."""
        now = self._clock.now()
        while self._seen and next(iter(self._seen.values())) <= now:
            self._seen.popitem(last=False)
        if message_id is None:
            return True
        if message_id in self._seen:
            return False
        self._seen[message_id] = now + self._seconds
        return True
