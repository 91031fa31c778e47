"""The file at a path, and whether it still is the one that was opened. Read `worker.py` next.

SQLite goes on in a file that was removed or replaced, and so would a store: what it acknowledged would be gone when it
is closed, and on closing SQLite removes the write-ahead log at the path, whoever's it is by now. The device and the
number of a file tell: no other file gets them for as long as it is open.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

from esazure.errors import StoreError


class _Seen(NamedTuple):
    device: int
    number: int


class OpenFile:
    """A database and its write-ahead log, as they were when the store was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._seen: tuple[_Seen | None, _Seen | None] | None = None

    def opened(self) -> None:
        """From now on it has to stay what it is."""
        self._seen = _look(self._path), _look(self._log_path)

    def check(self) -> None:
        """Say so when it is another file, or none; two looks at the folder.

        Raises:
            StoreError: nothing may be acknowledged any more.
        """
        if self._seen is None:
            return
        found = _look(self._path), _look(self._log_path)
        if found != self._seen:
            name = self._path if found[0] != self._seen[0] else self._log_path
            what = "removed" if None in found else "replaced"
            raise StoreError(
                f"{name} was {what} while it was open, nothing was stored: close the store, "
                "put the file back if it is missed, and open the store again"
            )

    @property
    def may_be_tidied(self) -> bool:
        """Whether SQLite may move the log into the database and remove it by its name, as it does on closing."""
        if self._seen is None:
            return True
        return _look(self._path) == self._seen[0] and _look(self._log_path) in (None, self._seen[1])


_in_thread = threading.local()


def use(file: OpenFile) -> None:
    """What this thread does from now on is about this file.

    Raises:
        StoreError: see `OpenFile.check`.
    """
    _in_thread.file = file
    file.check()


def check_before_commit() -> None:
    """Whether what this thread is about to commit gets into the file at the path.

    Raises:
        StoreError: see `OpenFile.check`.
    """
    file: OpenFile | None = getattr(_in_thread, "file", None)
    if file is not None:
        file.check()


def _look(path: Path) -> _Seen | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # An empty one was emptied: a database begins with a header. A log may be empty.
    return _Seen(found.st_dev, found.st_ino) if found.st_size or path.name.endswith("-wal") else None
