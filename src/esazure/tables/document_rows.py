"""Documents as rows: where they are, what they hold, and what their tags say. Pure functions.

PartitionKey  `d.<collection>.<x>`, x one of 16 hexadecimal digits, a hash of the key: a partition takes 2,000 entities
              a second. No name of a collection has a dot, so its partitions are a range that holds nothing else
RowKey        `<encoded key>.0`, continued in `.1`, `.2`, ... when it is large. Columns: `w` the random ids of its last
              eight writes, and the text (`columns.py`); `gone` when it was deleted
The ETag of the row `.0` guards all of them. Read `document_writes.py` next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from esazure.documents import Document
from esazure.errors import CorruptStreamError
from esazure.keys import bucket_of, decode_part, encode_part
from esazure.tables.columns import Row, StoredRow, parts_of, tag_of, text_of, text_rows
from esazure.tables.gateway import Operation

BUCKETS = 16

_REMEMBERED = 8
_TAG = re.compile(r"(?P<parts>\d):(?P<writes>[0-9a-f,]*):(?P<etag>.*)")
_ROW_KEY = re.compile(r"(?P<name>[^.]+)\.(?P<part>\d)")
_BEHIND_ALL = "~"  # every character of an encoded key comes before it


class Place(NamedTuple):
    """Where a document is."""

    collection: str
    partition: str
    name: str
    """Its rows are `<name>.0`, `<name>.1`, ..."""

    @classmethod
    def of(cls, collection: str, key: str) -> Self:
        """The place for a key."""
        name = encode_part(key)
        return cls(collection, _partition(collection, bucket_of(name, BUCKETS)), name)


class Version(NamedTuple):
    """What a tag says: enough to replace a document without a look at what is there."""

    parts: int
    """How many continuation rows it has."""
    writes: tuple[str, ...]
    """The ids of its writes, the newest first."""
    etag: str

    @classmethod
    def of(cls, row: StoredRow) -> Self:
        """The version in a document's first row.

        Raises:
            DamagedTextError: it has none.
        """
        return cls(parts_of(row), tuple(str(row.get("w", "")).split(",")), tag_of(row))

    @classmethod
    def parse(cls, tag: str) -> Self | None:
        """The version a tag stands for; None for what never was a tag."""
        match = _TAG.fullmatch(tag)
        return None if match is None else cls(int(match["parts"]), tuple(match["writes"].split(",")), match["etag"])

    @property
    def tag(self) -> str:
        """The inverse of `parse`."""
        return f"{self.parts}:{','.join(self.writes)}:{self.etag}"

    def follows(self, seen: Version | None) -> bool:
        """Whether it remembers every write since the one that was seen, or since the first when there was none."""
        return len(self.writes) < _REMEMBERED if seen is None else seen.writes[0] in self.writes


def rows_for(place: Place, text: str | None, write_id: str, seen: Version | None) -> list[Row]:
    """The rows of a document with this text, or without one when it is to be deleted."""
    writes = ",".join((write_id, *(seen.writes if seen else ()))[:_REMEMBERED])
    if text is None:
        return [{**_bare(place, 0), "w": writes, "gone": True}]
    return text_rows(place.partition, place.name, text, writes)


def operations_for(place: Place, rows: Sequence[Row], seen: Version | None) -> list[Operation]:
    """What puts rows in the place of the version that was seen, and removes what that leaves over."""
    row, *more = rows
    put: Operation = ("create", row) if seen is None else ("replace", row, seen.etag)
    over = range(len(rows), 1 + (seen.parts if seen else 0))
    return [put, *[("upsert", part) for part in more], *[("delete", _bare(place, part)) for part in over]]


def removal_of(place: Place, seen: Version) -> list[Operation]:
    """What removes the version that was seen, and leaves nothing."""
    parts = range(1, 1 + seen.parts)
    return [("delete", _bare(place, 0), seen.etag), *[("delete", _bare(place, part)) for part in parts]]


def document_of(key: str, rows: Sequence[StoredRow]) -> Document | None:
    """The document in its rows; None when it was deleted.

    Raises:
        DamagedTextError: they do not hold what was written.
    """
    return None if rows[0].get("gone") else Document(key, text_of(rows), Version.of(rows[0]).tag)


def key_of(collection: str, row: StoredRow) -> tuple[str, int]:
    """The key of the document a row belongs to, and which of its rows it is.

    Raises:
        CorruptStreamError: it belongs to none.
    """
    match = _ROW_KEY.fullmatch(str(row["RowKey"]))
    try:
        if match is not None:
            return decode_part(match["name"]), int(match["part"])
    except ValueError:
        pass
    raise damaged(collection, "a row between its documents was not written by this library: remove it")


def ranges_behind(collection: str, key: str | None) -> Iterator[tuple[tuple[str, str], tuple[str, str] | None]]:
    """The partitions, and the keys in them, of all documents that come behind this one in a listing."""
    first = 0
    if key is not None:
        place = Place.of(collection, key)
        yield (place.partition, place.partition), (f"{place.name}/", _BEHIND_ALL)  # the slash follows the dot
        first = bucket_of(place.name, BUCKETS) + 1
    if first < BUCKETS:
        yield (_partition(collection, first), _partition(collection, BUCKETS - 1)), None


def damaged(collection: str, what: object) -> CorruptStreamError:
    """The error for a document that is not what was written."""
    # Without its key, which may be somebody's name.
    return CorruptStreamError(f"{collection}: a document is damaged: {what}")


def _partition(collection: str, bucket: int) -> str:
    return f"d.{collection}.{bucket:x}"


def _bare(place: Place, part: int) -> Row:
    return {"PartitionKey": place.partition, "RowKey": f"{place.name}.{part}"}
