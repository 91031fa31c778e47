"""Azure Service Bus: commits become messages in order, lane by lane, at least once.

Read in this order: messages, translation, links, producer, client. Only this package imports `azure.servicebus`.
"""

from esazure.servicebus.client import ServiceBus
from esazure.servicebus.producer import ServiceBusEventProducer

__all__ = ["ServiceBus", "ServiceBusEventProducer"]
