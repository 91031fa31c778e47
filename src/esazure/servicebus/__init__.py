"""Azure Service Bus: commits become messages in order, lane by lane, at least once, and messages reach their handlers.

Read in this order: messages, translation, needed, sockets, links, producer for sending; inbound, sessions, lanes,
subscription, deadletters, functions for receiving; client. Only this package imports `azure.servicebus`.
"""

try:
    from esazure.servicebus.client import ServiceBus
    from esazure.servicebus.deadletters import DeadLetter
    from esazure.servicebus.functions import dispatch_message
    from esazure.servicebus.lanes import SubscriptionMetrics
    from esazure.servicebus.producer import ServiceBusEventProducer
    from esazure.servicebus.subscription import ServiceBusSubscription
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f'{error}: install it with "esazure[azure]"', name=error.name) from error

__all__ = [
    "DeadLetter",
    "ServiceBus",
    "ServiceBusEventProducer",
    "ServiceBusSubscription",
    "SubscriptionMetrics",
    "dispatch_message",
]
