"""Tests of your own aggregates, and of your own backends.

`given(...).when(...).then(...)` and `ManualClock` need nothing but esazure. `esazure.testing.conformance` holds the
suites every backend passes, and needs esazure[testing].
"""

from esazure.testing.clock import ManualClock
from esazure.testing.scenario import Scenario, given

__all__ = ["ManualClock", "Scenario", "given"]
