"""The documentation is true: its code runs and prints what it says, its links lead somewhere, its names exist.

The ```python blocks of a page run in order, in one namespace, in an empty folder. Comments before a fence say what a
block needs: `<!-- needs: azurite amqp -->` gives it ESAZURE_TABLES, ESAZURE_SERVICEBUS; `<!-- run: pytest -->` makes it
a test file of its own. What a block prints stands in it as `# prints: ...`, where `...` stands for anything.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import esazure
from esazure.testing.azurite import find_azurite
from esazure.testing.servicebus import ServiceBusDouble

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
        *(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts),
    ]
)

_FENCE = re.compile(
    r"(?P<comments>(?:^<!--[^\n]*-->\n+)*)^(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_LANGUAGES = {"python", "console", "text", "sql", "{toctree}", "{eval-rst}"}
_COMMENT = re.compile(r"<!-- (needs|run): ([a-z ]+) -->")
_PRINTS = re.compile(r"# prints: (.*)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
_ERROR = re.compile(r"\b[A-Z]\w*Error\b")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    """Of its first line of code in the page, so that a traceback points there."""
    code: str
    needs: frozenset[str]
    is_test_file: bool

    def run(self, names: dict[str, object], runner: asyncio.Runner) -> list[str]:
        """Run it, and return the lines it printed."""
        if self.is_test_file:
            self._run_as_a_test_file()
            return []
        code = compile(
            "\n" * (self.line - 1) + self.code,
            str(self.page),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            outcome = eval(code, names)  # noqa: S307 - our own documentation
            if inspect.iscoroutine(outcome):  # it awaits; what does not may start a loop of its own
                runner.run(outcome)
        return printed.getvalue().splitlines()

    def _run_as_a_test_file(self) -> None:
        file = Path("test_of_the_page.py")
        file.write_text(self.code)
        arguments = ["-q", "-p", "no:cacheprovider", "--no-cov", "--maxfail=1"]
        done = subprocess.run(  # noqa: S603 - our own documentation
            [sys.executable, "-m", "pytest", *arguments, str(file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{self.page}:{self.line}\n{done.stdout}{done.stderr}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found: list[Block] = []
    for fence in _FENCE.finditer(text):
        if fence["language"] != "python":
            continue
        asked = {what: words.split() for what, words in _COMMENT.findall(fence["comments"])}
        found.append(
            Block(
                page,
                text.count("\n", 0, fence.start("code")) + 1,
                fence["code"],
                frozenset(asked.get("needs", ())),
                asked.get("run") == ["pytest"],
            )
        )
    return found


def _runs() -> Iterator[object]:
    """Each page without its blocks that need a server; and if it has such blocks, once more with them."""
    for page in PAGES:
        blocks = blocks_of(page)
        name = str(page.relative_to(ROOT))
        if alone := [block for block in blocks if not block.needs]:
            runs_pytest = [pytest.mark.long] if any(block.is_test_file for block in alone) else []
            yield pytest.param(alone, marks=runs_pytest, id=name)
        if needs := frozenset[str]().union(*(block.needs for block in blocks)):
            marks = [getattr(pytest.mark, need) for need in sorted(needs)]
            together = [block for block in blocks if not block.is_test_file]
            yield pytest.param(together, marks=marks, id=f"{name} with {' and '.join(sorted(needs))}")


@pytest.mark.parametrize("blocks", list(_runs()))
def test_the_code_of_a_page_runs_and_prints_what_it_says(
    blocks: list[Block], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if azurite := find_azurite():
        monkeypatch.setenv("ESAZURE_AZURITE", azurite)  # it is looked for here and above, and we are about to leave
    monkeypatch.chdir(tmp_path)
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    needs = frozenset[str]().union(*(block.needs for block in blocks))
    with contextlib.ExitStack() as servers:
        if "azurite" in needs:
            monkeypatch.setenv("ESAZURE_TABLES", request.getfixturevalue("tables"))
        if "amqp" in needs and not os.environ.get("ESAZURE_SERVICEBUS"):
            double = servers.enter_context(ServiceBusDouble())
            double.topic("customers", duplicate_detection_window=600).subscribe("all", requires_session=True)
            monkeypatch.setenv("ESAZURE_SERVICEBUS", double.connection_string)
        runner = servers.enter_context(asyncio.Runner(loop_factory=asyncio.new_event_loop))
        for block in blocks:
            printed = block.run(vars(page), runner)
            promised = _PRINTS.findall(block.code)
            where = f"{block.page.relative_to(ROOT)}:{block.line}"
            assert len(printed) == len(promised), f"{where} prints {printed}, and says {promised}"
            for is_, should_be in zip(printed, promised, strict=True):
                pattern = ".*".join(re.escape(part) for part in should_be.split("..."))
                assert re.fullmatch(pattern, is_), f"{where} prints {is_!r}, and says {should_be!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.finditer(_without_code(page)):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        if not target.is_file() or (link["anchor"] and link["anchor"] not in _anchors(target)):
            broken.append(link[0])
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_error_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    own = set(re.findall(r"class (\w+)", text))
    unknown = {name for name in _ERROR.findall(text) if name not in own and not _exists(name)}
    assert unknown == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_escapes_by_a_typing_error(page: Path) -> None:
    fences = list(_FENCE.finditer(page.read_text()))
    assert {fence["language"] for fence in fences} <= _LANGUAGES
    comments = re.findall(r"^<!--.*$", page.read_text(), re.MULTILINE)
    understood = [match[0] for fence in fences for match in _COMMENT.finditer(fence["comments"])]
    assert comments == understood


def test_a_package_index_gets_whole_addresses_for_the_links_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    [substitution] = settings["fancy-pypi-readme"]["substitutions"]
    shown, replaced = re.subn(substitution["pattern"], substitution["replacement"], readme)
    assert replaced == len(_LINK.findall(_without_code(ROOT / "README.md"))) > 0
    assert _LINK.findall(_FENCE.sub("", shown)) == []


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {
        (page.parent / f"{entry}.md").resolve()
        for page in PAGES
        for fence in _FENCE.finditer(page.read_text())
        if fence["language"] == "{toctree}"
        for entry in fence["code"].splitlines()
        if entry and not entry.startswith(":")
    }
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - {ROOT / "docs" / "index.md"}
    assert listed == pages


def test_every_public_name_is_on_an_api_page() -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    modules = ("esazure", "esazure.memory", "esazure.sqlite", "esazure.tables", "esazure.servicebus", "esazure.ports")
    missing = [
        f"{module}.{name}"
        for module in (*modules, "esazure.testing", "esazure.testing.conformance", "esazure.testing.servicebus")
        for name in importlib.import_module(module).__all__
        if not re.search(rf"\b{name}\b", text)
    ]
    assert missing == []


def test_the_table_of_errors_names_every_error() -> None:
    table = (ROOT / "docs" / "getting-started.md").read_text().partition("## When something goes wrong")[2]
    errors = {name for name in esazure.__all__ if name.endswith("Error")}
    assert errors - set(_ERROR.findall(table)) == {"EsAzureError", "RefusedError"} - set(_ERROR.findall(table))


def _without_code(page: Path) -> str:
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text()))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _exists(error: str) -> bool:
    places = ("esazure.errors", "esazure.testing.azurite", "esazure.testing.servicebus", "pydantic")
    return hasattr(builtins, error) or any(hasattr(importlib.import_module(place), error) for place in places)
