"""Exchange rates: the port, and rates that never change. Read `account.py` next."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Protocol

from bank.domain.errors import InvalidValueError, NoRateError
from bank.domain.values import Currency


class CurrencyConverter(Protocol):
    """Answers from what it knows already: an aggregate asks it while deciding, so it does no I/O."""

    def rate(self, source: Currency, target: Currency) -> Decimal:
        """How much of `target` one unit of `source` buys; 1 for the same currency.

        Raises:
            NoRateError: nobody knows.
        """
        ...


class FixedRateConverter:
    """The rates it was made with.

    Raises:
        InvalidValueError: a rate is not positive.
    """

    def __init__(self, rates: Mapping[tuple[Currency, Currency], Decimal]) -> None:
        if not all(rate.is_finite() and rate > 0 for rate in rates.values()):
            raise InvalidValueError("an exchange rate is a positive number")
        self._rates = dict(rates)

    def rate(self, source: Currency, target: Currency) -> Decimal:
        """See `CurrencyConverter.rate`."""
        if source is target:
            return Decimal(1)
        try:
            return self._rates[source, target]
        except KeyError:
            raise NoRateError(f"there is no exchange rate from {source} to {target}") from None
