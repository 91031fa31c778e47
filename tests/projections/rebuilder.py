"""A process that rebuilds, to be killed: python -m tests.projections.rebuilder KIND WHERE CONCURRENCY

Each stream it has read and applied is a line of its output; people's progress goes to stderr.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from tests.projections.support import boards_of
from tests.support.process_writer import store_at

from esazure.events import CommitRecord
from esazure.progress import progress_bar
from esazure.rebuild import rebuild


async def main(kind: str, where: str, concurrency: int) -> None:
    async with store_at(kind, where) as store:
        projection = boards_of(store)
        replay = projection.replay

        async def told(records: Sequence[CommitRecord], *, generation: int) -> None:
            await replay(records, generation=generation)
            os.write(1, f"{records[0].stream}\n".encode())  # in one write, which a kill does not cut in two

        projection.replay = told  # type: ignore[method-assign]
        with progress_bar() as progress:
            report = await rebuild(projection, store, concurrency=concurrency, progress=progress)
        os.write(1, f"{report}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
