"""Commands: what is wrong with them, all at once and without quoting; and problem details."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    Field,
    HttpUrl,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from esazure import errors
from esazure.commands import (
    PROBLEM_MEDIA_TYPE,
    Command,
    ProblemDetails,
    invalid_command,
    problem_details,
    validation,
)
from esazure.errors import (
    AggregateNotFoundError,
    AppendOutcomeUnknownError,
    CommandHandledError,
    CommitTooLargeError,
    ConcurrencyError,
    CorruptStreamError,
    EsAzureError,
    EventNotStorableError,
    InvalidCommandError,
    InvalidIdError,
    RefusedError,
    RetryLaterError,
    StoreError,
    StoreUnavailableError,
    UnusableAggregateError,
    ValueTakenError,
    ViewBehindError,
)

MARKER = "payload-marker"


def no_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


class Colour(StrEnum):
    RED = "red"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


@dataclass
class Money:
    amount: Decimal
    currency: Colour


class Place(TypedDict):
    street: str


class CreateCustomer(Command):
    first_name: Annotated[str, AfterValidator(no_blank)]
    email: str
    age: int = 18


def problems_of(error: pytest.ExceptionInfo[InvalidCommandError]) -> list[tuple[str, str]]:
    return list(error.value.errors)


# Parsing.


@pytest.mark.parametrize(
    "data",
    [
        {"first_name": "Ada", "email": "a@b"},
        MappingProxyType({"first_name": "Ada", "email": "a@b"}),
        '{"first_name": "Ada", "email": "a@b"}',
        b'{"first_name": "Ada", "email": "a@b"}',
    ],
)
def test_a_command_is_parsed_from_a_mapping_and_from_json(data: Mapping[str, object] | str | bytes) -> None:
    assert CreateCustomer.parse(data) == CreateCustomer(first_name="Ada", email="a@b")


def test_every_problem_is_found_with_its_field() -> None:
    with pytest.raises(InvalidCommandError) as caught:
        CreateCustomer.parse({"first_name": "  ", "age": "old"})
    assert problems_of(caught) == [
        ("first_name", "must not be blank"),
        ("email", "Field required"),
        ("age", "Input should be a valid integer, unable to parse string as an integer"),
    ]
    assert str(caught.value).startswith("first_name: must not be blank; email: Field required; age: ")


def test_json_that_is_none_is_a_problem_of_the_whole() -> None:
    with pytest.raises(InvalidCommandError) as caught:
        CreateCustomer.parse(f'{{"first_name": {MARKER}')
    [(field, message)] = problems_of(caught)
    assert field == ""
    assert message.startswith("Invalid JSON")
    assert MARKER not in message


@pytest.mark.parametrize("data", [[MARKER], MARKER.encode(), None, 7])
def test_what_is_no_object_is_a_problem_of_the_whole(data: Any) -> None:
    with pytest.raises(InvalidCommandError) as caught:
        CreateCustomer.parse(data)
    assert [field for field, _ in problems_of(caught)] == [""]
    assert MARKER not in str(caught.value)


def test_no_exception_that_holds_the_input_is_chained() -> None:
    with pytest.raises(InvalidCommandError) as caught:
        CreateCustomer.parse({"first_name": "Ada", "email": [MARKER]})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_command_does_not_change_and_has_no_numbers_json_has_no_word_for() -> None:
    class Pay(Command):
        amount: float

    with pytest.raises(ValidationError, match="frozen"):
        Pay(amount=1).amount = 2  # type: ignore[misc]
    for number in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(InvalidCommandError, match="amount: Input should be a finite number"):
            Pay.parse({"amount": number})


def test_an_unknown_field_is_a_problem_and_not_named() -> None:
    with pytest.raises(InvalidCommandError) as caught:
        CreateCustomer.parse({"first_name": "Ada", "email": "a@b", MARKER: MARKER})
    assert problems_of(caught) == [("", "a field that is not known")]


def test_paths_are_dotted_and_hold_declared_names_and_positions_only() -> None:
    class Everything(Command):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")]
        money: list[Money]
        place: Place
        prices: dict[str, int]
        either: int | Colour
        street_name: Annotated[str, Field(alias="streetName")]
        town: Annotated[str, Field(validation_alias=AliasChoices("town", AliasPath("at", "here")))]

    with pytest.raises(InvalidCommandError) as caught:
        Everything.parse(
            {
                "pet": {"kind": "cat", "lives": "x", MARKER: 1},
                "money": [{"amount": "1", "currency": "red"}, {"amount": "x", "currency": "x"}],
                "place": {},
                "prices": {MARKER: "x"},
                "either": "x",
            }
        )
    assert [field for field, _ in problems_of(caught)] == [
        "pet.lives",
        "money.1.amount",
        "money.1.currency",
        "place.street",
        "prices",
        "either",
        "either",
        "streetName",
        "town",
    ]
    assert MARKER not in str(caught.value)


def test_fields_of_a_type_nobody_can_find_are_left_out() -> None:
    @dataclass
    class Lost:
        amount: Decimal
        rest: Unfindable  # type: ignore[name-defined]  # noqa: F821 - the point

    class Hidden(BaseModel):
        lost: Any = None

    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({"amount": "x", "unit": "x"})
    Hidden.model_fields["lost"].annotation = Lost
    assert [field for field, _ in invalid_command(caught.value, Hidden).errors] == ["amount", ""]


def test_data_that_something_else_has_validated_is_an_invalid_command_too() -> None:
    with pytest.raises(ValidationError) as caught:
        Cat.model_validate({"kind": "cat", "lives": "x"})
    assert invalid_command(caught.value, Cat).errors == (
        ("lives", "Input should be a valid integer, unable to parse string as an integer"),
    )


def test_messages_of_pydantic_that_would_quote_are_replaced() -> None:
    class Adopt(Command):
        id: UUID
        pet: Annotated[Cat | Dog, Field(discriminator="kind")]

    with pytest.raises(InvalidCommandError) as caught:
        Adopt.parse({"id": "\u2603", "pet": {"kind": MARKER}})
    assert problems_of(caught) == [
        ("id", "Input should be a valid UUID"),
        ("pet", "Input should be of a known kind"),
    ]


class Wide(Command):
    uuid: UUID
    day: date
    moment: datetime
    amount: Decimal
    number: int
    flag: bool
    url: HttpUrl
    colour: Colour
    word: Literal["word"]
    short: Annotated[str, StringConstraints(max_length=3, pattern="^[a-c]+$")]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    union: int | Money | list[Colour]
    money: Money
    prices: dict[int, Decimal]
    items: Annotated[list[int], Field(max_length=2)]
    raw: bytes


_ODD = st.text(alphabet="\u2603\u2604", min_size=4, max_size=8)
_VALUES = st.recursive(
    _ODD | st.just(f"{{{MARKER}}}") | _ODD.map(lambda text: f"0{text}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_ODD | st.just("kind"), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(Wide.model_fields)) | _ODD, _VALUES))
def test_no_input_is_quoted_whatever_it_is(data: dict[str, Any]) -> None:
    for form in (data, json.dumps(data)):
        with pytest.raises(InvalidCommandError) as caught:
            Wide.parse(form)
        assert not set("\u2603\u2604") & set(str(caught.value))
        assert MARKER not in str(caught.value)


# Collecting.


def test_problems_of_the_domain_are_raised_together() -> None:
    def check(age: int) -> None:
        with validation() as problems:
            problems.check("age", age >= 18, "must be at least 18")
            problems.check("first_name", "Ada", "must not be blank")
            with problems.field("email"):
                raise ValueError("is no address")
            with problems.field("name"):
                raise ValueError
            problems.add("", "closed on Sundays")

    with pytest.raises(InvalidCommandError) as caught:
        check(17)
    assert problems_of(caught) == [
        ("age", "must be at least 18"),
        ("email", "is no address"),
        ("name", "is not valid"),
        ("", "closed on Sundays"),
    ]


def test_without_problems_nothing_is_raised() -> None:
    with validation() as problems:
        problems.check("age", 18, "must be at least 18")
        with problems.field("email"):
            email = "a@b"
    assert email == "a@b"
    assert problems.errors == []


def test_what_is_wrong_with_the_parts_of_a_field_is_said_of_the_parts() -> None:
    def check() -> None:
        with validation() as problems:
            with problems.field("customer"):
                CreateCustomer.parse({"first_name": "", MARKER: 1, "email": "a@b"})
            with problems.field("lives"):
                TypeAdapter(list[int]).validate_python([1, MARKER])
            with problems.field("pet"):
                TypeAdapter(int).validate_python(MARKER)

    with pytest.raises(InvalidCommandError) as caught:
        check()
    assert [field for field, _ in problems_of(caught)] == ["customer.first_name", "customer", "lives.1", "pet"]
    assert MARKER not in str(caught.value)


def test_an_invalid_command_in_the_block_joins_the_others() -> None:
    def check() -> None:
        with validation() as problems:
            problems.add("age", "must be at least 18")
            CreateCustomer.parse({"first_name": "Ada"})

    with pytest.raises(InvalidCommandError) as caught:
        check()
    assert problems_of(caught) == [("age", "must be at least 18"), ("email", "Field required")]


def test_any_other_exception_ends_the_block() -> None:
    def check() -> None:
        with validation() as problems:
            problems.add("age", "must be at least 18")
            with problems.field("email"):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check()


# Problem details.

ID = uuid4()
STREAM = f"Customer.{ID}"


class ShopClosedError(RefusedError):
    """One of a user's own."""


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidCommandError([("email", "is no address")]), 422, "invalid-command"),
        (ValueTakenError("email"), 409, "value-taken"),
        (AggregateNotFoundError(STREAM), 404, "not-found"),
        (ConcurrencyError(STREAM, expected=1), 409, "conflict"),
        (CommandHandledError(STREAM, None), 409, "given-up"),
        (AppendOutcomeUnknownError(STREAM, expected=1, commit_id="c"), 503, "outcome-unknown"),
        (StoreUnavailableError("away"), 503, "unavailable"),
        (RetryLaterError("away"), 503, "unavailable"),
        (ViewBehindError("behind"), 503, "not-yet-visible"),
        (CommitTooLargeError("5 MiB"), 413, "too-large"),
        (InvalidIdError("a lone surrogate"), 422, "refused"),
        (ShopClosedError("closed on Sundays"), 422, "refused"),
    ],
)
def test_what_is_the_clients_business_is_said(error: EsAzureError, status: int, kind: str) -> None:
    problem = problem_details(error)
    assert (problem["status"], problem["type"]) == (status, f"urn:esazure:problem:{kind}")
    assert problem["title"]
    assert problem.get("detail")
    assert problem["detail"].endswith((".", "surrogate", "Sundays"))
    assert "instance" not in problem
    assert json.loads(json.dumps(problem)) == problem


@pytest.mark.parametrize(
    "error",
    [
        EsAzureError(MARKER),
        EventNotStorableError(MARKER),
        CorruptStreamError(MARKER),
        StoreError(MARKER),
        UnusableAggregateError(MARKER),
        ValueError(MARKER),
        KeyboardInterrupt(MARKER),
    ],
)
def test_of_everything_else_nothing_is_said(error: BaseException) -> None:
    assert problem_details(error) == {"type": "about:blank", "title": "Internal Server Error", "status": 500}


def test_every_error_of_ours_is_either_said_or_a_500() -> None:
    kinds = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, EsAzureError)]

    def status_of(kind: type[EsAzureError]) -> int:
        error = kind.__new__(kind, "text")
        vars(error).update(stream=STREAM, name="email", errors=())
        return problem_details(error)["status"]

    said = {kind for kind in kinds if status_of(kind) != 500}
    assert {kind.__name__ for kind in said} == {
        "AggregateNotFoundError",
        "AppendOutcomeUnknownError",
        "CommandHandledError",
        "CommandReusedError",
        "CommitTooLargeError",
        "ConcurrencyError",
        "InvalidCommandError",
        "InvalidIdError",
        "RefusedError",
        "RetryLaterError",
        "StoreUnavailableError",
        "ValueTakenError",
        "ViewBehindError",
    }


def test_problems_of_fields_are_listed() -> None:
    error = InvalidCommandError([("email", "is no address"), ("", "closed on Sundays")])
    assert problem_details(error).get("errors") == [
        {"field": "email", "message": "is no address"},
        {"field": "", "message": "closed on Sundays"},
    ]
    assert problem_details(ValueTakenError("email")).get("errors") == [{"field": "email", "message": "is taken"}]
    assert "errors" not in problem_details(AggregateNotFoundError(STREAM))


def test_the_occurrence_and_the_aggregate_are_named() -> None:
    problem: ProblemDetails = problem_details(AggregateNotFoundError(STREAM), instance="/customers/7")
    assert problem == {
        "type": "urn:esazure:problem:not-found",
        "title": "Not found",
        "status": 404,
        "detail": f"There is no Customer {ID}.",
        "instance": "/customers/7",
    }
    assert problem_details(AggregateNotFoundError("{name}")).get("detail") == "There is no {name}."
    assert PROBLEM_MEDIA_TYPE == "application/problem+json"
