"""One SDK sender and the connection under it: opened when first needed, thrown away as a whole when anything fails.

Nothing here decides whether to try again; `producer.py` does, read it next. How connections end is in `sockets.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError

from esazure.servicebus.sockets import Connection, bounded, take_over_closing


class Link:
    """Sends one batch at a time; not safe for concurrent use, because the SDK's sender is not."""

    def __init__(self, sender: ServiceBusSender) -> None:
        self._sender = sender
        self._connections: list[Connection] = []
        take_over_closing(sender, self._connections)

    async def send(self, messages: Sequence[ServiceBusMessage], *, patience: float) -> int:
        """Send as many messages from the front as one batch holds, and return how many.

        Opens the link first if need be. `patience` bounds the send in seconds, and the opening only when there is
        one message.

        Raises:
            ServiceBusError: they were not accepted, or nobody knows.
        """
        if len(messages) > 1:
            batch = await self._sender.create_message_batch()
            if count := _fill(batch, messages):
                await self._sender.send_messages(batch, timeout=patience)
                return count
        # Alone, because a batch encodes each message twice; and because on the Premium tier one message may be larger
        # than any batch: the broker judges it.
        await self._sender.send_messages(messages[0], timeout=patience)
        return 1

    @property
    def broken(self) -> bool:
        """Whether a connection of this link was cut, so that it has to be replaced."""
        return any(connection.cut for connection in self._connections)

    def abort(self) -> None:
        """Cut the connection, so that nothing waits on it any longer. `close` is still due."""
        for connection in self._connections:
            connection.abort()

    async def close(self) -> None:
        """Close what is open and let go of everything; bounded, and never raises."""
        for connection in self._connections:
            await connection.close()
        self._connections.clear()
        await bounded(self._sender.close())


def _fill(batch: ServiceBusMessageBatch, messages: Sequence[ServiceBusMessage]) -> int:
    for count, message in enumerate(messages):
        try:
            batch.add_message(message)
        except MessageSizeExceededError:
            return count
    return len(messages)
