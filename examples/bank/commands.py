"""What the bank can be asked to do. Each handler validates, loads, acts, persists; on any backend.

A command is valid as soon as it exists: `parse` it from outside data, or construct it from value objects. Whoever sends
it chooses its `command_id`; sent twice, it happens once and answers the same. Read `views.py` next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from bank.domain import (
    Account,
    Currency,
    CurrencyConverter,
    Customer,
    Email,
    InvalidValueError,
    Money,
    person_name,
)
from esazure import Commit, IEventsService
from esazure.commands import Command
from esazure.unique import UniqueValues


def _email(value: object) -> object:
    return Email(value) if isinstance(value, str) else value


def _payable(money: Money) -> Money:
    if not money.is_positive:
        raise InvalidValueError("the amount must be more than 0")
    if money > (most := Money.most(money.currency)):
        raise InvalidValueError(f"the amount must be at most {most}")
    return money


CommandId = Annotated[str, Field(min_length=1, max_length=256)]
_IN_A_LINE = r"[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*"
_NAME = {
    "type": "string",
    "minLength": 1,
    "maxLength": 200,
    "pattern": rf"^{_IN_A_LINE}[\p{{L}}\p{{N}}\p{{P}}\p{{S}}]{_IN_A_LINE}$",
}
Name = Annotated[str, AfterValidator(person_name), WithJsonSchema(_NAME)]
EmailAddress = Annotated[Email, BeforeValidator(_email), WithJsonSchema({"type": "string", "format": "email"})]
Payment = Annotated[Money, AfterValidator(_payable)]


class CreateCustomer(Command):
    command_id: CommandId
    customer_id: UUID
    first_name: Name
    last_name: Name
    email: EmailAddress


class OpenAccount(Command):
    command_id: CommandId
    account_id: UUID
    customer_id: UUID
    currency: Currency


class Deposit(Command):
    command_id: CommandId
    account_id: UUID
    money: Payment


class Withdraw(Command):
    command_id: CommandId
    account_id: UUID
    money: Payment


@dataclass(frozen=True)
class Bank:
    """The handlers, and what they need."""

    customers: IEventsService[Customer]
    accounts: IEventsService[Account]
    emails: UniqueValues
    converter: CurrencyConverter

    async def create_customer(self, command: CreateCustomer) -> Commit[Any]:
        """Welcome a customer; an address can be had once.

        Raises:
            ValueTakenError: the e-mail address is another customer's.
            ConcurrencyError: there is a customer of this id, by another command.
            CommandReusedError: the command id was used for another customer.
        """
        customer = Customer.create(command.customer_id, command.first_name, command.last_name, command.email)
        commit = await self.emails.persist(
            self.customers, customer, str(command.email), command_id=command.command_id, request=command
        )
        assert commit is not None  # something was recorded
        return commit

    async def open_account(self, command: OpenAccount) -> Commit[Any]:
        """Open an account. Its owner learns of it by a reaction (`reactions.py`), never before it exists.

        Raises:
            AggregateNotFoundError: there is no such customer.
            ConcurrencyError: there is an account of this id, by another command.
            CommandReusedError: the command id was used for another account.
        """
        await self.customers.rehydrate(command.customer_id)
        account = Account.open(command.account_id, command.customer_id, command.currency)
        commit = await self.accounts.persist(account, command_id=command.command_id, request=command)
        assert commit is not None  # something was recorded
        return commit

    async def deposit(self, command: Deposit) -> Account:
        """Put money into an account. Returns it as this command left it.

        Raises:
            AggregateNotFoundError: there is no such account.
            DomainError: the rules of `Account.deposit`.
            CommandReusedError: the command id was used for another transaction of this account.
        """
        return await self.accounts.update(
            command.account_id,
            lambda account: account.deposit(command.money, self.converter),
            command_id=command.command_id,
            request=command,
        )

    async def withdraw(self, command: Withdraw) -> Account:
        """Take money out of an account. Returns it as this command left it.

        Raises:
            AggregateNotFoundError: there is no such account.
            DomainError: the rules of `Account.withdraw`.
            CommandReusedError: the command id was used for another transaction of this account.
        """
        return await self.accounts.update(
            command.account_id,
            lambda account: account.withdraw(command.money, self.converter),
            command_id=command.command_id,
            request=command,
        )
