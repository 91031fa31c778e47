"""What an SQL condition is made of once it is parsed: expressions that evaluate against a message.

Values are Python's; None is SQL's unknown, which every operator hands on unless the answer does not depend on it.
`sql.py` builds these.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from esazure.testing.servicebus.messages import Message


class Expression(Protocol):
    """A value that depends on a message."""

    def evaluate(self, message: Message) -> Any:
        """The value, or None for unknown; never raises."""


def comparable(left: Any, right: Any) -> bool:
    """Whether two values are of one kind: Python would call True equal to 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool)
    if isinstance(left, int | float) and isinstance(right, int | float):
        return True
    return type(left) is type(right)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    value: Any

    def evaluate(self, message: Message) -> Any:  # noqa: ARG002 - the same for every message
        """Itself."""
        return self.value


@dataclass(frozen=True, slots=True)
class SystemProperty:
    """A property of the message itself, by its name in `Message`."""

    name: str

    def evaluate(self, message: Message) -> Any:
        """Its value; unknown when the message has none."""
        return getattr(message, self.name)


@dataclass(frozen=True, slots=True)
class ApplicationProperty:
    """A property its sender added; the name is matched exactly if possible, and without regard to case otherwise."""

    name: str

    def evaluate(self, message: Message) -> Any:
        """Its value; unknown when the message has none."""
        if self.name in message.properties:
            return message.properties[self.name]
        folded = self.name.casefold()
        return next((value for name, value in message.properties.items() if name.casefold() == folded), None)


@dataclass(frozen=True, slots=True)
class All:
    """AND: one false decides, whatever is unknown."""

    parts: Sequence[Expression]

    def evaluate(self, message: Message) -> bool | None:
        """False, unknown or true."""
        answer: bool | None = True
        for part in self.parts:
            value = part.evaluate(message)
            if value is False:
                return False
            if value is not True:
                answer = None
        return answer


@dataclass(frozen=True, slots=True)
class AnyOf:
    """OR: one true decides, whatever is unknown."""

    parts: Sequence[Expression]

    def evaluate(self, message: Message) -> bool | None:
        """True, unknown or false."""
        answer: bool | None = False
        for part in self.parts:
            value = part.evaluate(message)
            if value is True:
                return True
            if value is not False:
                answer = None
        return answer


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite; of unknown, unknown."""

    part: Expression

    def evaluate(self, message: Message) -> bool | None:
        """The opposite."""
        value = self.part.evaluate(message)
        return not value if isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class IsKnown:
    """IS NOT NULL and EXISTS()."""

    part: Expression

    def evaluate(self, message: Message) -> bool:
        """Whether there is a value."""
        return self.part.evaluate(message) is not None


_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """`= <> != < <= > >=`; values of different kinds compare to unknown."""

    left: Expression
    symbol: str
    right: Expression

    def evaluate(self, message: Message) -> bool | None:
        """The answer, if both sides have values of one kind."""
        left, right = self.left.evaluate(message), self.right.evaluate(message)
        if left is None or right is None or not comparable(left, right):
            return None
        try:
            return bool(_COMPARISONS[self.symbol](left, right))
        except TypeError:  # a kind without an order
            return None


@dataclass(frozen=True, slots=True)
class OneOf:
    """IN: equal to one of the choices."""

    part: Expression
    choices: Sequence[Expression]

    def evaluate(self, message: Message) -> bool | None:
        """As the OR of the comparisons."""
        return AnyOf([Comparison(self.part, "=", choice) for choice in self.choices]).evaluate(message)


@dataclass(frozen=True, slots=True)
class Like:
    """LIKE: `%` is any text, `_` any character, the escape character takes away the meaning of the next."""

    part: Expression
    pattern: Expression
    escape: Expression

    def evaluate(self, message: Message) -> bool | None:
        """Whether the whole text fits the pattern; unknown for what is not text."""
        text, pattern = self.part.evaluate(message), self.pattern.evaluate(message)
        escape = self.escape.evaluate(message)
        if not isinstance(text, str) or not isinstance(pattern, str):
            return None
        return _fits(text, _pattern_steps(pattern, escape))


_ANY_TEXT = ("%", False)
_ANY_CHARACTER = ("_", False)


def _pattern_steps(pattern: str, escape: Any) -> list[tuple[str, bool]]:
    """Each character of the pattern, and whether it stands for itself."""
    steps: list[tuple[str, bool]] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            following = next(characters, None)
            steps.append((character if following is None else following, True))
        else:
            steps.append((character, character not in "%_"))
    return steps


def _fits(text: str, steps: Sequence[tuple[str, bool]]) -> bool:
    """Match by remembering the last `%` only: a regular expression could take exponential time here."""
    at_text = at_step = 0
    last_any, resume_at = -1, 0
    while at_text < len(text):
        if at_step < len(steps) and steps[at_step] == _ANY_TEXT:
            last_any, resume_at = at_step, at_text
            at_step += 1
        elif at_step < len(steps) and steps[at_step] in (_ANY_CHARACTER, (text[at_text], True)):
            at_text += 1
            at_step += 1
        elif last_any >= 0:
            resume_at += 1
            at_text, at_step = resume_at, last_any + 1
        else:
            return False
    return all(step == _ANY_TEXT for step in steps[at_step:])


def _divide(left: float, right: float) -> float:
    if isinstance(left, int) and isinstance(right, int):
        # Integers divide to an integer, towards zero.
        quotient = abs(left) // abs(right)
        return quotient if (left < 0) == (right < 0) else -quotient
    return left / right


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "%": operator.mod,
}


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A chain of operators of equal rank, from left to right."""

    first: Expression
    rest: Sequence[tuple[str, Expression]]

    def evaluate(self, message: Message) -> Any:
        """The number; unknown when an operand is none, or when it has no answer, as a division by zero."""
        result = self.first.evaluate(message)
        for symbol, operand in self.rest:
            value = operand.evaluate(message)
            if symbol == "+" and isinstance(result, str) and isinstance(value, str):
                result += value
                continue
            if not _is_number(result) or not _is_number(value):
                return None
            try:
                result = _ARITHMETIC[symbol](result, value)
            except ArithmeticError:
                return None
        return result


@dataclass(frozen=True, slots=True)
class Negative:
    """The minus before a number."""

    part: Expression

    def evaluate(self, message: Message) -> Any:
        """The number with its sign changed; unknown for anything else."""
        value = self.part.evaluate(message)
        return -value if _is_number(value) else None
