"""Run the tests on other Pythons, and with the lowest versions of what esazure needs.

    python tools/matrix.py                      every Python from 3.11 to 3.15 that is found, and `lowest`
    python tools/matrix.py 3.14 lowest          these alone; one that is not found is a failure
    python tools/matrix.py --quick newer        a part of the tests, on one Python newer than this one

Pythons are looked for in PATH, among pyenv's, and in .pythons (`make pythons`). Each run has an environment of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = [f"3.{minor}" for minor in range(11, 16)]
LOWEST = "lowest"
NEWER = "newer"
NEEDS_NEWER = "schemathesis"
"""What tests can do without, and what does not go together with the lowest versions."""
QUICK = ["tests/unit", "tests/surface", "tests/conformance", "tests/sqlite", "tests/servicebus", "tests/tables"]
_REQUIREMENT = re.compile(r"([A-Za-z0-9-]+)(\[[a-z]+\])?(?:>=|==)([0-9.]+)")


def find(version: str) -> str | None:
    """The interpreter of a version, as a path that runs: a shim of pyenv may name one that is not chosen."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [*os.get_exec_path(), *sorted(map(str, pyenv.glob("versions/*/bin"))), str(ROOT / ".pythons/usr/bin")]
    script = "import sys; print(*sys.version_info[:2], sep='.'); print(sys.executable)"
    for folder in folders:
        path = Path(folder) / f"python{version}"
        if path.exists():
            done = subprocess.run([path, "-c", script], check=False, capture_output=True, text=True)
            if done.returncode == 0 and done.stdout.split()[0] == version:
                return done.stdout.split()[1]
    return None


def floors(pyproject: str) -> list[str]:
    """The lowest version of everything that users install, pinned; and the tests' own pins of what they do not."""
    found = tomllib.loads(pyproject)
    project, groups = found["project"], found["dependency-groups"]
    users = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    pins: dict[str, str] = {}
    tests = [one for one in groups["test"] if isinstance(one, str) and not one.startswith(NEEDS_NEWER)]
    for requirement in [*users, *tests]:
        match = _REQUIREMENT.match(requirement)
        if match is None:
            raise ValueError(f"{requirement}: no lowest version is stated")
        name, extra, version = match.groups(default="")
        pins.setdefault(name, f"{name}{extra}=={version}")
    return list(pins.values())


def prepare(name: str, python: str) -> Path:
    """An environment with this Python, made anew when pyproject.toml has changed."""
    folder = ROOT / f".venv-{name}"
    stamp, wanted = folder / "ready", (ROOT / "pyproject.toml").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        # By the pip that runs this: not every Python brings one.
        subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet"]
        more = floors(wanted) if name == LOWEST else ["--group", "test"]
        subprocess.run([*pip, "--editable", ".[azure]", *more], check=True, cwd=ROOT)
        stamp.write_text(wanted)
    return folder / "bin"


def run(name: str, python: str, *, quick: bool) -> bool:
    """Whether the tests passed."""
    print(f"== {name}: {python}", flush=True)
    try:
        path = prepare(name, python)
    except subprocess.CalledProcessError as error:
        print(f"== {name}: could not be prepared: {error}", flush=True)
        return False
    environment = os.environ | {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(path.parent)}
    command = [path / "python", "-m", "pytest", "-q", "-n", "6", "--dist", "worksteal", "-m", "not long"]
    if name == LOWEST:  # older pytest-asyncio leaves its loop to the collector when a test runs one of its own
        command += ["-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
    tests = QUICK if quick else []
    return subprocess.run([*command, *tests], check=False, cwd=ROOT, env=environment).returncode == 0


def main() -> int:
    """0 when all that was asked for passed."""
    parser = argparse.ArgumentParser(description="Run the tests on other Pythons and with the lowest versions.")
    parser.add_argument("--quick", action="store_true", help="a part of the tests, some minutes at most")
    parser.add_argument("names", nargs="*", help=f"of {VERSIONS}, {LOWEST}, {NEWER}; none: all that is found")
    arguments = parser.parse_args()
    here = "{}.{}".format(*sys.version_info[:2])
    pythons = {version: find(version) for version in VERSIONS}
    print("== found:", ", ".join(f"{version} ({path})" for version, path in pythons.items() if path))
    print("== not found:", ", ".join(version for version, path in pythons.items() if not path) or "none", flush=True)
    names: list[str] = arguments.names or [*(version for version in VERSIONS if pythons[version]), LOWEST]
    results: dict[str, str] = {}
    for name in names:
        version = VERSIONS[0] if name == LOWEST else name
        if name == NEWER:
            version = next((one for one in VERSIONS[VERSIONS.index(here) + 1 :] if pythons[one]), NEWER)
        python = pythons.get(version)
        if python is None:
            results[name] = "NO SUCH PYTHON WAS FOUND: install one, or run `make pythons`"
        else:
            passed = run(LOWEST if name == LOWEST else version, python, quick=arguments.quick)
            results[name] = "passed" if passed else "FAILED"
    for name, result in results.items():
        print(f"== {name}: {result}")
    return int(any(result != "passed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
