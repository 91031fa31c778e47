"""What the service refuses: settings an entity cannot have, and messages over its limits.

Sources: Microsoft's pages "Service Bus quotas" and "Naming rules and restrictions for Azure resources", and the ranges
of `QueueProperties` in its SDKs.
"""

import re
from typing import TYPE_CHECKING

from esazure.testing.servicebus.refusals import RefusalError

if TYPE_CHECKING:
    from esazure.testing.servicebus.messages import Message

LONGEST_PATH = 260
"""Characters in the name of a queue or topic."""
LONGEST_NAME = 50
"""Characters in the name of a subscription."""
LONGEST_LOCK = 300.0
"""Seconds. The service's shortest lock is 5 s; a double may have shorter ones, so that a test need not wait."""
MOST_DELIVERIES = 2_000
SHORTEST_WINDOW, LONGEST_WINDOW = 20.0, 7 * 86_400.0
"""Seconds in which duplicates are detected."""
LARGEST_MESSAGE = 100 << 20
"""Bytes, on the Premium tier; 256 KB on the Standard tier."""
LARGEST_BATCH = 1 << 20
"""Bytes in a batch, on any tier."""
MOST_SUBSCRIPTIONS = MOST_SQL_RULES = 2_000
"""For each topic."""
LONGEST_ID = 128
"""Characters of a message id, a session id, a reply-to session id or a partition key."""
LARGEST_PROPERTY = 32 << 10
LARGEST_HEADER = 64 << 10
"""Bytes of all properties and annotations of a message, its own and the system's."""

_NAME = re.compile("[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def check_path(path: str) -> None:
    """The name of a queue or topic, which may have parts between slashes.

    Raises:
        ValueError: the service takes no such name.
    """
    if len(path) > LONGEST_PATH:
        raise ValueError(f"the name of a queue or topic has at most {LONGEST_PATH} characters, not {len(path)}")
    for part in path.split("/"):
        _check_characters(part)


def check_name(name: str) -> None:
    """The name of a subscription.

    Raises:
        ValueError: the service takes no such name.
    """
    if len(name) > LONGEST_NAME:
        raise ValueError(f"the name of a subscription has at most {LONGEST_NAME} characters, not {len(name)}")
    _check_characters(name)


def _check_characters(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' is not a name for an entity: letters, digits, '.', '-' and '_', at both ends a letter or digit"
        )


def check_settings(lock_duration: float, max_delivery_count: int, default_ttl: float | None) -> None:
    """What a queue or subscription is made with.

    Raises:
        ValueError: the service takes no such setting.
    """
    if not 0 < lock_duration <= LONGEST_LOCK:
        raise ValueError(f"lock_duration is above 0 and at most {LONGEST_LOCK:.0f} seconds, not {lock_duration}")
    if not 1 <= max_delivery_count <= MOST_DELIVERIES:
        raise ValueError(f"max_delivery_count is 1 to {MOST_DELIVERIES}, not {max_delivery_count}")
    if default_ttl is not None and not default_ttl > 0:
        raise ValueError(f"default_ttl must be positive, not {default_ttl}")


def check_window(seconds: float | None) -> None:
    """How long message ids are remembered.

    Raises:
        ValueError: the service takes no such window.
    """
    if seconds is not None and not SHORTEST_WINDOW <= seconds <= LONGEST_WINDOW:
        raise ValueError(
            f"duplicate_detection_window is {SHORTEST_WINDOW:.0f} to {LONGEST_WINDOW:.0f} seconds, not {seconds}"
        )


def check_message(message: "Message") -> None:
    """What a sender sends.

    Raises:
        RefusalError: the service does not take it.
    """
    ids = {
        "message id": message.message_id,
        "session id": message.session_id,
        "reply-to session id": message.reply_to_session_id,
        "partition key": message.partition_key,
    }
    for name, value in ids.items():
        if isinstance(value, str) and len(value) > LONGEST_ID:
            raise _out_of_range(f"The {name} has {len(value)} characters; at most {LONGEST_ID} are allowed.")
    if message.wire is not None:
        sizes = message.wire.property_sizes()
        if max(sizes, default=0) > LARGEST_PROPERTY:
            raise _out_of_range(f"A property of the message is over {LARGEST_PROPERTY:,} bytes.")
        header = message.wire.header_size()
        if header > LARGEST_HEADER:
            raise _out_of_range(f"The properties take {header:,} bytes; at most {LARGEST_HEADER:,} are allowed.")


def _out_of_range(description: str) -> RefusalError:
    return RefusalError("com.microsoft:argument-out-of-range", description)
