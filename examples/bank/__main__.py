"""The command line: `python -m bank serve|worker|rebuild|demo --store memory|sqlite:///FILE|azure`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from bank.backends import SettingsError, open_bank
from bank.worker import stopped_by_signals, work, working
from esazure.errors import StoreError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bank", description="A bank on event streams.")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="answer HTTP; except on azure with a worker inside")
    serving.add_argument("--host", default="127.0.0.1")
    serving.add_argument("--port", type=int, default=8000)
    serving.add_argument("--no-worker", action="store_true", help="let others work")
    commands.add_parser("worker", help="relay, projections, reactions and letters; several at once share the work")
    rebuilding = commands.add_parser("rebuild", help="make views anew from the events, while the bank is open")
    rebuilding.add_argument("views", nargs="*", metavar="VIEW", help="archive, customers, accounts; all when left out")
    commands.add_parser("demo", help="play the story of two customers, and check it")
    for name, each in commands.choices.items():
        each.add_argument(
            "--store",
            # The demo wants to hear of all that happens, so its store is not the one that others work on.
            default="sqlite:///demo.db" if name == "demo" else "sqlite:///bank.db",
            help="memory, sqlite:///FILE, or azure: connection strings in ESAZURE_TABLES and ESAZURE_SERVICEBUS; "
            "%(default)s when left out",
        )
    arguments = parser.parse_args()
    if arguments.store == "memory" and arguments.command != "serve":
        parser.error("memory is gone with its process: only `serve` makes sense of it")
    if arguments.store == "memory" and arguments.no_worker:
        parser.error("memory is this process's alone: without a worker inside nobody would work on it")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("azure").setLevel(logging.WARNING)  # its INFO is every request
    try:
        match arguments.command:
            case "serve":
                asyncio.run(serve(arguments.store, arguments.host, arguments.port, worker=not arguments.no_worker))
            case "worker":
                asyncio.run(worker(arguments.store))
            case "rebuild":
                asyncio.run(rebuild(arguments.store, arguments.views))
            case _:
                from bank.demo import demo  # noqa: PLC0415 - it needs rich, which the others do not

                asyncio.run(demo(arguments.store))
    except SettingsError as error:
        parser.error(str(error))
    except StoreError as error:
        sys.exit(f"{parser.prog}: {error}")


async def serve(store: str, host: str, port: int, *, worker: bool) -> None:
    import uvicorn  # noqa: PLC0415 - a worker needs neither it nor FastAPI

    from bank.http import create_app  # noqa: PLC0415 - the same

    async with AsyncExitStack() as stack:
        bank = await stack.enter_async_context(open_bank(store))
        if worker and bank.embedded:
            await stack.enter_async_context(working(bank.work))
        server = uvicorn.Server(uvicorn.Config(create_app(bank.system), host=host, port=port, log_config=None))
        with stopped_by_signals(bank.work):
            await server.serve()


async def worker(store: str) -> None:
    async with open_bank(store) as bank:
        with stopped_by_signals(bank.work):
            await work(bank.work)


async def rebuild(store: str, names: Sequence[str]) -> None:
    from esazure.progress import progress_bar  # noqa: PLC0415 - only here
    from esazure.rebuild import rebuild as rebuild_views  # noqa: PLC0415 - the same

    async with open_bank(store) as bank:
        projections = {projection.name: projection for projection in bank.system.projections}
        if unknown := set(names) - projections.keys():
            raise SettingsError(f"no such view: {', '.join(sorted(unknown))}; there are {', '.join(projections)}")
        for name in names or projections:
            with progress_bar() as progress:
                report = await rebuild_views(projections[name], bank.system.store, progress=progress)
            print(f"{name}: {report.events} events of {report.streams} streams in {report.seconds:.1f} s")


if __name__ == "__main__":
    main()
