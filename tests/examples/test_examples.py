"""The numbered examples run as they are, without a warning, and say what their text says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own files
        [sys.executable, "-W", "error", name], cwd=EXAMPLES, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_every_numbered_example_is_short_and_tested_here() -> None:
    numbered = sorted(EXAMPLES.glob("[0-9][0-9]_*.py"))
    lines = {example.name: len(example.read_text().splitlines()) for example in numbered}
    assert {name: count for name, count in lines.items() if count >= 60} == {}
    assert [name for name in lines if name not in Path(__file__).read_text()] == []


def test_01_an_aggregate_is_rebuilt_from_its_events() -> None:
    assert run("01_aggregate.py") == "Ada is at version 2 with 1 account\n"


def test_02_the_second_writer_is_told_and_decides_again() -> None:
    conflict, sold_out = run("02_conflict.py").splitlines()
    assert "is at version 2, this copy was loaded at 1" in conflict
    assert sold_out == "no seat for Barbara"


@pytest.mark.azurite
def test_03_the_same_on_table_storage(tables: str) -> None:
    assert run("03_tables.py") == ("version 2: ['tea', 'biscuits']; version 3: ['tea', 'biscuits', 'milk']\n")


@pytest.mark.amqp
def test_04_a_subscriber_receives_the_events_in_order() -> None:
    lines = run("04_service_bus.py").splitlines()
    assert [line.split()[1] for line in lines] == [
        '{"place":"London"}',
        '{"place":"Paris"}',
        '{"place":"Torino"}',
    ]


def test_05_its_tests_pass() -> None:
    assert [line.split()[0] for line in run("05_testing.py").splitlines()] == ["ok"] * 4


def test_05_pytest_finds_its_tests(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - our own files
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--noconftest",
         "--rootdir", str(tmp_path), "-c", os.devnull, str(EXAMPLES / "05_testing.py")],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_06_a_renamed_and_reshaped_event_stays_readable() -> None:
    assert run("06_renaming_an_event.py") == "two shapes and one stream: London, then Torino\n"


def test_07_metadata_reaches_commits_and_messages_and_does_not_leak() -> None:
    lines = run("07_metadata.py").splitlines()
    assert len(lines) == 3
    assert lines[-1] == "messages: {'ada': 'request-of-ada', 'grace': 'request-of-grace'}"
