"""What each failure of the SDK means, without a broker."""

from __future__ import annotations

import traceback
from types import SimpleNamespace

import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
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
from tests.servicebus.support import commits_of

from esazure import CommitTooLargeError, DispatchError
from esazure.errors import SubscriptionError
from esazure.servicebus.deadletters import DeadLetters
from esazure.servicebus.translation import ClosedError, LateTurnError, SilentError, dispatch_error, judge


def wrapped(inner: object) -> ServiceBusError:
    """As the SDK hands on what it has no class for."""
    return ServiceBusError("Handler failed", error=inner)


def with_condition(condition: bytes) -> ServiceBusError:
    return wrapped(SimpleNamespace(condition=condition))


def token_refused(status: object) -> ServiceBusAuthenticationError:
    return ServiceBusAuthenticationError(error=SimpleNamespace(condition=b"amqp:client-error", status_code=status))


def refused_by_the_token_service(status: int) -> ClientAuthenticationError:
    error = ClientAuthenticationError("no")
    error.status_code = status
    return error


def no_token_because(cause: Exception) -> ClientAuthenticationError:
    error = ClientAuthenticationError("no")
    error.__cause__ = cause
    return error


TOKEN_EXPIRED = ServiceBusAuthenticationError(error=SimpleNamespace(condition=b"amqp:internal-error"))


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (MessagingEntityNotFoundError(), "the topic does not exist"),
        (with_condition(b"amqp:resource-deleted"), "the topic does not exist"),
        (MessagingEntityDisabledError(), "the topic is disabled"),
        (ServiceBusAuthenticationError(), "the namespace does not accept the credential"),
        (ServiceBusAuthorizationError(), "the namespace does not accept the credential"),
        (token_refused(401), "the namespace does not accept the credential"),
        (token_refused(404), "the topic does not exist"),
        (wrapped(refused_by_the_token_service(401)), "the namespace does not accept the credential"),
        (MessageSizeExceededError(), "a message is larger than the broker takes"),
        (CommitTooLargeError(), "a message is larger than the broker takes"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, ""), "a message is not well-formed Unicode"),
        (with_condition(b"amqp:not-allowed"), "the broker refuses the messages as they are"),
        (with_condition(b"com.microsoft:argument-error"), "the broker cannot read a message"),
    ],
)
def test_what_fails_again_until_somebody_changes_something(error: Exception, why: str) -> None:
    verdict = judge(error)
    assert verdict.why == why
    assert verdict.permanent


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ServiceBusServerBusyError(), "the broker is busy"),
        (ServiceBusQuotaExceededError(), "the topic is full"),
        (OperationTimeoutError(), "the broker did not answer in time"),
        (TimeoutError(), "the broker did not answer in time"),
        (ServiceBusConnectionError(), "the broker cannot be reached"),
        (ServiceBusCommunicationError(), "the broker cannot be reached"),
        (ConnectionResetError(), "the broker cannot be reached"),
        (token_refused(503), "the broker cannot be reached"),
        (token_refused(b"amqp:client-error"), "the broker cannot be reached"),
        (TOKEN_EXPIRED, "the broker cannot be reached"),
        (ClosedError(), "its ServiceBus was closed"),
        (LateTurnError(), "others were before it for too long and nothing of it was sent"),
        (wrapped(ClientAuthenticationError("no identity for a moment")), "no token could be had for it"),
        (wrapped(ServiceRequestError("no route to it")), "what issues tokens for it cannot be reached"),
        (wrapped(refused_by_the_token_service(503)), "what issues tokens for it cannot be reached"),
        (wrapped(no_token_because(TimeoutError())), "what issues tokens for it cannot be reached"),
        (wrapped(no_token_because(ServiceRequestError("no route"))), "what issues tokens for it cannot be reached"),
        (SilentError(), "the broker was silent a moment ago and was not asked"),
        (with_condition(b"com.microsoft:something-new"), "the connection failed in an unexpected way"),
        (RuntimeError(), "the connection failed in an unexpected way"),
    ],
)
def test_what_is_worth_another_try(error: Exception, why: str) -> None:
    verdict = judge(error)
    assert verdict.why == why
    assert not verdict.permanent


@pytest.mark.parametrize("error", [ServiceBusServerBusyError(), ServiceBusQuotaExceededError(), LateTurnError()])
def test_a_no_over_a_link_that_works_keeps_the_link(error: Exception) -> None:
    assert judge(error).link_is_fine


@pytest.mark.parametrize("error", [MessageSizeExceededError(), TimeoutError(), MessagingEntityDisabledError()])
def test_after_any_other_failure_the_link_is_replaced(error: Exception) -> None:
    assert not judge(error).link_is_fine


async def test_the_error_says_which_versions_why_and_what_to_do() -> None:
    first, second = await commits_of(("secret",), ("secret", "secret"), id="ada")
    error = dispatch_error(first, "customers", MessagingEntityNotFoundError())
    assert str(error) == (
        "Customer.ada: version 1 is stored but not wholly published to topic 'customers', because the topic does not "
        "exist (MessagingEntityNotFoundError): create it, then dispatch again"
    )
    assert error.permanent
    assert "Customer.ada: versions 2 to 3 are stored" in str(dispatch_error(second, "customers", TimeoutError()))


@pytest.mark.parametrize(
    ("error", "unpublishable"),
    [
        (MessageSizeExceededError(), True),
        (CommitTooLargeError(), True),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, ""), True),
        (with_condition(b"amqp:decode-error"), True),
        (with_condition(b"com.microsoft:argument-error"), True),
        (with_condition(b"amqp:not-allowed"), False),
        (MessagingEntityNotFoundError(), False),
        (MessagingEntityDisabledError(), False),
        (token_refused(401), False),
        (ServiceBusServerBusyError(), False),
    ],
)
async def test_only_the_messages_themselves_make_a_commit_unpublishable(
    error: Exception, *, unpublishable: bool
) -> None:
    (commit,) = await commits_of(("a",), id="ada")
    assert dispatch_error(commit, "customers", error).unpublishable is unpublishable


def test_a_dispatch_error_is_not_permanent_unless_it_says_so() -> None:
    assert not DispatchError("text").permanent
    assert DispatchError("text", permanent=True).permanent
    assert not DispatchError("text", permanent=True).unpublishable
    assert DispatchError("text", unpublishable=True).permanent


async def test_what_a_credential_says_when_dead_letters_are_asked_for_is_not_shown() -> None:
    class Receiver:
        async def __aenter__(self) -> None:
            raise ServiceBusError("secret", error=ClientAuthenticationError("secret"))

        async def close(self) -> None: ...

    letters = DeadLetters("customers/all", Receiver, Receiver)  # type: ignore[arg-type] # as much of them as is used
    with pytest.raises(SubscriptionError) as caught:
        async with letters._receiver():
            pass
    assert "secret" not in "".join(traceback.format_exception(caught.value))
