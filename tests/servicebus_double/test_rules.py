"""Subscription rules: correlation filters and SQL conditions, with three-valued logic."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esazure.testing.servicebus import SqlFilterError, correlation_rule, sql_rule
from esazure.testing.servicebus.messages import Message
from esazure.testing.servicebus.sql import MAX_LENGTH, MAX_NESTING

MESSAGE = Message(
    message_id="1",
    subject="created",
    session_id="s",
    correlation_id="c",
    content_type="application/json",
    reply_to="r",
    reply_to_session_id="rs",
    properties={
        "region": "eu",
        "n": 5,
        "half": 0.5,
        "ok": True,
        "Mixed Case": "it's",
        "percent": "100%",
        "under": "a_b",
        "bytes": b"x",
        "id": "é",
    },
)


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ("1=1", True),
        ("sys.Label='created' AND region='eu'", True),
        ("sys.Subject = 'created' and SYS.MessageId = '1' and sys.SessionId='s'", True),
        ("sys.CorrelationId='c' AND sys.ContentType='application/json' AND sys.ReplyTo='r'", True),
        ("sys.ReplyToSessionId = 'rs' AND sys.To IS NULL", True),
        ("n > 4 AND n <= 5 AND n >= 5 AND n < 6 AND n <> 4 AND n != 4", True),
        ("n = 5.0", True),
        ("n+1=6", True),
        ("n - 1 - 1 = 3", True),
        ("2 + n * 2 = 12", True),
        ("(2 + n) * 2 = 14", True),
        ("n / 2 = 2 AND -n / 2 = -2", True),
        ("n / 2.0 = 2.5", True),
        ("n % 3 = 2", True),
        ("half * 2 = 1", True),
        ("-n = -5 AND +n = 5 AND - -n = 5", True),
        ("1e1 = 10 AND .5 = half AND 1. = 1", True),
        ("region + '-west' = 'eu-west'", True),
        ("region IN ('us','eu')", True),
        ("region NOT IN ('eu')", False),
        ("region IN ('us', missing)", False),
        ("region NOT IN ('us', missing)", False),
        ("missing NOT IN ('eu')", False),
        ("region LIKE 'e%'", True),
        ("region LIKE 'e_'", True),
        ("region LIKE 'e'", False),
        ("region LIKE '%'", True),
        ("region LIKE '%u%'", True),
        ("region LIKE '_%_%'", True),
        ("region LIKE '___'", False),
        ("region NOT LIKE 'u%'", True),
        ("percent LIKE '100!%' ESCAPE '!'", True),
        ("percent LIKE '1!0!0!%' ESCAPE '!'", True),
        ("region LIKE 'e!%' ESCAPE '!'", False),
        ("under LIKE 'a$_b' ESCAPE '$'", True),
        ("region LIKE 'eu!' ESCAPE '!'", False),
        ("n LIKE '5'", False),
        ("missing = 1", False),
        ("NOT missing = 1", False),
        ("missing <> 1", False),
        ("missing IS NULL", True),
        ("missing IS NOT NULL", False),
        ("n IS NOT NULL", True),
        ("missing = NULL", False),
        ("NULL IS NULL", True),
        ("EXISTS(n) AND NOT EXISTS(zz)", True),
        ("exists(sys.Label)", True),
        ("ok = TRUE AND ok <> false", True),
        ("ok", True),
        ("NOT ok", False),
        ("n", False),
        ("NOT n", False),
        ("ok = 1", False),
        ("NOT ok = 1", False),
        ("region = 5", False),
        ("region < 'ez' AND region > 'ea'", True),
        ("bytes < bytes", False),
        ("(n=1 OR n=5) AND sys.to IS NULL", True),
        ("n=1 OR n=5 AND region='us'", False),
        ("region='us' OR missing=1", False),
        ("missing=1 OR region='eu'", True),
        ("missing=1 AND region='us'", False),
        ("NOT (missing=1 AND region='us')", True),
        ("NOT (missing=1 AND region='eu')", False),
        ("NOT (missing=1 OR region='us')", False),
        ("NOT NOT region='eu'", True),
        ("user.n = 5 AND USER . n = 5 AND N = 5", True),
        ("[Mixed Case] = 'it''s' AND user.[mixed case] = 'it''s'", True),
        ("\"Mixed Case\" LIKE 'it%'", True),
        ("id = 'é'", True),
        ("n / 0 = 1", False),
        ("n % 0 = 1 OR region='eu'", True),
        ("n + missing = 5", False),
        ("ok + 1 = 2", False),
        ("-region = 1", False),
        ("1e308 * 10 > 1", True),
        ("n-1=4", True),
        ("  n\n=\t5  ", True),
    ],
)
def test_sql(*, condition: str, matches: bool) -> None:
    assert sql_rule(condition).matches(MESSAGE) is matches


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "   ",
        "n =",
        "= n",
        "sys.nope=1",
        "a = = 1",
        "(",
        "(n=1",
        "n=1)",
        "n IN ()",
        "n IN (1",
        "n NOT 5",
        "n IS 5",
        "n LIKE 'a' ESCAPE 'ab'",
        "n LIKE 'a' ESCAPE n",
        "n LIKE 'a' ESCAPE 5",
        "EXISTS(5)",
        "EXISTS n",
        "'open",
        "[open",
        "[]",
        "n # 5",
        "1abc = 1",
        "n = 1 2",
        "AND",
        "n = 1 AND",
        "x" * (MAX_LENGTH + 1),
        "(" * (MAX_NESTING + 1) + "1=1" + ")" * (MAX_NESTING + 1),
        "(" * 500 + ")" * 500,
        "NOT " * (MAX_NESTING + 1) + "1=1",
        "- " * (MAX_NESTING + 1) + "1=1",
    ],
)
def test_what_is_not_in_the_subset_is_an_error_at_once(condition: str) -> None:
    with pytest.raises(SqlFilterError):
        sql_rule(condition)
    assert issubclass(SqlFilterError, ValueError)


def test_long_conditions_are_fine_as_long_as_they_are_flat() -> None:
    assert sql_rule(" OR ".join(["n=1"] * 100 + ["n=5"])).matches(MESSAGE)
    assert sql_rule("+".join(["1"] * 400) + "=400").matches(MESSAGE)


def test_like_takes_no_exponential_time() -> None:
    message = Message(properties={"text": "a" * 5000})
    assert not sql_rule(f"text LIKE '{'%a' * 100}%b'").matches(message)


@given(st.text(alphabet="ab%_!", max_size=8), st.text(alphabet="ab%_!", max_size=8))
@settings(deadline=None)
def test_like_agrees_with_a_plain_definition(text: str, pattern: str) -> None:
    def fits(text: str, pattern: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "%":
            return any(fits(text[start:], pattern[1:]) for start in range(len(text) + 1))
        return bool(text) and pattern[0] in ("_", text[0]) and fits(text[1:], pattern[1:])

    assert sql_rule(f"text LIKE '{pattern}'").matches(Message(properties={"text": text})) is fits(text, pattern)


@given(st.text(alphabet="n5()'=<> .ANDORTILKE[]\"%-+sy", max_size=60))
@settings(deadline=None)
def test_any_text_is_a_condition_or_an_error(text: str) -> None:
    try:
        rule = sql_rule(text)
    except SqlFilterError:
        return
    assert rule.matches(MESSAGE) in (True, False)


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({"subject": "created"}, True),
        ({"subject": "Created"}, False),
        ({"subject": "created", "session_id": "s", "correlation_id": "c", "message_id": "1"}, True),
        ({"content_type": "application/json", "reply_to": "r", "reply_to_session_id": "rs"}, True),
        ({"to": "somewhere"}, False),
        ({"properties": {"region": "eu", "n": 5}}, True),
        ({"properties": {"region": "eu", "n": 6}}, False),
        ({"properties": {"ok": 1}}, False),
        ({"properties": {"missing": None}}, False),
        ({"subject": "created", "properties": {"region": "us"}}, False),
    ],
)
def test_a_correlation_rule_wants_everything_equal(*, wanted: dict[str, Any], matches: bool) -> None:
    assert correlation_rule(**wanted).matches(MESSAGE) is matches


def test_a_correlation_rule_wants_something() -> None:
    with pytest.raises(ValueError, match="at least one"):
        correlation_rule()
