"""Azure Table Storage backend: event streams and their outbox in one table.

Read `rows.py` (what is stored), `append.py` (the three outcomes of a write), `gateway.py` (the only I/O), `store.py`
(the whole).
"""

try:
    from esazure.tables.store import TableStore
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f'{error}: install it with "esazure[azure]"', name=error.name) from error

__all__ = ["TableStore"]
