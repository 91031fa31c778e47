"""Letters to customers: the port, and which events they are sent for.

A message that comes again is dropped, so that mostly each letter is sent once. One may be sent again, with the same id,
when between sending it and noting it down a worker dies or loses its lane to another one, or the store is away: sending
and noting are two systems, and nobody can do both or neither. Whoever sends for real gives the id to the provider, many
of which drop a repeat.
"""

from __future__ import annotations

import logging
from typing import Protocol
from uuid import UUID, uuid5

from bank.domain import Account, AccountEvent, AccountOpened, Customer, Deposited, Withdrawn
from bank.views import AccountCard
from esazure import EventEnvelope, IEventsService
from esazure.handlers import EventHandlers
from esazure.inline import InlineViewReader

_log = logging.getLogger("bank.notifications")


class Notifier(Protocol):
    """Sends letters."""

    async def send(self, notification_id: UUID, recipient: str, text: str) -> None:
        """Send one. The same letter has the same id, however often it is sent."""
        ...


class LoggingNotifier:
    """Writes into the log that there was one; addresses and names are not for logs."""

    async def send(self, notification_id: UUID, recipient: str, text: str) -> None:  # noqa: ARG002 - see above
        _log.info("letter %s", notification_id)


def notification_id(envelope: EventEnvelope[AccountEvent], kind: str) -> UUID:
    """From the event and the kind of letter."""
    return uuid5(envelope.event_id, kind)


def bank_notifications(
    notifier: Notifier, customers: IEventsService[Customer], cards: InlineViewReader[Account, AccountCard, UUID]
) -> EventHandlers:
    notifications = EventHandlers("notifications")

    @notifications.on(Account, AccountOpened)
    async def welcome(opened: EventEnvelope[AccountOpened]) -> None:
        owner = await customers.rehydrate(opened.event.owner_id)
        text = f"dear {owner.first_name}, a new account was created for you: {opened.aggregate_id}"
        await notifier.send(notification_id(opened, "opened"), owner.email, text)

    async def transaction(happened: EventEnvelope[Deposited] | EventEnvelope[Withdrawn]) -> None:
        card = await cards.get(UUID(happened.aggregate_id))
        assert card is not None  # it is stored with the account
        owner = await customers.rehydrate(card.owner_id)
        text = f"dear {owner.first_name}, a transaction occurred on your account {happened.aggregate_id}"
        await notifier.send(notification_id(happened, "transaction"), owner.email, text)

    notifications.on(Account, Deposited)(transaction)
    notifications.on(Account, Withdrawn)(transaction)
    return notifications
