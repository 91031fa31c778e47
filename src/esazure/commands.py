"""What a service is asked to do: commands from outside data, what is wrong with them, and how to say so over HTTP.

    class CreateCustomer(Command):
        first_name: Annotated[str, StringConstraints(min_length=1)]
        email: str

    command = CreateCustomer.parse(request_body)      # or InvalidCommandError, with every problem and its field
    return problem_details(error)                     # RFC 9457

The errors are in `errors.py`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from functools import cache
from hashlib import sha256
from typing import Any, NotRequired, Self, TypedDict, get_args, get_type_hints

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, ValidationError
from typing_extensions import is_typeddict

from esazure.canonical import canonical
from esazure.errors import (
    AggregateNotFoundError,
    AppendOutcomeUnknownError,
    CommandHandledError,
    CommandReusedError,
    CommitTooLargeError,
    ConcurrencyError,
    EsAzureError,
    EventNotStorableError,
    InvalidCommandError,
    RefusedError,
    RetryLaterError,
    StoreUnavailableError,
    ValueTakenError,
    ViewBehindError,
)
from esazure.keys import split_stream_name

PROBLEM_MEDIA_TYPE = "application/problem+json"
"""The content type of a response that holds `problem_details`."""

_QUOTING = {
    "uuid_parsing": "Input should be a valid UUID",
    "union_tag_invalid": "Input should be of a known kind",
    "extra_forbidden": "a field that is not known",
}
"""What is said instead of those messages of pydantic's that quote the input, or stand at a name from the input."""


class Command(BaseModel):
    """Something a service is asked to do; valid as soon as it exists.

    Frozen; unknown fields, NaN and infinity are refused, and validation errors do not quote input.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        defer_build=True,  # an import should not cost the 60 ms of pydantic's first schema; see below
    )

    @classmethod
    def parse(cls, data: Mapping[str, object] | str | bytes) -> Self:
        """From outside data: a mapping, or JSON.

        Raises:
            InvalidCommandError: every problem with its field, none with the input itself. What the validators of a
                command raise as ValueError goes into it word for word, so they should not quote either.
        """
        try:
            return cls.model_validate_json(data) if isinstance(data, str | bytes) else cls.model_validate(data)
        except ValidationError as error:
            invalid = invalid_command(error, cls)
        raise invalid  # outside the handler: the other one holds the input

    def digest(self, command_id: str) -> str:
        """What is asked for, as a hash: for `persist(..., command_id=command_id, request=self)`.

        Equal commands have the same one under the same id, in every process, on every version of Python. A field that
        was left out, or has its default value, does not count: adding an optional field to the class changes no hash.
        (Of a dataclass in a command every field counts.)

        It is a HMAC-SHA256 with the id as its key. So equal commands of different ids look different, and no table of
        guesses fits two of them; but who knows the id can check a guess. Override this where that is too much.

        Raises:
            TypeError: a field's value is of a class of which nobody knows how to write it.
        """
        # Compared with Python's ==, which looks at values, and not as written: 1.0 and 1.00 ask for the same.
        return hmac.new(command_id.encode(), canonical(self).encode(), sha256).hexdigest()


# For the class itself, which has no fields, and not for those made of it: FastAPI does not read deferred ones well.
del Command.model_config["defer_build"]


def invalid_command(error: ValidationError, model: type[BaseModel]) -> InvalidCommandError:
    """What pydantic found wrong with the data of a model, for data that was not validated by `Command.parse`.

    Fields are dotted paths of declared names and positions in lists. Keys of dictionaries and the names of unknown
    fields are left out: they are input.
    """
    return InvalidCommandError(_problems(error, _declared(model)))


class Problems:
    """Collects what is wrong with a command; see `validation`."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, str]] = []
        """(field, message) each."""

    def add(self, field: str, message: str) -> None:
        """A problem. The field is a dotted path, empty when it is about the command as a whole."""
        self.errors.append((field, message))

    def check(self, field: str, condition: object, message: str) -> None:
        """A problem unless the condition holds."""
        if not condition:
            self.add(field, message)

    @contextmanager
    def field(self, field: str) -> Iterator[None]:
        """A problem of this field when the block raises ValueError, whose text becomes the message.

        That suits value objects: `with problems.field("email"): email = Email(text)`. An InvalidCommandError is about
        parts of this field.
        """
        try:
            yield
        except InvalidCommandError as error:
            self.errors += [(f"{field}.{part}" if part else field, message) for part, message in error.errors]
        except ValidationError as error:
            self.errors += [(f"{field}.{part}" if part else field, message) for part, message in _problems(error)]
        except ValueError as error:
            self.add(field, str(error) or "is not valid")


@contextmanager
def validation() -> Iterator[Problems]:
    """Collect every problem of a command and raise them together at the end.

    Typically::

        with validation() as problems:
            with problems.field("email"):
                email = Email(command.email)
            problems.check("amount", command.amount > 0, "must be more than 0")

    An InvalidCommandError from the block itself is added to them; any other exception ends it.

    Raises:
        InvalidCommandError: there were problems.
    """
    problems = Problems()
    try:
        yield problems
    except InvalidCommandError as error:
        problems.errors += error.errors
    if problems.errors:
        raise InvalidCommandError(problems.errors)


class FieldProblem(TypedDict):
    """What is wrong with one field."""

    field: str
    """A dotted path; empty when it is about the command as a whole."""
    message: str


class ProblemDetails(TypedDict):
    """A problem as RFC 9457 has it, ready for JSON."""

    type: str
    """Stable: what programs should look at."""
    title: str
    status: int
    """For HTTP."""
    detail: NotRequired[str]
    instance: NotRequired[str]
    errors: NotRequired[list[FieldProblem]]


_KNOWN: tuple[tuple[type[EsAzureError], int, str, str, str], ...] = (
    (InvalidCommandError, 422, "invalid-command", "The command is not valid", "Correct what `errors` names."),
    (ValueTakenError, 409, "value-taken", "Taken", "This value belongs to somebody else: choose another one."),
    (AggregateNotFoundError, 404, "not-found", "Not found", "There is no {name}."),
    (ConcurrencyError, 409, "conflict", "Changed meanwhile", "{name} has been changed: look at it and decide again."),
    (CommandHandledError, 409, "given-up", "Given up", "This command took too long: send it again under a new id."),
    (
        AppendOutcomeUnknownError,
        503,
        "outcome-unknown",
        "Outcome unknown",
        "Nobody knows yet whether this was stored: repeat it with the same command id.",
    ),
    (StoreUnavailableError, 503, "unavailable", "Not available", "Try again later; a command with the same id."),
    (RetryLaterError, 503, "unavailable", "Not available", "Try again later; a command with the same id."),
    (ViewBehindError, 503, "not-yet-visible", "Not yet visible", "What was written is not visible yet: try again."),
    (
        CommandReusedError,
        422,
        "command-reused",
        "Used before",
        "This command id was used for another request: choose a new one for a new request.",
    ),
    (CommitTooLargeError, 413, "too-large", "Too large", "Send less at a time."),
    (RefusedError, 422, "refused", "Refused", "{error}"),
)
"""Class, status, kind, title and detail of what is a client's business; the first that fits."""


def problem_details(error: BaseException, *, instance: str | None = None) -> ProblemDetails:
    """What to tell a client about an error: for people, for programs, and without anything it should not know.

    Every error can be given; those that are not the client's business become a 500 that says nothing. Answer with
    `PROBLEM_MEDIA_TYPE` and the status in it.

    Args:
        error: what was raised.
        instance: a URI of this very occurrence, such as the request's.
    """
    problem: ProblemDetails = {"type": "about:blank", "title": "Internal Server Error", "status": 500}
    for known, status, kind, title, detail in _KNOWN:
        # An event that cannot be stored is for whoever wrote its class.
        if isinstance(error, known) and not isinstance(error, EventNotStorableError):
            text = detail.format(name=_name(getattr(error, "stream", "")), error=error)
            problem = {"type": f"urn:esazure:problem:{kind}", "title": title, "status": status, "detail": text}
            break
    if isinstance(error, InvalidCommandError):
        problem["errors"] = [{"field": field, "message": message} for field, message in error.errors]
    if isinstance(error, ValueTakenError):
        problem["errors"] = [{"field": error.name, "message": "is taken"}]
    if instance is not None:
        problem["instance"] = instance
    return problem


def _name(stream: str) -> str:
    try:
        return " ".join(split_stream_name(stream))
    except ValueError:  # an error that somebody else made
        return stream


def _problems(error: ValidationError, declared: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    found: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    return [(_path(problem["loc"], declared), _message(problem["type"], problem["msg"])) for problem in found]


def _path(place: tuple[int | str, ...], declared: frozenset[str]) -> str:
    return ".".join([str(part) for part in place if isinstance(part, int) or part in declared])


def _message(kind: str, message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return _QUOTING.get(kind, text) or "is not valid"


@cache
def _declared(model: type[Any]) -> frozenset[str]:
    """The names of all fields in a model, and in whatever it is made of."""
    names: set[str] = set()
    seen: set[type[Any]] = set()
    todo: list[Any] = [model]
    while todo:
        kind = todo.pop()
        todo += get_args(kind)
        if not isinstance(kind, type) or kind in seen:
            continue
        seen.add(kind)
        if issubclass(kind, BaseModel):
            for name, field in kind.model_fields.items():
                names |= {name, *_names_in(field.validation_alias)}
                todo.append(field.annotation)
        elif is_dataclass(kind) or is_typeddict(kind):
            names |= getattr(kind, "__dataclass_fields__", kind.__annotations__).keys()
            with suppress(NameError):  # a type nobody can find from here: its fields are left out
                todo += get_type_hints(kind).values()
    return frozenset(names)


def _names_in(alias: str | AliasPath | AliasChoices | None) -> list[str]:
    if isinstance(alias, AliasChoices):
        return [name for choice in alias.choices for name in _names_in(choice)]
    if isinstance(alias, AliasPath):
        return [part for part in alias.path if isinstance(part, str)]
    return [] if alias is None else [alias]


__all__ = [
    "PROBLEM_MEDIA_TYPE",
    "Command",
    "FieldProblem",
    "ProblemDetails",
    "Problems",
    "invalid_command",
    "problem_details",
    "validation",
]
