"""Stream names and the limits every backend keeps: the only place that knows how an id becomes part of a key.

Pure functions. The codec is reversible and never yields a dot, so no two streams share a name or a prefix, and all
streams of one type are one range. Every backend uses it, so that an id which works on one works on all.
"""

from __future__ import annotations

import re
from hashlib import sha256

from esazure.errors import InvalidIdError

MAX_STREAM_NAME = 480
"""Characters. A Table Storage key holds 512 UTF-16 units, and a stream name is not the whole key."""

MAX_COMMIT_BYTES = 3_670_016
"""3.5 MiB of UTF-8 payload."""

MAX_DENSE_COMMIT_BYTES = 3_100_000
"""The same after compression: an entity group transaction holds 4 MiB of HTTP body, and bytes travel in base64."""

MAX_METADATA_CHARACTERS = 8_192
"""A commit's metadata as JSON; it also has to fit beside every message."""

MAX_SNAPSHOT_CHARACTERS = 100_000
"""A snapshot as JSON, and the payload beside it: whatever the characters, both fit the row of a commit."""

MAX_COMMAND_ID = 256
"""Characters of a command id."""

MAX_DIGEST = 64
"""Characters of the hash of a request."""

MAX_UNIQUE_VALUE = 4_096
"""Characters of a value in `UniqueValues`."""

MAX_VERSION = 9_999_999_998
"""Ten digits in a key, less one so that inverted numbers stay positive."""

_UNTOUCHED = re.compile(r"[A-Za-z0-9-]+")
_BYTE_TO_KEY = [chr(byte) if _UNTOUCHED.match(chr(byte)) else f"_{byte:02X}" for byte in range(256)]
_EMPTY = "__"
_ESCAPE = re.compile(rb"_([0-9A-F]{2})")


def encode_part(text: str) -> str:
    """A reversible key for any text: ASCII letters, digits and `-` stay, every other UTF-8 byte becomes `_HH`.

    Raises:
        InvalidIdError: the text holds a lone surrogate, which UTF-8 cannot express.
    """
    if _UNTOUCHED.fullmatch(text):
        return text
    if not text:
        return _EMPTY
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise InvalidIdError("an id must be well-formed Unicode; this one has a lone surrogate") from None
    return "".join([_BYTE_TO_KEY[byte] for byte in data])


def decode_part(key: str) -> str:
    """The inverse of `encode_part`.

    Raises:
        ValueError: the key was not made by it.
    """
    if key == _EMPTY:
        return ""
    text = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), key.encode()).decode()
    if encode_part(text) != key:
        raise ValueError("not an encoded key")
    return text


def stream_name(aggregate_type: str, id: str) -> str:
    """`<type>.<id>`, both encoded.

    Raises:
        InvalidIdError: over 480 characters once encoded, or not well-formed Unicode.
    """
    # Its own length first: to encode megabytes takes a second.
    name = f"{encode_part(aggregate_type)}.{encode_part(id[: MAX_STREAM_NAME + 1])}"
    if len(name) > MAX_STREAM_NAME:
        size = max(len(name), len(id))
        raise InvalidIdError(
            f"a {aggregate_type} id of {len(id)} characters takes {size} in a key, at most {MAX_STREAM_NAME} fit: "
            "use a shorter id, or a hash of it"
        )
    return name


def command_key(command_id: str) -> str:
    """A command id as part of a key: 24 hexadecimal digits of its SHA-256, however long or personal it is.

    Raises:
        InvalidIdError: not 1 to 256 characters of well-formed Unicode.
    """
    if not 0 < len(command_id) <= MAX_COMMAND_ID:
        raise InvalidIdError(f"a command id has 1 to {MAX_COMMAND_ID} characters, not {len(command_id)}")
    try:
        return sha256(command_id.encode()).hexdigest()[:24]
    except UnicodeEncodeError:
        raise InvalidIdError("a command id must be well-formed Unicode; this one has a lone surrogate") from None


def split_stream_name(stream: str) -> tuple[str, str]:
    """The aggregate type and the id in a stream name.

    Raises:
        ValueError: not a stream name.
    """
    aggregate_type, dot, aggregate_id = stream.partition(".")
    if not dot:
        raise ValueError("not a stream name")
    return decode_part(aggregate_type), decode_part(aggregate_id)


def bucket_of(stream: str, buckets: int) -> int:
    """Which of `buckets` a stream belongs to: the same for ever, because stored data depends on it."""
    return int.from_bytes(sha256(stream.encode()).digest()[:4], "big") % buckets
