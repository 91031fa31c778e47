"""Customers, of whom no two may have one e-mail address at a time; and who has which, seen from the side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esazure import AggregateRoot, DomainEvent
from esazure.memory import InMemoryStore


class CustomerCreated(DomainEvent):
    email: str


class EmailChanged(DomainEvent):
    email: str


class Customer(AggregateRoot[CustomerCreated | EmailChanged, str]):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.email = ""

    @classmethod
    def create(cls, id: str, email: str) -> Customer:
        customer = cls(id)
        customer.record(CustomerCreated(email=email))
        return customer

    def change_email(self, email: str) -> None:
        if email != self.email:
            self.record(EmailChanged(email=email))

    def when(self, event: CustomerCreated | EmailChanged) -> None:
        self.email = event.email


def owners(store: InMemoryStore) -> Mapping[str, list[str]]:
    """Which streams have an address by their events, without asking the store."""
    found: dict[str, list[str]] = {}
    streams: dict[str, list[Any]] = store._streams
    for stream, records in streams.items():
        if records:
            email = records[-1].payload.rpartition('"email":"')[2].partition('"')[0]
            found.setdefault(email, []).append(stream)
    return found
