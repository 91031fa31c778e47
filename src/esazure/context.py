"""Who and why, without passing it through every call.

Metadata flows from the ambient context into every commit made in it, and into the messages published for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RESERVED = frozenset({"aggregate", "aggregate_type", "type", "version", "occurred_at"})
_NOTHING: Mapping[str, str] = MappingProxyType({})
_current: ContextVar[Mapping[str, str]] = ContextVar("esazure_metadata", default=_NOTHING)


def current_metadata() -> Mapping[str, str]:
    """What a commit made now would carry."""
    return _current.get()


@contextmanager
def metadata(
    *,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    user: str | None = None,
    tenant: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Give every commit made inside this block these facts, and every message published for it.

    Blocks nest; an inner one adds to and overrides the outer. The context is that of `contextvars`: it follows tasks
    and never leaks into a neighbouring request. Put no personal data here: metadata is copied into messages and their
    properties.

    Raises:
        ValueError: a name in `extra` that is not lower-case with underscores or is taken by esazure, or a value that is
            not text.
    """
    named = {"correlation_id": correlation_id, "causation_id": causation_id, "user": user, "tenant": tenant}
    given = {name: value for name, value in named.items() if value is not None} | dict(extra or {})
    for name, value in given.items():
        _check(name, value)
    with Given(given):
        yield


class Given:
    """A block whose commits carry these facts: `metadata` for names and values that were checked before."""

    __slots__ = ("_facts", "_token")

    def __init__(self, facts: Mapping[str, str]) -> None:
        self._facts = facts

    def __enter__(self) -> None:
        self._token = _current.set(MappingProxyType({**_current.get(), **self._facts}))

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def is_metadata_name(name: str) -> bool:
    """Whether metadata can have this name: lower-case letters, digits and `_`, and not taken by esazure."""
    return name not in _RESERVED and _NAME.fullmatch(name) is not None


def _check(name: object, value: object) -> None:
    if not isinstance(name, str) or not is_metadata_name(name):
        raise ValueError(
            f"{name!r} cannot name metadata: use lower-case letters, digits and _, none of {sorted(_RESERVED)}"
        )
    if not isinstance(value, str):
        raise ValueError(f"metadata {name!r} must be text, not {type(value).__name__}")  # noqa: TRY004 - one error for bad metadata
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"metadata {name!r} has a lone surrogate; it must be well-formed Unicode") from None
