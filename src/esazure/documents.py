"""Small named texts that are read and replaced: the port under views, positions and unique values.

Where a stream keeps everything that ever happened, a document keeps how things stand. Every write names what it
replaces, so two writers never overwrite each other unseen. Read `views.py` next.
"""

from __future__ import annotations

import re
import zlib
from abc import abstractmethod
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from esazure.errors import CommitTooLargeError, InvalidIdError
from esazure.keys import MAX_COMMIT_BYTES, MAX_DENSE_COMMIT_BYTES, MAX_STREAM_NAME, encode_part

__all__ = ["Document", "DocumentPage", "IDocumentStore"]

MAX_PAGE = 1_000
_COLLECTION = re.compile(r"[a-z][a-z0-9_-]{0,99}")
_LONGEST_TOKEN = 2 * MAX_STREAM_NAME
_TOKEN = b"1"  # the form of the rest; whatever does not begin so is no token


@dataclass(frozen=True, slots=True)
class Document:
    """One text as it was read."""

    key: str
    text: str = field(repr=False)
    tag: str
    """Changes with every write."""


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """Some documents of a collection."""

    documents: Sequence[Document]
    next: str | None
    """Opaque: where the next page begins; None after the last."""


class IDocumentStore(Protocol):
    """Documents by collection and key.

    Before any I/O every call refuses what some backend could not store, by `check_collection`, `check_document` and
    `check_page`, and raises what they raise.
    """

    @abstractmethod
    async def read_document(self, collection: str, key: str) -> Document | None:
        """The document, or None.

        Raises:
            CorruptStreamError: what is stored cannot be what was written.
            StoreError: the store could not be read.
        """
        raise NotImplementedError

    @abstractmethod
    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        """Replace the document whose tag was seen; with None, create it. Returns the new tag.

        Returns None when it is not the one that was seen: nothing was written, read it again. An answer the network
        lost is found out.

        Raises:
            StoreUnavailableError: no definite answer in time; it may be written or not, as whole.
            StoreError: a definite refusal.
        """
        raise NotImplementedError

    @abstractmethod
    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:
        """Delete the document whose tag was seen. False when it has changed since, or is gone.

        It stays deleted: on Table Storage its key remains, without text, to keep out a late copy of the request that
        created it. With `erase` nothing remains, on any backend. That is for documents that mean nothing yet when they
        are created: such a copy may bring one back, as it was created, for as long as a request can be on its way.
        After an answer was lost, one that is gone counts as erased by this call.

        Raises:
            StoreError: as for writing.
        """
        raise NotImplementedError

    @abstractmethod
    async def list_documents(self, collection: str, *, after: str | None = None, limit: int = 100) -> DocumentPage:
        """A page of at most `limit` (1 to 1,000) documents, in an order that never changes but means nothing.

        A document that is there from the first page to the last is on exactly one of them.

        Raises:
            ValueError: `limit` is out of range, or `after` is not what a page gave.
            CorruptStreamError: what is stored cannot be what was written.
            StoreError: the store could not be read.
        """
        raise NotImplementedError

    @abstractmethod
    async def clear_documents(self, collection: str) -> None:
        """Delete the whole collection. Writers who go on meanwhile may leave something behind.

        Raises:
            StoreError: it was not, or only partly, deleted; doing it again is safe.
        """
        raise NotImplementedError


def check_collection(name: str) -> str:
    """Refuse what cannot name a collection.

    Raises:
        ValueError: not 1 to 100 of lower-case letters, digits, `-` and `_`, beginning with a letter.
    """
    if _COLLECTION.fullmatch(name) is None:
        raise ValueError(f"a collection has 1 to 100 of a-z, 0-9, - and _, beginning with a letter, not {name[:120]!r}")
    return name


def check_document(key: str, text: str = "") -> None:
    """Refuse, before any I/O, what some backend could not store.

    Raises:
        InvalidIdError: a key of over 480 characters once encoded, or not well-formed Unicode.
        CommitTooLargeError: over 3.5 MiB of UTF-8, or 3.1 million bytes once compressed (an entity group transaction
            of Table Storage holds 4 MiB).
        ValueError: the text is not well-formed Unicode.
    """
    # Its own length first: to encode megabytes takes a second.
    if (size := len(key)) > MAX_STREAM_NAME or (size := len(encode_part(key))) > MAX_STREAM_NAME:
        raise InvalidIdError(f"a key takes {size} characters once encoded, at most {MAX_STREAM_NAME} fit: use a hash")
    try:
        data = text.encode()
    except UnicodeEncodeError:  # which holds the text
        data = None
    if data is None:
        raise ValueError("a document must be well-formed Unicode; this one has a lone surrogate")
    if len(data) > MAX_COMMIT_BYTES or (
        len(data) > MAX_DENSE_COMMIT_BYTES and len(zlib.compress(data)) > MAX_DENSE_COMMIT_BYTES
    ):
        raise CommitTooLargeError(f"a document of {len(data):,} bytes, at most {MAX_COMMIT_BYTES:,} fit: split it")


def check_page(limit: int) -> int:
    """Refuse a page that is empty by definition, or too big for one answer.

    Raises:
        ValueError: not 1 to 1,000.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"a page has 1 to {MAX_PAGE:,} documents, not {limit}")
    return limit


def encode_token(position: str) -> str:
    """A position in a listing as an opaque token that fits into a URL; never empty."""
    return urlsafe_b64encode(_TOKEN + position.encode()).decode().rstrip("=")


def decode_token(token: str | None) -> str | None:
    """The inverse.

    Raises:
        ValueError: not a token of ours.
    """
    if token is None:
        return None
    position: str | None = None
    if len(token) <= _LONGEST_TOKEN:  # a client may send anything
        try:
            position = urlsafe_b64decode(token + "=" * (-len(token) % 4)).removeprefix(_TOKEN).decode()
            check_document(position)
        except (ValueError, InvalidIdError):
            position = None
    if position is None or encode_token(position) != token:
        raise ValueError("this is not a token of an earlier page")
    return position
