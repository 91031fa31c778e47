"""Every exception of its own that esazure raises; this docstring is the tree.

* EsAzureError
  * AggregateNotFoundError       nothing is stored under this id (or not up to that version)
  * ConcurrencyError             somebody else stored first: reload and decide again
  * AppendOutcomeUnknownError    no definite answer before the deadline: ask again with `retry`
  * CommandHandledError          this command was carried out before, or given up for good
  * UnusableAggregateError       this copy's state cannot be trusted: load it again
    * ReadOnlyAggregateError     this copy was loaded as of an earlier version
  * RefusedError                 refused before any I/O; the aggregate is as it was
    * CommitTooLargeError        the commit, or one message of it, is over a limit of the service
    * EventNotStorableError      an event, or a view, does not survive being written and read back
    * InvalidIdError             the id (or a name) cannot be a key
    * InvalidCommandError        the command is not valid: a list of (field, message)
    * CommandReusedError         the command id was used for another request
    * ValueTakenError            a value that must be unique belongs to somebody else
  * UnknownEventTypeError        an event's name is not declared by the aggregate
  * CorruptStreamError           what is stored cannot be what was written
  * StoreError                   the store refused; nothing was stored
    * StoreUnavailableError      the store cannot be reached or is overloaded: try again later
    * StoreMismatchError         the store is another one than is meant, or has another layout
  * DispatchError                stored, but not handed to the broker
  * SubscriptionError            a subscription cannot be received from, and somebody has to act
  * PoisonMessageError           a message that can never be handled: it is set aside, once
  * HandlerFailedError           a handler failed; its message will be delivered again
  * RetryLaterError              something a handler needs is away: the message waits, and does not count as failed
  * ViewBehindError              the view did not reach the version in time
  * ViewOutdatedError            a stored view does not fit its model any more: rebuild it under a new name

Mistakes in a call (a wrong type, a number out of range) are TypeError and ValueError, as everywhere. A message says
which stream and what to do. No message holds a payload, a key or a connection string.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any


class EsAzureError(Exception):
    """Base class: `except EsAzureError` catches everything below and nothing else."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling __init__, whose arguments are facts and not the text. A retry cannot leave its process.
        facts = {name: value for name, value in vars(self).items() if name != "retry"}
        return _restored, (type(self), self.args, facts)


def _restored(kind: type[EsAzureError], args: tuple[object, ...], facts: dict[str, object]) -> EsAzureError:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(facts)
    return error


class AggregateNotFoundError(EsAzureError):
    """No events are stored under this id, or fewer than the version asked for."""

    def __init__(self, stream: str, version: int | None = None) -> None:
        wanted = "" if version is None else f" at version {version}"
        super().__init__(f"{stream} does not exist{wanted}: check the id, or create it first")
        self.stream = stream
        self.version = version


class ConcurrencyError(EsAzureError):
    """The stream moved on since this aggregate was loaded. Nothing was stored and nothing pending was lost."""

    def __init__(self, stream: str, *, expected: int, actual: int | None = None) -> None:
        now = f"is at version {actual}" if actual is not None else "has moved on"
        if actual == expected:
            now = f"has other events up to version {actual}"
        super().__init__(
            f"{stream} {now}, this copy was loaded at {expected}: reload and decide again, or use EventsService.update"
        )
        self.stream = stream
        self.expected = expected
        self.actual = actual
        """The version the stream has reached, at least; None when it is not known.

        Not above `expected` when what this copy was made of is not there any more, or never was.
        """


async def _not_attached() -> Any:
    raise RuntimeError("this error did not come from a repository or a service here, so there is nothing to retry")


class AppendOutcomeUnknownError(EsAzureError):
    """No definite answer before the deadline, or before the disk failed: the commit may be stored, or still arrive.

    `await error.retry()` sends the very same commit again, which is safe however often it is done: it returns when the
    commit is stored, raises ConcurrencyError when it is not and never will be, and raises this error when there is
    still no answer. Persisting the same aggregate again does the same.
    """

    retry: Callable[[], Awaitable[Any]] = staticmethod(_not_attached)

    def __init__(self, stream: str, *, expected: int, commit_id: str) -> None:
        super().__init__(
            f"{stream}: it is unknown whether the commit after version {expected} was stored: "
            "call this error's retry(), or persist the same aggregate again"
        )
        self.stream = stream
        self.expected = expected
        self.commit_id = commit_id


class CommandHandledError(EsAzureError):
    """This command was answered before, or none may ever have its id; nothing is stored now.

    `EventsService.persist` gives the earlier answer instead. This comes out only when there is none and never will be:
    somebody who waited for the command has given it up (see `UniqueValues`).
    """

    def __init__(
        self,
        stream: str,
        first_version: int | None = None,
        *,
        answered_at: int | None = None,
        request: str | None = None,
    ) -> None:
        given_up = first_version is None and answered_at is None
        what = "was given up: send it again as a new command" if given_up else "was carried out before"
        super().__init__(f"{stream}: this command {what}")
        self.stream = stream
        self.first_version = first_version
        """Where the commit of this command begins; None when it has none."""
        self.answered_at = answered_at
        """The version at which there was nothing to store for it; None when it has a commit, or was given up."""
        self.request = request
        """The hash of what it asked for, if its sender gave one."""


class UnusableAggregateError(EsAzureError):
    """This copy can no longer record or be persisted; the message says why. Load it again."""


class ReadOnlyAggregateError(UnusableAggregateError):
    """Loaded as of an earlier version, to look at. Load it without a version to change it."""


class RefusedError(EsAzureError):
    """Refused before any I/O; the aggregate is as it was."""


class CommitTooLargeError(RefusedError):
    """The commit, or one message that would have to be published for it, is over a limit of the service."""


class EventNotStorableError(RefusedError):
    """The event, or the view, does not survive being written as JSON and read back."""


class InvalidIdError(RefusedError, ValueError):
    """An id, or a name used in a key, that no backend could store."""


class InvalidCommandError(RefusedError):
    """What is wrong with a command, field by field; see `esazure.commands`."""

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {message}" if field else message for field, message in errors))
        self.errors = tuple(errors)
        """(field, message) each; the field is a dotted path, empty when it is about the command as a whole."""


class CommandReusedError(RefusedError):
    """The command id was used for another request before; nothing is stored now. A new request needs a new id."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"{stream}: this command id was used for another request: choose a new one for a new request")
        self.stream = stream


class ValueTakenError(RefusedError):
    """A value that must be unique belongs to another stream, or is being claimed by it at this moment."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: this value is taken: choose another one")
        self.name = name
        """Of the set of unique values; never the value."""


class UnknownEventTypeError(EsAzureError):
    """An event carries a name which the aggregate does not declare. Names are never imported."""

    def __init__(self, stream: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"{stream}: unknown event type {name[:80]!r}; declared are {', '.join(known)}: add the event to the union "
            "of the aggregate, or pin its old name with event_type"
        )
        self.stream = stream
        self.name = name
        self.known = known


class CorruptStreamError(EsAzureError):
    """A stored row cannot be what was written: a gap, a damaged payload, an event its class no longer accepts."""


class StoreError(EsAzureError):
    """The store gave a definite refusal; nothing was stored. `__cause__` is the backend's own exception."""


class StoreUnavailableError(StoreError):
    """The store could not be reached, or asked to be left alone for a while; trying again later is reasonable."""


class StoreMismatchError(StoreError):
    """The store is not the one that is meant, or has another layout: going on would lose streams."""


class DispatchError(EsAzureError):
    """The commit is stored but was not, or not wholly, handed to the broker. Dispatching it again is always safe.

    With `permanent` it would fail again until somebody changes the messages, the topic or the credential; with
    `unpublishable` it is the messages: this commit will never be accepted as it is.
    """

    def __init__(self, message: str, *, permanent: bool = False, unpublishable: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent or unpublishable
        self.unpublishable = unpublishable


class SubscriptionError(EsAzureError):
    """A subscription cannot be received from; the message says why and what to do. No message was lost."""


class PoisonMessageError(EsAzureError):
    """A message that can never be handled, however often it is delivered. Handlers may raise it, too."""

    def __init__(self, reason: str, description: str = "") -> None:
        super().__init__(f"{reason}: {description}" if description else reason)
        self.reason = reason
        """One word; becomes the dead letter's reason."""
        self.description = description
        """For people; never a payload."""


class HandlerFailedError(EsAzureError):
    """A handler raised; `__cause__` is what. The others are not disturbed, and do not run again for this message."""

    def __init__(self, handler: str, stream: str, version: int, cause: str) -> None:
        super().__init__(f"{handler} failed at version {version} of {stream} with {cause}")
        self.handler = handler
        self.stream = stream
        self.version = version


class RetryLaterError(EsAzureError):
    """For handlers to raise when something they need is away. The message waits; it never becomes a dead letter."""


class ViewBehindError(EsAzureError):
    """The view did not reach the version that was waited for in time; it may do so later."""


class ViewOutdatedError(EsAzureError):
    """A stored view does not fit its model any more: give those of the new model another name, and rebuild."""
