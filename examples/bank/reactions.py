"""What one aggregate does because of another. Read `notifications.py` next."""

from __future__ import annotations

from uuid import UUID

from bank.domain import Account, AccountOpened, Customer
from esazure import EventEnvelope, IEventsService
from esazure.handlers import Reactions


def bank_reactions(customers: IEventsService[Customer]) -> Reactions:
    """The second half of opening an account: its owner learns of it.

    The account is written first, so no crash leaves a customer with an account that does not exist. A repeat of the
    message changes nothing: the event's id is the command's.
    """
    reactions = Reactions("reactions")

    @reactions.on(Account, AccountOpened, changes=customers, id=lambda opened: opened.event.owner_id)
    def note_account(customer: Customer, opened: EventEnvelope[AccountOpened]) -> None:
        customer.add_account(UUID(opened.aggregate_id), owner_id=opened.event.owner_id)

    return reactions
