"""One TCP connection: headers, SASL, frames, heartbeats. What a frame means is decided in `session.py`.

Bytes that are not AMQP, or AMQP beyond the limits, close this connection and no other.
"""

import asyncio
import enum
import logging
import socket
from typing import TYPE_CHECKING, cast

from esazure.testing.servicebus.amqp_types import Array, DecodeError, Symbol, Ubyte, Uint, Ushort
from esazure.testing.servicebus.performatives import (
    AMQP_FRAME,
    FRAME_HEADER,
    HEARTBEAT,
    SASL_FRAME,
    Code,
    Fields,
    error,
    frame,
    read,
    write,
)
from esazure.testing.servicebus.refusals import RefusalError
from esazure.testing.servicebus.session import Session

if TYPE_CHECKING:
    from esazure.testing.servicebus.broker import Broker

LOGGER = logging.getLogger("esazure.testing.servicebus")

MAX_FRAME_SIZE = 65_536
_MAX_CHANNEL = 4_999
_IDLE_TIMEOUT_MS = 240_000
_SMALLEST_FRAME_LIMIT = 512
_LARGEST_FRAME_SENT = 1 << 20
_LINGER = 1.0
"""How long a closed connection waits for the peer to hang up: closing at once could destroy the close it was sent."""

_HARMLESS_WITHOUT_SESSION = frozenset((Code.DETACH, Code.DISPOSITION, Code.END, Code.FLOW))
"""The SDK detaches its management link after it ended the session."""

_SASL_HEADER = b"AMQP\x03\x01\x00\x00"
_AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
_MECHANISMS = ("MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL")


class _Phase(enum.Enum):
    HEADER = enum.auto()
    SASL = enum.auto()
    AMQP = enum.auto()
    CLOSED = enum.auto()


class Connection(asyncio.Protocol):
    """What the event loop calls when bytes come in; what sessions call to send."""

    def __init__(self, broker: "Broker", loop: asyncio.AbstractEventLoop) -> None:
        self.broker = broker
        self.loop = loop
        self.sessions: dict[int, Session] = {}
        self.peer_frame_limit = _SMALLEST_FRAME_LIMIT
        self.gone: asyncio.Future[None] = loop.create_future()
        """Done when the socket is closed."""
        self._phase = _Phase.HEADER
        self._transport: asyncio.Transport | None = None
        self._reading = True
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._heartbeat: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None

    @property
    def closed(self) -> bool:
        """Nothing more will be sent."""
        return self._phase is _Phase.CLOSED

    # ---- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        # Not asked for its class: that of uvloop is no subclass.
        self._transport = cast("asyncio.Transport", transport)
        tcp_socket = transport.get_extra_info("socket")
        if tcp_socket is not None:
            tcp_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.broker.connections[self] = None
        self.broker.counters.connections += 1
        if self.broker.faults.refuse_connections:
            self.abort()
        elif self.broker.faults.stop_reading:
            self._reading = False
            # Later, for uvloop begins to read after this.
            self.loop.call_soon(lambda: self.set_reading(allowed=not self.broker.faults.stop_reading))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it is over either way
        """The socket is closed."""
        self._phase = _Phase.CLOSED
        self.broker.connections.pop(self, None)
        for timer in (self._heartbeat, self._lingering):
            if timer is not None:
                timer.cancel()
        self._end_sessions()
        self.broker.namespace.wake_consumers()
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete by now."""
        if self.closed:
            return
        self._received += data
        if not self._reading:
            return
        self.broker.clock.catch_up()
        try:
            self._read_frames()
        except DecodeError as failure:
            LOGGER.warning("closing a connection that sent what is not AMQP: %s", failure)
            self.close(RefusalError("amqp:decode-error", str(failure)))
        except RefusalError as refusal:
            LOGGER.warning("closing a connection: %s", refusal)
            self.close(refusal)
        except Exception:
            # A mistake in the double must end this connection only, and not leave its client waiting.
            LOGGER.exception("closing a connection after an internal error")
            self.close(RefusalError("amqp:internal-error", "the double failed; its log says how"))
        self.broker.namespace.wake_consumers()

    # ---- called by the broker

    def send(self, channel: int, body: bytes, frame_type: int = AMQP_FRAME) -> None:
        """Send a frame, together with others of the same turn of the loop."""
        if self.closed:
            return
        self._unsent.append(frame(channel, body, frame_type))
        if len(self._unsent) == 1:
            self.loop.call_soon(self._flush)

    def abort(self) -> None:
        """Break the connection: nothing more is sent, not even what was about to be."""
        self._phase = _Phase.CLOSED
        self._unsent.clear()
        if self._transport is not None:
            self._transport.abort()

    def close(self, refusal: RefusalError | None = None) -> None:
        """End the connection the AMQP way, with an error if given."""
        if self.closed or self._transport is None:
            return
        self.send(0, write(Code.CLOSE, None if refusal is None else error(refusal)))
        self._flush()
        self._phase = _Phase.CLOSED
        self._end_sessions()
        self._lingering = self.loop.call_later(_LINGER, self._transport.abort)

    def set_reading(self, *, allowed: bool) -> None:
        """Take bytes from the socket, or leave them there."""
        if self._transport is None or self._transport.is_closing():
            return
        self._reading = allowed
        if allowed:
            self._transport.resume_reading()
            self.data_received(b"")  # what came before reading had stopped
        else:
            self._transport.pause_reading()

    def _flush(self) -> None:
        if self._unsent and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _end_sessions(self) -> None:
        for session in self.sessions.values():
            session.end()
        self.sessions.clear()

    # ---- frames

    def _read_frames(self) -> None:
        position = 0
        received = self._received
        while not self.closed and len(received) - position >= FRAME_HEADER.size:
            if self._phase is _Phase.HEADER:
                self._on_header(bytes(received[position : position + 8]))
                position += 8
                continue
            size, data_offset, frame_type, channel = FRAME_HEADER.unpack_from(received, position)
            if not FRAME_HEADER.size <= data_offset * 4 <= size <= MAX_FRAME_SIZE:
                raise RefusalError("amqp:connection:framing-error", f"frame of {size} bytes, data from {data_offset}")
            if len(received) - position < size:
                break
            body = bytes(received[position + data_offset * 4 : position + size])
            position += size
            if body:  # an empty frame is the peer's heartbeat
                self._on_frame(frame_type, channel, body)
        del received[:position]

    def _on_header(self, header: bytes) -> None:
        assert self._transport is not None
        self._flush()
        if header == _SASL_HEADER:
            self._transport.write(header)
            mechanisms = Array(Symbol(mechanism) for mechanism in _MECHANISMS)
            self.send(0, write(Code.SASL_MECHANISMS, mechanisms), SASL_FRAME)
            self._phase = _Phase.SASL
        elif header == _AMQP_HEADER:
            self._transport.write(header)
            self._phase = _Phase.AMQP
        else:
            # As AMQP has it: answer with the header we speak, and hang up.
            self._transport.write(_AMQP_HEADER)
            self._phase = _Phase.CLOSED
            self._transport.close()

    def _on_frame(self, frame_type: int, channel: int, body: bytes) -> None:
        code, fields, payload = read(body)
        if self._phase is _Phase.SASL:
            if frame_type != SASL_FRAME or code is not Code.SASL_INIT:
                raise RefusalError("amqp:connection:framing-error", "SASL init expected")
            # Any mechanism and any identity will do: the double has nothing to protect.
            self.send(0, write(Code.SASL_OUTCOME, Ubyte(0)), SASL_FRAME)
            self._phase = _Phase.HEADER
            return
        if frame_type != AMQP_FRAME:
            raise RefusalError("amqp:connection:framing-error", f"frame type {frame_type}")
        if code is Code.OPEN:
            self._on_open(fields)
        elif code is Code.BEGIN:
            self._on_begin(channel, fields)
        elif code is Code.CLOSE:
            self._on_close()
        else:
            session = self.sessions.get(channel)
            if session is None:
                if code in _HARMLESS_WITHOUT_SESSION:
                    return
                raise RefusalError("amqp:not-allowed", f"no session on channel {channel}")
            session.on_frame(code, fields, payload)
            if code is Code.END:
                del self.sessions[channel]

    def _on_open(self, fields: Fields) -> None:
        wanted = fields.number(2, _LARGEST_FRAME_SENT)
        self.peer_frame_limit = max(_SMALLEST_FRAME_LIMIT, min(wanted, _LARGEST_FRAME_SENT))
        limits = (Uint(MAX_FRAME_SIZE), Ushort(_MAX_CHANNEL), Uint(_IDLE_TIMEOUT_MS))
        product = {Symbol("product"): "esazure ServiceBusDouble"}
        self.send(0, write(Code.OPEN, "esazure-double", None, *limits, None, None, None, None, product))
        idle_timeout = fields.optional_number(4)
        if idle_timeout and self._heartbeat is None:
            self._beat(max(idle_timeout / 2000, 0.01))

    def _beat(self, interval: float) -> None:
        """Send an empty frame every `interval`, twice as often as the peer needs to believe we live."""
        self._heartbeat = self.loop.call_later(interval, self._beat, interval)
        if self._transport is not None and not self.closed:
            self._flush()
            self._transport.write(HEARTBEAT)

    def _on_begin(self, channel: int, fields: Fields) -> None:
        if channel > _MAX_CHANNEL or channel in self.sessions:
            raise RefusalError("amqp:not-allowed", f"channel {channel} cannot begin")
        self.sessions[channel] = Session(self, channel, fields)

    def _on_close(self) -> None:
        assert self._transport is not None
        self.send(0, write(Code.CLOSE))
        self._flush()
        self._phase = _Phase.CLOSED
        self._end_sessions()
        self._transport.close()
