"""`Store`: what the memory, SQLite and Table Storage stores have in common.

One store keeps streams with their outbox, and documents: a service needs no other. Read `memory.py` next.
"""

from __future__ import annotations

from pydantic import BaseModel
from typing_extensions import TypeVar

from esazure.documents import IDocumentStore
from esazure.ports import IOutboxStore, IStreamSource
from esazure.repository import CommitStore
from esazure.unique import UniqueValues
from esazure.views import Views

__all__ = ["Store"]

V = TypeVar("V", bound=BaseModel)


class Store(CommitStore, IOutboxStore, IStreamSource, IDocumentStore):
    """Streams, outbox and documents in one place; `events`, `views` and `unique_values` are its doors."""

    def views(self, model: type[V], *, name: str | None = None) -> Views[V]:
        """The views of one model, by key.

        Args:
            model: what a view looks like.
            name: of the collection; the model's name in lower case when left out.

        Raises:
            ValueError: not 1 to 80 of lower-case letters, digits, `-` and `_`, beginning with a letter.
        """
        return Views(model, self, name=name)

    def unique_values(self, name: str, *, expiry: float = 30.0) -> UniqueValues:
        """Values of which there may be one each, such as e-mail addresses.

        Args:
            name: what they are.
            expiry: seconds for which a value stays reserved for somebody who never came back.

        Raises:
            ValueError: a name that cannot be a collection's, or an expiry that is not above 0.
        """
        return UniqueValues(name, self, clock=self.clock, expiry=expiry)
