"""Every refusal of the bank; this docstring is the tree.

* BankError
  * InvalidCommandError          the request itself is wrong: a list of (field, message)
  * DomainError                  the rules of the bank say no
    * InvalidValueError          not a name, an e-mail address, a currency, an amount
    * InsufficientFundsError     more than the balance
    * AccountOfAnotherOwnerError the account belongs to somebody else
    * NoRateError                nobody knows the exchange rate

A message can be shown to the customer. None holds a name or an address.
"""

from __future__ import annotations

from collections.abc import Sequence


class BankError(Exception):
    """Base class of everything the bank refuses."""


class InvalidCommandError(BankError):
    """A command that cannot be carried out as it is; all its problems at once."""

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in errors))
        self.errors = tuple(errors)


class DomainError(BankError):
    """A rule of the bank was about to be broken; nothing happened."""


class InvalidValueError(DomainError, ValueError):
    """Not a value of its kind. A ValueError too, so that pydantic collects it with its field."""


class InsufficientFundsError(DomainError):
    """The balance does not cover the withdrawal."""


class AccountOfAnotherOwnerError(DomainError):
    """The account belongs to another customer."""


class NoRateError(DomainError):
    """There is no exchange rate between the two currencies."""
