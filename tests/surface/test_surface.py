"""The public surface is deliberate: its names, what importing it costs, and its layers."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from tools import matrix

import esazure

PUBLIC = {
    "esazure": """
        AggregateNotFoundError AggregateRoot AppendOutcomeUnknownError Command CommandHandledError CommandReusedError
        Commit CommitStore CommitTooLargeError ConcurrencyError CorruptStreamError DispatchError DomainEvent
        EsAzureError EventEnvelope EventNotStorableError EventsService HandlerFailedError IEventProducer
        IEventsRepository IEventsService Integration IntegrationEvent IntegrationMessage InvalidCommandError
        InvalidIdError PoisonMessageError ProblemDetails ReadOnlyAggregateError RefusedError RetryLaterError Snapshotted
        StoreError StoreMismatchError StoreUnavailableError SubscriptionError UnknownEventTypeError
        UnusableAggregateError ValueTakenError ViewBehindError ViewOutdatedError current_metadata invalid_command
        metadata problem_details thin validation whole
    """,
    "esazure.commands": """
        Command PROBLEM_MEDIA_TYPE ProblemDetails FieldProblem Problems invalid_command problem_details validation
    """,
    "esazure.consumer": "Consumer ConsumerMetrics Lane ParkedStream",
    "esazure.documents": "Document DocumentPage IDocumentStore",
    "esazure.handlers": "EventHandlers IEventHandler IHandlerSet Interests Reactions",
    "esazure.inprocess": "InProcessSubscription",
    "esazure.memory": "InMemoryEventProducer InMemoryEventsRepository InMemoryStore",
    "esazure.ports": """
        HandledCommand ICommitStore IEventProducer IEventsRepository IEventsService IOutbox IOutboxStore IRequest
        IStreamSource Lease OutboxRow Swept ViewRecord
    """,
    "esazure.progress": "progress_bar",
    "esazure.projection": "Projection",
    "esazure.rebuild": "RebuildProgress RebuildReport rebuild",
    "esazure.relay": "Alert OutboxRelay RelayMetrics",
    "esazure.servicebus": """
        DeadLetter ServiceBus ServiceBusEventProducer ServiceBusSubscription SubscriptionMetrics dispatch_message
    """,
    "esazure.snapshots": "Snapshotted",
    "esazure.sqlite": "SqliteStore",
    "esazure.store": "Store",
    "esazure.tables": "TableStore",
    "esazure.unique": "IClaimStore Reservation UniqueValues",
    "esazure.views": "IViews Page Views parse_token",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == sorted(PUBLIC[module].split())


def test_every_public_name_has_a_docstring() -> None:
    # `Integration` is an alias of Callable; its documentation stands below it, for people and for Sphinx.
    undocumented = [name for name in esazure.__all__ if not getattr(esazure, name).__doc__ and name != "Integration"]
    assert undocumented == []


def test_the_error_tree_in_the_docstring_is_the_tree() -> None:
    errors = importlib.import_module("esazure.errors")
    drawn: list[str] = []
    parents: dict[str, str] = {}
    for indent, name in re.findall(r"^( *)\* (\w+)", errors.__doc__ or "", re.MULTILINE):
        depth = len(indent) // 2
        del drawn[depth:]
        if drawn:
            parents[name] = drawn[-1]
        drawn.append(name)
    real = {
        name: found.__bases__[0].__name__
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, errors.EsAzureError) and found is not errors.EsAzureError
    }
    assert parents == real


def _modules_after(statement: str) -> set[str]:
    script = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)  # noqa: S603
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["esazure", "esazure.memory", "esazure.sqlite", "esazure.testing"])
def test_importing_it_loads_no_azure_module_and_no_aiohttp(module: str) -> None:
    loaded = _modules_after(f"import {module}")
    assert module in loaded
    assert not [name for name in loaded if name.partition(".")[0] in ("azure", "aiohttp", "pytest", "hypothesis")]


def test_importing_esazure_adds_little_to_what_pydantic_imports() -> None:
    """A clock would measure the machine. None of these is slow, and what they load is their own affair.

    Which modules of the standard library pydantic and these load by themselves differs between Python versions.
    """
    known = "import atexit, hashlib, hmac, logging, traceback\nfrom pydantic import BaseModel, TypeAdapter"
    added = _modules_after("import esazure") - _modules_after(f"{known}\nclass Model(BaseModel):\n    x: int")
    assert {name for name in added if name.partition(".")[0] != "esazure"} == set()


@pytest.mark.parametrize(
    ("package", "folder"), [("azure.data.tables", "tables"), ("azure.servicebus", "servicebus"), ("aiohttp", "nowhere")]
)
def test_an_azure_package_is_known_to_its_backend_alone(package: str, folder: str) -> None:
    root = Path(esazure.__file__ or "").parent
    knows = re.compile(rf"^\s*(?:from|import) {re.escape(package)}\b", re.MULTILINE)
    users = {path.relative_to(root).parts[0] for path in root.rglob("*.py") if knows.search(path.read_text())}
    assert users <= {folder}


def test_the_package_says_that_it_is_typed() -> None:
    assert esazure.__file__ is not None
    assert (Path(esazure.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("module", ["tables", "servicebus"])
@pytest.mark.parametrize("missing", ["azure", "azure.core"])
def test_without_the_azure_packages_an_import_says_what_to_install(module: str, missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None\nimport esazure.{module}"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)  # noqa: S603
    assert re.search(r'^ModuleNotFoundError: .*azure.*: install it with "esazure\[azure\]"$', done.stderr, re.MULTILINE)


ROOT = Path(__file__).parent.parent.parent


def test_the_version_is_that_of_the_metadata_the_readme_and_the_changelog() -> None:
    assert metadata.version("esazure") == esazure.__version__
    status = (ROOT / "README.md").read_text().partition("## Status")[2]
    assert f"version {esazure.__version__}" in status.lower()
    released = f"## [{esazure.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert released != ("not released" in status)


def test_each_python_that_is_supported_is_said_and_tested_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert project["requires-python"] == f">={named[0]}"
    assert f"Python {named[0]} to {named[-1]}" in (ROOT / "docs/getting-started.md").read_text()
    workflow = ROOT / ".github/workflows/ci.yml"
    assert str(named).replace("'", '"') in workflow.read_text()
    assert named == matrix.VERSIONS


def test_the_lowest_versions_are_those_that_users_may_have() -> None:
    pins = matrix.floors((ROOT / "pyproject.toml").read_text())
    assert {"pydantic==2.10.6", "azure-servicebus==7.15", "pytest==8.2", "rich==13"} <= set(pins)
    assert [pin for pin in pins if pin.startswith("pytest==")] == ["pytest==8.2"]
    with pytest.raises(ValueError, match="pydantic: no lowest version"):
        matrix.floors(
            'project.dependencies = ["pydantic"]\nproject.optional-dependencies = {}\ndependency-groups.test = []'
        )
