"""A broker that several processes share: a file to which each batch is appended as a whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.support.flaky_broker import Received, as_received

from esazure.events import Commit
from esazure.ports import IEventProducer


class FileProducer(IEventProducer):
    """Sends to a file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def check(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.check`."""

    async def dispatch(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.dispatch`."""
        lines = "".join(f"{json.dumps(message)}\n" for message in as_received(commit))
        os.write(self._file, lines.encode())

    def close(self) -> None:
        """No more."""
        os.close(self._file)


def received_in(path: Path) -> list[Received]:
    """What was sent, in order."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Received(stream, version, message_id, tuple(content)) for stream, version, message_id, content in lines]
