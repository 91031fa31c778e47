"""What every `IDocumentStore` promises: a text under its key, and no write over what the writer has not seen.

Read `_listing_suite.py` next.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any
from uuid import uuid4

import pytest

from esazure.documents import MAX_PAGE, Document, IDocumentStore
from esazure.errors import CommitTooLargeError, InvalidIdError
from esazure.keys import MAX_COMMIT_BYTES, MAX_DENSE_COMMIT_BYTES, MAX_STREAM_NAME, stream_name
from esazure.testing._binding import StoreBinding
from esazure.testing._counter import Counter, commit_of, counter_with
from esazure.testing._hostile import SHAPES, dense, hostile_ids, incompressible

_LARGEST: dict[str, Callable[[], str]] = {
    "of three bytes": lambda: "\u20ac" * (MAX_COMMIT_BYTES // 3),
    "in ASCII": lambda: incompressible(MAX_COMMIT_BYTES),
    "dense": lambda: dense(MAX_DENSE_COMMIT_BYTES),
}
_TOO_LARGE: dict[str, Callable[[], str]] = {
    "of three bytes": lambda: "\u20ac" * (MAX_COMMIT_BYTES // 3 + 1),
    "in ASCII": lambda: "x" * (MAX_COMMIT_BYTES + 1),
    "dense": lambda: dense(MAX_COMMIT_BYTES),
}
_NO_COLLECTIONS = ("", "A", "Views", "1a", "-a", "_a", "a.b", "a/b", "a b", "a'b", "a\n", "\u00e9", "a" * 101)

Call = Callable[[IDocumentStore, str, str], Awaitable[object]]
_CALLS: dict[str, Call] = {
    "read": lambda store, collection, key: store.read_document(collection, key),
    "write": lambda store, collection, key: store.write_document(collection, key, "{}", seen=None),
    "delete": lambda store, collection, key: store.delete_document(collection, key, seen="tag"),
    "list": lambda store, collection, _: store.list_documents(collection),
    "clear": lambda store, collection, _: store.clear_documents(collection),
}


@pytest.mark.asyncio
class DocumentPromises(StoreBinding):
    """Uses the fixture `store`, if that keeps documents; or a binding overrides `documents`."""

    @pytest.fixture
    def documents(self, store: Any) -> IDocumentStore:
        """What is tested. It may be shared between tests: they use collections of their own."""
        if not hasattr(store, "read_document"):
            pytest.skip("this store is not an IDocumentStore")
        document_store: IDocumentStore = store
        return document_store

    @pytest.fixture
    def collection(self) -> str:
        """One nobody has used."""
        return f"c{uuid4().hex}"

    async def test_what_was_never_written_is_none(self, documents: IDocumentStore, collection: str) -> None:
        assert await documents.read_document(collection, "a") is None
        await create(documents, collection, "a", "1")
        assert await documents.read_document(collection, "b") is None

    async def test_what_was_created_is_read(self, documents: IDocumentStore, collection: str) -> None:
        tag = await documents.write_document(collection, "a", '{"n":1}', seen=None)
        assert tag
        assert await documents.read_document(collection, "a") == Document("a", '{"n":1}', tag)

    async def test_what_is_there_cannot_be_created(self, documents: IDocumentStore, collection: str) -> None:
        there = await create(documents, collection, "a", "1")
        assert await documents.write_document(collection, "a", "2", seen=None) is None
        assert await documents.read_document(collection, "a") == there

    async def test_who_saw_a_document_replaces_it(self, documents: IDocumentStore, collection: str) -> None:
        seen = await create(documents, collection, "a", "1")
        tag = await documents.write_document(collection, "a", "2", seen=seen.tag)
        assert tag
        assert await documents.read_document(collection, "a") == Document("a", "2", tag)

    async def test_who_saw_an_older_one_writes_nothing(self, documents: IDocumentStore, collection: str) -> None:
        old = await create(documents, collection, "a", "1")
        new = await documents.write_document(collection, "a", "2", seen=old.tag)
        assert await documents.write_document(collection, "a", "3", seen=old.tag) is None
        assert new
        assert await documents.read_document(collection, "a") == Document("a", "2", new)

    async def test_each_write_of_a_document_has_another_tag(self, documents: IDocumentStore, collection: str) -> None:
        tags = [(await create(documents, collection, "a", "the same")).tag]
        for _ in range(4):
            tag = await documents.write_document(collection, "a", "the same", seen=tags[-1])
            assert tag
            tags.append(tag)
        assert len(set(tags)) == len(tags)

    async def test_what_is_not_there_cannot_be_replaced(self, documents: IDocumentStore, collection: str) -> None:
        other = await create(documents, collection, "other", "1")
        assert await documents.write_document(collection, "a", "2", seen=other.tag) is None
        assert await documents.read_document(collection, "a") is None

    async def test_who_saw_a_document_deletes_it(self, documents: IDocumentStore, collection: str) -> None:
        seen = await create(documents, collection, "a", "1")
        other = await create(documents, collection, "b", "1")
        assert await documents.delete_document(collection, "a", seen=seen.tag) is True
        assert await documents.read_document(collection, "a") is None
        assert await listed(documents, collection) == [other]

    async def test_who_saw_an_older_one_deletes_nothing(self, documents: IDocumentStore, collection: str) -> None:
        old = await create(documents, collection, "a", "1")
        new = await documents.write_document(collection, "a", "2", seen=old.tag)
        assert await documents.delete_document(collection, "a", seen=old.tag) is False
        assert new
        assert await documents.read_document(collection, "a") == Document("a", "2", new)

    async def test_what_is_gone_cannot_be_deleted(self, documents: IDocumentStore, collection: str) -> None:
        seen = await create(documents, collection, "a", "1")
        assert await documents.delete_document(collection, "b", seen=seen.tag) is False
        await documents.delete_document(collection, "a", seen=seen.tag)
        assert await documents.delete_document(collection, "a", seen=seen.tag) is False

    async def test_who_saw_a_document_erases_it_and_who_saw_an_older_one_does_not(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        old = await create(documents, collection, "a", "1")
        other = await create(documents, collection, "b", "1")
        new = await documents.write_document(collection, "a", "2", seen=old.tag)
        assert new
        assert await documents.delete_document(collection, "a", seen=old.tag, erase=True) is False
        assert await documents.delete_document(collection, "a", seen=new, erase=True) is True
        assert await documents.delete_document(collection, "a", seen=new, erase=True) is False
        assert await listed(documents, collection) == [other]
        again = await create(documents, collection, "a", "1")
        assert await documents.delete_document(collection, "a", seen=new, erase=True) is False
        assert await documents.read_document(collection, "a") == again

    async def test_what_was_deleted_can_be_created_and_is_another(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        old = await create(documents, collection, "a", "the same")
        await documents.delete_document(collection, "a", seen=old.tag)
        new = await create(documents, collection, "a", "the same")
        assert await documents.write_document(collection, "a", "2", seen=old.tag) is None
        assert await documents.delete_document(collection, "a", seen=old.tag) is False
        assert await documents.read_document(collection, "a") == new

    async def test_documents_are_no_commits_and_commits_no_documents(self, documents: Any, collection: str) -> None:
        if not hasattr(documents, "events"):
            pytest.skip("this store keeps no streams")
        counter = counter_with("a")
        commit = await documents.events(Counter).append(counter)
        written = [await create(documents, collection, key, "1") for key in (commit.stream, counter.id)]
        assert list(await documents.read(commit.stream)) == [commit.record]
        assert sorted(await listed(documents, collection), key=_key) == sorted(written, key=_key)
        stream = stream_name(collection, "a")
        await documents.insert(commit_of(stream, 1, "a"), outbox=True)
        assert await documents.read_document(collection, "a") is None

    async def test_every_hostile_key_is_a_document_of_its_own(self, documents: IDocumentStore, collection: str) -> None:
        keys = [*hostile_ids(""), "x" * MAX_STREAM_NAME, "." * (MAX_STREAM_NAME // 3)]
        assert len(keys) > 600

        async def write(key: str) -> None:
            await create(documents, collection, key, json.dumps(key))

        async def compare(key: str) -> None:
            found = await documents.read_document(collection, key)
            assert found is not None
            assert (found.key, json.loads(found.text)) == (key, key)

        await for_each(keys, write)
        await for_each(keys, compare)
        for limit in (MAX_PAGE, 100):
            found = await listed(documents, collection, limit=limit)
            assert sorted(document.key for document in found) == sorted(keys)
            assert all(json.loads(document.text) == document.key for document in found)

    async def test_a_document_of_every_shape_of_json_comes_back_as_it_went(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        tag = None
        for shape in SHAPES:
            for ascii_only in (True, False):
                text = json.dumps(shape, ensure_ascii=ascii_only)
                tag = await documents.write_document(collection, "a", text, seen=tag)
                assert tag
                assert await documents.read_document(collection, "a") == Document("a", text, tag)

    @pytest.mark.parametrize("kind", _LARGEST)
    async def test_a_text_at_the_limit_is_stored(self, documents: IDocumentStore, collection: str, kind: str) -> None:
        text = _LARGEST[kind]()
        first = await create(documents, collection, "a", text)
        small = await documents.write_document(collection, "a", "small", seen=first.tag)
        assert small
        assert await documents.read_document(collection, "a") == Document("a", "small", small)
        tag = await documents.write_document(collection, "a", text, seen=small)
        assert tag
        second = await create(documents, collection, "b", text)
        assert await documents.read_document(collection, "a") == Document("a", text, tag)
        assert await listed(documents, collection) == [Document("a", text, tag), second]

    @pytest.mark.parametrize("kind", _TOO_LARGE)
    async def test_a_text_over_the_limit_is_refused_and_changes_nothing(
        self, documents: IDocumentStore, collection: str, kind: str
    ) -> None:
        text = _TOO_LARGE[kind]()
        there = await create(documents, collection, "a", "small")
        for key, seen in (("a", there.tag), ("b", None)):
            with pytest.raises(CommitTooLargeError):
                await documents.write_document(collection, key, text, seen=seen)
        assert await listed(documents, collection) == [there]

    async def test_a_text_that_is_not_unicode_is_refused_and_not_quoted(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        with pytest.raises(ValueError, match="Unicode") as caught:
            await documents.write_document(collection, "a", "secret \ud800", seen=None)
        assert "secret" not in f"{caught.value} {caught.value.__context__!r} {vars(caught.value)}"
        assert await documents.read_document(collection, "a") is None

    @pytest.mark.parametrize("call", ["read", "write", "delete"])
    @pytest.mark.parametrize(
        "key",
        ["x" * (MAX_STREAM_NAME + 1), "." * (MAX_STREAM_NAME // 3 + 1), "\ud800"],
        ids=["long", "dots", "surrogate"],
    )
    async def test_what_cannot_be_a_key_is_refused(
        self, documents: IDocumentStore, collection: str, call: str, key: str
    ) -> None:
        with pytest.raises(InvalidIdError):
            await _CALLS[call](documents, collection, key)

    @pytest.mark.parametrize("call", _CALLS)
    async def test_what_cannot_be_a_collection_is_refused(self, documents: IDocumentStore, call: str) -> None:
        for name in _NO_COLLECTIONS:
            with pytest.raises(ValueError, match="a collection has"):
                await _CALLS[call](documents, name, "a")

    async def test_of_many_who_create_a_document_at_once_one_does(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        tags = await asyncio.gather(
            *[documents.write_document(collection, "a", str(number), seen=None) for number in range(8)]
        )
        (winner,) = [number for number, tag in enumerate(tags) if tag is not None]
        assert await documents.read_document(collection, "a") == Document("a", str(winner), str(tags[winner]))

    async def test_of_many_who_delete_a_document_at_once_one_does(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        seen = await create(documents, collection, "a", "1")
        told = await asyncio.gather(*[documents.delete_document(collection, "a", seen=seen.tag) for _ in range(8)])
        assert sorted(told) == [False] * 7 + [True]

    async def test_of_who_replaces_and_who_deletes_a_document_exactly_one_does(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        for turn in range(12):
            seen = await create(documents, collection, str(turn), "1")
            write = documents.write_document(collection, str(turn), "2", seen=seen.tag)
            delete = documents.delete_document(collection, str(turn), seen=seen.tag)
            if turn % 2:
                tag, deleted = await asyncio.gather(write, delete)
            else:
                deleted, tag = await asyncio.gather(delete, write)
            assert deleted is (tag is None)
            found = await documents.read_document(collection, str(turn))
            assert found == (None if tag is None else Document(str(turn), "2", tag))

    async def test_writers_who_compare_and_swap_lose_no_update(
        self, documents: IDocumentStore, collection: str
    ) -> None:
        async def count(writer: int) -> None:
            for _ in range(5):
                while True:
                    seen = await documents.read_document(collection, "count")
                    counts = json.loads(seen.text) if seen is not None else {}
                    counts[str(writer)] = counts.get(str(writer), 0) + 1
                    tag = None if seen is None else seen.tag
                    if await documents.write_document(collection, "count", json.dumps(counts), seen=tag) is not None:
                        break

        await asyncio.gather(*[count(writer) for writer in range(8)])
        found = await documents.read_document(collection, "count")
        assert found is not None
        assert json.loads(found.text) == {str(writer): 5 for writer in range(8)}

    async def test_whoever_opens_the_store_sees_the_documents(self, documents: IDocumentStore, collection: str) -> None:
        written = [await create(documents, collection, key, "1") for key in "ab"]
        page = await documents.list_documents(collection, limit=1)
        async with self.another(documents) as again:
            assert await again.read_document(collection, "a") == written[0]
            assert await listed(again, collection, after=page.next) == [
                document for document in written if document not in page.documents
            ]
            assert await again.write_document(collection, "a", "2", seen=written[0].tag)
        assert await documents.delete_document(collection, "a", seen=written[0].tag) is False


async def create(documents: IDocumentStore, collection: str, key: str, text: str) -> Document:
    """Create a document that is not there."""
    tag = await documents.write_document(collection, key, text, seen=None)
    assert tag
    return Document(key, text, tag)


async def listed(
    documents: IDocumentStore, collection: str, *, after: str | None = None, limit: int = 100
) -> list[Document]:
    """All pages, in their order."""
    found: list[Document] = []
    while True:
        page = await documents.list_documents(collection, after=after, limit=limit)
        assert len(page.documents) <= limit
        found += page.documents
        if page.next is None:
            return found
        assert page.next != after, "the pages go on"
        after = page.next


async def for_each(keys: Iterable[str], work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """Concurrently, but gently: a real store is reached through a few connections."""
    slots = asyncio.Semaphore(16)

    async def run(key: str) -> None:
        async with slots:
            await work(key)

    await asyncio.gather(*map(run, keys))


def _key(document: Document) -> str:
    return document.key
