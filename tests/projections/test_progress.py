"""What people see while a rebuild goes on: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from esazure.progress import progress_bar
from esazure.rebuild import RebuildProgress


class Terminal(io.StringIO):
    """What a terminal shows, control characters and all."""

    def isatty(self) -> bool:
        return True


def at(seconds: float, events: int, done: int = 0) -> RebuildProgress:
    return RebuildProgress(events // 5, events, done, 4, seconds)


def test_in_a_log_it_is_a_line_every_two_seconds_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        for now in (at(0, 0), at(0.5, 50), at(1.9, 500), at(2.0, 12_000), at(2.1, 12_100, 1), at(3.9, 20_000, 4)):
            progress(now)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "rebuild: 0 of 4 partitions, 0 streams, 0 events, 0 events/s",
        "rebuild: 0 of 4 partitions, 2,400 streams, 12,000 events, 6,000 events/s",
        "rebuild: 4 of 4 partitions, 4,000 streams, 20,000 events, 5,128 events/s",
    ]


def test_on_a_terminal_it_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar() as progress:
        progress(at(0, 0))
        progress(at(2.0, 12_000, 1))
        progress(at(4.0, 20_000, 4))
    shown = terminal.getvalue()
    assert "━" in shown
    assert "4/4" in shown
    assert "20,000 events, 5,000 events/s" in shown
    assert "rebuild: " not in shown


def test_on_a_terminal_without_rich_it_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("esazure.progress.find_spec", lambda _: None)
    with progress_bar() as progress:
        progress(at(2.0, 12_000, 1))
    assert terminal.getvalue() == "rebuild: 1 of 4 partitions, 2,400 streams, 12,000 events, 6,000 events/s\n"


def test_rich_is_loaded_only_when_it_is_used() -> None:
    script = "import sys, esazure.progress, esazure.rebuild; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)  # noqa: S603
    assert done.stdout == "False\n"
