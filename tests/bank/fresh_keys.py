"""For schemathesis: a key it has sent before is replaced, because with another request that is refused on purpose."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import schemathesis

KEY = "Idempotency-Key"
_sent: set[str] = set()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    key = (case.headers or {}).get(KEY)
    if key in _sent:
        case.headers[KEY] = str(uuid4())
    elif key is not None:
        _sent.add(key)
