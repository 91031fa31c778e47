"""The file at a path, and whether it still is the one that was opened. Read `worker.py` next.

SQLite goes on in a file that was removed or replaced, and so would a store: what it acknowledged would be gone when it
is closed, and on closing SQLite removes the write-ahead log at the path, whoever's it is by now. The device and the
number of a file tell: no other file gets them for as long as it is open. An older copy that is written over the file
shows when it is smaller.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

from esazure.errors import StoreError


class _Seen(NamedTuple):
    device: int
    number: int
    size: int


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
        for now, before, path in zip(found, self._seen, (self._path, self._log_path), strict=True):
            if not _is_still(now, before):
                what = "removed" if None in found else "replaced"
                raise StoreError(
                    f"{path} was {what} while it was open, nothing was stored: close the store, "
                    "put the file back if it is missed, and open the store again"
                )
        self._seen = found

    @property
    def may_be_tidied(self) -> bool:
        """Whether SQLite may move the log into the database and remove it by its name, as it does on closing."""
        if self._seen is None:
            return True
        log = _look(self._log_path)
        return _is_still(_look(self._path), self._seen[0]) and (log is None or _is_still(log, self._seen[1]))


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
    if path.name.endswith("-wal"):  # it may be empty, and shrink
        return _Seen(found.st_dev, found.st_ino, 0)
    # An empty one was emptied: a database begins with a header.
    return _Seen(found.st_dev, found.st_ino, found.st_size) if found.st_size else None


def _is_still(now: _Seen | None, before: _Seen | None) -> bool:
    if now is None or before is None:
        return now is before
    # A database gets smaller only by VACUUM, or when an older copy is written over it.
    return now[:2] == before[:2] and now.size >= before.size
