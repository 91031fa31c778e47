"""Event sourcing for Python services on Azure.

Read in this order: events, aggregate, ports, repository, service; then memory, sqlite, tables, servicebus. Importing
this package imports no Azure SDK: the backends live in `esazure.tables` and `esazure.servicebus`.
"""

from esazure.aggregate import AggregateRoot
from esazure.context import current_metadata, metadata
from esazure.errors import (
    AggregateNotFoundError,
    AppendOutcomeUnknownError,
    CommitTooLargeError,
    ConcurrencyError,
    CorruptStreamError,
    DispatchError,
    EsAzureError,
    EventNotStorableError,
    InvalidIdError,
    ReadOnlyAggregateError,
    RefusedError,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
    UnknownEventTypeError,
    UnusableAggregateError,
)
from esazure.events import Commit, DomainEvent, EventEnvelope
from esazure.integration import Integration, IntegrationEvent, IntegrationMessage, thin, whole
from esazure.ports import IEventProducer, IEventsRepository, IEventsService
from esazure.repository import CommitStore
from esazure.service import EventsService

__all__ = [
    "AggregateNotFoundError",
    "AggregateRoot",
    "AppendOutcomeUnknownError",
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
    "IEventProducer",
    "IEventsRepository",
    "IEventsService",
    "Integration",
    "IntegrationEvent",
    "IntegrationMessage",
    "InvalidIdError",
    "ReadOnlyAggregateError",
    "RefusedError",
    "StoreError",
    "StoreMismatchError",
    "StoreUnavailableError",
    "UnknownEventTypeError",
    "UnusableAggregateError",
    "current_metadata",
    "metadata",
    "thin",
    "whole",
]
