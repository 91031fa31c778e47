"""Why a credential gave no token: was it refused, or is whoever issues tokens away?

By type and status, never by text, and without importing azure-identity: what a credential raises can be anything.
"""

from __future__ import annotations

_AWAY = {"ServiceRequestError", "ServiceResponseError", "ClientConnectionError", "CredentialUnavailableError"}
"""Of azure-core, aiohttp and azure-identity: no answer, or nobody who could be asked."""

_DEEPEST = 16
_REQUEST_TIMEOUT, _TOO_MANY, _SERVER_ERROR = 408, 429, 500


def is_away(error: BaseException | None) -> bool:
    """Whether asking again later may help: no answer, or one of 5xx, 408 or 429; a refusal is none of these.

    A credential often wraps what happened to it, so the first in the chain of causes that says one or the other counts.
    """
    for _ in range(_DEEPEST):
        if error is None:
            break
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            return status >= _SERVER_ERROR or status in (_REQUEST_TIMEOUT, _TOO_MANY)
        # An OSError with a file's name is about that file, such as one a token should be in.
        if (isinstance(error, OSError) and error.filename is None) or not _AWAY.isdisjoint(
            kind.__name__ for kind in type(error).__mro__
        ):
            return True
        error = error.__cause__ or error.__context__ or getattr(error, "inner_exception", None)
    return False
