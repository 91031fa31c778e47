"""The bank put together: from a store, and on Azure a producer, to handlers, views and a consumer.

The same for every backend and every process, because projections and inline views must be the same wherever events are
stored or handled. Read `backends.py` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from bank.commands import Bank
from bank.domain import Account, Currency, CurrencyConverter, Customer, FixedRateConverter
from bank.notifications import Notifier, bank_notifications
from bank.reactions import bank_reactions
from bank.views import BankViews, account_card, bank_projections
from esazure import EventsService, IEventProducer
from esazure.consumer import Consumer
from esazure.handlers import IHandlerSet
from esazure.store import Store

EUR, CAD, USD = Currency.EUR, Currency.CAD, Currency.USD

RATES = FixedRateConverter(
    {
        (USD, EUR): Decimal("0.92"),
        (USD, CAD): Decimal("1.36"),
        (CAD, EUR): Decimal("0.68"),
        (CAD, USD): Decimal("0.735"),
        (EUR, CAD): Decimal("1.47"),
        (EUR, USD): Decimal("1.087"),
    }
)


class BankSystem:
    """Everything a process needs, whichever part of the bank it is."""

    def __init__(
        self,
        store: Store,
        producer: IEventProducer | None = None,
        *,
        notifier: Notifier,
        converter: CurrencyConverter = RATES,
        also: Sequence[IHandlerSet] = (),
    ) -> None:
        # Who has no producer delivers in this process, out of the outbox.
        accounts = store.events(Account, views=[account_card], outbox=True)
        self.store = store
        self.bank = Bank(
            EventsService(store.events(Customer, outbox=True), producer),
            EventsService(accounts, producer),
            store.unique_values("email"),
            converter,
        )
        self.views = BankViews.of(store)
        self.cards = accounts.view(account_card)
        self.projections = bank_projections(self.views, store, self.bank.customers)
        self.consumer = Consumer(
            "bank",
            [
                *self.projections,
                bank_reactions(self.bank.customers),
                bank_notifications(notifier, self.bank.customers, self.cards),
                *also,
            ],
            positions=store,
            source=store,
        )
