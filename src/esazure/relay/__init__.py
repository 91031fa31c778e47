"""The safety net: publishes what is still in an outbox because a process died or the broker was away.

`relay.py` sweeps and publishes, `leases.py` keeps relays out of each other's way. Read `relay.py` next.
"""

from __future__ import annotations

from esazure.relay.relay import Alert, OutboxRelay, RelayMetrics

__all__ = ["Alert", "OutboxRelay", "RelayMetrics"]
