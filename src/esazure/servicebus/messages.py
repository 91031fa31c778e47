"""From esazure's messages to the SDK's: the only place that knows which field goes where.

A pure function. What the fields mean is decided in `esazure.integration`. Read `translation.py` next.
"""

from __future__ import annotations

from uuid import UUID

from azure.servicebus import ServiceBusMessage

from esazure.integration import IntegrationMessage


def to_service_bus(message: IntegrationMessage) -> ServiceBusMessage:
    """One message, ready to be put into a batch.

    Every application property is text: AMQP would cut integers to 32 bits, and readers in other languages see the same.
    """
    properties: dict[str | bytes, int | float | bytes | bool | str | UUID] = {}
    properties.update(message.properties)
    return ServiceBusMessage(
        message.body.encode(),
        message_id=message.message_id,
        session_id=message.session_id,
        correlation_id=message.correlation_id,
        subject=message.subject,
        application_properties=properties,
        content_type="application/json",
    )
