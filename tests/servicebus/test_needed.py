"""The private names of the SDK: all there in this version, none used that is not listed, and said when one is gone."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from esazure.servicebus import ServiceBus, needed

CONNECTION = "Endpoint=sb://bank.servicebus.windows.net/;SharedAccessKeyName=x;SharedAccessKey=c2VjcmV0"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.ERROR, logger="esazure"):
        ServiceBus.from_connection_string(CONNECTION)
    return [record.getMessage() for record in caplog.records]


def test_with_this_version_nothing_is_missing_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog) == []


@pytest.mark.parametrize("missing", needed.NEEDED, ids=lambda missing: ".".join(missing[1:]))
def test_a_name_that_is_gone_is_said_once_and_what_will_not_hold(
    missing: tuple[str, str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, cls, name = missing
    loss = needed.NEEDED[missing]
    monkeypatch.setattr(needed, "NEEDED", {**needed.NEEDED, (module, cls, f"{name}_of_old"): loss})
    (line,) = said(caplog)
    assert f"{cls}.{name}_of_old)" in line
    assert loss in line


@pytest.mark.parametrize("gone", [("azure.servicebus.gone", "Link"), ("azure.servicebus.aio", "Gone")])
def test_a_module_or_class_that_is_gone_is_said_as_well(
    gone: tuple[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needed, "NEEDED", {(*gone, "flow"): "order"})
    (line,) = said(caplog)
    assert f"{gone[1]}.flow" in line


def test_no_private_name_is_used_that_is_not_listed() -> None:
    used: set[str] = set()
    for path in Path(needed.__file__).parent.glob("*.py"):
        for line in path.read_text().splitlines():
            if "SLF001" in line:
                used |= set(re.findall(r"\.(_[a-z]\w*)", line.partition("#")[0]))
            if "getattr(" in line or ".pop(" in line:
                used |= set(re.findall(r'"(_[a-z]\w*)"', line))
    listed = {name for _, _, name in needed.NEEDED}
    assert used - {"_connections", "_receiver"} <= listed
    assert {name for name in listed if name.startswith("_")} <= used
