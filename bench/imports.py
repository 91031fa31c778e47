"""What `import esazure` costs, in interpreters of its own. Read `tables.py` next.

Against pydantic with its first model, because pydantic loads most of itself only then; and against its names alone.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from bench.measuring import Settings
from bench.report import Report

_PYDANTIC = "import pydantic\nclass Model(pydantic.BaseModel):\n    x: int"
_STATEMENTS = {
    "pydantic's names": "from pydantic import BaseModel, ConfigDict",
    "pydantic": _PYDANTIC,
    "esazure": "import esazure",
    "eventsourcing": "import eventsourcing.application",
    "eventsource-py": "import eventsource",
}


async def run(report: Report, settings: Settings) -> None:
    """All of it."""
    taken: dict[str, list[float]] = {name: [] for name in _STATEMENTS}
    for number in range(settings.rounds + 1):
        for name, statement in _STATEMENTS.items():
            spent = _milliseconds(statement)
            if number:  # the first one compiles
                taken[name].append(spent)

    def more(than: str) -> float:
        return statistics.median(ours - theirs for ours, theirs in zip(taken["esazure"], taken[than], strict=True))

    spent = ", ".join(f"{name} {statistics.median(each):.0f}" for name, each in taken.items())
    title = "`import esazure`, more than pydantic"
    report.at_most(25, f"{title} and its first model", more("pydantic"), f"CPU ms: {spent}", "ms")
    report.shown(f"{title}'s names", more("pydantic's names"), "", "ms")


def _milliseconds(statement: str) -> float:
    code = f"import time\nbegan = time.process_time()\n{statement}\nprint(time.process_time() - began)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - ours, and nothing else runs
    return float(done.stdout) * 1e3
