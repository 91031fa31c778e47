"""What is needed of the SDK though it is private there: all names in one list, looked for when a `ServiceBus` is made.

A later version may rename them. Then sending and receiving may go on for a while, worse than promised, so it is said
loudly and at once. Nothing here does I/O. Read `sockets.py` next.
"""

from __future__ import annotations

import logging
from importlib import import_module, metadata

_log = logging.getLogger("esazure")

_CLOSING = "connections that failed are closed late, and closing may wait for a peer that has gone"
_SESSIONS = "messages of a session may overtake each other, and a session that was lost may be worked on"
_RENEWAL = "a session counts as lost when this machine's clock is ahead of the broker's"

_CLIENT = "azure.servicebus._pyamqp.aio._client_async"

NEEDED: dict[tuple[str, str, str], str] = {
    ("azure.servicebus.aio", "ServiceBusSender", "_create_handler"): _CLOSING,
    ("azure.servicebus.aio", "ServiceBusSender", "_handler"): _CLOSING,
    ("azure.servicebus.aio", "ServiceBusReceiver", "_create_handler"): _SESSIONS,
    ("azure.servicebus.aio", "ServiceBusReceiver", "_handler"): _SESSIONS,
    ("azure.servicebus.aio", "ServiceBusSession", "_locked_until_utc"): _RENEWAL,
    (_CLIENT, "ReceiveClientAsync", "_message_received_async"): _SESSIONS,
    (_CLIENT, "ReceiveClientAsync", "_link"): _SESSIONS,
    (_CLIENT, "AMQPClientAsync", "_connection"): _CLOSING,
    (_CLIENT, "AMQPClientAsync", "_keep_alive_thread"): _CLOSING,
    ("azure.servicebus._pyamqp.aio._connection_async", "Connection", "_transport"): _CLOSING,
    # Not private in name, but of a module that is.
    (_CLIENT, "AMQPClientAsync", "close_async"): _CLOSING,
    ("azure.servicebus._pyamqp.aio._transport_async", "AsyncTransport", "writer"): _CLOSING,
    ("azure.servicebus._pyamqp.aio._link_async", "Link", "get_state"): _SESSIONS,
}
"""Module, class and name, and what does not hold without it."""


def look_for_what_is_needed() -> None:
    """Log one error when some of it is gone."""
    gone = {needed: loss for needed, loss in NEEDED.items() if not _is_there(*needed)}
    if gone:
        _log.error(
            "azure-servicebus %s lacks what esazure needs (%s): %s. Install a version esazure was tested with.",
            metadata.version("azure-servicebus"),
            ", ".join(f"{cls}.{name}" for _, cls, name in gone),
            "; ".join(sorted(set(gone.values()))),
        )


def _is_there(module: str, cls: str, name: str) -> bool:
    try:
        found = getattr(import_module(module), cls)
    except (ImportError, AttributeError):
        return False
    # What objects have is not in their class, but some method of it says the name.
    methods = [method for one in found.__mro__ for method in vars(one).values() if hasattr(method, "__code__")]
    return hasattr(found, name) or any(name in method.__code__.co_names for method in methods)
