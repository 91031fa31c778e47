"""The command line: `python -m bank demo [--store sqlite:///bank.db | --store azure]`."""

from __future__ import annotations

import argparse
import asyncio

from bank.backend import backend_of
from bank.demo import demo


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bank", description="A bank on event streams.")
    commands = parser.add_subparsers(dest="command", required=True)
    playing = commands.add_parser("demo", help="play the story of two customers, and check it")
    playing.add_argument(
        "--store",
        default="sqlite:///bank.db",
        help="sqlite:///FILE, or azure: ESAZURE_TABLES and ESAZURE_SERVICEBUS, else Azurite and a Service Bus double",
    )
    arguments = parser.parse_args()
    try:
        opening = backend_of(arguments.store)
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(demo(opening))


if __name__ == "__main__":
    main()
