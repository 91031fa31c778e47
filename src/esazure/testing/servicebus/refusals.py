"""What the broker says no with: an AMQP error condition, a sentence, and a status for the management node.

The conditions are the service's own, so that the SDK raises the exception it would raise in production.
"""

from typing import Literal


class RefusalError(Exception):
    """The broker refuses; `condition` decides which exception the SDK raises."""

    def __init__(self, condition: str, description: str = "", status: int = 400) -> None:
        super().__init__(f"{condition}: {description}" if description else condition)
        self.condition = condition
        self.description = description
        self.status = status


def lock_lost(what: Literal["message", "session"] = "message") -> RefusalError:
    """The lock expired, was settled or belongs to somebody else by now."""
    return RefusalError(
        f"com.microsoft:{what}-lock-lost",
        f"The lock supplied is invalid. Either the {what} lock expired, or it has already been released.",
        410,
    )


def not_found(path: str) -> RefusalError:
    """No such entity."""
    return RefusalError("amqp:not-found", f"The messaging entity '{path}' could not be found.", 404)


def disabled(path: str) -> RefusalError:
    """The entity exists and takes no part."""
    return RefusalError("com.microsoft:entity-disabled", f"The messaging entity '{path}' is disabled.")


def not_allowed(description: str) -> RefusalError:
    """The entity is not of the kind this needs."""
    return RefusalError("amqp:not-allowed", description)


def bad_argument(description: str) -> RefusalError:
    """A management request that lacks something, or carries the wrong type."""
    return RefusalError("com.microsoft:argument-error", description)


def no_transactions() -> RefusalError:
    """The double has none; saying so is better than doing half of one."""
    return RefusalError("amqp:not-implemented", "Transactions are not part of the double.", 501)


def message_not_found(sequence_number: int) -> RefusalError:
    """No message with this sequence number is in the state that was asked for."""
    return RefusalError("com.microsoft:message-not-found", f"No such message: {sequence_number}.", 404)


def session_taken(session_id: str) -> RefusalError:
    """Another receiver holds the session."""
    return RefusalError(
        "com.microsoft:session-cannot-be-locked",
        f"The requested session '{session_id}' cannot be accepted. It may be locked by another receiver.",
        410,
    )


def no_session_in_time() -> RefusalError:
    """Nobody sent to a free session while the receiver waited."""
    return RefusalError("com.microsoft:timeout", "No session with messages became available within the timeout.")


def too_large(size: int, limit: int) -> RefusalError:
    """A transfer over the link's maximum."""
    return RefusalError(
        "amqp:link:message-size-exceeded",
        f"The received message ({size} bytes) exceeds the limit ({limit} bytes) currently allowed on the link.",
    )
