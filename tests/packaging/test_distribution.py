"""What is handed out is whole: the source distribution, built as for a release."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.long
def test_the_source_distribution_holds_what_the_readme_leads_to(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--sdist", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / "README.md").read_text())
    wanted = {
        "Makefile",
        "LICENSE",
        "tools/matrix.py",
        "tests/conftest.py",
        "bench/__main__.py",
        "src/esazure/py.typed",
    }
    assert {*links, *wanted} - held == set()
