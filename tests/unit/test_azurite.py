"""Azurites that do not start: the error says why. What starts is used by every test that is marked `azurite`."""

from pathlib import Path

import pytest

from esazure.testing.azurite import Azurite, AzuriteNotFoundError


def command(folder: Path, version: str, code: int) -> str:
    """A command that tells its version, and otherwise ends at once."""
    path = folder / "azurite-table"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit 0\nexit {code}\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("version", "code", "why"),
    [
        ("3.33.0", 0, "is Azurite 3.33, and 3.34 or later is needed"),
        ("2.99.9", 1, "is Azurite 2.99, and 3.34 or later is needed"),
        ("3.34.0", 7, "ended with code 7"),
        ("3.100.1", 7, "ended with code 7"),
        ("4.0.0", 7, "ended with code 7"),
        ("what?", 7, "ended with code 7"),
    ],
)
def test_one_that_ends_at_once_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, code: int, why: str
) -> None:
    monkeypatch.setenv("ESAZURE_AZURITE", command(tmp_path, version, code))
    with pytest.raises(RuntimeError, match=why), Azurite():
        pass


def test_none_at_all_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESAZURE_AZURITE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AzuriteNotFoundError, match="npm install azurite"), Azurite():
        pass
