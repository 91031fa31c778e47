"""The view these tests work with."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel

STREAM = "Account.a"
OTHER = "Account.b"


class Balance(BaseModel):
    amount: int = 0
    owner: str = "Ada"


def plus(amount: int) -> Callable[[Balance | None], Balance]:
    return lambda view: Balance(amount=(0 if view is None else view.amount) + amount)


def to(amount: int) -> Callable[[Balance | None], Balance]:
    return lambda _: Balance(amount=amount)


def nothing(_: Balance | None) -> None:
    return None
