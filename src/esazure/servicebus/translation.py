"""What the exceptions of the SDK mean: the only place that judges a failure, and makes a `DispatchError` of it.

By type and by AMQP condition, never by text. Pure functions. Read `links.py` next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestError, ServiceResponseError
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusCommunicationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
)

from esazure.errors import CommitTooLargeError, DispatchError
from esazure.events import Commit
from esazure.tokens import is_away


class ClosedError(Exception):
    """The `ServiceBus` this producer came from was closed. Never leaves the package."""


class LateTurnError(Exception):
    """Other dispatches took all the time there was. Never leaves the package."""


class SilentError(Exception):
    """The broker was silent a moment ago, so it was not asked. Never leaves the package."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failure means for the commit and for the link it happened on."""

    why: str
    advice: str
    unpublishable: bool = False
    """It is the messages themselves: nothing but other messages would help."""
    permanent: bool = False
    """Sending the same again fails again, until somebody changes the messages or the namespace."""
    link_is_fine: bool = False
    """The broker said no to a message over a link that works."""


_AGAIN = "dispatch it again, as the relay does"

MISSING = Verdict("the topic does not exist", "create it, then dispatch again", permanent=True)
UNAUTHORISED = Verdict(
    "the namespace does not accept the credential",
    "give it the right to send (Azure Service Bus Data Sender), or correct the key",
    permanent=True,
)
_NO_TOKEN = Verdict("no token could be had for it", f"check the credential and what issues its tokens; {_AGAIN}")
_ISSUER_AWAY = Verdict("what issues tokens for it cannot be reached", _AGAIN)
_TOO_LARGE = Verdict(
    "a message is larger than the broker takes",
    "send a thin event, or give the producer the max_message_bytes of this tier, so that the next is refused earlier",
    permanent=True,
    unpublishable=True,
)
_NO_ANSWER = Verdict("the broker did not answer in time", f"it may have part of it, {_AGAIN}")
_UNREACHABLE = Verdict("the broker cannot be reached", f"check the address and the network; {_AGAIN}")
REFUSED = Verdict(
    "the broker refuses the messages as they are",
    "compare the topic's settings with what the error of the SDK says",
    permanent=True,
)
_MALFORMED = Verdict(
    "the broker cannot read a message",
    "compare the message's fields with what the error of the SDK says",
    permanent=True,
    unpublishable=True,
)
_UNKNOWN = Verdict("the connection failed in an unexpected way", _AGAIN)

_BY_TYPE: tuple[tuple[type[BaseException], Verdict], ...] = (
    (MessagingEntityNotFoundError, MISSING),
    (
        MessagingEntityDisabledError,
        Verdict("the topic is disabled", "enable it, then dispatch again", permanent=True),
    ),
    (ServiceBusAuthorizationError, UNAUTHORISED),
    (ClientAuthenticationError, UNAUTHORISED),
    (MessageSizeExceededError, _TOO_LARGE),
    (CommitTooLargeError, _TOO_LARGE),
    (
        ServiceBusServerBusyError,
        Verdict("the broker is busy", _AGAIN, link_is_fine=True),
    ),
    (
        ServiceBusQuotaExceededError,
        Verdict("the topic is full", f"let its consumers catch up; {_AGAIN}", link_is_fine=True),
    ),
    (
        UnicodeEncodeError,
        Verdict(
            "a message is not well-formed Unicode",
            "correct what the integration makes of it",
            unpublishable=True,
            permanent=True,
        ),
    ),
    (ClosedError, Verdict("its ServiceBus was closed", f"open another; {_AGAIN}")),
    (
        LateTurnError,
        Verdict("others were before it for too long and nothing of it was sent", _AGAIN, link_is_fine=True),
    ),
    (
        SilentError,
        Verdict("the broker was silent a moment ago and was not asked", _AGAIN, link_is_fine=True),
    ),
    (OperationTimeoutError, _NO_ANSWER),
    (TimeoutError, _NO_ANSWER),
    (ServiceBusCommunicationError, _UNREACHABLE),
    (ServiceBusConnectionError, _UNREACHABLE),
    (OSError, _UNREACHABLE),
)

# Conditions the SDK has no class for. Compared with `==`: the SDK's own conditions equal bytes but hash differently.
_BY_CONDITION = (
    (b"amqp:resource-deleted", MISSING),
    (b"amqp:decode-error", _MALFORMED),
    (b"amqp:invalid-field", _MALFORMED),
    (b"amqp:not-allowed", REFUSED),
    (b"amqp:not-implemented", REFUSED),
    (b"amqp:precondition-failed", REFUSED),
    (b"com.microsoft:argument-error", _MALFORMED),
    (b"com.microsoft:argument-out-of-range", _MALFORMED),
)

_TOKEN_EXPIRED = b"amqp:internal-error"
_BAD_REQUEST, _UNAUTHORIZED, _NOT_FOUND, _INTERNAL_ERROR = 400, 401, 404, 500


def judge(error: BaseException) -> Verdict:
    """What this failure means. Unknown ones are worth another try: sending again is always safe."""
    # The SDK wraps what it does not know, such as the credential's own errors, in its base class.
    inner = error.inner_exception if isinstance(error, ServiceBusError) else None
    if isinstance(error, ServiceBusAuthenticationError):
        return _of_a_token(inner)
    if isinstance(error, ClientAuthenticationError | ServiceRequestError | ServiceResponseError):
        if is_away(error):
            return _ISSUER_AWAY
        if getattr(error, "status_code", None) is None:
            return _NO_TOKEN
    for failure, verdict in _BY_TYPE:
        if isinstance(error, failure):
            return verdict
    condition = getattr(inner, "condition", None)
    for refusing, verdict in _BY_CONDITION:
        if condition == refusing:
            return verdict
    return _UNKNOWN if inner is None else judge(inner)


def _of_a_token(inner: object) -> Verdict:
    """What it means that the broker did not take a token; the SDK calls all of it a problem of authentication."""
    if getattr(inner, "condition", None) == _TOKEN_EXPIRED:
        return _UNREACHABLE
    status = getattr(inner, "status_code", _UNAUTHORIZED)
    if status == _NOT_FOUND:  # the service looks for the entity when it is given a token for it
        return MISSING
    is_refusal = isinstance(status, int) and _BAD_REQUEST <= status < _INTERNAL_ERROR
    return UNAUTHORISED if is_refusal else _UNREACHABLE


def may_quote_secrets(error: BaseException) -> bool:
    """Whether an error may quote the password of a proxy: it is not what the broker said, but aiohttp or a credential.

    Whoever raises it anew leaves it out of the chain. What kind it was is in the text of `dispatch_error`.
    """
    return isinstance(error, AzureError) and judge(error) not in (REFUSED, _MALFORMED, _TOO_LARGE, MISSING)


def dispatch_error(commit: Commit[Any], topic: str, error: BaseException) -> DispatchError:
    """The error to raise for a commit; says what is not published, why, and what to do."""
    verdict = judge(error)
    first, last = commit.first_version, commit.last_version
    versions = f"version {first} is" if first == last else f"versions {first} to {last} are"
    return DispatchError(
        f"{commit.stream}: {versions} stored but not wholly published to topic {topic!r}, because {verdict.why} "
        f"({_kinds_of(error)}): {verdict.advice}",
        permanent=verdict.permanent,
        unpublishable=verdict.unpublishable,
    )


def _kinds_of(error: BaseException) -> str:
    inner = error.inner_exception if isinstance(error, ServiceBusError) else None
    return type(error).__name__ if inner is None else f"{type(error).__name__}, {type(inner).__name__}"


_RECEIVING: dict[Verdict, str] = {
    MISSING: "it does not exist: create it, with sessions required",
    REFUSED: "it gives out no sessions: make it anew, with sessions required",
    UNAUTHORISED: "the credential has no right to receive from it: assign Azure Service Bus Data Receiver",
}


def why_not_received(error: BaseException) -> tuple[str, bool]:
    """Why nothing can be received from a subscription, and whether nothing but a correction by somebody helps."""
    verdict = judge(error)
    why = _RECEIVING.get(verdict)
    return f"{why or verdict.why} ({type(error).__name__})", why is not None
