"""Refusals as RFC 9457 problem details: those of the bank, of esazure, and FastAPI's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from bank.domain import DomainError, InsufficientFundsError, NoRateError
from esazure import EsAzureError
from esazure.commands import PROBLEM_MEDIA_TYPE, ProblemDetails, problem_details
from esazure.errors import InvalidCommandError

_UNAVAILABLE, _NOT_ALLOWED = 503, 405
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_NAMES = {"command_id": "Idempotency-Key"}  # what a command calls differently than HTTP


class FieldError(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """For the OpenAPI page."""

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: list[FieldError] | None = None


_SCHEMA = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
_COMPONENTS: dict[str, Any] = {**_SCHEMA.pop("$defs"), Problem.__name__: _SCHEMA}
_CONTENT = {"content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "Not JSON in UTF-8, or nested too deeply", **_CONTENT},
    404: {"description": "Not found", **_CONTENT},
    409: {"description": "Not as things stand", **_CONTENT},
    422: {"description": "What is wrong, field by field", **_CONTENT},
    503: {"description": "Try again later, with the same Idempotency-Key", **_CONTENT},
}


class ProblemsApp(FastAPI):
    """Its OpenAPI page says what a problem looks like."""

    def openapi(self) -> dict[str, Any]:
        api = super().openapi()
        api["components"]["schemas"].update(_COMPONENTS)
        return api


def add_problems(app: ProblemsApp) -> None:
    """Let every refusal of this application be a problem."""

    @app.exception_handler(EsAzureError)
    @app.exception_handler(Exception)  # a 500 that says nothing; the server logs it
    async def esazure_refused(_: Request, error: Exception) -> JSONResponse:
        return _answer(problem_details(error))

    @app.exception_handler(InvalidCommandError)
    async def command_invalid(_: Request, error: InvalidCommandError) -> JSONResponse:
        return _answer(
            problem_details(InvalidCommandError([(_NAMES.get(name, name), message) for name, message in error.errors]))
        )

    @app.exception_handler(DomainError)
    async def bank_refused(_: Request, error: DomainError) -> JSONResponse:
        if isinstance(error, InsufficientFundsError):
            return _answer(
                {"type": "urn:bank:problem:funds", "title": "Insufficient funds", "status": 409, "detail": str(error)}
            )
        field = "currency" if isinstance(error, NoRateError) else "amount"
        return _answer(problem_details(InvalidCommandError([(field, str(error))])))

    @app.exception_handler(RequestValidationError)
    async def request_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        wrong: list[tuple[str, str]] = []
        for found in cast("list[dict[str, Any]]", error.errors()):
            path = [str(part) for part in found["loc"]][1:]  # without where it is: body, query, header
            name = "" if found["type"] == "json_invalid" else ".".join(path)
            # The name of an unknown field is input, and a lone surrogate in it could not be sent.
            name = name.encode(errors="replace").decode()
            wrong.append((name, str(found["msg"]).removeprefix("Value error, ")))
        return _answer(problem_details(InvalidCommandError(wrong)))

    @app.exception_handler(HTTPException)
    async def http_refused(request: Request, error: HTTPException) -> JSONResponse:
        problem: ProblemDetails = {"type": "about:blank", "title": error.detail, "status": error.status_code}
        headers = error.headers
        if error.status_code == _NOT_ALLOWED:  # the router names the methods of one route, and a path can have several
            asked = [(name, {**request.scope, "method": name}) for name in _METHODS]
            allowed = [
                name for name, scope in asked if any(route.matches(scope)[0] is Match.FULL for route in app.routes)
            ]
            headers = {"Allow": ", ".join(allowed)}
        return _answer(problem, headers)


def _answer(problem: ProblemDetails, headers: Mapping[str, str] | None = None) -> JSONResponse:
    status = problem["status"]
    return JSONResponse(
        problem,
        status_code=status,
        headers={**(headers or {}), **({"Retry-After": "1"} if status == _UNAVAILABLE else {})},
        media_type=PROBLEM_MEDIA_TYPE,
    )
