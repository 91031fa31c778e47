"""Rules tested without a server: given these events, when this command, then those events. Also runs under pytest."""

from uuid import UUID

from esazure import AggregateRoot, DomainEvent
from esazure.testing import given


class Borrowed(DomainEvent):
    reader: str


class Returned(DomainEvent):
    pass


class AlreadyLentError(Exception):
    pass


class Book(AggregateRoot[Borrowed | Returned]):
    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.reader: str | None = None

    def lend(self, reader: str) -> None:
        if self.reader not in (None, reader):
            raise AlreadyLentError(f"{self.reader} has it")
        if self.reader is None:
            self.record(Borrowed(reader=reader))

    def when(self, event: Borrowed | Returned) -> None:
        self.reader = event.reader if isinstance(event, Borrowed) else None


def test_a_book_on_the_shelf_can_be_borrowed() -> None:
    given(Book).when(lambda book: book.lend("Ada")).then(Borrowed(reader="Ada"))


def test_a_returned_book_can_be_borrowed_again() -> None:
    given(Book, Borrowed(reader="Ada"), Returned()).when(lambda book: book.lend("Grace")).then(Borrowed(reader="Grace"))


def test_lending_it_twice_to_one_reader_changes_nothing() -> None:
    given(Book, Borrowed(reader="Ada")).when(lambda book: book.lend("Ada")).then()


def test_nobody_else_can_borrow_it_meanwhile() -> None:
    given(Book, Borrowed(reader="Ada")).when(lambda book: book.lend("Grace")).raises(AlreadyLentError, match="Ada")


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("ok", name)
