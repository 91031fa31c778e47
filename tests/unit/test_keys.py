"""Stream names: reversible, apart, and pinned, because stored data depends on them."""

from __future__ import annotations

import pytest

from esazure import InvalidIdError, keys
from esazure.documents import check_document
from esazure.keys import MAX_STREAM_NAME, bucket_of, decode_part, encode_part, split_stream_name, stream_name
from esazure.testing._hostile import hostile_ids, id_one_over_the_limit


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "__"),
        ("abc-XYZ-019", "abc-XYZ-019"),
        ("a.b", "a_2Eb"),
        ("_", "_5F"),
        ("__", "_5F_5F"),
        ("a b\n", "a_20b_0A"),
        ("\x00", "_00"),
        ("\u00e9", "_C3_A9"),
        ("e\u0301", "e_CC_81"),
        ("\U0001f600", "_F0_9F_98_80"),
    ],
)
def test_keys_are_what_they_have_always_been(text: str, key: str) -> None:
    assert encode_part(text) == key
    assert decode_part(key) == text


def test_every_hostile_id_has_a_plain_reversible_name_of_its_own() -> None:
    ids = hostile_ids("Counter")
    names = {stream_name("Counter", each) for each in ids}
    assert len(ids) > 600
    assert len(names) == len(ids)
    for each in ids:
        name = stream_name("Counter", each)
        assert name.isascii()
        assert name.count(".") == 1
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
        assert len(name) <= MAX_STREAM_NAME
        assert split_stream_name(name) == ("Counter", each)


def test_a_stream_name_followed_by_a_dot_begins_no_other_stream_name() -> None:
    names = [stream_name("Counter", each) for each in hostile_ids("Counter")]
    beginnings = {f"{name}." for name in names}
    assert not [name for name in names for end in range(len(name)) if name[:end] in beginnings]


@pytest.mark.parametrize(
    "key", ["_", "_5", "_5f", "_GG", "a.b", "a b", "", "___", "_C3", "_41", "\u00e9", "a\n", "_FF", "__a", "\ud800"]
)
def test_a_key_that_was_not_made_by_the_codec_is_refused(key: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - three kinds, one meaning
        decode_part(key)


@pytest.mark.parametrize("stream", ["", "Counter", "Counter_2Ea"])
def test_a_name_without_a_dot_is_no_stream_name(stream: str) -> None:
    with pytest.raises(ValueError, match="not a stream name"):
        split_stream_name(stream)


def test_the_limit_is_exact_and_its_error_does_not_repeat_the_id() -> None:
    at_the_limit = "x" * (MAX_STREAM_NAME - len("Counter."))
    assert len(stream_name("Counter", at_the_limit)) == MAX_STREAM_NAME
    with pytest.raises(InvalidIdError, match="takes 481 in a key") as caught:
        stream_name("Counter", id_one_over_the_limit("Counter"))
    assert "xxx" not in str(caught.value)


def test_an_id_that_is_not_unicode_is_refused_as_a_value_error_too() -> None:
    with pytest.raises(InvalidIdError, match="lone surrogate") as caught:
        stream_name("Counter", "a\ud800")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("stream", "of_16", "of_64"),
    [
        ("Counter.a", 0, 32),
        ("Counter.__", 1, 1),
        ("Customer.3f2a1c9e-0d4b-4c55-9d0a-3b1c2d4e5f60", 10, 10),
        ("a_2Eb._F0_9F_98_80", 14, 30),
    ],
)
def test_buckets_are_what_they_have_always_been(stream: str, of_16: int, of_64: int) -> None:
    assert (bucket_of(stream, 16), bucket_of(stream, 64), bucket_of(stream, 1)) == (of_16, of_64, 0)


def test_buckets_are_used_evenly() -> None:
    used = [bucket_of(f"Counter.{number}", 16) for number in range(4_000)]
    assert all(200 < used.count(bucket) < 300 for bucket in range(16))


def test_an_id_of_megabytes_is_refused_without_being_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def note(text: str) -> str:
        encoded.append(len(text))
        return encode_part(text)

    monkeypatch.setattr(keys, "encode_part", note)
    for text in ("\u00e9" * 5_000_000, "\ud800" * 5_000_000):
        with pytest.raises(InvalidIdError):
            stream_name("Counter", text)
    with pytest.raises(InvalidIdError):
        check_document("\u00e9" * 5_000_000)
    assert max(encoded) <= MAX_STREAM_NAME + 1
