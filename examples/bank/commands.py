"""What the bank can be asked to do. Each handler validates, loads, acts, persists; on any backend.

A command is valid as soon as it exists: `parse` it from outside data, or construct it from value objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from bank.domain import (
    Account,
    Currency,
    CurrencyConverter,
    Customer,
    Email,
    InvalidCommandError,
    InvalidValueError,
    Money,
    non_blank,
)
from esazure import ConcurrencyError, IEventsService


def _email(value: object) -> object:
    return Email(value) if isinstance(value, str) else value


def _more_than_nothing(money: Money) -> Money:
    if not money.is_positive:
        raise InvalidValueError("the amount must be more than 0")
    return money


Name = Annotated[str, AfterValidator(non_blank)]
EmailAddress = Annotated[Email, BeforeValidator(_email)]
Payment = Annotated[Money, AfterValidator(_more_than_nothing)]


class Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> Self:
        """From outside data, such as a request's JSON.

        Raises:
            InvalidCommandError: every problem with its field.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidCommandError(
                [
                    (".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, "))
                    for problem in error.errors(include_url=False, include_input=False, include_context=False)
                ]
            ) from None


class CreateCustomer(Command):
    customer_id: UUID
    first_name: Name
    last_name: Name
    email: EmailAddress


class OpenAccount(Command):
    account_id: UUID
    customer_id: UUID
    currency: Currency


class Deposit(Command):
    account_id: UUID
    money: Payment


class Withdraw(Command):
    account_id: UUID
    money: Payment


@dataclass(frozen=True)
class Bank:
    """The handlers, and the ports they need."""

    customers: IEventsService[Customer]
    accounts: IEventsService[Account]
    converter: CurrencyConverter

    async def create_customer(self, command: CreateCustomer) -> None:
        """Welcome a customer.

        Raises:
            ConcurrencyError: there is a customer of this id.
        """
        customer = Customer.create(command.customer_id, command.first_name, command.last_name, command.email)
        await self.customers.persist(customer)

    async def open_account(self, command: OpenAccount) -> None:
        """Open an account for a customer; repeating the command finishes what a crash left undone.

        The account is written first, so that no crash leaves a customer pointing at an account that does not exist.

        Raises:
            AggregateNotFoundError: there is no such customer; nothing was written.
            InvalidCommandError: the account exists, with another owner or currency.
        """
        await self.customers.rehydrate(command.customer_id)
        account = Account.open(command.account_id, command.customer_id, command.currency)
        try:
            await self.accounts.persist(account)
        except ConcurrencyError:
            account = await self.accounts.rehydrate(command.account_id)
            if (account.owner_id, account.currency) != (command.customer_id, command.currency):
                raise InvalidCommandError([("account_id", "is taken by another account")]) from None
        await self.customers.update(
            command.customer_id, lambda customer: customer.add_account(account.id, owner_id=account.owner_id)
        )

    async def deposit(self, command: Deposit) -> None:
        """Put money into an account.

        Raises:
            AggregateNotFoundError: there is no such account.
            DomainError: the rules of `Account.deposit`.
        """
        await self.accounts.update(command.account_id, lambda account: account.deposit(command.money, self.converter))

    async def withdraw(self, command: Withdraw) -> None:
        """Take money out of an account.

        Raises:
            AggregateNotFoundError: there is no such account.
            DomainError: the rules of `Account.withdraw`.
        """
        await self.accounts.update(command.account_id, lambda account: account.withdraw(command.money, self.converter))
