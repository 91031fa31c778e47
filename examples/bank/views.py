"""What people look at: three views kept by projections, and one kept with the account itself.

A projection says which events change which view, and esazure keeps the order: nothing is shown twice, and nothing older
over something newer. Read `reactions.py` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from bank.domain import (
    Account,
    AccountAdded,
    AccountOpened,
    Currency,
    CurrencyConverter,
    Customer,
    CustomerCreated,
    Deposited,
    Money,
    Withdrawn,
)
from esazure import EventEnvelope, IEventsService
from esazure.projection import Projection
from esazure.store import Store
from esazure.views import Views


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class CustomerItem(View):
    """A line of the archive."""

    id: UUID
    first_name: str
    last_name: str


class CustomerDetails(View):
    """A customer with all accounts."""

    id: UUID
    first_name: str
    last_name: str
    email: str
    accounts: dict[UUID, Money] = {}

    def total(self, currency: Currency, converter: CurrencyConverter) -> Money:
        """All balances in one currency, at today's rates.

        Raises:
            NoRateError: a balance cannot be exchanged.
        """
        total = Money.zero(currency)
        for balance in self.accounts.values():
            total += balance.exchanged(converter.rate(balance.currency, currency), currency)
        return total


class AccountDetails(View):
    """An account with its owner."""

    id: UUID
    owner_id: UUID
    first_name: str
    last_name: str
    email: str
    balance: Money


class AccountCard(View):
    """An account by itself."""

    id: UUID
    owner_id: UUID
    balance: Money


def account_card(account: Account) -> AccountCard:
    """An inline view: stored in the same transaction as the events, so it is never behind."""
    return AccountCard(id=account.id, owner_id=account.owner_id, balance=account.balance)


@dataclass(frozen=True)
class BankViews:
    """For reading."""

    archive: Views[CustomerItem]
    customers: Views[CustomerDetails]
    accounts: Views[AccountDetails]

    @classmethod
    def of(cls, store: Store) -> Self:
        return cls(
            store.views(CustomerItem, name="archive"),
            store.views(CustomerDetails, name="customers"),
            store.views(AccountDetails, name="accounts"),
        )


def bank_projections(views: BankViews, store: Store, customers: IEventsService[Customer]) -> Sequence[Projection[Any]]:
    """What keeps them up to date. The same in every process."""
    return (
        _archive(views, store),
        _customer_details(views, store, customers),
        _account_details(views, store, customers),
    )


def _archive(views: BankViews, store: Store) -> Projection[CustomerItem]:
    archive = Projection(views.archive, source=store)

    @archive.fold(Customer, CustomerCreated)
    def created(_: CustomerItem | None, envelope: EventEnvelope[CustomerCreated]) -> CustomerItem:
        event = envelope.event
        return CustomerItem(id=UUID(envelope.aggregate_id), first_name=event.first_name, last_name=event.last_name)

    return archive


def _customer_details(
    views: BankViews, store: Store, customers: IEventsService[Customer]
) -> Projection[CustomerDetails]:
    details = Projection(views.customers, source=store)

    async def known(view: CustomerDetails | None, id: UUID) -> CustomerDetails:
        if view is not None:
            return view
        # Each stream is in order for itself: an account may come before its owner.
        owner = await customers.rehydrate(id)
        return CustomerDetails(id=id, first_name=owner.first_name, last_name=owner.last_name, email=owner.email)

    @details.fold(Customer, CustomerCreated)
    def created(view: CustomerDetails | None, envelope: EventEnvelope[CustomerCreated]) -> CustomerDetails:
        event = envelope.event
        return CustomerDetails(
            id=UUID(envelope.aggregate_id),
            first_name=event.first_name,
            last_name=event.last_name,
            email=event.email,
            accounts={} if view is None else view.accounts,
        )

    @details.fold(Customer, AccountAdded)
    async def added(view: CustomerDetails | None, envelope: EventEnvelope[AccountAdded]) -> CustomerDetails:
        # Its balance comes with the account. What counts here is the version, for those who wait for it.
        return await known(view, UUID(envelope.aggregate_id))

    @details.reload(Account, key=lambda account: account.owner_id)
    async def changed(view: CustomerDetails | None, account: Account) -> CustomerDetails:
        view = await known(view, account.owner_id)
        return view.model_copy(update={"accounts": {**view.accounts, account.id: account.balance}})

    return details


def _account_details(views: BankViews, store: Store, customers: IEventsService[Customer]) -> Projection[AccountDetails]:
    details = Projection(views.accounts, source=store)

    @details.fold(Account, AccountOpened)
    async def opened(_: AccountDetails | None, envelope: EventEnvelope[AccountOpened]) -> AccountDetails:
        event = envelope.event
        owner = await customers.rehydrate(event.owner_id)  # once in the life of an account
        return AccountDetails(
            id=UUID(envelope.aggregate_id),
            owner_id=owner.id,
            first_name=owner.first_name,
            last_name=owner.last_name,
            email=owner.email,
            balance=Money.zero(event.currency),
        )

    @details.fold(Account, Deposited)
    def deposited(view: AccountDetails | None, envelope: EventEnvelope[Deposited]) -> AccountDetails:
        assert view is not None  # AccountOpened is always first
        return view.model_copy(update={"balance": view.balance + envelope.event.credited})

    @details.fold(Account, Withdrawn)
    def withdrawn(view: AccountDetails | None, envelope: EventEnvelope[Withdrawn]) -> AccountDetails:
        assert view is not None
        return view.model_copy(update={"balance": view.balance - envelope.event.debited})

    return details
