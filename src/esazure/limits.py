"""What no backend may be asked to store, because some backend could not; checked before any request.

Limits of single keys are in `keys.py`, of messages in `integration.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from esazure.errors import CommitTooLargeError
from esazure.events import CommitRecord
from esazure.keys import MAX_COMMIT_BYTES, MAX_DENSE_COMMIT_BYTES, MAX_METADATA_CHARACTERS, MAX_VERSION
from esazure.ports import ViewRecord

MAX_INLINE_VIEWS = 80
"""Of one aggregate class: a transaction of Table Storage has 100 rows, and the commit itself takes some."""

_LONGEST_CHARACTER = 4  # bytes of UTF-8


def check_limits(record: CommitRecord, views: Sequence[ViewRecord] = ()) -> None:
    """Refuse what some backend could not store, on every backend alike.

    Raises:
        CommitTooLargeError: over 3.5 MiB of payload and inline views (3.1 million bytes once compressed), 8,192
            characters of metadata, or version 9,999,999,998.
    """
    texts = [record.payload, *(view.text for view in views)]
    if sum(map(len, texts)) * _LONGEST_CHARACTER > MAX_DENSE_COMMIT_BYTES:
        data = "".join(texts).encode()
        size, most = len(data), MAX_COMMIT_BYTES
        if MAX_DENSE_COMMIT_BYTES < size <= MAX_COMMIT_BYTES:
            size, most = len(zlib.compress(data)), MAX_DENSE_COMMIT_BYTES
        if size > most:
            raise CommitTooLargeError(
                f"{record.stream}: {record.count} events of {size:,} bytes in a commit, at most {most:,} fit: "
                "persist more often, or keep large content outside and its reference in the event"
            )
    if len(record.metadata) > MAX_METADATA_CHARACTERS:
        raise CommitTooLargeError(
            f"{record.stream}: metadata of {len(record.metadata):,} characters, at most {MAX_METADATA_CHARACTERS:,} fit"
        )
    if record.last_version > MAX_VERSION:
        raise CommitTooLargeError(f"{record.stream}: a stream ends at version {MAX_VERSION:,}")
