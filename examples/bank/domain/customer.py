"""A customer: who they are and which accounts are theirs."""

from __future__ import annotations

from typing import Self, assert_never
from uuid import UUID

from bank.domain.errors import AccountOfAnotherOwnerError
from bank.domain.values import Email, person_name
from esazure import AggregateRoot, DomainEvent

# Stored names are pinned: classes may be renamed, what is stored may not. An event keeps plain text where a rule may
# become stricter one day: what was accepted then must stay readable.


class CustomerCreated(DomainEvent):
    event_type = "CustomerCreated"

    first_name: str
    last_name: str
    email: str


class AccountAdded(DomainEvent):
    event_type = "AccountAdded"

    account_id: UUID


CustomerEvent = CustomerCreated | AccountAdded


class Customer(AggregateRoot[CustomerEvent]):
    aggregate_type = "Customer"

    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.first_name = self.last_name = self.email = ""
        self.accounts: set[UUID] = set()

    @classmethod
    def create(cls, id: UUID, first_name: str, last_name: str, email: Email) -> Self:
        """A new customer.

        Raises:
            InvalidValueError: not a name, see `person_name`.
        """
        customer = cls(id)
        customer.record(
            CustomerCreated(first_name=person_name(first_name), last_name=person_name(last_name), email=str(email))
        )
        return customer

    def add_account(self, account_id: UUID, *, owner_id: UUID) -> None:
        """Take note of an account; a second time changes nothing.

        Raises:
            AccountOfAnotherOwnerError: `owner_id` is somebody else.
        """
        if owner_id != self.id:
            raise AccountOfAnotherOwnerError(f"account {account_id} belongs to another customer")
        if account_id not in self.accounts:
            self.record(AccountAdded(account_id=account_id))

    def when(self, event: CustomerEvent) -> None:
        match event:
            case CustomerCreated():
                self.first_name, self.last_name, self.email = event.first_name, event.last_name, event.email
            case AccountAdded():
                self.accounts.add(event.account_id)
            case _:
                assert_never(event)
