"""The rules of the bank, one test each; then the mistakes such a bank is known for, one test each."""

from __future__ import annotations

import inspect
import unicodedata
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from bank.domain import (
    Account,
    AccountAdded,
    AccountOfAnotherOwnerError,
    AccountOpened,
    Currency,
    Customer,
    CustomerCreated,
    Deposited,
    DomainError,
    Email,
    FixedRateConverter,
    InsufficientFundsError,
    InvalidValueError,
    Money,
    NoRateError,
    Withdrawn,
    values,
)
from esazure import AggregateRoot, DomainEvent, EventsService, UnusableAggregateError
from esazure.memory import InMemoryEventProducer, InMemoryEventsRepository
from esazure.sqlite import SqliteStore
from esazure.testing import given

EUR, CAD, USD = Currency.EUR, Currency.CAD, Currency.USD
RATES = FixedRateConverter({(USD, EUR): Decimal("0.92"), (USD, CAD): Decimal("0.5"), (CAD, EUR): Decimal("0.001")})

CREATED = CustomerCreated(first_name="Ada", last_name="Lovelace", email="ada@example.com")
OWNER = UUID(int=1)
SOMEBODY_ELSE = UUID(int=3)
ACCOUNT = UUID(int=2)


def money(amount: str, currency: Currency = EUR) -> Money:
    return Money.of(amount, currency)


def deposited(amount: str, currency: Currency = EUR) -> Deposited:
    return Deposited(asked=money(amount, currency), rate=Decimal(1), credited=money(amount, currency))


class TestCustomer:
    def test_is_created_with_trimmed_names_and_the_normal_form_of_the_email(self) -> None:
        customer = Customer.create(uuid4(), " Ada ", "Lovelace", Email(" ADA@Example.com "))
        assert customer.pending == (CREATED,)
        assert (customer.first_name, customer.last_name, customer.email) == ("Ada", "Lovelace", "ada@example.com")
        assert customer.accounts == set()

    @pytest.mark.parametrize(
        ("first", "last"), [("", "Lovelace"), ("Ada", ""), (" \t\u3000", "Lovelace"), ("Ada", "\n")]
    )
    def test_a_blank_name_is_refused(self, first: str, last: str) -> None:
        with pytest.raises(InvalidValueError, match="must not be blank"):
            Customer.create(uuid4(), first, last, Email("ada@example.com"))

    def test_takes_note_of_an_account(self) -> None:
        given(Customer, CREATED, id=OWNER).when(lambda customer: customer.add_account(ACCOUNT, owner_id=OWNER)).then(
            AccountAdded(account_id=ACCOUNT)
        )

    def test_the_same_account_twice_is_a_no_op(self) -> None:
        given(Customer, CREATED, AccountAdded(account_id=ACCOUNT), id=OWNER).when(
            lambda customer: customer.add_account(ACCOUNT, owner_id=OWNER)
        ).then()

    def test_an_account_of_another_owner_is_refused(self) -> None:
        given(Customer, CREATED, id=OWNER).when(
            lambda customer: customer.add_account(ACCOUNT, owner_id=SOMEBODY_ELSE)
        ).raises(AccountOfAnotherOwnerError)

    def test_so_is_one_that_was_noted_already(self) -> None:
        given(Customer, CREATED, AccountAdded(account_id=ACCOUNT), id=OWNER).when(
            lambda customer: customer.add_account(ACCOUNT, owner_id=SOMEBODY_ELSE)
        ).raises(AccountOfAnotherOwnerError)


class TestAccount:
    def test_is_opened_empty(self) -> None:
        account = Account.open(ACCOUNT, OWNER, CAD)
        assert account.pending == (AccountOpened(owner_id=OWNER, currency=CAD),)
        assert (account.owner_id, account.balance) == (OWNER, money("0", CAD))

    def test_a_deposit_in_its_own_currency(self) -> None:
        given(Account, AccountOpened(owner_id=OWNER, currency=EUR)).when(
            lambda account: account.deposit(money("12.50"), RATES)
        ).then(Deposited(asked=money("12.50"), rate=Decimal(1), credited=money("12.50")))

    def test_a_deposit_in_another_keeps_what_was_asked_and_the_rate_used(self) -> None:
        given(Account, AccountOpened(owner_id=OWNER, currency=EUR)).when(
            lambda account: account.deposit(money("10.00", USD), RATES)
        ).then(Deposited(asked=money("10.00", USD), rate=Decimal("0.92"), credited=money("9.20")))

    def test_a_withdrawal_in_its_own_currency(self) -> None:
        given(Account, AccountOpened(owner_id=OWNER, currency=EUR), deposited("10")).when(
            lambda account: account.withdraw(money("4.01"), RATES)
        ).then(Withdrawn(asked=money("4.01"), rate=Decimal(1), debited=money("4.01")))

    def test_the_whole_balance_can_be_withdrawn(self) -> None:
        scenario = given(Account, AccountOpened(owner_id=OWNER, currency=EUR), deposited("10"))
        scenario.when(lambda account: account.withdraw(money("10"), RATES)).then(
            Withdrawn(asked=money("10"), rate=Decimal(1), debited=money("10"))
        )
        assert scenario.aggregate.balance == Money.zero(EUR)

    def test_more_than_the_balance_is_refused(self) -> None:
        given(Account, AccountOpened(owner_id=OWNER, currency=EUR), deposited("10")).when(
            lambda account: account.withdraw(money("10.01"), RATES)
        ).raises(InsufficientFundsError, match="holds 10.00 €, which does not cover 10.01 €")

    @pytest.mark.parametrize("rate", ["0.92", "1.08"])
    def test_more_than_the_balance_is_refused_in_another_currency_too(self, rate: str) -> None:
        rates = FixedRateConverter({(USD, EUR): Decimal(rate)})
        worth = Money.of("10", USD).exchanged(Decimal(rate), EUR)
        opened = AccountOpened(owner_id=OWNER, currency=EUR)
        one_cent_less = deposited(str((worth - money("0.01")).amount))
        given(Account, opened, one_cent_less).when(lambda account: account.withdraw(money("10", USD), rates)).raises(
            InsufficientFundsError
        )
        given(Account, opened, deposited(str(worth.amount))).when(
            lambda account: account.withdraw(money("10", USD), rates)
        ).then(Withdrawn(asked=money("10", USD), rate=Decimal(rate), debited=worth))

    @pytest.mark.parametrize("amount", ["0", "-1", "-0.01"])
    def test_an_amount_must_be_more_than_nothing(self, amount: str) -> None:
        past, why = (AccountOpened(owner_id=OWNER, currency=EUR), deposited("10")), "must be more than 0"
        given(Account, *past).when(lambda account: account.deposit(money(amount), RATES)).raises(
            InvalidValueError, match=why
        )
        given(Account, *past).when(lambda account: account.withdraw(money(amount), RATES)).raises(
            InvalidValueError, match=why
        )

    def test_an_amount_must_be_more_than_nothing_after_the_exchange_too(self) -> None:
        past, why = (AccountOpened(owner_id=OWNER, currency=EUR), deposited("10")), "less than the smallest amount"
        given(Account, *past).when(lambda account: account.deposit(money("1", CAD), RATES)).raises(
            InvalidValueError, match=why
        )
        given(Account, *past).when(lambda account: account.withdraw(money("1", CAD), RATES)).raises(
            InvalidValueError, match=why
        )

    def test_without_a_rate_nothing_happens(self) -> None:
        given(Account, AccountOpened(owner_id=OWNER, currency=USD)).when(
            lambda account: account.deposit(money("1", EUR), RATES)
        ).raises(NoRateError, match="from EUR to USD")

    def test_an_account_holds_so_much_and_no_more(self) -> None:
        full = Deposited(asked=Money.most(EUR), rate=Decimal(1), credited=Money.most(EUR))
        given(Account, AccountOpened(owner_id=OWNER, currency=EUR), full).when(
            lambda account: account.deposit(money("0.01"), RATES)
        ).raises(InvalidValueError, match="more than an account can hold")


@for_all(st.lists(st.tuples(st.booleans(), st.integers(1, 10_000), st.sampled_from([EUR, USD]))))
def test_whatever_happens_an_account_holds_what_came_less_what_went(steps: list[tuple[bool, int, Currency]]) -> None:
    account = Account.open(ACCOUNT, OWNER, EUR)
    for comes, cents, currency in steps:
        asked = Money(Decimal(cents) / 100, currency)
        if comes:
            account.deposit(asked, RATES)
        else:
            with suppress(InsufficientFundsError):
                account.withdraw(asked, RATES)
        assert account.balance.amount >= 0
    came = [event.credited for event in account.pending if isinstance(event, Deposited)]
    went = [event.debited for event in account.pending if isinstance(event, Withdrawn)]
    assert account.balance == sum(came, start=Money.zero(EUR)) - sum(went, start=Money.zero(EUR))


class TestMoney:
    @pytest.mark.parametrize(("amount", "rounded"), [("0.25", "0.12"), ("0.27", "0.14"), ("0.26", "0.13")])
    def test_an_exchange_rounds_half_to_even_in_minor_units(self, amount: str, rounded: str) -> None:
        assert money(amount, USD).exchanged(Decimal("0.5"), CAD) == money(rounded, CAD)

    def test_an_exchange_rounds_once_however_many_digits_the_rate_has(self) -> None:
        nearly_half = Decimal("0.4" + 39 * "9")
        assert money("0.27", USD).exchanged(nearly_half, CAD) == money("0.13", CAD)

    def test_an_exchange_into_more_than_there_is_is_refused(self) -> None:
        for rate in ("2", "1e100", "1e999999"):
            with pytest.raises(InvalidValueError, match="up to"):
                money("1e24", USD).exchanged(Decimal(rate), CAD)

    @pytest.mark.parametrize(
        "amount", ["1.005", "0.001", "nan", "inf", "-inf", "1e25", "1e999999", "-1e99999999", "1e-99999999", "ten", ""]
    )
    def test_refuses_what_is_no_amount(self, amount: str) -> None:
        with pytest.raises(InvalidValueError):
            Money.of(amount, EUR)

    def test_has_one_form_for_one_value(self) -> None:
        assert str(Money.of("5", EUR).amount) == str(Money.of("5.000", EUR).amount) == "5.00"

    def test_of_two_currencies_cannot_be_added_or_compared(self) -> None:
        for operation in (Money.__add__, Money.__sub__, Money.__gt__):
            with pytest.raises(InvalidValueError, match="need an exchange rate"):
                operation(money("1", EUR), money("1", USD))

    def test_many_small_amounts_add_up_exactly(self) -> None:
        assert sum((money("0.10") for _ in range(1_000)), start=Money.zero(EUR)) == money("100")


class TestCurrency:
    @pytest.mark.parametrize("code", ["EUR", "eur", " Eur "])
    def test_is_known_by_its_code(self, code: str) -> None:
        assert Currency(code) is EUR

    def test_another_one_is_refused(self) -> None:
        with pytest.raises(InvalidValueError, match="one of EUR, CAD, USD"):
            Currency("XXX")

    def test_only_the_code_is_stored(self) -> None:
        opened = AccountOpened(owner_id=OWNER, currency=EUR)
        assert opened.model_dump_json() == f'{{"owner_id":"{OWNER}","currency":"EUR"}}'
        assert '"asked":{"amount":"1.00","currency":"EUR"}' in deposited("1").model_dump_json()


class TestEmail:
    @pytest.mark.parametrize(
        ("written", "normal"),
        [
            (" ada@example.com\n", "ada@example.com"),
            ("ADA@EXAMPLE.COM", "ada@example.com"),
            ("STRASSE@example.com", "strasse@example.com"),
            ("straße@example.com", "strasse@example.com"),
            (unicodedata.normalize("NFD", "José@example.com"), "jos\u00e9@example.com"),
        ],
    )
    def test_has_one_form(self, written: str, normal: str) -> None:
        assert str(Email(written)) == normal
        assert Email(written) == Email(normal)

    @pytest.mark.parametrize(
        "text", ["", " ", "ada", "@", "ada@", "@example.com", "ada@example", "a b@example.com", "a@b@example.com",
                 "ada@example..com", "ada@exam\u200bple.com", "ada\x00@example.com", f"{'a' * 250}@example.com"]
    )  # fmt: skip
    def test_refuses_what_is_none_and_does_not_quote_it(self, text: str) -> None:
        with pytest.raises(InvalidValueError) as refusal:
            Email(text)
        assert str(refusal.value) == "not an e-mail address"

    @for_all(st.text(min_size=1))
    def test_normalising_twice_is_normalising_once(self, local: str) -> None:
        try:
            email = Email(f"{local}@example.com")
        except InvalidValueError:
            return
        assert Email(str(email)) == email


class TestRates:
    def test_the_same_currency_needs_none(self) -> None:
        assert FixedRateConverter({}).rate(EUR, EUR) == 1

    @pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
    def test_a_rate_is_positive(self, rate: str) -> None:
        with pytest.raises(InvalidValueError):
            FixedRateConverter({(USD, EUR): Decimal(rate)})


def test_every_refusal_is_a_domain_error() -> None:
    refusals = (AccountOfAnotherOwnerError, InsufficientFundsError, InvalidValueError, NoRateError)
    assert all(issubclass(error, DomainError) for error in refusals)


class TestKnownMistakes:
    def test_stored_names_are_pinned(self) -> None:
        assert (Customer.aggregate_type, set(Customer.event_types)) == ("Customer", {"CustomerCreated", "AccountAdded"})
        assert (Account.aggregate_type, set(Account.event_types)) == (
            "Account",
            {"AccountOpened", "Deposited", "Withdrawn"},
        )
        for named in (Customer, Account, *Customer.event_types.values(), *Account.event_types.values()):
            pin = "aggregate_type" if issubclass(named, AggregateRoot) else "event_type"
            assert f"{pin} = " in inspect.getsource(named), f"{named.__name__} relies on its class name"

    async def test_stored_names_survive_a_rename(self, tmp_path: Path) -> None:
        class NoteOfAnAccount(AccountAdded):  # the class has moved to another module, under another name
            event_type = "AccountAdded"

        class Welcome(CustomerCreated):
            event_type = "CustomerCreated"

        class Client(AggregateRoot[Welcome | NoteOfAnAccount]):
            aggregate_type = "Customer"

            def __init__(self, id: UUID) -> None:
                super().__init__(id)
                self.seen: list[DomainEvent] = []

            def when(self, event: Welcome | NoteOfAnAccount) -> None:
                self.seen.append(event)

        customer = Customer.create(uuid4(), "Ada", "Lovelace", Email("ada@example.com"))
        customer.add_account(ACCOUNT, owner_id=customer.id)
        async with SqliteStore(tmp_path / "bank.db") as before, SqliteStore(tmp_path / "bank.db") as after:
            await before.events(Customer).append(customer)
            client = await after.events(Client).rehydrate(customer.id)
        assert [type(event) for event in client.seen] == [Welcome, NoteOfAnAccount]
        assert client.version == 2

    async def test_a_record_that_raises_leaves_nothing_to_persist(self) -> None:
        class FragileAccount(Account):
            def when(self, event: Any) -> None:
                super().when(event)
                if isinstance(event, Withdrawn):
                    raise ZeroDivisionError("a mistake in when()")

        service = EventsService(InMemoryEventsRepository(FragileAccount), InMemoryEventProducer())
        account = FragileAccount.open(ACCOUNT, OWNER, EUR)
        account.deposit(money("10"), RATES)
        with pytest.raises(ZeroDivisionError):
            account.withdraw(money("1"), RATES)

        assert [event.event_type for event in account.pending] == ["AccountOpened", "Deposited"]
        assert account.version == 2
        with pytest.raises(UnusableAggregateError, match="load it again"):
            account.deposit(money("1"), RATES)
        with pytest.raises(UnusableAggregateError, match="load it again"):
            await service.persist(account)

    def test_a_withdrawal_in_another_currency_is_taken_at_the_rate(self) -> None:
        scenario = given(Account, AccountOpened(owner_id=OWNER, currency=EUR), deposited("10"))
        scenario.when(lambda account: account.withdraw(money("10", USD), RATES)).then(
            Withdrawn(asked=money("10", USD), rate=Decimal("0.92"), debited=money("9.20"))
        )
        assert scenario.aggregate.balance == money("0.80")

    async def test_replay_uses_the_rate_of_then(self) -> None:
        repository = InMemoryEventsRepository(Account)
        account = Account.open(ACCOUNT, OWNER, EUR)
        account.deposit(money("10", USD), RATES)
        await repository.append(account)

        again = await repository.rehydrate(ACCOUNT)
        again.deposit(money("10", USD), FixedRateConverter({(USD, EUR): Decimal("0.5")}))
        await repository.append(again)
        assert (await repository.rehydrate(ACCOUNT)).balance == money("14.20")

    async def test_a_currency_renamed_is_still_the_same_money(self, monkeypatch: pytest.MonkeyPatch) -> None:
        repository = InMemoryEventsRepository(Account)
        account = Account.open(ACCOUNT, OWNER, CAD)
        account.deposit(money("10", CAD), RATES)
        await repository.append(account)

        monkeypatch.setitem(values._SYMBOLS, "CAD", "C$")
        again = await repository.rehydrate(ACCOUNT)
        again.deposit(money("5", CAD), RATES)
        await repository.append(again)

        renamed = await repository.rehydrate(ACCOUNT)
        assert renamed.balance == money("15", CAD)
        assert str(renamed.balance) == "15.00 C$"
