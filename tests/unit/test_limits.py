"""The largest that fits is taken, and one byte or character more is refused."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from esazure import CommitTooLargeError, documents, limits
from esazure.documents import check_document
from esazure.keys import MAX_METADATA_CHARACTERS, MAX_VERSION
from esazure.limits import check_limits
from esazure.ports import ViewRecord
from esazure.testing._counter import commit_of
from esazure.testing._hostile import incompressible

TEXT = incompressible(10_000)
COMPRESSED = len(zlib.compress(TEXT.encode()))
COMMIT = replace(commit_of("Counter.a", 1, "a"), payload="")


def check_view(text: str) -> None:
    check_limits(COMMIT, [ViewRecord("one", "shape", 1, text)])


@pytest.mark.parametrize(
    "check",
    [
        lambda text: check_document("key", text),
        lambda text: check_limits(replace(COMMIT, payload=text)),
        check_view,
    ],
    ids=["document", "commit", "view"],
)
@pytest.mark.parametrize(
    ("most", "most_compressed"), [(len(TEXT), len(TEXT)), (len(TEXT), COMPRESSED)], ids=["plain", "compressed"]
)
def test_as_many_bytes_as_are_allowed_fit_and_one_less_does_not(
    check: Callable[[str], None], most: int, most_compressed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allow(plain: int, compressed: int) -> None:
        for module in (documents, limits):
            monkeypatch.setattr(module, "MAX_COMMIT_BYTES", plain)
            monkeypatch.setattr(module, "MAX_DENSE_COMMIT_BYTES", compressed)

    assert len(TEXT) > COMPRESSED
    allow(most, most_compressed)
    check(TEXT)
    allow(*((most - 1, most_compressed) if most == most_compressed else (most, most_compressed - 1)))
    with pytest.raises(CommitTooLargeError):
        check(TEXT)


def test_metadata_have_their_limit() -> None:
    check_limits(replace(COMMIT, metadata="x" * MAX_METADATA_CHARACTERS))
    with pytest.raises(CommitTooLargeError, match="metadata of 8,193 characters, at most 8,192 fit"):
        check_limits(replace(COMMIT, metadata="x" * (MAX_METADATA_CHARACTERS + 1)))


def test_a_stream_has_its_last_version() -> None:
    check_limits(replace(COMMIT, first_version=MAX_VERSION, count=1))
    with pytest.raises(CommitTooLargeError, match="a stream ends at version"):
        check_limits(replace(COMMIT, first_version=MAX_VERSION, count=2))
