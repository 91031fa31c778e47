"""Value objects: what cannot be wrong once it exists. Money, Currency, Email. Read `converter.py` next.

All arithmetic on amounts is here. An amount is a whole number of minor units (cents); only an exchange can produce a
fraction of one, and `Money.exchanged` rounds it half to even, so that rounding favours neither side in the long run.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from enum import StrEnum
from typing import ClassVar, Self

from pydantic import ConfigDict

from bank.domain.errors import InvalidValueError

_SYMBOLS = {"EUR": "€", "CAD": "CA$", "USD": "US$"}  # for display only: free to change, stored nowhere
_MOST = Decimal(10) ** 15
_MOST_OF_ALL = Decimal(10) ** 24  # a total over very many full accounts, in whatever currency
# Wide enough that nothing is rounded before `quantize` does; what is too large for it, is for `quantize`.
_EXACT = Context(prec=80, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])
_MOST_CHARACTERS_OF_AN_EMAIL = 254
_MOST_CHARACTERS_OF_A_NAME = 200
_BREAKS_TEXT = {"Cc", "Cs", "Zl", "Zp"}  # controls, lone surrogates, separators of lines and paragraphs
_SHOWS = ("L", "N", "P", "S")
_SHOWS_NOTHING = (
    "\u115f\u1160\u2800\u3164\uffa0"  # fillers and a blank, which Unicode has among the letters and symbols
)
_EMAIL = re.compile(r"[^\s@]+@[^\s@.]+(?:\.[^\s@.]+)+")


class Currency(StrEnum):
    """By ISO 4217 code, and only the code is stored. A member is never removed: old events name it."""

    EUR = "EUR"
    CAD = "CAD"
    USD = "USD"

    @classmethod
    def _missing_(cls, value: object) -> Self:
        code = str(value).strip().upper()
        if code not in cls.__members__:
            raise InvalidValueError(f"not a currency of this bank: use one of {', '.join(cls)}")
        return cls(code)

    @property
    def symbol(self) -> str:
        """For people."""
        return _SYMBOLS.get(self, self)

    @property
    def minor_unit(self) -> Decimal:
        """The smallest amount there is."""
        return Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount in one currency; negative amounts are differences.

    A total is Money, too, so this goes far beyond what a payment can be and an account can hold: that is `most`.

    Raises:
        InvalidValueError: not a finite Decimal, a fraction of a minor unit, or beyond 10^24.
    """

    amount: Decimal
    currency: Currency

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if not self.amount.is_finite() or not -_MOST_OF_ALL <= self.amount <= _MOST_OF_ALL:
            raise InvalidValueError(f"an amount is a number up to {_MOST_OF_ALL:,f}")
        exact = _in_minor_units(self.amount, self.currency)
        if exact != self.amount:
            raise InvalidValueError(f"an amount in {self.currency} has no fractions of {self.currency.minor_unit}")
        object.__setattr__(self, "amount", exact)  # 5 and 5.00 are stored alike

    @classmethod
    def of(cls, amount: str | int, currency: str) -> Self:
        """From text or whole numbers: `Money.of("12.50", "EUR")`."""
        try:
            return cls(Decimal(amount), Currency(currency))
        except InvalidOperation:
            raise InvalidValueError("an amount is a number") from None

    @classmethod
    def most(cls, currency: Currency) -> Self:
        """The most a payment can be, and an account can hold: 10^15."""
        return cls(_MOST, currency)

    @classmethod
    def zero(cls, currency: Currency) -> Self:
        """Nothing, but in a currency."""
        return cls(Decimal(0), currency)

    @property
    def is_positive(self) -> bool:
        """More than nothing."""
        return self.amount > 0

    def exchanged(self, rate: Decimal, currency: Currency) -> Money:
        """The same value in another currency, rounded half to even to its minor unit."""
        return Money(_in_minor_units(_EXACT.multiply(self.amount, rate), currency), currency)

    def __add__(self, other: Money) -> Money:
        return Money(_EXACT.add(self.amount, self._same_currency(other).amount), self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(_EXACT.subtract(self.amount, self._same_currency(other).amount), self.currency)

    def __gt__(self, other: Money) -> bool:
        return self.amount > self._same_currency(other).amount

    def __str__(self) -> str:
        return f"{self.amount:,f} {self.currency.symbol}"

    def _same_currency(self, other: Money) -> Money:
        if other.currency is not self.currency:
            raise InvalidValueError(
                f"{other.currency} and {self.currency} need an exchange rate to be compared or added"
            )
        return other


@dataclass(frozen=True, slots=True)
class Email:
    """An address in the one form it is stored and compared in: trimmed, case-folded, Unicode NFC.

    Raises:
        InvalidValueError: not `somebody@some.where`, or over 254 characters.
    """

    text: str

    def __post_init__(self) -> None:
        # Decomposed before and composed after: equivalent spellings fold alike, and folding can leave text decomposed.
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", self.text.strip()).casefold())
        if len(text) > _MOST_CHARACTERS_OF_AN_EMAIL or not _EMAIL.fullmatch(text) or not text.isprintable():
            raise InvalidValueError("not an e-mail address")
        object.__setattr__(self, "text", text)

    def __str__(self) -> str:
        return self.text


def person_name(text: str) -> str:
    """A name, trimmed and in Unicode NFC. It goes into letters, so it is one line that people can see.

    Joiners, which some scripts need, are part of a name.

    Raises:
        InvalidValueError: blank, over 200 characters, or with characters that no name has, such as a line break.
    """
    name = unicodedata.normalize("NFC", text.strip())
    # Of the text: what is trimmed may be a space, but no line break either.
    if name and not _BREAKS_TEXT.isdisjoint(unicodedata.category(character) for character in text):
        raise InvalidValueError("must not have line breaks or control characters")
    if not any(
        unicodedata.category(character).startswith(_SHOWS) and character not in _SHOWS_NOTHING for character in name
    ):
        raise InvalidValueError("must not be blank")
    if len(name) > _MOST_CHARACTERS_OF_A_NAME:
        raise InvalidValueError(f"must have at most {_MOST_CHARACTERS_OF_A_NAME} characters")
    return name


def _in_minor_units(amount: Decimal, currency: Currency) -> Decimal:
    try:
        return amount.quantize(currency.minor_unit, context=_EXACT)
    except InvalidOperation:
        raise InvalidValueError(f"an amount is a number up to {_MOST_OF_ALL:,f}") from None
