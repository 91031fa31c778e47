"""Azurite, Microsoft's Table Storage emulator, started and stopped by tests and demos.

It needs the command `azurite-table` (`npm install azurite`), version 3.34 or later: in the path, in `.azurite/`, or
named by ESAZURE_AZURITE.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

_ACCOUNT = "devstoreaccount1"
# Public, and the same in every emulator.
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_START_SECONDS = 60.0
_OLDEST = (3, 34)
"""The first that knows `--disableTelemetry`; an older one prints a hint, and ends with code 0."""


class AzuriteNotFoundError(RuntimeError):
    """There is no `azurite-table` command to run."""


def find_azurite() -> str | None:
    """The command to run, or None: ESAZURE_AZURITE, the path, or `.azurite/` here or in a folder above."""
    named = os.environ.get("ESAZURE_AZURITE") or shutil.which("azurite-table")
    if named:
        return str(Path(named).absolute())
    here = Path.cwd()
    places = [folder / ".azurite" / "node_modules" / ".bin" / "azurite-table" for folder in (here, *here.parents)]
    return next((str(place) for place in places if place.exists()), None)


class Azurite:
    """A context manager: an empty account in memory on a free port, gone at the end.

    Raises on entry:
        AzuriteNotFoundError: the command is missing.
        RuntimeError: it did not come up within a minute, or is older than 3.34.
    """

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def connection_string(self) -> str:
        """For `TableStore.from_connection_string`; the account and its key are the ones every emulator has."""
        # 127.0.0.1 and not localhost: the SDK takes localhost for Cosmos.
        endpoint = f"http://127.0.0.1:{self.port}/{_ACCOUNT}"
        return f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};TableEndpoint={endpoint};"

    def __enter__(self) -> Self:
        command = find_azurite()
        if command is None:
            raise AzuriteNotFoundError("azurite-table is not installed: npm install azurite, or set ESAZURE_AZURITE")
        self._folder = tempfile.TemporaryDirectory(prefix="azurite")
        self.port = _free_port()
        self._process = subprocess.Popen(  # noqa: S603 - the command comes from the developer's own environment
            [
                *[command, "--tableHost", "127.0.0.1", "--tablePort", str(self.port)],
                *["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"],
            ],
            cwd=self._folder.name,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait_until_it_listens(self._process, command)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _wait_until_it_listens(self, process: subprocess.Popen[bytes], command: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(_why_it_ended(command, process.returncode))
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"azurite-table did not listen within {_START_SECONDS:.0f} seconds")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _why_it_ended(command: str, code: int) -> str:
    said = subprocess.run([command, "--version"], capture_output=True, timeout=_START_SECONDS, check=False).stdout  # noqa: S603 - as above
    version = re.match(rb"([0-9]+)\.([0-9]+)", said)
    if version is not None and (int(version[1]), int(version[2])) < _OLDEST:
        found, needed = version[0].decode(), ".".join(map(str, _OLDEST))
        return f"{command} is Azurite {found}, and {needed} or later is needed: npm install azurite@latest"
    return f"azurite-table ended with code {code} instead of starting"
