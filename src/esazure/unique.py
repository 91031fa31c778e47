"""`UniqueValues`: values of which there may be one each, such as e-mail addresses. Reserve, persist, confirm.

    emails = store.unique_values("email")
    await emails.persist(customers, customer, customer.email)     # or ValueTakenError

No transaction spans two streams, so a claim is a document of its own. It names the stream and the command by which the
value is going to be stored there; before it changes hands, that command is forbidden. Read `documents.py` for what
claims are kept in, and `find_command` in `ports.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Protocol
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, state_of, stream_of
from esazure.documents import IDocumentStore, check_collection
from esazure.errors import (
    AppendOutcomeUnknownError,
    CommandHandledError,
    ConcurrencyError,
    CorruptStreamError,
    EsAzureError,
    InvalidIdError,
    RefusedError,
    StoreError,
    UnusableAggregateError,
    ValueTakenError,
)
from esazure.events import Commit
from esazure.keys import command_key, split_stream_name
from esazure.ports import ICommitStore, IEventsService

A = TypeVar("A", bound=AggregateRoot[Any, Any])

_NOT_STORED = (ConcurrencyError, CommandHandledError, RefusedError, StoreError, UnusableAggregateError)
"""What `persist` raises when it is certain that it has stored nothing, and that nothing of it is still on its way."""

_log = logging.getLogger("esazure.unique")


class IClaimStore(ICommitStore, IDocumentStore, Protocol):
    """Keeps the streams that claim values, and the claims. Every `Store` does."""


class _Claim(BaseModel):
    """A claim as it is stored. A stream's command may store the value only while it is the one that is named here."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    stream: str
    command_id: str
    confirmed: bool
    """The value is the stream's, whatever becomes of the command."""
    reserved_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class Reservation:
    """A value is reserved for what `command_id` is about to store in `stream`, and for nothing else."""

    key: str
    """The value's SHA-256, in hexadecimal digits."""
    stream: str
    command_id: str
    confirmed: bool
    """The value was this stream's before."""
    new: bool
    """Made here and not found: so far nobody else works on the command with it."""
    tag: str


class UniqueValues:
    """Claims values race-free; made by a store's `unique_values`.

    Values are compared as they are: give each in its one normal form (trimmed, case-folded, NFC). Only their SHA-256 is
    stored, which hides a value from who looks, though not from who guesses it.

    Safety rests on no clock. A claim always names the one command that may still store the value. Before it is
    replaced, that command is forbidden in its stream, in one step with asking whether it was stored. Clocks only say
    how soon somebody asks: when they differ, a slow command loses its reservation too early and is refused as a whole,
    or a dead one's lasts longer, up to twice the expiry.
    """

    def __init__(self, name: str, store: IClaimStore, *, clock: Callable[[], datetime], expiry: float = 30.0) -> None:
        if not expiry > 0:
            raise ValueError(f"expiry must be above 0 seconds, not {expiry}")
        self.name = name
        self._collection = check_collection(f"unique-{check_collection(name)}")
        self._store = store
        self._clock = clock
        self._expiry = expiry

    async def persist(
        self,
        service: IEventsService[A, Any],
        aggregate: A,
        value: str,
        *,
        command_id: str | None = None,
        instead_of: str | None = None,
    ) -> Commit[Any] | None:
        """Persist an aggregate which has this value from now on: both or neither.

        Reserves the value, persists, confirms; returns and raises what `EventsService.persist` does. When it is certain
        that nothing was stored, the value is free again at once. When nobody knows, or the process dies, it stays
        reserved until the stream has been asked: by the next call for the same aggregate at once, by others after the
        expiry. With nothing pending nothing is claimed.

        Without a `command_id` there will be a random one, and a second one should the first take longer than the
        expiry. `instead_of` is the value the aggregate had before; it is released once the new one is stored. A crash
        in between leaves it with the aggregate until `release` is called.

        Raises:
            ValueTakenError: the value is another stream's, or is being claimed for one at this moment.
            CommandHandledError: it took longer than the expiry, and somebody asked for the value: nothing was stored
                nor will be under this command id. Send it again as a new command.
            InvalidIdError: the value is not well-formed Unicode, or see `EventsService.persist`.
            ValueError: the service persists into another store than that of these values.
        """
        key, old_key = _key(value), None if instead_of is None or instead_of == value else _key(instead_of)
        if not aggregate.pending:
            return await service.persist(aggregate, command_id=command_id)
        chosen = command_id
        if chosen is None:
            in_doubt = state_of(aggregate).in_doubt  # it can only be sent as it is, under the command id it has
            chosen = (in_doubt and in_doubt.command_id) or uuid4().hex
        try:
            return await self._persist(service, aggregate, key, old_key, chosen)
        except CommandHandledError:
            if command_id is not None:
                raise
        return await self._persist(service, aggregate, key, old_key, uuid4().hex)

    async def reserve(self, value: str, holder: AggregateRoot[Any, Any] | str, command_id: str) -> Reservation:
        """The first step of `persist`: reserve a value for an aggregate, or for a stream by its name.

        For a command that claims several values, or for streams that are older than the rule. From here on the holder
        may store the value under this command id, and under no other: persist, then `confirm`; or `abandon`, when it is
        certain that nothing was stored. Reserving again for the same command finds the same reservation.

        Raises:
            ValueTakenError, InvalidIdError: see `persist`.
            ValueError: not a stream's name.
            StoreError: the store could not be asked; the value may be reserved or not.
            CorruptStreamError: the claim is damaged.
        """
        if not isinstance(holder, str):
            return await self._reserve(_key(value), stream_of(holder), command_id)
        split_stream_name(holder)
        return await self._reserve(_key(value), holder, command_id)

    async def confirm(self, reservation: Reservation) -> None:
        """The last step of `persist`: what it was reserved for is stored.

        Leaving it out is safe: whoever wants the value finds out, once the reservation has expired.

        Raises:
            StoreError, CorruptStreamError: as `reserve`.
        """
        stream, command_id, tag = reservation.stream, reservation.command_id, reservation.tag
        claim = _Claim(stream=stream, command_id=command_id, confirmed=True, reserved_at=self._clock())
        while not reservation.confirmed and await self._write(reservation.key, claim, seen=tag) is None:
            found = await self._read(reservation.key)
            if found is None:
                return
            held, tag = found
            if (held.stream, held.command_id, held.confirmed) != (stream, command_id, False):
                return  # somebody has found out, or the value was released already

    async def abandon(self, reservation: Reservation) -> None:
        """What it was reserved for was certainly not stored: free the value, if this reservation was the first.

        Raises:
            StoreError: the value may stay reserved until it expires.
        """
        if reservation.new:  # and not adopted since, which would have changed its tag
            await self._store.delete_document(self._collection, reservation.key, seen=reservation.tag)

    async def release(self, value: str, aggregate: AggregateRoot[Any, Any]) -> bool:
        """Free a value which this aggregate, as it was loaded, does not have any more. Returns whether it was freed.

        A value that the aggregate claimed again later stays claimed, so a late or repeated call does no harm. A command
        of the aggregate that is just about to claim it is forbidden.

        Raises:
            InvalidIdError: the value is not well-formed Unicode.
            StoreError, CorruptStreamError: as `reserve`; call again.
        """
        return await self._release(_key(value), stream_of(aggregate), state_of(aggregate).stored_version)

    async def owner(self, value: str) -> str | None:
        """The stream whose value it is; None while it is free, or reserved for what is not stored yet.

        Raises:
            InvalidIdError: the value is not well-formed Unicode.
            StoreError, CorruptStreamError: as `reserve`.
        """
        found = await self._read(_key(value))
        if found is None:
            return None
        held, _ = found
        if held.confirmed or await self._store.find_command(held.stream, held.command_id) is not None:
            return held.stream
        return None

    async def _persist(
        self, service: IEventsService[A, Any], aggregate: A, key: str, old_key: str | None, command_id: str
    ) -> Commit[Any] | None:
        try:
            reservation = await self._reserve(key, stream_of(aggregate), command_id)
        except ValueTakenError:
            # A command that was carried out before gets the same answer, even if its value is somebody else's by now.
            if await service.find_command(aggregate.id, command_id) is None:
                raise
            return await service.persist(aggregate, command_id=command_id)
        try:
            commit = await service.persist(aggregate, command_id=command_id)
        except AppendOutcomeUnknownError as error:
            error.retry = lambda: self._persist(service, aggregate, key, old_key, command_id)
            raise
        except _NOT_STORED:
            await self._without_fail(self.abandon(reservation), reservation.stream)
            raise
        if commit is not None and commit.store_id != self._store.store_id:
            raise ValueError(f"unique values {self.name!r} are kept in another store than {reservation.stream} is")
        if not aggregate.pending:
            await self._without_fail(self.confirm(reservation), reservation.stream)
            if old_key is not None and commit is not None:
                await self._without_fail(
                    self._release(old_key, reservation.stream, commit.last_version), reservation.stream
                )
        # Otherwise an earlier commit of this command was returned. Only if its reservation was found is it about this
        # value; else the aggregate has given the value up since, or the id was used for two different commands.
        elif reservation.new:
            await self._without_fail(self.abandon(reservation), reservation.stream)
        else:
            await self._without_fail(self.confirm(reservation), reservation.stream)
        return commit

    async def _without_fail(self, step: Awaitable[object], stream: str) -> None:
        """What is done after the outcome is known must not change it, and can be found out by others."""
        try:
            await step
        except Exception as error:  # noqa: BLE001 - as above
            # The text of a foreign exception may quote a payload; ours never does.
            why = f"{type(error).__name__}: {error}" if isinstance(error, EsAzureError) else type(error).__name__
            _log.warning("%s: its claim in %s is not up to date (%s)", stream, self._collection, why)

    async def _reserve(self, key: str, stream: str, command_id: str) -> Reservation:
        command_key(command_id)
        while True:
            mine = _Claim(stream=stream, command_id=command_id, confirmed=False, reserved_at=self._clock())
            tag = await self._write(key, mine, seen=None)
            if tag is not None:
                return Reservation(key, stream, command_id, confirmed=False, new=True, tag=tag)
            found = await self._read(key)
            reservation = None if found is None else await self._succeed(key, *found, mine)
            if reservation is not None:
                return reservation

    async def _succeed(self, key: str, held: _Claim, tag: str, mine: _Claim) -> Reservation | None:
        """Follow a claim that is there already; None when it has changed meanwhile."""
        confirmed, new = held.confirmed, False
        if held.stream != mine.stream:
            if held.confirmed or not self._is_expired(held, mine.reserved_at):
                raise ValueTakenError(self.name)
            if await self._forbid(held) is not None:
                await self._write(key, held.model_copy(update={"confirmed": True}), seen=tag)
                raise ValueTakenError(self.name)
            new = True
        elif held.command_id != mine.command_id:
            # Also when it is confirmed: `release` has to know each command that could claim the value again.
            confirmed = await self._forbid(held) is not None or held.confirmed
            new = not confirmed
        elif held.confirmed:
            return Reservation(key, mine.stream, mine.command_id, confirmed=True, new=False, tag=tag)
        # Of the same command it is written again, so that whoever made it cannot abandon it under us.
        after = await self._write(key, mine.model_copy(update={"confirmed": confirmed}), seen=tag)
        if after is None:
            return None
        return Reservation(key, mine.stream, mine.command_id, confirmed=confirmed, new=new, tag=after)

    async def _release(self, key: str, stream: str, version: int) -> bool:
        while True:
            found = await self._read(key)
            if found is None or found[0].stream != stream:
                return False
            claimed_at = await self._forbid(found[0])
            if claimed_at is not None and claimed_at > version:
                return False
            if await self._store.delete_document(self._collection, key, seen=found[1]):
                return True

    async def _forbid(self, held: _Claim) -> int | None:
        """The version at which the claiming command was stored; None when it was not, and never will be."""
        return await self._store.find_command(held.stream, held.command_id, forbid=True)

    def _is_expired(self, held: _Claim, now: datetime) -> bool:
        # Also when it is from the future: a clock that was wrong for a moment must not block a value for years.
        return abs((now - held.reserved_at).total_seconds()) >= self._expiry

    async def _read(self, key: str) -> tuple[_Claim, str] | None:
        document = await self._store.read_document(self._collection, key)
        if document is None:
            return None
        try:
            return _Claim.model_validate_json(document.text), document.tag
        except ValidationError:
            pass
        raise CorruptStreamError(f"{self._collection}: the document {key} cannot be what was written")

    async def _write(self, key: str, claim: _Claim, *, seen: str | None) -> str | None:
        return await self._store.write_document(self._collection, key, claim.model_dump_json(), seen=seen)


def _key(value: str) -> str:
    try:
        return sha256(value.encode()).hexdigest()
    except UnicodeEncodeError:
        raise InvalidIdError("a unique value must be well-formed Unicode; this one has a lone surrogate") from None


__all__ = ["IClaimStore", "Reservation", "UniqueValues"]
