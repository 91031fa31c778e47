"""Servers for the tests, and the watch that no secret leaves.

One Azurite serves a run and is shared by the xdist workers; Service Bus doubles start inside the tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.support.secrets import SecretsWatch

from esazure.testing.azurite import Azurite, find_azurite

_ENVIRONMENT = "ESAZURE_TABLES"
_watch = SecretsWatch()
# No clock decides: a machine that is busy makes everything slow.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--soak N`: the tests that look for rare accidents run N times as long."""
    parser.addoption("--soak", type=int, default=1, metavar="N", help="fault and process tests: N times as many runs")


def pytest_configure(config: pytest.Config) -> None:
    """Start Azurite once, in the process that runs the workers, and hand its address on through the environment."""
    _watch.start()
    if os.environ.get(_ENVIRONMENT) or hasattr(config, "workerinput") or config.option.collectonly:
        return
    if find_azurite() is not None:
        azurite = Azurite()
        azurite.__enter__()
        config.add_cleanup(lambda: azurite.__exit__(None, None, None))
        os.environ[_ENVIRONMENT] = azurite.connection_string
        config.add_cleanup(lambda: os.environ.pop(_ENVIRONMENT, None))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not os.environ.get("ESAZURE_TABLES") and find_azurite() is None:
        terminalreporter.write_line(
            "AZURITE IS MISSING: every test that needs Table Storage was skipped; `make test` installs it", red=True
        )


@pytest.fixture(autouse=True)
def no_secret_leaves() -> Iterator[SecretsWatch]:
    """Fail the test in which a secret or a payload got into a log or an error."""
    before = len(_watch.found)
    yield _watch
    assert _watch.found[before:] == []


@pytest.fixture(scope="session")
def tables() -> str:
    """A Table Storage connection string: Azurite's, or the account in ESAZURE_TABLES."""
    connection_string = os.environ.get(_ENVIRONMENT)
    if not connection_string:
        message = "needs Azurite: npm install --prefix .azurite azurite, or set ESAZURE_TABLES"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return connection_string
