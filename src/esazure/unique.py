"""`UniqueValues`: values of which there may be one each, such as e-mail addresses. Reserve, persist, confirm.

    emails = store.unique_values("email")
    await emails.persist(customers, customer, customer.email)     # or ValueTakenError

No transaction spans two streams, so a claim is a document of its own. It says as of which version its stream has the
value, and which command may store it next. Whoever wants to change a claim first forbids that command, in one step with
asking whether it was stored, and keeps the version if it was; so a claim never forgets what it knew.

A claim that was just created proves nothing: its command may be a repeat, stored long ago and given up since. So its
maker asks whether the command was stored before, and only then writes, over what it created, that it may store. From
there on a stored command speaks for the claim. `docs/decisions/fenced-unique-values.md` has the argument.

Read `documents.py` for what claims are kept in, and `find_command` in `ports.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, Protocol
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, NonNegativeInt, ValidationError
from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, stream_of
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
from esazure.keys import MAX_UNIQUE_VALUE, command_key, split_stream_name
from esazure.lifecycle import check_home
from esazure.ports import ICommitStore, IEventsService, IRequest, digest_of
from esazure.state import state_of

A = TypeVar("A", bound=AggregateRoot[Any, Any])

_NOT_STORED = (ConcurrencyError, CommandHandledError, RefusedError, StoreError, UnusableAggregateError)
"""What `persist` raises when it is certain that it has stored nothing, and that nothing of it is still on its way."""

_log = logging.getLogger("esazure.unique")


class IClaimStore(ICommitStore, IDocumentStore, Protocol):
    """Keeps the streams that claim values, and the claims. Every `Store` does."""


class _Claim(BaseModel):
    """A claim as it is stored."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    stream: str
    version: NonNegativeInt
    """The newest version known at which the stream stored the value; 0 when there is none."""
    command_id: str | None
    """The one command of the stream that may store the value next, once `asked`."""
    asked: bool
    """Whether the command was not stored before it was named here. Until then the claim proves nothing."""
    reserved_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class Reservation:
    """A value is reserved for what `command_id` is about to store in `stream`, and for nothing else."""

    key: str
    """A keyed hash of the value, in hexadecimal digits."""
    stream: str
    command_id: str
    version: int
    """The value was this stream's before, as of this version; 0 when it was not."""
    new: bool
    """Made here and not found: so far nobody else works on the command with it."""
    tag: str | None
    """None when the command was answered before: nothing is reserved, and `persist` gives the first answer again."""

    def is_of(self, claim: _Claim) -> bool:
        """Whether a stored command of this reservation speaks for that claim."""
        named = claim.stream, claim.command_id, claim.asked
        return self.tag is not None and named == (self.stream, self.command_id, True)


class UniqueValues:
    """Claims values race-free; made by a store's `unique_values`.

    Values are compared as they are: give each in its one normal form (trimmed, case-folded, NFC). Stored is only a hash
    keyed by the store's id. It hides a value from who looks, though not from who knows the id and guesses. A claim
    that goes leaves nothing behind.

    Safety rests on no clock. Clocks only say how soon somebody asks: when they differ, a slow command loses its
    reservation too early and is refused as a whole, or a dead one's lasts longer, up to twice the expiry.
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
        request: IRequest | None = None,
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
            ValueError: the service persists into another store than that of these values; nothing was done.
            StoreMismatchError: the aggregate belongs to another store; nothing was done.
        """
        if service.store_id != self._store.store_id:
            raise ValueError(f"unique values {self.name!r} are kept in another store than the one of this service")
        check_home(aggregate, self._store.store_id)
        digest_of(command_id, request)
        key = self._key(value)
        old_key = None if instead_of is None or instead_of == value else self._key(instead_of)
        if not aggregate.pending:
            return await service.persist(aggregate, command_id=command_id, request=request)
        chosen = command_id
        if chosen is None:
            in_doubt = state_of(aggregate).in_doubt  # it can only be sent as it is, under the command id it has
            chosen = in_doubt.command_id if in_doubt is not None else None
        try:
            return await self._persist(service, aggregate, key, old_key, chosen, request)
        except CommandHandledError:
            if command_id is not None:
                raise
        return await self._persist(service, aggregate, key, old_key, None, request)

    async def reserve(self, value: str, holder: AggregateRoot[Any, Any] | str, command_id: str) -> Reservation:
        """The first step of `persist`: reserve a value for an aggregate, or for a stream by its name.

        For a command that claims several values, or for streams that are older than the rule. From here on the holder
        may store the value under this command id, and under no other: persist, then `confirm`; or `abandon`, when it is
        certain that nothing was stored. Reserving again for the same command finds the same reservation. For a command
        that was answered before nothing is reserved: it may have been carried out, and the value given up since.

        Raises:
            ValueTakenError, InvalidIdError: see `persist`.
            ValueError: not a stream's name.
            StoreMismatchError: the aggregate belongs to another store.
            StoreError: the store could not be asked; the value may be reserved or not.
            CorruptStreamError: the claim is damaged.
        """
        if not isinstance(holder, str):
            check_home(holder, self._store.store_id)
            return await self._reserve(self._key(value), stream_of(holder), command_id)
        split_stream_name(holder)
        return await self._reserve(self._key(value), holder, command_id)

    async def confirm(self, reservation: Reservation) -> None:
        """The last step of `persist`: what it was reserved for is stored.

        When nothing is stored under its command id, and the stream is there, the stream has had the value before there
        was a claim; then the command is forbidden. Leaving this call out is safe after a persist: whoever wants the
        value finds out, once the reservation has expired.

        Raises:
            ValueError: nothing is stored in the stream at all.
            StoreError, CorruptStreamError: as `reserve`.
        """
        found = await self._read(reservation.key)
        if found is None or not reservation.is_of(found[0]):
            return
        version = await self._forbid(reservation.stream, reservation.command_id)
        if not version:
            async with aclosing(self._store.load(reservation.stream)) as pages:
                async for page in pages:
                    version = page[-1].last_version
        if not version:
            raise ValueError(
                f"{reservation.stream}: nothing is stored: persist with the command id it was reserved for"
            )
        await self._confirm(reservation, version)

    async def abandon(self, reservation: Reservation) -> None:
        """What it was reserved for was certainly not stored: free the value, if this reservation was the first.

        Raises:
            StoreError: the value may stay reserved until it expires.
        """
        if reservation.new and reservation.tag is not None:  # and not adopted since, which would have changed its tag
            await self._store.delete_document(self._collection, reservation.key, seen=reservation.tag, erase=True)

    async def release(self, value: str, aggregate: AggregateRoot[Any, Any]) -> bool:
        """Free a value which this aggregate, as it was loaded, does not have any more. Returns whether it was freed.

        A value that the aggregate claimed again later stays claimed, so a late or repeated call does no harm. A command
        of the aggregate that is just about to claim it is forbidden.

        Raises:
            InvalidIdError: the value is not well-formed Unicode.
            StoreMismatchError: the aggregate belongs to another store.
            StoreError, CorruptStreamError: as `reserve`; call again.
        """
        check_home(aggregate, self._store.store_id)
        return await self._release(self._key(value), stream_of(aggregate), state_of(aggregate).stored_version)

    async def owner(self, value: str) -> str | None:
        """The stream whose value it is; None while it is free, or reserved for what is not stored yet.

        Raises:
            InvalidIdError: the value is not well-formed Unicode.
            StoreError, CorruptStreamError: as `reserve`.
        """
        found = await self._read(self._key(value))
        if found is None:
            return None
        held, _ = found
        if held.version:
            return held.stream
        if held.command_id is None or not held.asked:
            return None
        handled = await self._store.find_command(held.stream, held.command_id)
        return None if handled is None or handled.first_version is None else held.stream

    async def _persist(
        self,
        service: IEventsService[A, Any],
        aggregate: A,
        key: str,
        old_key: str | None,
        command_id: str | None,
        request: IRequest | None,
    ) -> Commit[Any] | None:
        is_new_command = command_id is None
        if command_id is None:
            command_id = uuid4().hex
        try:
            reservation = await self._reserve(key, stream_of(aggregate), command_id, is_new_command=is_new_command)
        except ValueTakenError:
            # A command that was answered before gets the same answer, even if its value is somebody else's by now.
            if await service.find_command(aggregate.id, command_id, request=request) is None:
                raise
            return await service.persist(aggregate, command_id=command_id, request=request)
        try:
            commit = await service.persist(aggregate, command_id=command_id, request=request)
        except AppendOutcomeUnknownError as error:
            error.retry = lambda: self._persist(service, aggregate, key, old_key, command_id, request)
            raise
        except _NOT_STORED:
            await self._without_fail(self.abandon(reservation), reservation.stream)
            raise
        # With events left, an earlier commit of this command was returned. If its reservation was found, it is about
        # this value; else the id was used for two different commands.
        if commit is None or (aggregate.pending and reservation.new):
            await self._without_fail(self.abandon(reservation), reservation.stream)
        else:
            await self._without_fail(self._confirm(reservation, commit.last_version), reservation.stream)
        if commit is not None and old_key is not None and not aggregate.pending:
            await self._without_fail(
                self._release(old_key, reservation.stream, commit.last_version), reservation.stream
            )
        return commit

    async def _without_fail(self, step: Awaitable[object], stream: str) -> None:
        """What is done after the outcome is known must not change it, and can be found out by others."""
        try:
            await step
        except Exception as error:  # noqa: BLE001 - as above
            # The text of a foreign exception may quote a payload; ours never does.
            why = f"{type(error).__name__}: {error}" if isinstance(error, EsAzureError) else type(error).__name__
            _log.warning("%s: its claim in %s is not up to date (%s)", stream, self._collection, why)

    async def _reserve(self, key: str, stream: str, command_id: str, *, is_new_command: bool = False) -> Reservation:
        command_key(command_id)
        while True:
            mine = _Claim(stream=stream, version=0, command_id=command_id, asked=False, reserved_at=self._clock())
            tag = await self._write(key, mine, seen=None)
            found = await self._read(key) if tag is None else (mine, tag)
            reservation = None if found is None else await self._succeed(key, *found, mine, is_new_command)
            if reservation is not None:
                return reservation

    async def _succeed(
        self,
        key: str,
        held: _Claim,
        tag: str,
        mine: _Claim,
        is_new_command: bool,  # noqa: FBT001 - private
    ) -> Reservation | None:
        """Follow a claim that is there; None when it has changed meanwhile."""
        command_id = mine.command_id or ""
        is_ours, is_same = held.stream == mine.stream, (held.stream, held.command_id) == (mine.stream, command_id)
        if not is_ours and (held.version or not self._is_expired(held, mine.reserved_at)):
            raise ValueTakenError(self.name)
        version, is_adopted = held.version, is_same and held.asked
        if not is_adopted:
            # Asked while the claim is there, and written over that very claim: it was not stored in between, for until
            # then no claim lets it.
            if not is_new_command and await self._store.find_command(mine.stream, command_id) is not None:
                if is_same and not await self._store.delete_document(self._collection, key, seen=tag, erase=True):
                    return None
                return Reservation(key, mine.stream, command_id, version, new=False, tag=None)
            version = max(version, await self._settle(held))
            if version and not is_ours:
                known = held.model_copy(update={"version": version, "command_id": None})
                await self._write(key, known, seen=tag)
                raise ValueTakenError(self.name)
        # An adopted one is written again, too, so that whoever made it cannot abandon it under us.
        after = await self._write(key, mine.model_copy(update={"version": version, "asked": True}), seen=tag)
        if after is None:
            return None
        return Reservation(key, mine.stream, command_id, version, new=not version and not is_adopted, tag=after)

    async def _confirm(self, reservation: Reservation, version: int) -> None:
        tag = reservation.tag
        newest = max(version, reservation.version)
        while tag is not None:
            claim = _Claim(
                stream=reservation.stream, version=newest, command_id=None, asked=True, reserved_at=self._clock()
            )
            if await self._write(reservation.key, claim, seen=tag) is not None:
                return
            found = await self._read(reservation.key)
            if found is None or not reservation.is_of(found[0]):
                return  # somebody has found out, or the value was released already
            newest, tag = max(newest, found[0].version), found[1]

    async def _release(self, key: str, stream: str, version: int) -> bool:
        while True:
            found = await self._read(key)
            if found is None or found[0].stream != stream:
                return False
            if found[0].version > version or await self._settle(found[0]) > version:
                return False
            if await self._store.delete_document(self._collection, key, seen=found[1], erase=True):
                return True

    async def _settle(self, held: _Claim) -> int:
        """The version at which the named command stored the value; 0 when it did not for this claim, and never will."""
        # Without `asked` nobody stores anything for this claim before having written it once more.
        return 0 if held.command_id is None or not held.asked else await self._forbid(held.stream, held.command_id)

    async def _forbid(self, stream: str, command_id: str) -> int:
        """The version the stream reached with this command; 0 when it was not stored, and never will be."""
        handled = await self._store.find_command(stream, command_id, forbid=True)
        if handled is None or handled.first_version is None:
            return 0
        first = handled.first_version
        # What an aggregate has, it has after the last event of a commit, and not in the middle.
        records = await self._store.read(stream, from_version=first, to_version=first)
        if not records:
            raise CorruptStreamError(f"{stream}: the commit of a handled command, at version {first}, is missing")
        return records[0].last_version

    def _is_expired(self, held: _Claim, now: datetime) -> bool:
        # Also when it is from the future: a clock that was wrong for a moment must not block a value for years.
        return abs((now - held.reserved_at).total_seconds()) >= self._expiry

    def _key(self, value: str) -> str:
        if len(value) > MAX_UNIQUE_VALUE:
            raise InvalidIdError(f"a unique value has at most {MAX_UNIQUE_VALUE:,} characters, not {len(value):,}")
        try:
            text = value.encode()
        except UnicodeEncodeError:
            text = None
        if text is None:
            raise InvalidIdError("a unique value must be well-formed Unicode; this one has a lone surrogate")
        return blake2b(text, key=self._store.store_id.bytes, digest_size=32).hexdigest()

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


__all__ = ["IClaimStore", "Reservation", "UniqueValues"]
