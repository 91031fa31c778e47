"""What every `IDocumentStore` promises about collections: kept apart, listed page by page, cleared.

Read `_relay_suite.py` next.
"""

from __future__ import annotations

import re

import pytest

from esazure.documents import MAX_PAGE, Document, IDocumentStore, encode_token
from esazure.keys import MAX_DENSE_COMMIT_BYTES, MAX_STREAM_NAME
from esazure.testing._document_suite import create, for_each, listed
from esazure.testing._hostile import incompressible

_NO_TOKENS = ("", "x", "1", "not a token", "%00", "' or 1 eq 1", "MQ==", "MQ=", "MW\n", "YWJj", "\u00e9", "MdgA")


@pytest.mark.asyncio
class ListingPromises:
    """Uses the fixtures of `DocumentPromises`."""

    async def test_collections_whose_names_begin_alike_are_kept_apart(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        names = [collection + end for end in ("", "-", "_", "0", "a", "-g1", "-g10")]
        written = {name: await create(documents, name, "the same key", name) for name in names}
        for name in names:
            assert await documents.read_document(name, "the same key") == written[name]
            assert await listed(documents, name) == [written[name]]

    async def test_a_collection_with_a_long_name_is_one(self, documents: IDocumentStore, collection: str) -> None:
        names = [collection + "x" * (100 - len(collection)), collection + "x" * (99 - len(collection))]
        for name in names:
            await create(documents, name, "y" * MAX_STREAM_NAME, name)
        for name in names:
            assert [document.text for document in await listed(documents, name)] == [name]

    async def test_an_unknown_collection_is_empty(self, documents: IDocumentStore, collection: str) -> None:
        page = await documents.list_documents(collection)
        assert (list(page.documents), page.next) == ([], None)

    @pytest.mark.parametrize("limit", [1, 2, 6, 7, 8, MAX_PAGE])
    async def test_every_document_is_on_exactly_one_page(
        self, documents: IDocumentStore, collection: str, limit: int
    ) -> None:
        written = [await create(documents, collection, key, key) for key in ("", "a", "A", "b", "/", "\u00e9", "10")]
        found = await listed(documents, collection, limit=limit)
        assert sorted(found, key=_key) == sorted(written, key=_key)
        assert await listed(documents, collection) == found, "the order does not depend on the size of the pages"

    async def test_over_a_thousand_documents_are_listed(self, documents: IDocumentStore, collection: str) -> None:
        keys = [str(number) for number in range(MAX_PAGE + 5)]

        async def write(key: str) -> None:
            await create(documents, collection, key, key)

        await for_each(keys, write)
        found = await listed(documents, collection, limit=MAX_PAGE)
        assert sorted(document.key for document in found) == sorted(keys)
        assert all(document.key == document.text for document in found)

    async def test_what_stays_is_on_exactly_one_page_while_others_write(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        stays = [f"{number:03}" for number in range(0, 100, 2)]
        goes = {key: await create(documents, collection, key, "1") for key in [f"{n:03}" for n in range(1, 100, 4)]}
        changes = {key: await create(documents, collection, key, "1") for key in stays}
        found: list[str] = []
        after = None
        for turn in range(200):
            page = await documents.list_documents(collection, after=after, limit=7)
            found += [document.key for document in page.documents]
            if page.next is None:
                break
            after = page.next
            for key in list(goes)[:: len(goes) // 2 or 1][:2]:
                await documents.delete_document(collection, key, seen=goes.pop(key).tag)
            for key in stays[turn % 5 :: 10]:
                tag = await documents.write_document(collection, key, str(turn), seen=changes[key].tag)
                assert tag
                changes[key] = Document(key, str(turn), tag)
            await create(documents, collection, f"{turn * 4 + 3:03}", "new")
        assert len(set(found)) == len(found)
        assert set(found) >= set(stays)

    async def test_a_page_goes_on_behind_a_document_that_is_gone(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        for key in "abcde":
            await create(documents, collection, key, "1")
        order = await listed(documents, collection)
        page = await documents.list_documents(collection, limit=2)
        for document in order[1:3]:
            await documents.delete_document(collection, document.key, seen=document.tag)
        assert await listed(documents, collection, after=page.next) == order[3:]

    @pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1])
    async def test_a_page_of_no_or_too_many_documents_is_refused(
        self, documents: IDocumentStore, collection: str, limit: int
    ) -> None:
        with pytest.raises(ValueError, match="1,000"):
            await documents.list_documents(collection, limit=limit)

    @pytest.mark.parametrize("token", _NO_TOKENS, ids=ascii)
    async def test_what_is_no_token_is_refused(self, documents: IDocumentStore, collection: str, token: str) -> None:
        with pytest.raises(ValueError, match="token"):
            await documents.list_documents(collection, after=token)

    @pytest.mark.parametrize(
        "position", ["x" * 481, "x" * 100_000, "\u00e9" * 200, "\x00" * 200], ids=["481", "long", "accents", "NUL"]
    )
    async def test_a_token_that_no_key_makes_is_refused_before_any_request(
        self, documents: IDocumentStore, collection: str, position: str
    ) -> None:
        with pytest.raises(ValueError, match="token") as caught:
            await documents.list_documents(collection, after=encode_token(position))
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("position", ["\x00", "'", "\u2028", "a/b?c#d", "x" * 480], ids=ascii)
    async def test_a_token_of_any_key_is_taken(self, documents: IDocumentStore, collection: str, position: str) -> None:
        await documents.list_documents(collection, after=encode_token(position))

    async def test_a_forged_token_shows_nothing_of_others(self, documents: IDocumentStore, collection: str) -> None:
        for name in (f"{collection}-", collection, f"{collection}0"):
            for key in ("a", "b"):
                await create(documents, name, key, name)
        for position in ("", "a", "~", "\x00", "' or 1 eq 1 or '", "0", "00.a", f"d.{collection}-.a", "\uffff"):
            try:
                page = await documents.list_documents(collection, after=encode_token(position))
            except ValueError:
                continue
            assert {document.text for document in page.documents} <= {collection}

    async def test_a_token_fits_into_a_url(self, documents: IDocumentStore, collection: str) -> None:
        for key in ("", "a/b?c", "\u00e9", "x" * MAX_STREAM_NAME, "z"):
            await create(documents, collection, key, "1")
        after, tokens = None, 0
        while (page := await documents.list_documents(collection, after=after, limit=1)).next is not None:
            assert re.fullmatch(r"[A-Za-z0-9_-]+", page.next)
            after, tokens = page.next, tokens + 1
            assert tokens <= 4
        assert tokens == 4

    async def test_a_cleared_collection_is_empty_and_the_others_are_not(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        others = [f"{collection}-g2", f"{collection}0", collection[:-1]]
        kept = {name: await create(documents, name, "a", "1") for name in others}
        large = [await create(documents, collection, key, incompressible(MAX_DENSE_COMMIT_BYTES)) for key in "xy"]

        async def write(key: str) -> None:
            await create(documents, collection, key, "1")

        await for_each(map(str, range(230)), write)
        await documents.clear_documents(collection)
        assert await listed(documents, collection) == []
        assert await documents.read_document(collection, "7") is None
        assert await documents.write_document(collection, "x", "2", seen=large[0].tag) is None
        for name in others:
            assert await listed(documents, name) == [kept[name]]

    async def test_clearing_what_is_empty_does_nothing(self, documents: IDocumentStore, collection: str) -> None:
        for _ in range(2):
            await documents.clear_documents(collection)
        written = await create(documents, collection, "a", "1")
        assert await listed(documents, collection) == [written]


def _key(document: Document) -> str:
    return document.key
