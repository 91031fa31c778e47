"""What the bank promises over HTTP: one suite, on every backend. `support.py` says what a world is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx import ASGITransport, AsyncClient
from tests.bank.support import World, ada, eventually

from bank.http import TOKEN, create_app
from esazure import AppendOutcomeUnknownError, StoreUnavailableError
from esazure.events import CommitRecord

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODY = UUID(int=0)
MOST = "1000000000000000"


class TestCustomers:
    async def test_a_customer_is_created_and_found_where_it_says(self, world: World) -> None:
        answer = await world.post("/customers", world.ada)
        assert answer.status_code == 201
        assert answer.json().keys() == {"id"}
        assert answer.headers["Location"] == f"/customers/{answer.json()['id']}"

        found = await world.get(answer.headers["Location"], after=answer.headers[TOKEN])
        assert found.status_code == 200
        assert found.json() == {
            "id": answer.json()["id"],
            "first_name": "Ada",
            "last_name": "Lovelace",
            "email": world.ada["email"],
            "accounts": [],
            "total_balance": {"amount": "0.00", "currency": "EUR"},
        }

    async def test_a_new_customer_is_found_at_once_also_by_those_who_do_not_say_after(self, world: World) -> None:
        location = (await world.post("/customers", world.ada)).headers["Location"]
        assert (await world.get(location)).status_code == 200

    async def test_names_are_trimmed_and_addresses_normalised(self, world: World) -> None:
        email = f" {world.ada['email'].upper()} "
        customer = await world.customer(first_name=" Ada ", email=email)
        found = (await world.get(f"/customers/{customer.id}", after=customer.token)).json()
        assert (found["first_name"], found["email"]) == ("Ada", world.ada["email"])

    async def test_what_is_wrong_is_said_field_by_field(self, world: World) -> None:
        answer = await world.post("/customers", {"first_name": " ", "last_name": "Lovelace", "email": "ada"})
        assert_problem(answer, 422, errors={"first_name": "must not be blank", "email": "not an e-mail address"})

    async def test_a_missing_and_an_unknown_field_are_said(self, world: World) -> None:
        answer = await world.post("/customers", {"first_name": "Ada", "last_name": "Lovelace", "title": "Countess"})
        assert {error["field"] for error in assert_problem(answer, 422)["errors"]} == {"email", "title"}

    async def test_an_email_is_taken_once(self, world: World) -> None:
        await world.customer()
        other = {"first_name": "Augusta", "last_name": "King", "email": world.ada["email"].upper()}
        assert_problem(await world.post("/customers", other), 409, errors={"email": "is taken"})

    async def test_an_email_that_was_refused_to_one_is_free_for_nobody_else_either(self, world: World) -> None:
        await world.customer()
        for _ in range(2):  # the refusal itself changes nothing
            assert_problem(await world.post("/customers", world.ada), 409)

    async def test_of_two_who_race_for_an_email_one_gets_it(self, world: World) -> None:
        answers = await asyncio.gather(*(world.post("/customers", world.ada) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]

    async def test_an_unknown_customer_is_not_found(self, world: World) -> None:
        assert_problem(await world.get(f"/customers/{NOBODY}"), 404)
        assert_problem(await world.get(f"/customers/{NOBODY}", after=f"Customer.{NOBODY}@1"), 404)

    async def test_the_archive_is_read_in_pages(self, world: World) -> None:
        made = [await world.customer(email=f"{uuid4()}@example.com") for _ in range(5)]
        page = (await world.get("/customers", limit=2, after=made[-1].token)).json()
        for customer in made[:-1]:
            await world.get("/customers", after=customer.token)

        found: list[Any] = []
        page = (await world.get("/customers", limit=2)).json()
        while True:
            assert len(page["customers"]) <= 2
            found += page["customers"]
            if page["next"] is None:
                break
            page = (await world.get("/customers", limit=2, page=page["next"])).json()
        assert len({item["id"] for item in found}) == len(found)
        assert {str(customer.id) for customer in made} <= {item["id"] for item in found}
        assert found[0].keys() == {"id", "first_name", "last_name"}

    @pytest.mark.parametrize("field", ["first_name", "last_name"])
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("\\ud800", "must not have line breaks or control characters"),
            ("Ada\\nERROR all is lost", "must not have line breaks or control characters"),
            ("\\u200b", "must not be blank"),
            ("a" * 201, "must have at most 200 characters"),
        ],
    )
    async def test_a_name_that_is_none_is_refused(self, world: World, field: str, name: str, message: str) -> None:
        body = json.dumps({**world.ada, field: "?"}).replace("?", name)
        headers = {"Idempotency-Key": str(uuid4()), "Content-Type": "application/json"}
        answer = await world.http.post("/customers", content=body, headers=headers)
        assert_problem(answer, 422, errors={field: message})

    @pytest.mark.parametrize("surrogate", ["email", "title", "\\ud800"])
    async def test_a_lone_surrogate_anywhere_is_refused(self, world: World, surrogate: str) -> None:
        body = json.dumps({**world.ada, "?": "!"}).replace("?", surrogate).replace("!", "\\ud800")
        headers = {"Idempotency-Key": str(uuid4()), "Content-Type": "application/json"}
        assert_problem(await world.http.post("/customers", content=body, headers=headers), 422)

    async def test_a_token_of_what_the_archive_never_shows_is_refused(self, world: World) -> None:
        account = await world.account(await world.customer())
        for token in (
            account.token,
            f"Account.{account.id}@x",
            "Customer.x@1",
            f"Customer.{str(NOBODY).upper()[1:]}@1",
        ):
            assert_problem(await world.http.get("/customers", params={"after": token}), 422)
            # And at once: nothing is asked for it, so nothing is waited for.

    async def test_a_page_that_is_none_and_a_limit_that_is_too_high_are_refused(self, world: World) -> None:
        assert_problem(await world.get("/customers", page="*"), 422)
        assert_problem(await world.get("/customers", page="0"), 404)
        assert_problem(await world.get("/customers", limit=1001), 422)
        assert_problem(await world.get("/customers", after="*"), 422)


class TestAccounts:
    async def test_an_account_is_opened_and_found_where_it_says(self, world: World) -> None:
        customer = await world.customer()
        answer = await world.post("/accounts", {"customer_id": str(customer.id), "currency": "CAD"})
        assert answer.status_code == 201
        assert answer.headers["Location"] == f"/accounts/{answer.json()['id']}"

        found = await world.get(answer.headers["Location"], after=answer.headers[TOKEN])
        assert found.json() == {
            "id": answer.json()["id"],
            "owner_id": str(customer.id),
            "first_name": "Ada",
            "last_name": "Lovelace",
            "email": world.ada["email"],
            "balance": {"amount": "0.00", "currency": "CAD"},
        }

    async def test_its_owner_learns_of_it(self, world: World) -> None:
        customer = await world.customer()
        account = await world.account(customer)
        details = (await world.get(f"/customers/{customer.id}", after=account.token)).json()
        assert [line["id"] for line in details["accounts"]] == [str(account.id)]

        async def told() -> bool:
            return (await world.system.bank.customers.rehydrate(customer.id)).accounts == {account.id}

        await eventually(told)

    async def test_an_account_of_nobody_is_not_opened(self, world: World) -> None:
        assert_problem(await world.post("/accounts", {"customer_id": str(NOBODY), "currency": "EUR"}), 404)

    async def test_an_unknown_currency_and_an_id_that_is_none_are_refused(self, world: World) -> None:
        answer = await world.post("/accounts", {"customer_id": "x", "currency": "XXX"})
        assert {error["field"] for error in assert_problem(answer, 422)["errors"]} == {"customer_id", "currency"}

    async def test_an_unknown_account_is_not_found(self, world: World) -> None:
        assert_problem(await world.get(f"/accounts/{NOBODY}"), 404)
        assert_problem(await world.get(f"/accounts/{NOBODY}/balance"), 404)
        assert_problem(await world.get("/accounts/x"), 422)

    async def test_a_token_of_what_a_view_never_shows_is_refused(self, world: World) -> None:
        account = await world.account(await world.customer())
        other = await world.account(await world.customer(email=f"{uuid4()}@example.com"))
        owner = account.owner_id
        for url, status, kind, token in (
            (f"/accounts/{account.id}", 422, "is of a customer", f"Customer.{owner}@1"),
            (f"/accounts/{account.id}", 404, "is of another account", f"Account.{NOBODY}@1"),
            (f"/accounts/{account.id}", 422, "is of no version", f"Account.{account.id}@0"),
            (f"/customers/{owner}", 404, "is of another customer", f"Customer.{NOBODY}@1"),
            (f"/customers/{owner}", 404, "is of another customer's account", other.token),
            (f"/customers/{owner}", 404, "is of no account", f"Account.{NOBODY}@1"),
            (f"/customers/{owner}", 422, "is of nothing in this bank", f"Branch.{owner}@1"),
            ("/customers", 404, "is of no customer", f"Customer.{NOBODY}@1"),
        ):
            answer = await world.http.get(url, params={"after": token})
            refused = assert_problem(answer, status)
            if status == 422:
                assert [error["field"] for error in refused["errors"]] == ["after"], kind


class TestMoney:
    async def test_money_comes_and_goes(self, world: World) -> None:
        account = await world.account(await world.customer())
        deposited = await world.put(f"/accounts/{account.id}/deposit", {"currency": "EUR", "amount": "100"})
        assert deposited.status_code == 200
        assert deposited.json()["balance"] == {"amount": "100.00", "currency": "EUR"}
        withdrawn = await world.put(f"/accounts/{account.id}/withdraw", {"currency": "EUR", "amount": "30.50"})
        assert withdrawn.json()["balance"] == {"amount": "69.50", "currency": "EUR"}

        found = await world.get(f"/accounts/{account.id}", after=withdrawn.headers[TOKEN])
        assert found.json()["balance"] == {"amount": "69.50", "currency": "EUR"}

    async def test_money_of_another_currency_is_exchanged(self, world: World) -> None:
        account = await world.account(await world.customer())
        answer = await world.put(f"/accounts/{account.id}/deposit", {"currency": "USD", "amount": "10"})
        assert answer.json()["balance"] == {"amount": "9.20", "currency": "EUR"}
        answer = await world.put(f"/accounts/{account.id}/withdraw", {"currency": "USD", "amount": 5})
        assert answer.json()["balance"] == {"amount": "4.60", "currency": "EUR"}

    async def test_more_than_the_balance_is_refused_and_changes_nothing(self, world: World) -> None:
        account = await world.account(await world.customer(), holding="10")
        refused = await world.put(f"/accounts/{account.id}/withdraw", {"currency": "EUR", "amount": "10.01"})
        assert_problem(refused, 409)
        assert (await world.balance(account)) == "10.00"

    @pytest.mark.parametrize(
        "amount", ["0", "-1", "1.001", "NaN", "Infinity", "1e15.5", "1000000000000000.01", "1e30", "much", None]
    )
    async def test_an_amount_that_is_none_is_refused(self, world: World, amount: str | None) -> None:
        account = await world.account(await world.customer())
        answer = await world.put(f"/accounts/{account.id}/deposit", {"currency": "EUR", "amount": amount})
        assert [error["field"] for error in assert_problem(answer, 422)["errors"]] == ["amount"]
        assert (await world.balance(account)) == "0.00"

    async def test_an_unknown_currency_is_refused(self, world: World) -> None:
        answer = await world.put(f"/accounts/{NOBODY}/deposit", {"currency": "XXX", "amount": "1"})
        assert [error["field"] for error in assert_problem(answer, 422)["errors"]] == ["currency"]

    async def test_more_than_an_account_can_hold_is_refused(self, world: World) -> None:
        account = await world.account(await world.customer(), holding=MOST)
        answer = await world.put(f"/accounts/{account.id}/deposit", {"currency": "EUR", "amount": "0.01"})
        assert_problem(answer, 422, errors={"amount": "more than an account can hold"})

    async def test_an_unknown_account_is_not_found(self, world: World) -> None:
        for way in ("deposit", "withdraw"):
            assert_problem(await world.put(f"/accounts/{NOBODY}/{way}", {"currency": "EUR", "amount": "1"}), 404)

    async def test_the_balance_alone_is_never_behind(self, world: World) -> None:
        account = await world.account(await world.customer())
        for times in range(1, 4):
            await world.put(f"/accounts/{account.id}/deposit", {"currency": "EUR", "amount": "1"})
            assert (await world.balance(account)) == f"{times}.00"

    async def test_withdrawals_at_the_same_moment_never_overdraw(self, world: World) -> None:
        account = await world.account(await world.customer(), holding="10")
        body = {"currency": "EUR", "amount": "6"}
        answers = await asyncio.gather(*(world.put(f"/accounts/{account.id}/withdraw", body) for _ in range(3)))
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
        assert (await world.balance(account)) == "4.00"


class TestDetails:
    async def test_balances_and_their_total_in_a_currency_of_choice(self, world: World) -> None:
        customer = await world.customer()
        first = await world.account(customer, "EUR", holding="100")
        second = await world.account(customer, "CAD", holding="50")
        await world.get(f"/customers/{customer.id}", after=first.token)
        details = (await world.get(f"/customers/{customer.id}", after=second.token)).json()
        assert {line["id"]: line["balance"] for line in details["accounts"]} == {
            str(first.id): {"amount": "100.00", "currency": "EUR"},
            str(second.id): {"amount": "50.00", "currency": "CAD"},
        }
        assert details["total_balance"] == {"amount": "134.00", "currency": "EUR"}
        in_dollars = (await world.get(f"/customers/{customer.id}", currency="USD")).json()
        assert in_dollars["total_balance"] == {"amount": "145.45", "currency": "USD"}

    async def test_the_total_of_full_accounts_is_shown(self, world: World) -> None:
        customer = await world.customer()
        tokens = [(await world.account(customer, "EUR", holding=MOST)).token for _ in range(2)]
        for token in tokens:
            found = await world.get(f"/customers/{customer.id}", after=token)
        assert found.status_code == 200, found.text
        assert found.json()["total_balance"] == {"amount": "2000000000000000.00", "currency": "EUR"}
        in_dollars = (await world.get(f"/customers/{customer.id}", currency="CAD")).json()
        assert in_dollars["total_balance"] == {"amount": "2940000000000000.00", "currency": "CAD"}

    async def test_a_currency_that_is_none_is_refused(self, world: World) -> None:
        customer = await world.customer()
        assert_problem(await world.get(f"/customers/{customer.id}", currency="XXX"), 422)


class TestSentTwice:
    """A command with the same key happens once and answers the same."""

    async def test_a_customer(self, world: World) -> None:
        key = str(uuid4())
        first = await world.post("/customers", world.ada, key=key)
        assert first.status_code == 201
        assert_same(first, await world.post("/customers", world.ada, key=key))

    async def test_an_account(self, world: World) -> None:
        customer = await world.customer()
        body = {"customer_id": str(customer.id), "currency": "EUR"}
        key = str(uuid4())
        first = await world.post("/accounts", body, key=key)
        await world.put(f"/accounts/{first.json()['id']}/deposit", {"currency": "EUR", "amount": "1"})
        assert_same(first, await world.post("/accounts", body, key=key))
        details = (await world.get(f"/customers/{customer.id}", after=first.headers[TOKEN])).json()
        assert len(details["accounts"]) == 1

    @pytest.mark.parametrize("way", ["deposit", "withdraw"])
    async def test_money(self, world: World, way: str) -> None:
        account = await world.account(await world.customer(), holding="10")
        body = {"currency": "EUR", "amount": "10"}
        first = await world.put(f"/accounts/{account.id}/{way}", body, key="k")
        between = await world.put(f"/accounts/{account.id}/deposit", {"currency": "EUR", "amount": "1"})
        assert between.status_code == 200
        # For the withdrawal there is not enough any more: it does not happen again, so that does not matter.
        assert_same(first, await world.put(f"/accounts/{account.id}/{way}", body, key="k"))
        assert (await world.balance(account)) == {"deposit": "21.00", "withdraw": "1.00"}[way]

    async def test_at_the_same_moment(self, world: World) -> None:
        account = await world.account(await world.customer())
        body = {"currency": "EUR", "amount": "1"}
        sent = [world.put(f"/accounts/{account.id}/deposit", body, key="k") for _ in range(3)]
        first, *others = await asyncio.gather(*sent)
        assert first.status_code == 200
        for other in others:
            assert_same(first, other)
        assert (await world.balance(account)) == "1.00"

    async def test_what_was_refused_may_be_tried_again(self, world: World) -> None:
        account = await world.account(await world.customer())
        body = {"currency": "EUR", "amount": "5"}
        assert_problem(await world.put(f"/accounts/{account.id}/withdraw", body, key="k"), 409)
        await world.put(f"/accounts/{account.id}/deposit", body)
        assert (await world.put(f"/accounts/{account.id}/withdraw", body, key="k")).status_code == 200

    async def test_a_key_is_not_taken_for_another_command(self, world: World) -> None:
        account = await world.account(await world.customer(), holding="10")
        key, url = str(uuid4()), f"/accounts/{account.id}"
        await world.put(f"{url}/deposit", {"currency": "EUR", "amount": "1"}, key=key)
        for way, amount in (("deposit", "2"), ("withdraw", "1")):
            answer = await world.put(f"{url}/{way}", {"currency": "EUR", "amount": amount}, key=key)
            assert assert_problem(answer, 422)["type"] == "urn:esazure:problem:command-reused"
        assert (await world.balance(account)) == "11.00"

        answer = await world.post("/customers", world.ada, key=key)
        assert answer.status_code == 409  # the address of account's owner
        fresh = {**world.ada, "email": f"{uuid4()}@example.com"}
        assert (await world.post("/customers", fresh, key=key)).status_code == 201
        free = f"{uuid4()}@example.com"
        for other in ({**fresh, "first_name": "Augusta"}, {**fresh, "email": free}):
            answer = await world.post("/customers", other, key=key)
            assert assert_problem(answer, 422)["type"] == "urn:esazure:problem:command-reused"
        assert (await world.post("/customers", {**fresh, "email": free})).status_code == 201  # and holds nothing back

        first = await world.post("/accounts", {"customer_id": str(account.owner_id), "currency": "EUR"}, key=key)
        assert first.status_code == 201
        answer = await world.post("/accounts", {"customer_id": str(account.owner_id), "currency": "USD"}, key=key)
        assert assert_problem(answer, 422)["type"] == "urn:esazure:problem:command-reused"

    async def test_a_post_without_a_key_is_another_one_each_time(self, world: World) -> None:
        customer = await world.customer()
        wanted = {"customer_id": str(customer.id), "currency": "EUR"}
        first, second = [await world.http.post("/accounts", json=wanted) for _ in range(2)]
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json()["id"] != second.json()["id"]
        fresh = ada()
        assert (await world.http.post("/customers", json=fresh)).status_code == 201
        assert_problem(await world.http.post("/customers", json=fresh), 409, errors={"email": "is taken"})

    async def test_money_does_not_move_without_a_key(self, world: World) -> None:
        account = await world.account(await world.customer(), holding="5")
        for way in ("deposit", "withdraw"):
            answer = await world.put(f"/accounts/{account.id}/{way}", {"currency": "EUR", "amount": "1"}, key=None)
            assert [error["field"] for error in assert_problem(answer, 422)["errors"]] == ["Idempotency-Key"]
        assert (await world.balance(account)) == "5.00"

    @pytest.mark.parametrize("key", ["", "k" * 257])
    async def test_nothing_happens_with_a_key_that_is_none(self, world: World, key: str) -> None:
        account = await world.account(await world.customer())
        money = {"currency": "EUR", "amount": "1"}
        fresh = ada()
        requests: list[tuple[str, str, dict[str, str]]] = [
            ("POST", "/customers", fresh),
            ("POST", "/accounts", {"customer_id": str(account.owner_id), "currency": "EUR"}),
            ("PUT", f"/accounts/{account.id}/deposit", money),
            ("PUT", f"/accounts/{account.id}/withdraw", money),
        ]
        headers = {"Idempotency-Key": key}
        for method, url, body in requests:
            answer = await world.http.request(method, url, json=body, headers=headers)
            assert [error["field"] for error in assert_problem(answer, 422)["errors"]] == ["Idempotency-Key"]
        assert (await world.balance(account)) == "0.00"
        assert (await world.system.bank.customers.rehydrate(account.owner_id)).version <= 2  # one account
        assert (await world.post("/customers", fresh)).status_code == 201  # her address is free


class TestProblems:
    async def test_unknown_routes_and_methods(self, world: World) -> None:
        assert_problem(await world.get("/nowhere"), 404)
        for path, allowed in (
            ("/customers", "GET, POST"),
            (f"/customers/{NOBODY}", "GET"),
            ("/accounts", "POST"),
            (f"/accounts/{NOBODY}/deposit", "PUT"),
        ):
            refused = await world.http.request("DELETE", path)
            assert_problem(refused, 405)
            assert refused.headers["Allow"] == allowed

    async def test_a_body_that_is_no_json(self, world: World) -> None:
        answer = await world.http.post("/customers", content=b"{", headers={"Content-Type": "application/json"})
        assert_problem(answer, 422)


class TestOutages:
    """The store cannot be reached, or its answers get lost."""

    @pytest.fixture
    def outage(self, world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        async def away(*_: object, **__: object) -> None:
            raise StoreUnavailableError("no answer")

        async def no_pages(*_: object, **__: object) -> AsyncIterator[object]:
            yield await away()

        def begin() -> None:
            monkeypatch.setattr(world.system.store, "load", no_pages)
            for call in ("read", "insert", "find_command", "read_view", "read_document", "write_document"):
                monkeypatch.setattr(world.system.store, call, away)
            monkeypatch.setattr(world.system.store, "list_documents", away)

        return begin

    async def test_an_outage_is_503_and_never_404(self, world: World, outage: Callable[[], None]) -> None:
        customer = await world.customer()
        account = await world.account(customer)
        outage()
        money = {"currency": "EUR", "amount": "1"}
        for answer in (
            await world.get("/customers"),
            await world.get(f"/customers/{customer.id}"),
            await world.get(f"/customers/{NOBODY}"),
            await world.get(f"/accounts/{account.id}"),
            await world.get(f"/accounts/{account.id}", after=account.token),
            await world.get(f"/accounts/{account.id}/balance"),
            await world.post("/customers", ada()),
            await world.post("/accounts", {"customer_id": str(customer.id), "currency": "EUR"}),
            await world.put(f"/accounts/{account.id}/deposit", money),
            await world.put(f"/accounts/{NOBODY}/withdraw", money),
        ):
            problem = assert_problem(answer, 503)
            assert answer.headers["Retry-After"] == "1"
            assert "no answer" not in str(problem)

    async def test_after_a_lost_answer_the_same_key_finds_what_was_stored(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = await world.account(await world.customer())
        insert = world.system.store.insert

        async def insert_and_lose_the_answer(record: CommitRecord, **options: Any) -> None:
            await insert(record, **options)
            raise AppendOutcomeUnknownError(record.stream, expected=record.expected_version, commit_id=record.commit_id)

        fresh = ada()
        requests: list[tuple[str, str, dict[str, str]]] = [
            ("POST", "/customers", fresh),
            ("POST", "/accounts", {"customer_id": str(account.owner_id), "currency": "EUR"}),
            ("PUT", f"/accounts/{account.id}/deposit", {"currency": "EUR", "amount": "5"}),
        ]
        for method, url, body in requests:
            headers = {"Idempotency-Key": str(uuid4())}
            with monkeypatch.context() as lost:
                lost.setattr(world.system.store, "insert", insert_and_lose_the_answer)
                assert_problem(await world.http.request(method, url, json=body, headers=headers), 503)
            again = await world.http.request(method, url, json=body, headers=headers)
            assert again.status_code in (200, 201), again.text
            assert_same(again, await world.http.request(method, url, json=body, headers=headers))
        assert (await world.balance(account)) == "5.00"

    async def test_what_nobody_foresaw_is_a_problem_that_says_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("payload-marker")

        monkeypatch.setattr(world.system.views.archive, "list", broken)
        transport = ASGITransport(create_app(world.system), raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://bank") as http:
            problem = assert_problem(await http.get("/customers"), 500)
        assert problem == {"type": "about:blank", "title": "Internal Server Error", "status": 500}


class TestOpenApi:
    async def test_the_page_and_what_it_shows(self, world: World) -> None:
        assert (await world.get("/docs")).status_code == 200
        api = (await world.get("/openapi.json")).json()
        assert {(path, method) for path, methods in api["paths"].items() for method in methods} == {
            ("/customers", "get"),
            ("/customers", "post"),
            ("/customers/{id}", "get"),
            ("/accounts", "post"),
            ("/accounts/{id}", "get"),
            ("/accounts/{id}/balance", "get"),
            ("/accounts/{id}/deposit", "put"),
            ("/accounts/{id}/withdraw", "put"),
        }
        deposit = api["paths"]["/accounts/{id}/deposit"]["put"]
        assert {each["name"]: each["required"] for each in deposit["parameters"]} == {
            "id": True,
            "Idempotency-Key": True,
        }
        for operation in (operation for methods in api["paths"].values() for operation in methods.values()):
            assert "application/problem+json" in operation["responses"]["422"]["content"]
        for path in ("/customers", "/accounts"):
            assert {each["name"]: each["required"] for each in api["paths"][path]["post"]["parameters"]} == {
                "Idempotency-Key": False
            }

    async def test_what_is_not_json_in_utf_8_is_a_problem_the_page_knows(self, world: World) -> None:
        api = (await world.get("/openapi.json")).json()
        headers = {"Idempotency-Key": str(uuid4()), "Content-Type": "application/json"}
        for body, status in ((b"\xff", 400), (b"{", 422), (b"", 422), (b"[]", 422), (b"[" * 100_000, 400)):
            assert_problem(await world.http.post("/accounts", content=body, headers=headers), status)
            assert str(status) in api["paths"]["/accounts"]["post"]["responses"]

    async def test_texts_from_outside_are_bounded(self, world: World) -> None:
        for name in ("after", "page"):
            for text in ("", "x" * 1_000, "\x00", "Customer.x@1"):
                if (name, text) != ("page", "Customer.x@1"):
                    assert_problem(await world.http.get("/customers", params={name: text}), 422)

    async def test_every_reference_leads_somewhere(self, world: World) -> None:
        api = (await world.get("/openapi.json")).json()
        found = list(references(api))
        assert "#/components/schemas/FieldError" in found
        for reference in found:
            where, *path = reference.split("/")
            assert where == "#", reference
            place = api
            for part in path:
                assert part in place, reference
                place = place[part]


class TestLetters:
    async def test_one_for_an_account_and_one_for_each_transaction(self, world: World) -> None:
        customer = await world.customer()
        account = await world.account(customer)
        await world.put(f"/accounts/{account.id}/deposit", {"currency": "EUR", "amount": "2"})
        await world.put(f"/accounts/{account.id}/withdraw", {"currency": "EUR", "amount": "1"})
        opened = f"dear Ada, a new account was created for you: {account.id}"
        happened = f"dear Ada, a transaction occurred on your account {account.id}"

        async def sent() -> bool:
            return [letter.text for letter in world.letters_about(account)] == [opened, happened, happened]

        await eventually(sent)
        assert {letter.recipient for letter in world.letters_about(account)} == {world.ada["email"]}
        assert len({letter.id for letter in world.letters_about(account)}) == 3

    async def test_none_for_what_was_refused(self, world: World) -> None:
        account = await world.account(await world.customer())
        await world.put(f"/accounts/{account.id}/withdraw", {"currency": "EUR", "amount": "1"})
        after = await world.put(f"/accounts/{account.id}/deposit", {"currency": "EUR", "amount": "1"})
        await world.get(f"/accounts/{account.id}", after=after.headers[TOKEN])

        async def sent() -> bool:
            return len(world.letters_about(account)) == 2

        await eventually(sent)


def references(api: Any) -> Iterator[str]:
    """Every $ref in it."""
    for name, value in api.items() if isinstance(api, dict) else enumerate(api) if isinstance(api, list) else ():
        if name == "$ref":
            yield value
        else:
            yield from references(value)


def assert_problem(answer: Any, status: int, *, errors: dict[str, str] | None = None) -> Any:
    """RFC 9457; with `errors`, exactly these fields and messages."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["type"]
    if errors is not None:
        assert {error["field"]: error["message"] for error in problem["errors"]} == errors
    return problem


def assert_same(one: Any, other: Any) -> None:
    assert (one.status_code, one.json(), one.headers[TOKEN]) == (other.status_code, other.json(), other.headers[TOKEN])
    assert one.headers.get("Location") == other.headers.get("Location")
