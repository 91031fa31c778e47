"""The tool that plants bugs tells those that are found from those that are not; `make check` runs it in full."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import plant_bugs


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
