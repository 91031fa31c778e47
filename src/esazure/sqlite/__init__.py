"""The embedded durable store: one SQLite file, shared by any number of processes on one machine.

`store.py` is the store; it hands work to the threads of `worker.py`, where the functions of `schema.py`, `commits.py`,
`outbox.py` and `documents.py` hold all SQL. Read `store.py` next.
"""

from __future__ import annotations

from esazure.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
