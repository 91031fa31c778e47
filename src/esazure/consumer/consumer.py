"""`Consumer`: the handlers of one worker, and what it takes to keep each of them up to date. Read `lane.py` next."""

from __future__ import annotations

import re
from collections.abc import Sequence

from esazure.consumer.lane import Lane
from esazure.consumer.positions import ParkedStream, Positions
from esazure.consumer.roster import ConsumerMetrics, Roster, Setup
from esazure.documents import IDocumentStore
from esazure.handlers import IHandlerSet
from esazure.keys import split_stream_name
from esazure.ports import ICommitStore

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,79}")


class Consumer:
    """Projections, reactions and handlers that are served from one subscription, each at its own pace.

    Typically::

        consumer = Consumer("worker", [details, reactions, notifications], positions=store, source=store)

    It knows nothing of brokers: a subscription gives it messages, lane by lane.
    """

    def __init__(
        self,
        name: str,
        handlers: Sequence[IHandlerSet],
        *,
        positions: IDocumentStore | None,
        source: ICommitStore | None,
        attempts: int = 5,
        thin: bool = False,
    ) -> None:
        """Say who is to be served, and from where.

        Args:
            name: positions are stored under it, so it must not change; workers of the same name share the work.
            handlers: projections, `Reactions`, `EventHandlers`.
            positions: remembers how far each handler has come. With None, nothing outlives a lane: after a restart
                handlers go on with whatever message comes first.
            source: the store the messages tell of. It fills gaps, and lets handlers that were stuck catch up. With
                None, what has not arrived is passed over. A projection with a `fold` takes both.
            attempts: how often a message is tried for a handler that fails.
            thin: take every event from `source`, and only its place from the message: for topics whose messages do
                not hold the stored events.

        Raises:
            ValueError: a name that is not 1 to 80 of lower-case letters, digits, `-` and `_`, beginning with a letter;
                two handlers of one name; two classes stored under one name; below 1 attempt; `thin` without `source`;
                a projection with a `fold`, and no `positions` or no `source`.
        """
        if _NAME.fullmatch(name) is None:
            raise ValueError(
                f"a consumer's name has 1 to 80 of a-z, 0-9, - and _, beginning with a letter, not {name[:100]!r}"
            )
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {attempts}")
        if thin and source is None:
            raise ValueError("thin messages hold no events: a consumer of them needs a source")
        self.name = name
        """As given."""
        roster = Roster(handlers, has_history=positions is not None and source is not None)
        self._setup = Setup(name, roster, Positions(name, positions), source, attempts, thin)

    @property
    def metrics(self) -> ConsumerMetrics:
        """Of all lanes, since it was made."""
        return self._setup.metrics

    def lane(self) -> Lane:
        """What handles the messages of one session, for as long as the session is held.

        Raises:
            ValueError: a `fold` was registered meanwhile, and there are no positions or no source.
        """
        self._setup.roster.check()
        return Lane(self._setup)

    async def parked(self, *, limit: int = 1_000) -> Sequence[ParkedStream]:
        """Streams a handler is stuck in: at most `limit`, in an order that means nothing.

        Raises:
            StoreUnavailableError, RetryLaterError: the positions cannot be read now.
            PoisonMessageError: a document of the positions is damaged.
        """
        return await self._setup.positions.parked(limit)

    async def resume(self, handler: str, stream: str) -> int:
        """Let a handler go on in a stream, out of the store, up to the end; returns the version it has reached.

        The next message of the stream does the same. When both are at work, a handler with effects may be called by
        both for the same event. A stream that is not parked is left alone, unless the handler is repeatable and has
        missed something.

        Raises:
            HandlerFailedError: it failed again, and stays parked.
            ValueError: there is no source, no such handler, no such stream name, or the handler wants none of its
                events.
            StoreUnavailableError, RetryLaterError: not now.
            PoisonMessageError: the document of its positions is damaged.
        """
        if self._setup.source is None or not self._setup.positions.durable:
            raise ValueError("to resume a stream takes positions and a source: send its dead letters again, in order")
        handlers = await self._setup.roster.current()
        route = self._setup.roster.route(split_stream_name(stream)[0])
        for one in handlers:
            if one.name == handler and route is not None and route.aggregate_class in one.interests:
                return await self.lane().resume(one, route, stream)
        raise ValueError(f"{self.name} has no handler {handler!r} that wants events of {stream}")

    async def forget(self, handler: str, stream: str) -> None:
        """Remove what is remembered of a handler that is gone: its position in a stream, and that it was parked there.

        For example the generation of a projection that was replaced by a rebuild. Nothing happens when nothing is
        remembered. A handler of this name that comes back begins with the first event of the stream.

        Raises:
            ValueError: the handler is not gone (`resume` it), no such stream name, or there are no positions.
            StoreUnavailableError, RetryLaterError: not now.
            PoisonMessageError: the document of its positions is damaged.
        """
        if not self._setup.positions.durable:
            raise ValueError(f"{self.name} was made without positions: there is nothing to forget")
        split_stream_name(stream)
        if any(one.name == handler for one in await self._setup.roster.current()):
            raise ValueError(f"{self.name} still has the handler {handler!r}: resume it instead")
        await self._setup.positions.forget(handler, stream)
