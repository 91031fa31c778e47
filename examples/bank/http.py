"""The bank over HTTP. Open /docs in a browser; `problems.py` says how refusals are said.

What changes something takes an `Idempotency-Key`: the command's id. Sent again with the same key, it happens once and
answers the same. Its answer has a `Version-Token`: a GET with `?after=<token>` waits until the view shows it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4, uuid5

from fastapi import APIRouter, FastAPI, Header, HTTPException, Query, Response
from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator
from typing_extensions import TypeVar

from bank.commands import CreateCustomer, Deposit, EmailAddress, Name, OpenAccount, Withdraw
from bank.domain import Account, Currency, Money
from bank.problems import PROBLEMS, ProblemsApp, add_problems
from bank.system import BankSystem
from bank.views import AccountCard, AccountDetails, CustomerItem, View, account_card
from esazure import AggregateNotFoundError, AggregateRoot
from esazure.commands import Command
from esazure.views import Views, parse_token

TOKEN = "Version-Token"  # noqa: S105 - not that kind of token

V = TypeVar("V", bound=View)

_WHAT = "Chosen by you, such as a UUID. Sent again with the same key, a command happens once and answers the same."
Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=256, description=_WHAT)]
MaybeKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=256, description=f"{_WHAT} Without one, each is another."),
]


def _after(*types: str) -> Any:
    pattern = f"^({'|'.join(types)})[.][0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}@[1-9][0-9]{{0,9}}$"
    what = "A Version-Token of what is shown here: waits until it is. 404 when it is never shown here."
    return Query(description=what, max_length=80, pattern=pattern)


Page = Annotated[
    str | None,
    Query(
        description="`next` of the page before. 404 when there is no such page.",
        min_length=1,
        max_length=200,
        pattern="^[A-Za-z0-9_-]+$",
    ),
]

# An id is made from the key, so that a repeat finds what the first attempt made, also after a crash.
_CUSTOMERS = UUID("5b3a3b0e-9d5c-4c55-8f5d-0a5b6b1e6a01")
_ACCOUNTS = UUID("5b3a3b0e-9d5c-4c55-8f5d-0a5b6b1e6a02")


class NewCustomer(Command):
    first_name: Name
    last_name: Name
    email: EmailAddress


class NewAccount(Command):
    customer_id: UUID
    currency: Currency


_AMOUNT = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": 10**15, "multipleOf": 0.01},
        {"type": "string", "pattern": "^(0[.](0[1-9]|[1-9][0-9]?)|[1-9][0-9]{0,14}([.][0-9]{1,2})?)$"},
    ]
}
"""What surely is an amount; other ways to write one are understood as well."""


class Transaction(Command):
    """Money that comes or goes."""

    currency: Currency
    amount: Annotated[Decimal, Field(gt=0, le=Money.most(Currency.EUR).amount), WithJsonSchema(_AMOUNT)]

    @field_validator("amount")
    @classmethod
    def _of_the_currency(cls, amount: Decimal, info: ValidationInfo) -> Decimal:
        if (currency := info.data.get("currency")) is not None:  # or that field has the error
            Money(amount, currency)
        return amount

    @property
    def money(self) -> Money:
        return Money(self.amount, self.currency)


class Created(View):
    id: UUID


class CustomerPage(View):
    customers: list[CustomerItem]
    next: str | None
    """Give it as `page` to get the next ones."""


class AccountLine(View):
    id: UUID
    balance: Money


class CustomerAnswer(View):
    id: UUID
    first_name: str
    last_name: str
    email: str
    accounts: list[AccountLine]
    total_balance: Money


def create_app(system: BankSystem) -> FastAPI:
    """The bank as an ASGI application."""
    app = ProblemsApp(title="Bank", description=__doc__ or "", responses=PROBLEMS)
    add_problems(app)
    app.include_router(_customers(system))
    app.include_router(_accounts(system))
    return app


def _customers(system: BankSystem) -> APIRouter:
    routes, bank, views = APIRouter(prefix="/customers", tags=["customers"]), system.bank, system.views

    @routes.get("")
    async def list_customers(
        page: Page = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[str | None, _after("Customer")] = None,
    ) -> CustomerPage:
        if after is not None:
            await _shown(views.archive, UUID(parse_token(after)[1]), after, bank.customers.rehydrate)
        try:
            found = await views.archive.list(after=page, limit=limit)
        except ValueError:
            raise HTTPException(404, "There is no such page") from None
        return CustomerPage(customers=list(found.views), next=found.next)

    @routes.post("", status_code=201)
    async def create_customer(new: NewCustomer, response: Response, given: MaybeKey = None) -> Created:
        key = given or str(uuid4())
        command = CreateCustomer(
            command_id=key,
            customer_id=uuid5(_CUSTOMERS, key),
            first_name=new.first_name,
            last_name=new.last_name,
            email=new.email,
        )
        commit = await bank.create_customer(command)
        response.headers.update({"Location": f"/customers/{command.customer_id}", TOKEN: commit.token})
        return Created(id=command.customer_id)

    @routes.get("/{id}")
    async def get_customer(
        id: UUID,
        currency: Currency = Currency.EUR,
        after: Annotated[str | None, _after("Customer", "Account")] = None,
    ) -> CustomerAnswer:
        if after is not None:
            kind, text, _ = parse_token(after)
            _check_is_shown(
                id == (UUID(text) if kind == "Customer" else (await bank.accounts.rehydrate(UUID(text))).owner_id)
            )
        customer = await _shown(views.customers, id, after, bank.customers.rehydrate)
        return CustomerAnswer(
            id=customer.id,
            first_name=customer.first_name,
            last_name=customer.last_name,
            email=customer.email,
            accounts=[AccountLine(id=account, balance=balance) for account, balance in customer.accounts.items()],
            total_balance=customer.total(currency, bank.converter),
        )

    return routes


def _accounts(system: BankSystem) -> APIRouter:
    routes, bank, views = APIRouter(prefix="/accounts", tags=["accounts"]), system.bank, system.views

    @routes.post("", status_code=201)
    async def open_account(new: NewAccount, response: Response, given: MaybeKey = None) -> Created:
        key = given or str(uuid4())
        command = OpenAccount(
            command_id=key, account_id=uuid5(_ACCOUNTS, key), customer_id=new.customer_id, currency=new.currency
        )
        commit = await bank.open_account(command)
        response.headers.update({"Location": f"/accounts/{command.account_id}", TOKEN: commit.token})
        return Created(id=command.account_id)

    @routes.get("/{id}")
    async def get_account(id: UUID, after: Annotated[str | None, _after("Account")] = None) -> AccountDetails:
        if after is not None:
            _check_is_shown(id == UUID(parse_token(after)[1]))
        return await _shown(views.accounts, id, after, bank.accounts.rehydrate)

    @routes.get("/{id}/balance")
    async def get_balance(id: UUID) -> AccountCard:
        """Never behind: it is stored with the events."""
        card = await system.cards.get(id)
        if card is None:
            raise AggregateNotFoundError(f"Account.{id}")
        return card

    @routes.put("/{id}/deposit")
    async def deposit(id: UUID, transaction: Transaction, key: Key, response: Response) -> AccountCard:
        return _moved(await bank.deposit(Deposit(command_id=key, account_id=id, money=transaction.money)), response)

    @routes.put("/{id}/withdraw")
    async def withdraw(id: UUID, transaction: Transaction, key: Key, response: Response) -> AccountCard:
        return _moved(await bank.withdraw(Withdraw(command_id=key, account_id=id, money=transaction.money)), response)

    return routes


def _moved(account: Account, response: Response) -> AccountCard:
    response.headers[TOKEN] = account.token
    return account_card(account)


async def _shown(
    views: Views[V], id: UUID, after: str | None, load: Callable[[UUID], Awaitable[AggregateRoot[Any]]]
) -> V:
    """The view, at least as new as `after`. What exists and is not shown yet is waited for: 404 is never a delay.

    Raises:
        AggregateNotFoundError: there is no such thing.
        ViewBehindError: the view does not show it in time.
    """
    view = await views.get(id)
    if view is None:
        stored = await load(id)  # or there is nothing to wait for
        after = after or stored.token
    if after is not None:
        view = await views.wait_for(id, after)
    if view is None:
        raise AggregateNotFoundError(str(id))
    return view


def _check_is_shown(is_shown: bool) -> None:  # noqa: FBT001 - what it is about
    """Raises HTTPException: a token of something else is never shown, so waiting would be in vain."""
    if not is_shown:
        raise HTTPException(404, "This is the token of something that is not shown here")
