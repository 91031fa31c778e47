"""The one road an event travels: aggregate -> repository -> producer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from inspect import isawaitable
from itertools import chain
from random import uniform
from typing import TYPE_CHECKING, Any, Generic
from uuid import UUID
from weakref import WeakValueDictionary

from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, TId, id_text
from esazure.errors import AppendOutcomeUnknownError, ConcurrencyError, EsAzureError
from esazure.events import Commit
from esazure.ports import (
    HandledCommand,
    IEventProducer,
    IEventsRepository,
    IEventsService,
    IOutbox,
    IRequest,
    digest_of,
)
from esazure.state import state_of

if TYPE_CHECKING:
    import asyncio  # at run time where it is used: it costs 20 ms, and `import esazure` should cost next to nothing

A = TypeVar("A", bound=AggregateRoot[Any, Any])

BACKLOG = 32
"""How many earlier commits a `persist` publishes before its own; when more wait, it leaves the rest to a relay."""

PATIENCE = 10.0
"""Seconds for which `update` begins anew after a conflict."""

_log = logging.getLogger("esazure.service")

_turns: ContextVar[tuple[list[asyncio.Lock], ...]] = ContextVar("_turns", default=())
"""The turns of `update` this code runs in. One that is over is empty: a task can outlive the turn it began in."""


class EventsService(IEventsService[A, TId], Generic[A, TId]):
    """Persists through a repository and announces through a producer.

    One repository's outbox belongs to one producer: two services over the same outbox with different topics would
    publish each other's commits. Without a producer commits leave no outbox row, unless the repository was made
    with `outbox=True`: for somebody else to publish or consume them.
    """

    def __init__(self, repository: IEventsRepository[A, TId], producer: IEventProducer | None = None) -> None:
        self._repository = repository
        self._producer = producer
        self._queues: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()
        self.undispatched = 0
        """How many times `persist` stored a commit and could not dispatch it."""

    @property
    def store_id(self) -> UUID:
        """See `IEventsService.store_id`."""
        return self._repository.store_id

    async def persist(
        self, aggregate: A, *, command_id: str | None = None, request: IRequest | None = None
    ) -> Commit[Any] | None:
        """Append the pending events as one commit, then publish what the stream still owes, in order.

        With a `command_id`, 1 to 256 characters chosen by whoever sends the command, it is carried out once for each
        stream: the second time nothing is stored, the first answer is given again (the commit, or None when it had
        nothing to store), and this copy cannot be used any more. With a `request`, such as the `Command` itself, a hash
        of it is stored beside the id, and the same id with another request is refused.

        Returns the commit, or None when nothing is pending. When the append succeeds and the dispatch does not, this
        returns all the same: the events are durable, their outbox row waits, and a warning and `undispatched` say so.

        Raises:
            ConcurrencyError: somebody else stored a commit since this aggregate was loaded; nothing pending is lost.
            AppendOutcomeUnknownError: no definite answer before the deadline; `await error.retry()` asks again.
            UnusableAggregateError: this copy must not be persisted; the message says why.
            RefusedError: over a limit, not storable or never publishable; nothing was sent.
            StoreError: the store refused; nothing was stored.
            CommandHandledError: the command was given up for good (see `UniqueValues`); this copy is as it was.
            CommandReusedError: the command id was used for another request; this copy is as it was.
            DispatchError: stored but not dispatched, and the repository keeps no outbox.
        """
        made: Commit[Any] | None = None
        behind: asyncio.Task[Sequence[Commit[Any]]] | None = None
        producer, outbox = self._producer, self._repository.outbox

        def before_io(commit: Commit[Any]) -> None:
            nonlocal behind, made
            made = commit
            if producer is None:
                return
            producer.check(commit)
            # Beside the append, not after it: outbox rows of earlier commits are there already, because our append can
            # only succeed on top of those commits. A new stream has none.
            if outbox is not None and commit.first_version > 1:
                from asyncio import create_task  # noqa: PLC0415 - see the top of the file

                look = outbox.unpublished(commit.stream, before_version=commit.first_version, limit=BACKLOG + 1)
                behind = create_task(look)

        try:
            commit = await self._repository.append(
                aggregate,
                command_id=command_id,
                request=request,
                before_io=before_io,
                publishing=producer is not None,
            )
        except BaseException as error:
            if behind is not None:
                await _discard(behind)
            if isinstance(error, AppendOutcomeUnknownError):
                error.retry = lambda: self.persist(aggregate)
            raise
        if commit is not made and behind is not None:
            await _discard(behind)
        # An earlier commit of this command waits in the outbox, if it still does; without an outbox this is its chance.
        if commit is not None and producer is not None and (commit is made or outbox is None):
            await self._dispatch(commit, producer, outbox, behind)
        return commit

    async def find_command(self, id: TId, command_id: str, *, request: IRequest | None = None) -> HandledCommand | None:
        """See `IEventsRepository.find_command`."""
        return await self._repository.find_command(id, command_id, request=request)

    async def rehydrate(self, id: TId, *, version: int | None = None) -> A:
        """Load and rebuild. See `IEventsRepository.rehydrate`."""
        return await self._repository.rehydrate(id, version=version)

    async def update(
        self,
        id: TId,
        change: Callable[[A], object],
        *,
        timeout: float = PATIENCE,  # noqa: ASYNC109 - no attempt is cut off
        command_id: str | None = None,
        request: IRequest | None = None,
    ) -> A:
        """Load, change, persist; after a conflict load and decide again, until `timeout` seconds have passed.

        Updates of one aggregate through this service take turns, first come first served, so that only writers
        elsewhere cause conflicts; those are met with short random pauses. An attempt that has begun is not cut off, and
        there is always one.

        `change` is called with a fresh copy each time and must not do I/O. Returns the aggregate as stored. When the
        command of this `command_id` was answered before, also when there was nothing to store for it, nothing is
        stored, what `change` did or raised is dropped, and the aggregate is returned as that command left it, to look
        at: the same answer however often one asks. What `change` raises is no answer: it is decided anew next time.

        Raises:
            ConcurrencyError: every attempt met another writer, the last one after the time.
            ValueError: `timeout` below 0, a command id that is not 1 to 256 characters, or a request without one.
            CommandReusedError: the command id was used for another `request`.
            TypeError: `change` is asynchronous, or see `Command.digest`.
            Exception: whatever `rehydrate`, `persist` or `change` raises.
        """
        from asyncio import get_running_loop, sleep  # noqa: PLC0415 - see the top of the file

        if not timeout >= 0:
            raise ValueError(f"timeout must be at least 0 seconds, not {timeout}")
        digest_of(command_id, request)
        loop = get_running_loop()
        deadline = loop.time() + timeout
        async with self._turn(id_text(id), deadline):
            while True:
                began = loop.time()
                try:
                    return await self._update_once(id, change, command_id, request)
                except ConcurrencyError:
                    if loop.time() >= deadline:
                        raise
                # So that writers that met do not meet again. Not longer each time: somebody was stored whenever one was
                # not, and who lost often would lose to whoever comes fresh.
                await sleep(uniform(0, loop.time() - began))  # noqa: S311 - not a secret

    @asynccontextmanager
    async def _turn(self, name: str, deadline: float) -> AsyncIterator[None]:
        """In the order of coming. Who waited until its deadline goes on without: a turn is for fairness, not safety."""
        from asyncio import Lock, get_running_loop, sleep, timeout_at  # noqa: PLC0415 - see the top of the file

        await sleep(0)  # a store in memory never waits, and a writer in a loop would keep everybody else out
        # Kept by those who wait for it or have it. By loop, because a lock belongs to one.
        queue = self._queues.setdefault((id(get_running_loop()), name), Lock())
        if any(queue in turn for turn in _turns.get()):
            yield  # publishing what is stored in this turn led back here: waiting for its end would prevent it
            return
        try:
            async with timeout_at(deadline):
                await queue.acquire()
        except TimeoutError:
            yield
            return
        turn = [queue]
        outer = _turns.set((*_turns.get(), turn))
        try:
            yield
        finally:
            _turns.reset(outer)
            turn.clear()
            queue.release()

    async def _update_once(
        self, id: TId, change: Callable[[A], object], command_id: str | None, request: IRequest | None
    ) -> A:
        aggregate = await self._repository.rehydrate(id)
        try:
            outcome = change(aggregate)
        except Exception:
            # A command that was carried out before may well be impossible now: the money is gone already.
            if command_id is None:
                raise
            handled = await self._repository.find_command(id, command_id, request=request)
            if handled is None:
                raise
            return await self._as_of(aggregate, handled.version)
        if isawaitable(outcome):
            close = getattr(outcome, "close", None)
            if close is not None:
                close()
            raise TypeError("update takes a plain function: do I/O before it, and decide inside it")
        commit = await self.persist(aggregate, command_id=command_id, request=request)
        if command_id is None or state_of(aggregate).unusable is None:
            return aggregate
        if commit is not None:
            return await self._as_of(aggregate, commit.last_version)
        handled = await self._repository.find_command(id, command_id)
        return aggregate if handled is None else await self._as_of(aggregate, handled.version)

    async def _as_of(self, aggregate: A, version: int) -> A:
        """The aggregate as an earlier command left it, to look at."""
        if version:
            return await self._repository.rehydrate(aggregate.id, version=version)
        unstored = type(aggregate)(aggregate.id)
        state_of(unstored).read_only = True
        return unstored

    async def _dispatch(
        self,
        commit: Commit[Any],
        producer: IEventProducer,
        outbox: IOutbox | None,
        behind: asyncio.Task[Sequence[Commit[Any]]] | None,
    ) -> None:
        """Publish the stream's outbox in order, this commit last; stop at the first failure, never skip."""
        if outbox is None:
            await producer.dispatch(commit)
            return
        accepted = False
        try:
            earlier: Sequence[Commit[Any]] = await behind if behind is not None else ()
            backlog = len(earlier) > BACKLOG
            for owed in earlier[:BACKLOG] if backlog else chain(earlier, (commit,)):
                accepted = False
                await producer.dispatch(owed)
                accepted = True
                await outbox.mark_published(owed)
        except Exception as error:  # noqa: BLE001 - stored is stored: no failure from here on is persist's
            # The text of a foreign exception may quote a payload; ours never does.
            why = f"{type(error).__name__}: {error}" if isinstance(error, EsAzureError) else type(error).__name__
            if accepted:
                _log.warning("%s: published, but an outbox row remains (%s): it will be sent again", commit.stream, why)
                return
        else:
            if not backlog:
                return
            why = f"more than {BACKLOG} earlier commits wait"
        self.undispatched += 1
        _log.warning(
            "%s: version %d is stored but not dispatched (%s); its outbox row waits",
            commit.stream,
            commit.last_version,
            why,
        )


async def _discard(task: asyncio.Task[Any]) -> None:
    from asyncio import gather  # noqa: PLC0415 - see the top of the file

    task.cancel()
    await gather(task, return_exceptions=True)
