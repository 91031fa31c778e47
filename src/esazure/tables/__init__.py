"""Azure Table Storage backend: event streams and their outbox in one table.

Read `rows.py` (what is stored), `append.py` (the three outcomes of a write), `gateway.py` (the only I/O), `store.py`
(the whole).
"""

from esazure.tables.store import TableStore

__all__ = ["TableStore"]
