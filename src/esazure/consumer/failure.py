"""A handler that did not get past a version: whether to try again, and what to say of it. `lane.py` decides."""

from __future__ import annotations

from dataclasses import dataclass

from esazure.errors import EsAzureError, HandlerFailedError, PoisonMessageError, RetryLaterError, StoreUnavailableError
from esazure.handlers import IEventHandler
from esazure.lifecycle import place_of


@dataclass(frozen=True, slots=True)
class Failure:
    """A handler did not get past a version."""

    handler: IEventHandler
    version: int
    error: BaseException

    def __str__(self) -> str:
        return f"{self.handler.name}: {type(self.error).__name__} at version {self.version}"

    @property
    def not_now(self) -> bool:
        """Whether what it needs is away."""
        return isinstance(self.error, StoreUnavailableError | RetryLaterError)

    @property
    def reason(self) -> str:
        """For people. The text of a foreign exception may quote a payload; ours never does."""
        kind = type(self.error).__name__
        return f"{kind}: {self.error}" if isinstance(self.error, EsAzureError) else f"{kind} at {place_of(self.error)}"

    def is_final(self, tries: int, attempts: int) -> bool:
        """Whether trying again is pointless."""
        return not self.not_now and (tries >= attempts or isinstance(self.error, PoisonMessageError))

    def raised(self, stream: str) -> HandlerFailedError:
        """As whoever delivers the message is told."""
        return HandlerFailedError(self.handler.name, stream, self.version, self.reason)
