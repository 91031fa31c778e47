"""The tool that plants bugs tells those that are found from those that are not; `make bugs` runs it in full."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import mutate, plant_bugs

import esazure


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


def test_every_bug_and_every_mutant_still_has_its_place() -> None:
    sources = Path(esazure.__file__).parent
    patches = [(f"{bug.module}.py", ((bug.right, bug.wrong),)) for bug in plant_bugs.BUGS]
    patches += [(mutant.module, mutant.patches) for mutant in mutate.MUTANTS]
    for module, changes in patches:
        text = (sources / module).read_text(encoding="utf-8")
        for right, wrong in changes:
            assert (module, right, text.count(right)) == (module, right, 1)
            text = text.replace(right, wrong)
