"""Which messages a subscription wants: correlation filters here, SQL filters in `sql.py`.

Several rules of one subscription are alternatives. Rule actions are not part of the double.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from esazure.testing.servicebus.messages import Message
from esazure.testing.servicebus.sql import parse_sql
from esazure.testing.servicebus.sql_expressions import Expression, comparable


class Rule(Protocol):
    """Decides about one message; made by `correlation_rule` or `sql_rule`, or your own."""

    def matches(self, message: Message) -> bool:
        """Whether the subscription gets a copy."""
        ...


@dataclass(frozen=True, slots=True)
class CorrelationRule:
    """Every named system property and application property is equal."""

    system: Mapping[str, str]
    properties: Mapping[str, Any]

    def matches(self, message: Message) -> bool:
        """Whether all are equal, in type as well as in value."""
        return all(getattr(message, name) == wanted for name, wanted in self.system.items()) and all(
            name in message.properties
            and comparable(message.properties[name], wanted)
            and message.properties[name] == wanted
            for name, wanted in self.properties.items()
        )


@dataclass(frozen=True, slots=True)
class SqlRule:
    """A condition in the service's SQL dialect."""

    text: str
    condition: Expression

    def matches(self, message: Message) -> bool:
        """Whether the condition is true: unknown is not."""
        return self.condition.evaluate(message) is True


def correlation_rule(
    *,
    content_type: str | None = None,
    correlation_id: str | None = None,
    message_id: str | None = None,
    properties: Mapping[str, Any] | None = None,
    reply_to: str | None = None,
    reply_to_session_id: str | None = None,
    session_id: str | None = None,
    subject: str | None = None,
    to: str | None = None,
) -> CorrelationRule:
    """A rule that matches when everything given is equal.

    Raises:
        ValueError: nothing was given; the service refuses that too.
    """
    system = {
        "content_type": content_type,
        "correlation_id": correlation_id,
        "message_id": message_id,
        "reply_to": reply_to,
        "reply_to_session_id": reply_to_session_id,
        "session_id": session_id,
        "subject": subject,
        "to": to,
    }
    wanted = {name: value for name, value in system.items() if value is not None}
    if not wanted and not properties:
        raise ValueError("a correlation rule needs at least one property to compare")
    return CorrelationRule(wanted, dict(properties or {}))


def sql_rule(condition: str) -> SqlRule:
    """A rule with a condition such as `sys.Label = 'created' AND (region IN ('eu', 'uk') OR amount > 10)`.

    Understood: AND, OR, NOT, comparisons, `+ - * / %`, IN, LIKE with ESCAPE, IS NULL, EXISTS(), TRUE, FALSE, NULL,
    numbers, strings in single quotes, `sys.` properties, and application properties with or without `user.`, quoted
    as `[name]` or `"name"`. Logic has three values: what is compared with an absent property is unknown, and unknown
    does not match.

    Raises:
        SqlFilterError: the condition is not in that subset, is over 1,024 characters, or is nested too deep.
    """
    return SqlRule(condition, parse_sql(condition))
