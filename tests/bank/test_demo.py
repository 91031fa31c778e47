"""`python -m bank demo` plays its story, checks it, and finds what earlier runs left."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from tests.bank.support import namespace

from bank.backends import TOPIC, open_bank
from bank.commands import CreateCustomer
from bank.domain import Customer, Email
from bank.evidence import Published, Stored, balance_of, check_messages, check_streams, events_of_commit
from esazure import EventsService
from esazure.memory import InMemoryStore
from esazure.servicebus import ServiceBus

EXAMPLES = Path(__file__).parents[2] / "examples"


def bank(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own files
        [sys.executable, "-W", "error", "-m", "bank", *arguments],
        cwd=EXAMPLES,
        env={**os.environ, "COLUMNS": "140", "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=110,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def check_story(story: str) -> None:
    for sentence in (
        "Her command arrives twice; it happened once",
        "is refused: email is taken.",
        "Ada has also got a letter.",
        "Grace deposits 33.33 US$ at 1.36 and holds 45.33 CA$.",
        "which does not cover 150.00 €",
        "is at version 3, this copy was loaded at 2",
        "Nobody was told; its outbox row waits.",
        "she holds 72.68 CA$",
        "every event was published in the order of its stream",
        "followed by its letter, once.",
        "archive, customers, accounts: nothing has changed by it.",
    ):
        assert sentence in story


def test_the_story_twice_on_one_file(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'bank.db'}"
    first, second = told(bank("demo", "--store", store)), told(bank("demo", "--store", store))
    for story in (first, second):
        check_story(story)
    assert "Found 0 streams with 0 events from earlier runs." in first
    assert "4 streams with 12 events are there for the next run." in first
    assert "Found 4 streams with 12 events from earlier runs." in second
    assert "8 streams with 24 events are there for the next run." in second


def test_a_damaged_store_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    told(bank("demo", "--store", f"sqlite:///{path}"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM commits WHERE stream LIKE 'Account.%' AND first_version = 3")
    done = bank("demo", "--store", f"sqlite:///{path}")
    assert done.returncode != 0
    assert "CorruptStreamError" in done.stderr


def test_a_store_that_is_none_is_refused() -> None:
    done = bank("demo", "--store", "bank.db")
    assert done.returncode == 2
    assert "use sqlite:///demo.db or azure" in done.stderr


@pytest.mark.azurite
@pytest.mark.amqp
@pytest.mark.long
async def test_the_story_on_an_account_and_a_namespace_that_are_given_and_used_before(
    tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with namespace() as double:
        monkeypatch.setenv("ESAZURE_TABLES", tables)
        monkeypatch.setenv("ESAZURE_SERVICEBUS", double.connection_string)
        async with open_bank("azure") as opened:
            await opened.system.bank.create_customer(barbara())
        async with ServiceBus.from_connection_string(double.connection_string) as bus:  # and somebody else's message
            strangers = EventsService(InMemoryStore().events(Customer), bus.producer(topic=TOPIC))
            await strangers.persist(Customer.create(uuid4(), "Barbara", "Liskov", Email("barbara@example.com")))
        story = told(await asyncio.to_thread(bank, "demo", "--store", "azure"))
    check_story(story)
    assert "the account in ESAZURE_TABLES, table 'bank'; messages go to the namespace in ESAZURE_SERVICEBUS" in story
    found = re.search(r"Found (\d+) streams with (\d+) events from earlier runs", story)
    assert found is not None
    assert int(found[1]) >= 1


def barbara() -> CreateCustomer:
    return CreateCustomer(
        command_id="c",
        customer_id=uuid4(),
        first_name="Barbara",
        last_name="Liskov",
        email=Email(f"{uuid4()}@example.com"),
    )


@pytest.mark.azurite
@pytest.mark.amqp
@pytest.mark.long
def test_the_story_on_azure_needs_nothing_given(tables: str) -> None:
    story = told(bank("demo", "--store", "azure", ESAZURE_TABLES="", ESAZURE_SERVICEBUS=""))
    check_story(story)
    assert "Found 0 streams with 0 events from earlier runs." in story


EVENTS = [
    *events_of_commit("A.1", 1, 'Deposited {"credited":{"amount":"5.00"}}'),
    *events_of_commit("A.1", 2, 'Withdrawn {"debited":{"amount":"2.00"}}\nWithdrawn {"debited":{"amount":"0.50"}}'),
]
STORED = Stored(frozenset(EVENTS), frozenset())
MESSAGES = [Published(event.stream, event.version, event.type, "7", event.body) for event in EVENTS]


class TestEvidence:
    """The demo's own checks notice what they are there to notice."""

    def test_all_is_well(self) -> None:
        check_streams(STORED, ["A.1"])
        check_messages(STORED, MESSAGES, ["A.1"])
        check_messages(STORED, [*MESSAGES, MESSAGES[0]], ["A.1"])  # at least once
        assert balance_of(EVENTS) == Decimal("2.50")

    def test_a_gap(self) -> None:
        with pytest.raises(AssertionError, match="versions"):
            check_streams(Stored(frozenset(EVENTS[1:]), frozenset()), ["A.1"])

    def test_a_forgotten_outbox_row(self) -> None:
        with pytest.raises(AssertionError, match="outbox"):
            check_streams(Stored(frozenset(EVENTS), frozenset({("A.1", 1)})), ["A.1"])

    @pytest.mark.parametrize("damage", ["lost", "order", "body", "session"])
    def test_a_message_that_is_not_right(self, damage: str) -> None:
        first, second, third = MESSAGES
        messages = {
            "lost": [first, second],
            "order": [second, first, third],
            "body": [first, replace(second, body="{}"), third],
            "session": [first, replace(second, session="8"), third],
        }[damage]
        with pytest.raises(AssertionError, match=r"A\.1"):
            check_messages(STORED, messages, ["A.1"])
