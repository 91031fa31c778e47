"""The SQL of documents: the calls of `IDocumentStore`.

Each write is on the disk when it returns: a commit may follow that relies on it, as with unique values.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from esazure.documents import Document, DocumentPage, encode_token
from esazure.errors import StoreUnavailableError
from esazure.sqlite.transactions import fetch, transaction

_SELECT = "SELECT key, text, tag FROM documents WHERE collection = ?"
_KINDS = {(str, str, str)}
_CLEARED_AT_ONCE = 1_000


def read(db: sqlite3.Connection, collection: str, key: str) -> Document | None:
    """The document."""
    found = _documents(db, f"{_SELECT} AND key = ?", collection, key)
    return found[0] if found else None


def write(db: sqlite3.Connection, collection: str, key: str, text: str, seen: str | None) -> str | None:
    """Compare and swap; the new tag."""
    tag = uuid4().hex
    with _change(db, collection):
        if seen is None:
            done = db.execute(
                "INSERT INTO documents (tag, text, collection, key) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (tag, text, collection, key),
            )
        else:
            done = db.execute(
                "UPDATE documents SET tag = ?, text = ? WHERE collection = ? AND key = ? AND tag = ?",
                (tag, text, collection, key, seen),
            )
    return tag if done.rowcount > 0 else None


def delete(db: sqlite3.Connection, collection: str, key: str, seen: str) -> bool:
    """Compare and delete."""
    with _change(db, collection):
        done = db.execute("DELETE FROM documents WHERE collection = ? AND key = ? AND tag = ?", (collection, key, seen))
    return done.rowcount > 0


def page(db: sqlite3.Connection, collection: str, after: str | None, limit: int) -> DocumentPage:
    """The documents behind a key, by key."""
    if after is None:
        found = _documents(db, f"{_SELECT} ORDER BY key LIMIT ?", collection, limit + 1)
    else:
        found = _documents(db, f"{_SELECT} AND key > ? ORDER BY key LIMIT ?", collection, after, limit + 1)
    return DocumentPage(found[:limit], encode_token(found[limit - 1].key) if len(found) > limit else None)


def clear(db: sqlite3.Connection, collection: str) -> bool:
    """Delete some; whether there may be more. Not all in one transaction, behind which every commit would wait."""
    with _change(db, collection):
        done = db.execute(
            "DELETE FROM documents WHERE collection = ? AND key IN "
            "(SELECT key FROM documents WHERE collection = ? LIMIT ?)",
            (collection, collection, _CLEARED_AT_ONCE),
        )
    return done.rowcount == _CLEARED_AT_ONCE


def _documents(db: sqlite3.Connection, query: str, *parameters: str | int) -> list[Document]:
    # Without its key, which may be somebody's name.
    rows = fetch(db, query, parameters, _KINDS, lambda _: f"{parameters[0]}: a document is damaged")
    return [Document(*row) for row in rows]


@contextmanager
def _change(db: sqlite3.Connection, collection: str) -> Iterator[None]:
    in_doubt = StoreUnavailableError(f"{collection}: it is unknown whether a document was changed: read it again")
    with transaction(db, in_doubt=in_doubt):
        yield
