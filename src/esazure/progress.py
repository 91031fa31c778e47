"""`progress_bar`: shows people how a rebuild gets on.

    with progress_bar() as progress:
        await rebuild(projection, store, progress=progress)

On a terminal it is a bar, if `rich` is there (the extra `cli`); elsewhere, as in a log, it is a line every few seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from math import inf

from esazure.rebuild import RebuildProgress

__all__ = ["progress_bar"]

LINE_SECONDS = 2.0


@contextmanager
def progress_bar() -> Iterator[Callable[[RebuildProgress], None]]:
    """What `rebuild` takes as `progress`; writes to stderr."""
    if find_spec("rich") is None or not sys.stderr.isatty():
        yield _Lines()
        return
    # Here and not above: it costs 50 ms, and is not always there.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("partitions, {task.fields[events]:,} events, {task.fields[rate]:,.0f} events/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("rebuild", total=None, events=0, rate=0.0)

        def show(now: RebuildProgress) -> None:
            bar.update(task, completed=now.partitions_done, total=now.partitions, events=now.events, rate=_rate(now))

        yield show


class _Lines:
    """A line when it is time, and for the last partition."""

    def __init__(self) -> None:
        self._due = -inf

    def __call__(self, now: RebuildProgress) -> None:
        if now.seconds < self._due and now.partitions_done < now.partitions:
            return
        self._due = now.seconds + LINE_SECONDS
        print(  # noqa: T201 - what it is for
            f"rebuild: {now.partitions_done} of {now.partitions} partitions, {now.streams:,} streams, "
            f"{now.events:,} events, {_rate(now):,.0f} events/s",
            file=sys.stderr,
            flush=True,
        )


def _rate(now: RebuildProgress) -> float:
    return now.events / now.seconds if now.seconds else 0.0
