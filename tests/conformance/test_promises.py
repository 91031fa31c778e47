"""The suites that bindings inherit are whole: no promise hides another of the same name."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest

from esazure.testing import conformance


@pytest.mark.parametrize("suite", [name for name in conformance.__all__ if name.endswith("Conformance")])
def test_no_promise_hides_another(suite: str) -> None:
    bases = inspect.getmro(getattr(conformance, suite))
    names = Counter(name for base in bases for name in vars(base) if name.startswith("test_"))
    assert [name for name, times in names.items() if times > 1] == []
    assert len(names) > 10
