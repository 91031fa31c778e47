"""An account: money in one currency, which comes and goes in any."""

from __future__ import annotations

from decimal import Decimal
from typing import Self, assert_never
from uuid import UUID

from bank.domain.converter import CurrencyConverter
from bank.domain.errors import InsufficientFundsError, InvalidValueError
from bank.domain.values import Currency, Money
from esazure import AggregateRoot, DomainEvent


class AccountOpened(DomainEvent):
    event_type = "AccountOpened"

    owner_id: UUID
    currency: Currency


class Deposited(DomainEvent):
    event_type = "Deposited"

    asked: Money
    rate: Decimal
    credited: Money  # in the account's currency; stored, so that replay never computes it anew


class Withdrawn(DomainEvent):
    event_type = "Withdrawn"

    asked: Money
    rate: Decimal
    debited: Money


AccountEvent = AccountOpened | Deposited | Withdrawn


class Account(AggregateRoot[AccountEvent]):
    aggregate_type = "Account"

    owner_id: UUID  # all are set by AccountOpened, which is always first
    balance: Money

    @classmethod
    def open(cls, id: UUID, owner_id: UUID, currency: Currency) -> Self:
        account = cls(id)
        account.record(AccountOpened(owner_id=owner_id, currency=currency))
        return account

    @property
    def currency(self) -> Currency:
        return self.balance.currency

    def deposit(self, money: Money, converter: CurrencyConverter) -> None:
        """Add money of any currency.

        Raises:
            InvalidValueError: not more than nothing, or more than an account can hold.
            NoRateError: the money cannot be exchanged into the account's currency.
        """
        rate, credited = self._exchange(money, converter)
        if credited > Money.most(self.currency) - self.balance:
            raise InvalidValueError("more than an account can hold")
        self.record(Deposited(asked=money, rate=rate, credited=credited))

    def withdraw(self, money: Money, converter: CurrencyConverter) -> None:
        """Take out money of any currency.

        Raises:
            InsufficientFundsError: more than the balance.
            InvalidValueError: not more than nothing.
            NoRateError: the money cannot be exchanged into the account's currency.
        """
        rate, debited = self._exchange(money, converter)
        if debited > self.balance:
            raise InsufficientFundsError(f"account {self.id} holds {self.balance}, which does not cover {money}")
        self.record(Withdrawn(asked=money, rate=rate, debited=debited))

    def when(self, event: AccountEvent) -> None:
        match event:
            case AccountOpened():
                self.owner_id, self.balance = event.owner_id, Money.zero(event.currency)
            case Deposited():
                self.balance += event.credited
            case Withdrawn():
                self.balance -= event.debited
            case _:
                assert_never(event)

    def _exchange(self, money: Money, converter: CurrencyConverter) -> tuple[Decimal, Money]:
        if not money.is_positive:
            raise InvalidValueError("the amount must be more than 0")
        rate = converter.rate(money.currency, self.currency)
        exchanged = money.exchanged(rate, self.currency)
        if not exchanged.is_positive:  # or somebody could withdraw 0.001 for nothing, again and again
            raise InvalidValueError(f"{money} is less than the smallest amount in {self.currency}")
        return rate, exchanged
