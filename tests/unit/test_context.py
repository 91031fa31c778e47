"""Ambient metadata: nested, per task, and never in the way of the library's own names."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from esazure import current_metadata, metadata


def test_outside_any_block_there_is_none() -> None:
    assert dict(current_metadata()) == {}


def test_blocks_nest_add_override_and_end() -> None:
    with metadata(correlation_id="c", user="ada"):
        with metadata(user="bob", tenant="t", causation_id="x", extra={"request_id": "r"}):
            assert dict(current_metadata()) == {
                "correlation_id": "c",
                "user": "bob",
                "tenant": "t",
                "causation_id": "x",
                "request_id": "r",
            }
        assert dict(current_metadata()) == {"correlation_id": "c", "user": "ada"}
    assert dict(current_metadata()) == {}


def test_a_block_ends_also_when_it_fails() -> None:
    with pytest.raises(ZeroDivisionError), metadata(user="ada"):
        raise ZeroDivisionError
    assert dict(current_metadata()) == {}


def test_what_is_current_cannot_be_changed_by_hand() -> None:
    with metadata(user="ada"), pytest.raises(TypeError):
        current_metadata()["user"] = "bob"  # type: ignore[index]


def test_what_was_given_may_change_afterwards() -> None:
    extra = {"a": "1"}
    with metadata(extra=extra):
        extra["a"] = "2"
        assert dict(current_metadata()) == {"a": "1"}


async def test_it_follows_tasks_and_does_not_leak_into_neighbours() -> None:
    seen: dict[str, dict[str, str]] = {}
    entered = asyncio.Barrier(2)

    async def request(user: str) -> None:
        with metadata(user=user):
            await entered.wait()
            seen[user] = await asyncio.create_task(inner())

    async def inner() -> dict[str, str]:
        await asyncio.sleep(0)
        return dict(current_metadata())

    await asyncio.gather(request("ada"), request("bob"))
    assert seen == {"ada": {"user": "ada"}, "bob": {"user": "bob"}}
    assert dict(current_metadata()) == {}


@pytest.mark.parametrize(
    "name",
    [
        "aggregate",
        "aggregate_type",
        "type",
        "version",
        "occurred_at",
        "",
        "Upper",
        "1a",
        "a-b",
        "a b",
        "a\n",
        "x" * 65,
        5,
    ],
)
def test_a_name_that_is_taken_or_odd_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="cannot name metadata"), metadata(extra={name: "x"}):
        pass
    assert dict(current_metadata()) == {}


@pytest.mark.parametrize("value", [5, None, b"x"])
def test_a_value_that_is_not_text_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be text"), metadata(extra={"a": value}):
        pass


def test_a_value_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(ValueError, match="lone surrogate"), metadata(user="\ud800"):
        pass
