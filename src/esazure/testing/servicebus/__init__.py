"""A Service Bus namespace in the test's own process: real AMQP 1.0, for the unmodified `azure-servicebus` 7.14 on.

```python
async with ServiceBusDouble() as bus:
    bus.topic("orders", duplicate_detection_window=600).subscribe("billing", requires_session=True)
    async with ServiceBusClient.from_connection_string(bus.connection_string) as client:
        ...
    bus.advance(31)  # locks expire
    assert bus.messages("orders/subscriptions/billing") == []
```

It is a double with a published subset, not an emulator. Run the same tests against a real namespace now and then.

In the subset: queues; topics and subscriptions with correlation and SQL filters; single messages and batches, all or
nothing; peek-lock and receive-and-delete; complete, abandon, defer, dead-letter, with properties and delivery counts;
lock renewal and expiry; sessions by id and next available, with locks, state and listing; duplicate detection;
scheduling and cancelling; time to live; peeking; dead-letter queues; the limits of the service on names, settings,
ids, properties and sizes (`limits.py`); any credentials, for entities that exist.

Not in it: TLS, WebSockets, transactions, forwarding, partitioned entities, rule actions, adding rules over AMQP,
deleting messages by number, quotas by size, auto-delete, the administration client (declare entities with
`ServiceBusDouble.topic` and `queue`), Event Hubs. What is outside the subset is refused with `amqp:not-implemented`,
a management operation or an argument of one with 501; it is never accepted in silence.

Faults are planned on `bus.faults`: for example `bus.faults.next_send(Drop(applied=True))` stores the next message and
then breaks the connection, so that the sender does not learn it.

Read `double.py` next. Only the names exported here are public.
"""

from esazure.testing.servicebus.double import DeclaredTopic, ServiceBusDouble
from esazure.testing.servicebus.faults import Close, Detach, Drop, Fault, Faults, Ignore, PlannedFault, Reject
from esazure.testing.servicebus.messages import MessageState
from esazure.testing.servicebus.rules import Rule, correlation_rule, sql_rule
from esazure.testing.servicebus.snapshots import Activity, MessageSnapshot
from esazure.testing.servicebus.sql import SqlFilterError

__all__ = [
    "Activity",
    "Close",
    "DeclaredTopic",
    "Detach",
    "Drop",
    "Fault",
    "Faults",
    "Ignore",
    "MessageSnapshot",
    "MessageState",
    "PlannedFault",
    "Reject",
    "Rule",
    "ServiceBusDouble",
    "SqlFilterError",
    "correlation_rule",
    "sql_rule",
]
