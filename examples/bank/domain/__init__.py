"""What the bank is about: no I/O, nothing of Azure. Read `account.py`, `customer.py`, `values.py`."""

from bank.domain.account import Account, AccountEvent, AccountOpened, Deposited, Withdrawn
from bank.domain.converter import CurrencyConverter, FixedRateConverter
from bank.domain.customer import AccountAdded, Customer, CustomerCreated, CustomerEvent
from bank.domain.errors import (
    AccountOfAnotherOwnerError,
    DomainError,
    InsufficientFundsError,
    InvalidValueError,
    NoRateError,
)
from bank.domain.values import Currency, Email, Money, person_name

__all__ = [
    "Account",
    "AccountAdded",
    "AccountEvent",
    "AccountOfAnotherOwnerError",
    "AccountOpened",
    "Currency",
    "CurrencyConverter",
    "Customer",
    "CustomerCreated",
    "CustomerEvent",
    "Deposited",
    "DomainError",
    "Email",
    "FixedRateConverter",
    "InsufficientFundsError",
    "InvalidValueError",
    "Money",
    "NoRateError",
    "Withdrawn",
    "person_name",
]
