"""Every refusal of the bank's rules; this docstring is the tree.

* DomainError
  * InvalidValueError          not a name, an e-mail address, a currency, an amount
  * InsufficientFundsError     more than the balance
  * AccountOfAnotherOwnerError the account belongs to somebody else
  * NoRateError                nobody knows the exchange rate

A message can be shown to the customer. None holds a name or an address.
"""

from __future__ import annotations


class DomainError(Exception):
    """A rule of the bank was about to be broken; nothing happened."""


class InvalidValueError(DomainError, ValueError):
    """Not a value of its kind. A ValueError too, so that pydantic collects it with its field."""


class InsufficientFundsError(DomainError):
    """The balance does not cover the withdrawal."""


class AccountOfAnotherOwnerError(DomainError):
    """The account belongs to another customer."""


class NoRateError(DomainError):
    """There is no exchange rate between the two currencies."""
