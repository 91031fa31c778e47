"""Event sourcing for Python services on Azure.

Read in this order: events, aggregate, ports, repository, service; then handlers, views, projection, consumer; then the
backends memory, sqlite, tables, servicebus. Importing this package imports no Azure SDK and no read side: what is not
listed here is in the module of its name.
"""

from esazure.aggregate import AggregateRoot
from esazure.commands import Command, ProblemDetails, invalid_command, problem_details, validation
from esazure.context import current_metadata, metadata
from esazure.errors import (
    AggregateNotFoundError,
    AppendOutcomeUnknownError,
    CommandHandledError,
    CommandReusedError,
    CommitTooLargeError,
    ConcurrencyError,
    CorruptStreamError,
    DispatchError,
    EsAzureError,
    EventNotStorableError,
    HandlerFailedError,
    InvalidCommandError,
    InvalidIdError,
    PoisonMessageError,
    ReadOnlyAggregateError,
    RefusedError,
    RetryLaterError,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
    SubscriptionError,
    UnknownEventTypeError,
    UnusableAggregateError,
    ValueTakenError,
    ViewBehindError,
    ViewOutdatedError,
)
from esazure.events import Commit, DomainEvent, EventEnvelope
from esazure.integration import Integration, IntegrationEvent, IntegrationMessage, thin, whole
from esazure.ports import IEventProducer, IEventsRepository, IEventsService
from esazure.repository import CommitStore
from esazure.service import EventsService
from esazure.snapshots import Snapshotted

__version__ = "0.1.0"

__all__ = [
    "AggregateNotFoundError",
    "AggregateRoot",
    "AppendOutcomeUnknownError",
    "Command",
    "CommandHandledError",
    "CommandReusedError",
    "Commit",
    "CommitStore",
    "CommitTooLargeError",
    "ConcurrencyError",
    "CorruptStreamError",
    "DispatchError",
    "DomainEvent",
    "EsAzureError",
    "EventEnvelope",
    "EventNotStorableError",
    "EventsService",
    "HandlerFailedError",
    "IEventProducer",
    "IEventsRepository",
    "IEventsService",
    "Integration",
    "IntegrationEvent",
    "IntegrationMessage",
    "InvalidCommandError",
    "InvalidIdError",
    "PoisonMessageError",
    "ProblemDetails",
    "ReadOnlyAggregateError",
    "RefusedError",
    "RetryLaterError",
    "Snapshotted",
    "StoreError",
    "StoreMismatchError",
    "StoreUnavailableError",
    "SubscriptionError",
    "UnknownEventTypeError",
    "UnusableAggregateError",
    "ValueTakenError",
    "ViewBehindError",
    "ViewOutdatedError",
    "current_metadata",
    "invalid_command",
    "metadata",
    "problem_details",
    "thin",
    "validation",
    "whole",
]
