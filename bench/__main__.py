"""`python -m bench`: all measures, one table; `--quick` takes less than two minutes and is less sure.

Run by `make bench` in an environment of its own, which has the other libraries. It exits with 0 whatever it finds: the
table is the message. `--docs` also writes the table and the chart into the documentation. Read `measuring.py` next.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

from bench import ceiling, footprint, imports, in_process, publishing, sqlite, tables
from bench.measuring import Settings
from bench.report import Report

Part = Callable[[Report, Settings], Awaitable[None]]

PARTS: dict[str, Part] = {
    "in_process": in_process.run,
    "sqlite": sqlite.run,
    "imports": imports.run,
    "tables": tables.run,
    "ceiling": ceiling.run,
    "publishing": publishing.run,
    "footprint": footprint.run,
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--docs", action="store_true", help="write the table and the chart into docs/")
    parser.add_argument("--only", choices=sorted(PARTS), action="append", help="this part alone; writes nothing")
    arguments = parser.parse_args()
    settings = Settings(rounds=5 if arguments.quick else 15, quick=arguments.quick)
    report, began = Report(), time.monotonic()
    for name in arguments.only or PARTS:
        asyncio.run(PARTS[name](report, settings))
    if not arguments.only:
        report.write(docs=arguments.docs)
    missed = [figure for figure in report.figures if figure.met is False]
    print(f"\n{len(missed)} of {sum(figure.met is not None for figure in report.figures)} goals missed;", end=" ")
    print(f"{time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
