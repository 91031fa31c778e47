"""How the demo shows things: streams, messages, letters, views."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from uuid import UUID

from rich.markup import escape
from rich.table import Table

from bank.domain import Money
from bank.evidence import Published, Stored
from bank.views import CustomerDetails


def streams(stored: Stored, names: Mapping[str, str]) -> Table:
    table = Table("stream", "version", "event", "what is stored", title="Streams", title_justify="left")
    for stream, name in names.items():
        for event in stored.of(stream):
            table.add_row(name if event.version == 1 else "", str(event.version), event.type, _short(event.body))
        table.add_section()
    return table


def messages(published: Sequence[Published], names: Mapping[str, str]) -> Table:
    table = Table("about", "version", "subject", "session", title="Messages, as received", title_justify="left")
    for message in published:
        if message.stream in names:
            table.add_row(names[message.stream], str(message.version), message.subject, message.session)
    return table


def letters(texts: Mapping[UUID, str], names: Mapping[str, str]) -> Table:
    table = Table("id", "text", title="Letters", title_justify="left")
    for id, text in texts.items():  # noqa: A001 - the word of the domain
        for stream, name in names.items():
            text = text.replace(stream.partition(".")[2], name)  # noqa: PLW2901 - names instead of ids
        table.add_row(f"{str(id)[:8]}...", escape(text))
    return table


def customer(details: CustomerDetails, names: Mapping[str, str], total: Money) -> Table:
    title = escape(f"{details.first_name} {details.last_name} <{details.email}>")
    table = Table("account", "balance", title=title, title_justify="left", show_footer=True)
    table.columns[0].footer, table.columns[1].footer = "in all", str(total)
    for account, balance in details.accounts.items():
        table.add_row(names[f"Account.{account}"], str(balance))
    return table


def _short(body: str) -> str:
    """JSON for people: money in one word, ids by their first letters."""

    def plain(name: str, value: object) -> str:
        match value:
            case {"amount": str(amount), "currency": str(currency)}:
                return f"{amount} {currency}"
            case str() if name.endswith("_id"):
                return f"{value[:8]}..."
            case _:
                return str(value)

    return escape(", ".join(f"{name} {plain(name, value)}" for name, value in json.loads(body).items()))
