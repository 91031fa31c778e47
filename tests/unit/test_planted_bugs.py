"""The conformance suites find every bug that is planted, and say so when they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import plant_bugs


@pytest.mark.timeout(600)  # dozens of runs of a suite, on whatever machine this is
def test_every_planted_bug_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    found = plant_bugs.main()
    assert found == 0, capsys.readouterr().out


def test_a_bug_that_is_not_found_or_cannot_be_planted_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "suite.py"
    suite.write_text("import esazure.memory\n\ndef test_nothing(): pass\n", encoding="utf-8")
    bugs = [
        plant_bugs.Bug("harmless", "memory", "import annotations", "import annotations  # harmless"),
        plant_bugs.Bug("gone", "memory", "a line that is not there", ""),
        plant_bugs.Bug("broken import", "memory", "import annotations", "import annotationsss"),
    ]
    assert plant_bugs.main(bugs, suite) == 3
    printed = capsys.readouterr().out
    assert "SURVIVED  memory: harmless" in printed
    assert "matches 0 places in memory.py" in printed
    assert "ERROR: pytest ended with" in printed
