"""Which documents are the views at the moment: what a rebuild announces, and what everybody else looks at.

Each generation of a view is a collection of its own. One document says which one is read and which ones are written to;
it is read again at least once in `NOTICE` seconds. Read `views.py` next, and `rebuild.py` for who changes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esazure.documents import IDocumentStore
from esazure.errors import CorruptStreamError

NOTICE = 1.0
"""Seconds for which a process relies on what it knows, by its own clock."""

POINTERS = "views"
"""The collection of these documents, by the name of the views."""


class Generations(BaseModel):
    """What the document says. Numbers are never used again."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    active: int = Field(default=1, ge=1)
    """The one that is read."""
    building: int | None = Field(default=None, ge=2)
    """The one a rebuild fills. It is written to as well."""
    dropping: tuple[int, ...] = ()
    """Those nobody reads any more, until they are deleted."""

    @property
    def fed(self) -> tuple[int, ...]:
        """Those that get every event."""
        return (self.active,) if self.building is None else (self.active, self.building)


class GenerationPointer:
    """The document of one view."""

    def __init__(self, documents: IDocumentStore, name: str) -> None:
        self._documents = documents
        self._name = name
        self._known: tuple[float, Generations] | None = None

    async def get(self) -> Generations:
        """What holds now, or held at most `NOTICE` seconds before this call.

        Raises:
            CorruptStreamError: it is damaged.
            StoreError: it could not be read.
        """
        now = asyncio.get_running_loop().time()
        if self._known is not None and now < self._known[0] + NOTICE:
            return self._known[1]
        found, _ = await self._read()
        # Counted from before the request, however long it took. Another task may have asked later and heard sooner.
        if self._known is None or now >= self._known[0]:
            self._known = (now, found)
        return found

    async def change(self, change: Callable[[Generations], Generations]) -> Generations:
        """Replace it in one conditional write, and return what holds now.

        Raises:
            CorruptStreamError: it is damaged.
            StoreError: it is changed or not; doing it again is safe if `change` is.
        """
        while True:
            found, tag = await self._read()
            wanted = change(found)
            if wanted == found:
                return found
            text = wanted.model_dump_json()
            if await self._documents.write_document(POINTERS, self._name, text, seen=tag) is not None:
                self._known = None
                return wanted

    async def _read(self) -> tuple[Generations, str | None]:
        document = await self._documents.read_document(POINTERS, self._name)
        if document is None:
            return Generations(), None
        try:
            return Generations.model_validate_json(document.text), document.tag
        except ValidationError:
            pass
        raise CorruptStreamError(f"{POINTERS}: the document {self._name} does not say which generation is active")
