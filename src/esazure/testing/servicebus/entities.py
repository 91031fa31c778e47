"""What queues and topics share: taking messages in, all or none, and holding the scheduled ones.

Single-threaded by contract: the broker calls it on its loop. No I/O. `queues.py` and `topics.py` say where an admitted
message goes.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from esazure.testing.servicebus.clock import Clock
from esazure.testing.servicebus.limits import check_message, check_window
from esazure.testing.servicebus.messages import Message, MessageState, StoredMessage
from esazure.testing.servicebus.refusals import message_not_found
from esazure.testing.servicebus.waiting import DuplicateWindow

DEDUPLICATED = 0
"""The sequence number that answers for a scheduled message dropped as a duplicate."""


class Entity(ABC):
    """Something with an address that a link can attach to."""

    def __init__(self, clock: Clock, path: str, duplicate_detection_window: float | None) -> None:
        check_window(duplicate_detection_window)
        self.clock = clock
        self.path = path
        self.disabled = False
        self.scheduled: dict[int, StoredMessage] = {}
        self._sequence = itertools.count(1)
        self._window = (
            None if duplicate_detection_window is None else DuplicateWindow(clock, duplicate_detection_window)
        )

    @property
    def accepts_senders(self) -> bool:
        """Whether a client may send here."""
        return True

    def admit(self, messages: Sequence[Message]) -> list[int]:
        """Take in all messages or, by raising, none; returns their sequence numbers, 0 for a duplicate.

        Raises:
            RefusalError: one of them cannot be taken.
        """
        for message in messages:
            check_message(message)
            self._check(message)
        return [self._admit_one(message) for message in messages]

    def cancel_scheduled(self, sequence_numbers: Iterable[int]) -> None:
        """Forget these scheduled messages, all or none."""
        wanted = list(dict.fromkeys(sequence_numbers))
        for number in wanted:
            if number not in self.scheduled:
                raise message_not_found(number)
        for number in wanted:
            self.scheduled.pop(number).set_alarm(None)

    def in_state(self, state: MessageState) -> Iterable[StoredMessage]:
        """Every message in this state, in no order."""
        return self.scheduled.values() if state is MessageState.SCHEDULED else ()

    def _check(self, message: Message) -> None:  # noqa: ARG002 - for `sessions.py`
        """Raise what this message is refused with; must change nothing."""
        return  # most entities take everything

    @abstractmethod
    def _store(self, stored: StoredMessage) -> None:
        """Put an admitted message where receivers find it."""

    def _admit_one(self, message: Message) -> int:
        if self._window is not None and not self._window.is_new(message.message_id):
            return DEDUPLICATED
        number = next(self._sequence)
        now = self.clock.now()
        stored = StoredMessage(message, number, number, now)
        due = None if message.scheduled_at is None else self.clock.heard(message.scheduled_at)
        if due is None or due <= now:
            self._store(stored)
            return number
        stored.state = MessageState.SCHEDULED
        stored.set_alarm(self.clock.alarm(due, lambda: self._activate_scheduled(number)))
        self.scheduled[number] = stored
        return number

    def _activate_scheduled(self, number: int) -> None:
        scheduled = self.scheduled.pop(number)
        # As in the service, the message gets a new sequence number: it counts as sent now.
        self._store(StoredMessage(scheduled.message, next(self._sequence), number, self.clock.now()))
