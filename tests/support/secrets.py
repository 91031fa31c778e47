"""A watch over the whole run: what is logged, at any level, and what our errors say, is searched for secrets."""

from __future__ import annotations

import logging
import re
import traceback

from esazure.errors import EsAzureError

MARKER = "payload-marker"
"""Tests put this where a payload is; it must come out nowhere."""

_SECRETS = re.compile(
    "|".join(
        (
            re.escape(MARKER),
            r"Eby8vdM02xNOcqFlqUwJ",  # the key of every emulated storage account
            r"SharedAccessKey=\w",
            r"AccountKey=\w",
            r"[?&]sig=(?!REDACTED)\w",
            r"Authorization'?: '?(?!REDACTED)\w",
        )
    )
)


class SecretsWatch(logging.Handler):
    """A handler of the root logger that keeps what it finds, without the secret."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def start(self) -> None:
        """Listen to every logger, and look at each error of ours as it is made."""
        root = logging.getLogger()
        root.setLevel(logging.DEBUG)
        root.addHandler(self)
        watch, make = self, EsAzureError.__init__

        def make_and_look(error: EsAzureError, *args: object) -> None:
            make(error, *args)
            watch.look(f"the text of {type(error).__name__}", f"{error}\n{error!r}\n{error.args}")

        EsAzureError.__init__ = make_and_look  # type: ignore[method-assign]

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one record, as any formatter would print it."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "".join(traceback.format_exception(record.exc_info[1]))
        self.look(f"a {record.levelname} record of {record.name}, {record.pathname}:{record.lineno}", text)

    def look(self, where: str, text: str) -> None:
        """Note a secret in the text."""
        hit = _SECRETS.search(text)
        if hit is not None:
            self.found.append(f"{where}: {hit[0][:12]}...")
