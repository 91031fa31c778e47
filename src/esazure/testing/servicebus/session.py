"""One AMQP session: its links, its windows, and the deliveries that are not settled yet.

`attaching.py` decides which link an attach becomes, `links.py` what the link does.
"""

import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from esazure.testing.servicebus.amqp_types import DecodeError, Described, Raw, Uint, Ushort
from esazure.testing.servicebus.attaching import on_attach
from esazure.testing.servicebus.links import DeliveryLink, IncomingLink, Link, OutgoingLink
from esazure.testing.servicebus.performatives import (
    ACCEPTED,
    Attach,
    Code,
    Fields,
    Transfer,
    error,
    rejected,
    uint,
    write,
)
from esazure.testing.servicebus.refusals import RefusalError

if TYPE_CHECKING:
    from esazure.testing.servicebus.connection import Connection

_WINDOW = 5000
_MAX_HANDLE = 255
_TRANSFER_OVERHEAD = 96
"""More than the frame header and the fields of a transfer take."""


class Session:
    """Begun by the peer on one channel of a connection; we use the same channel."""

    def __init__(self, connection: "Connection", channel: int, begin: Fields) -> None:
        self.connection = connection
        self.broker = connection.broker
        self.links: dict[int, Link] = {}
        self.unsettled: dict[int, tuple[DeliveryLink, uuid.UUID]] = {}
        self._channel = channel
        self._next_incoming_id = begin.number(1)
        self._incoming_window = _WINDOW
        self._next_outgoing_id = 1
        self._peer_window = begin.number(2)
        self._next_delivery_id = 0
        self._waiting_frames: deque[tuple[int, bytes]] = deque()
        self._detached_handles: set[int] = set()
        windows = (Uint(1), Uint(_WINDOW), Uint(_WINDOW), Uint(_MAX_HANDLE))
        self.send(Code.BEGIN, Ushort(channel), *windows)

    @property
    def congested(self) -> bool:
        """The peer takes no more transfers for now."""
        return bool(self._waiting_frames) or self._peer_window <= 0 or self.connection.closed

    # ---- out

    def send(self, code: Code, *fields: object, payload: bytes = b"") -> None:
        """Send a performative."""
        self.connection.send(self._channel, write(code, *fields) + payload)

    def transfer(self, link: OutgoingLink, tag: bytes, payload: bytes, *, settled: bool) -> int:
        """Send a message in as many frames as it needs, as the peer's window opens; returns the delivery id."""
        delivery_id = self._next_delivery_id
        self._next_delivery_id = (delivery_id + 1) & 0xFFFFFFFF
        room = self.connection.peer_frame_limit - _TRANSFER_OVERHEAD
        for start in range(0, max(len(payload), 1), room):
            more = start + room < len(payload)
            first = (Uint(delivery_id), tag, Uint(0)) if start == 0 else (None, None, None)
            body = write(Code.TRANSFER, Uint(link.handle), *first, settled, more)
            self._waiting_frames.append((link.handle, body + payload[start : start + room]))
        self._send_waiting_frames()
        return delivery_id

    def _send_waiting_frames(self) -> None:
        while self._waiting_frames and self._peer_window > 0:
            self.connection.send(self._channel, self._waiting_frames.popleft()[1])
            self._next_outgoing_id = (self._next_outgoing_id + 1) & 0xFFFFFFFF
            self._peer_window -= 1

    def answer(self, delivery_id: int, refusal: RefusalError | None = None) -> None:
        """Tell the sender what became of its delivery."""
        outcome = ACCEPTED if refusal is None else rejected(refusal)
        self.send(Code.DISPOSITION, True, Uint(delivery_id), None, True, outcome)  # noqa: FBT003 - wire fields

    def confirm(self, delivery_id: int, outcome: Raw | Described) -> None:
        """Tell the receiver that its settlement was taken, with the same outcome, or refused."""
        self.send(Code.DISPOSITION, False, Uint(delivery_id), None, True, outcome)  # noqa: FBT003 - wire fields

    def send_flow(self, link: Link | None = None, *, drained: bool = False) -> None:
        """Tell the peer our windows and, for a link, its credit."""
        windows = (uint(self._next_incoming_id), Uint(self._incoming_window), Uint(self._next_outgoing_id))
        of_link = () if link is None else (Uint(link.handle), uint(link.delivery_count), uint(link.credit), Uint(0))
        self.send(Code.FLOW, *windows, Uint(_WINDOW), *of_link, *((True,) if drained else ()))

    def detach(self, link: Link, refusal: RefusalError) -> None:
        """Close a link with an error."""
        if not link.closed:
            self.send(Code.DETACH, Uint(link.handle), True, error(refusal))  # noqa: FBT003 - a wire field
            # What the peer sent before it reads this still comes, and is ignored.
            self._detached_handles.add(link.handle)
            self._drop(link)

    def detach_entity_links(self, refusal: RefusalError, matches: Callable[[str], bool]) -> int:
        """Close the senders and receivers whose entity's path matches; returns how many."""
        found = [link for link in self.links.values() if link.entity_path and matches(link.entity_path)]
        for link in found:
            self.detach(link, refusal)
        return len(found)

    def end(self) -> None:
        """The session is over, and its links with it."""
        for link in list(self.links.values()):
            self._drop(link)

    def _drop(self, link: Link) -> None:
        link.close()
        if self.links.get(link.handle) is link:
            del self.links[link.handle]
        self._waiting_frames = deque(entry for entry in self._waiting_frames if entry[0] != link.handle)
        # Its deliveries can no longer be settled by id. The locks live on: a token still settles over $management.
        self.unsettled = {number: held for number, held in self.unsettled.items() if held[0] is not link}

    # ---- in

    def on_frame(self, code: Code, fields: Fields, payload: bytes) -> None:
        """Handle what the peer sent on this channel."""
        if code is Code.TRANSFER:
            self._on_transfer(Transfer.read(fields), payload)
        elif code is Code.DISPOSITION:
            self._on_disposition(fields)
        elif code is Code.FLOW:
            self._on_flow(fields)
        elif code is Code.ATTACH:
            self._on_attach(Attach.read(fields))
        elif code is Code.DETACH:
            self._on_detach(fields)
        elif code is Code.END:
            self.end()
            self.send(Code.END)
        else:
            raise DecodeError(f"{code.name} does not belong in a session")

    def _on_attach(self, attach: Attach) -> None:
        if attach.handle > _MAX_HANDLE or attach.handle in self.links:
            raise RefusalError("amqp:session:handle-in-use", f"handle {attach.handle} cannot be attached")
        self._detached_handles.discard(attach.handle)
        on_attach(self, attach)

    def _on_detach(self, fields: Fields) -> None:
        handle = fields.number(0)
        self._detached_handles.discard(handle)
        link = self.links.get(handle)
        if link is not None:
            self.send(Code.DETACH, Uint(handle), fields[1])
            self._drop(link)

    def _on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._next_incoming_id += 1
        self._incoming_window -= 1
        if self._incoming_window < _WINDOW // 2:
            self._incoming_window = _WINDOW
            self.send_flow()
        link = self.links.get(transfer.handle)
        if isinstance(link, IncomingLink):
            link.on_transfer(transfer, payload)
        elif transfer.handle not in self._detached_handles:
            raise RefusalError("amqp:session:unattached-handle", f"no sender has handle {transfer.handle}")

    def _on_flow(self, fields: Fields) -> None:
        in_flight = (self._next_outgoing_id - fields.number(0, 1)) & 0xFFFFFFFF
        self._peer_window = fields.number(1) - in_flight
        self._send_waiting_frames()
        handle = fields.optional_number(4)
        if handle is None:
            for link in list(self.links.values()):
                link.pump()
            return
        flowing = self.links.get(handle)
        if isinstance(flowing, OutgoingLink):
            flowing.on_flow(fields)
        if flowing is not None and fields.flag(9):
            self.send_flow(flowing)

    def _on_disposition(self, fields: Fields) -> None:
        if not fields.flag(0):
            return  # about deliveries the peer sent: they are settled by our answer
        first = fields.number(1)
        last = fields.number(2, first)
        if last - first >= len(self.unsettled):
            # The range comes from the peer and may be anything; what we hold is what there is to do.
            settled = sorted(number for number in self.unsettled if first <= number <= last)
        else:
            settled = [number for number in range(first, last + 1) if number in self.unsettled]
        outcome = fields.described(4)
        for delivery_id in settled:
            # A fault on the way may have closed the link, which empties `unsettled`, or the connection.
            held = self.unsettled.get(delivery_id)
            if held is not None and not self.connection.closed:
                held[0].settle(delivery_id, held[1], outcome, answer=not fields.flag(3))
