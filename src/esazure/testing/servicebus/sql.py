"""The SQL conditions of subscription rules: text to an expression of `sql_expressions.py`, by recursive descent.

A subset of the service's dialect; see `rules.sql_rule`. Length and nesting are limited: no text exhausts the stack.
"""

import re
from typing import NamedTuple

from esazure.testing.servicebus.sql_expressions import (
    All,
    AnyOf,
    ApplicationProperty,
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    IsKnown,
    Like,
    Negative,
    Not,
    OneOf,
    SystemProperty,
)

MAX_LENGTH = 1024
"""The service's own limit for a condition."""
MAX_NESTING = 24


class SqlFilterError(ValueError):
    """A condition the double cannot read; the text says where."""


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?(?!\w))
      | (?P<string>'(?:[^']|'')*')
      | (?P<symbol><>|!=|<=|>=|[=<>+\-*/%(),])
      | (?P<name>(?:(?:sys|user)\s*\.\s*)?(?:[A-Za-z_]\w*|\[[^\]]+\]|"[^"]+"))
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_SCOPE = re.compile(r"(sys|user)\s*\.\s*", re.IGNORECASE)
_KEYWORDS = frozenset(["and", "or", "not", "in", "like", "escape", "is", "null", "exists", "true", "false"])
_SYSTEM_PROPERTIES = {
    "contenttype": "content_type",
    "correlationid": "correlation_id",
    "label": "subject",
    "messageid": "message_id",
    "replyto": "reply_to",
    "replytosessionid": "reply_to_session_id",
    "sessionid": "session_id",
    "subject": "subject",
    "to": "to",
}


def parse_sql(text: str) -> Expression:
    """The expression a condition stands for.

    Raises:
        SqlFilterError: the text is not in the subset, too long, or nested too deep.
    """
    if len(text) > MAX_LENGTH:
        raise SqlFilterError(f"a condition has at most {MAX_LENGTH} characters, this one {len(text)}")
    return _Parser(_tokens(text)).parse()


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise SqlFilterError(f"cannot read the condition from position {position}: {text[position:][:20]!r}")
        kind, found = match.lastgroup, match.group(match.lastgroup)
        if kind == "name" and found.lower() in _KEYWORDS:
            kind, found = "keyword", found.lower()
        tokens.append(_Token(kind, found, match.start(match.lastgroup)))
        position = match.end()
    tokens.append(_Token("end", "the end", end))
    return tokens


class _Parser:
    """One method per rank of operator, from the loosest to the tightest."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._nesting = 0

    def parse(self) -> Expression:
        expression = self._or()
        if self._token.kind != "end":
            raise self._unexpected()
        return expression

    # ---- tokens

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _accept(self, text: str) -> bool:
        if self._token.kind in {"keyword", "symbol"} and self._token.text == text:
            self._next += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise SqlFilterError(f"expected {text.upper()} at position {self._token.position}: {self._token.text!r}")

    def _unexpected(self) -> SqlFilterError:
        return SqlFilterError(f"did not expect {self._token.text!r} at position {self._token.position}")

    def _deeper(self) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise SqlFilterError(f"nested more than {MAX_NESTING} deep at position {self._token.position}")

    # ---- grammar

    def _or(self) -> Expression:
        parts = [self._and()]
        while self._accept("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else AnyOf(parts)

    def _and(self) -> Expression:
        parts = [self._not()]
        while self._accept("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else All(parts)

    def _not(self) -> Expression:
        if not self._accept("not"):
            return self._predicate()
        self._deeper()
        part = self._not()
        self._nesting -= 1
        return Not(part)

    def _predicate(self) -> Expression:
        left = self._sum()
        if self._accept("is"):
            negated = self._accept("not")
            self._expect("null")
            return IsKnown(left) if negated else Not(IsKnown(left))
        if self._accept("not"):
            return Not(self._membership(left))
        if self._token.text in {"in", "like"} and self._token.kind == "keyword":
            return self._membership(left)
        if self._token.kind == "symbol" and self._token.text in {"=", "<>", "!=", "<", "<=", ">", ">="}:
            return Comparison(left, self._take().text, self._sum())
        return left

    def _membership(self, left: Expression) -> Expression:
        if self._accept("in"):
            self._expect("(")
            choices = [self._sum()]
            while self._accept(","):
                choices.append(self._sum())
            self._expect(")")
            return OneOf(left, choices)
        self._expect("like")
        pattern = self._sum()
        return Like(left, pattern, self._escape() if self._accept("escape") else Constant(None))

    def _escape(self) -> Expression:
        token = self._token
        escape = self._primary()
        if not isinstance(escape, Constant) or not isinstance(escape.value, str) or len(escape.value) != 1:
            raise SqlFilterError(f"ESCAPE takes one character in quotes, at position {token.position}: {token.text!r}")
        return escape

    def _sum(self) -> Expression:
        first = self._product()
        rest: list[tuple[str, Expression]] = []
        while self._token.kind == "symbol" and self._token.text in {"+", "-"}:
            rest.append((self._take().text, self._product()))
        return Arithmetic(first, rest) if rest else first

    def _product(self) -> Expression:
        first = self._primary()
        rest: list[tuple[str, Expression]] = []
        while self._token.kind == "symbol" and self._token.text in {"*", "/", "%"}:
            rest.append((self._take().text, self._primary()))
        return Arithmetic(first, rest) if rest else first

    def _primary(self) -> Expression:
        self._deeper()
        expression = self._value()
        self._nesting -= 1
        return expression

    def _value(self) -> Expression:
        if self._accept("("):
            inner = self._or()
            self._expect(")")
            return inner
        if self._accept("-"):
            return Negative(self._primary())
        if self._accept("+"):
            return self._primary()
        if self._accept("exists"):
            self._expect("(")
            if self._token.kind != "name":
                raise self._unexpected()
            inner = _property(self._take())
            self._expect(")")
            return IsKnown(inner)
        for keyword, value in (("true", True), ("false", False), ("null", None)):
            if self._accept(keyword):
                return Constant(value)
        return self._literal_or_name()

    def _literal_or_name(self) -> Expression:
        token = self._token
        if token.kind not in {"number", "string", "name"}:
            raise self._unexpected()
        self._next += 1
        if token.kind == "number":
            return Constant(int(token.text) if token.text.isdigit() else float(token.text))
        if token.kind == "string":
            return Constant(token.text[1:-1].replace("''", "'"))
        return _property(token)


def _property(token: _Token) -> Expression:
    scope = _SCOPE.match(token.text)
    name = token.text[scope.end() :] if scope else token.text
    if name[0] in '["':
        name = name[1:-1]
    if scope is None or scope.group(1).lower() == "user":
        return ApplicationProperty(name)
    attribute = _SYSTEM_PROPERTIES.get(name.lower())
    if attribute is None:
        raise SqlFilterError(f"unknown system property {token.text!r} at position {token.position}")
    return SystemProperty(attribute)
