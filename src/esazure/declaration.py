"""How the declaration of an aggregate class is read: its events and the type of its ids, from its type parameters.

Read `aggregate.py` next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from uuid import UUID

from esazure.events import DomainEvent


def parameters(owner: str, base: Any, inherited: tuple[Any, Any] | None) -> tuple[Any, Any]:
    """The event union and the id type that `base` gives, with an own generic base in between resolved."""
    given = get_args(base)
    if inherited is None:
        if not given:
            raise TypeError(f"{owner}: say which events it has, as in AggregateRoot[AccountOpened | Deposited]")
        return given[0], given[1] if len(given) > 1 else UUID
    meaning = dict(zip(getattr(get_origin(base), "__parameters__", ()), given, strict=False))
    return meaning.get(inherited[0], inherited[0]), meaning.get(inherited[1], inherited[1])


def check_parameters(cls: Any, inherited: list[tuple[Any, Any]]) -> None:
    """Refuse bases that disagree, and a generic one whose parameter is forgotten.

    Raises:
        TypeError: such bases.
    """
    if len({(frozenset(_members(union)), id_type) for union, id_type in inherited}) > 1:
        raise TypeError(
            f"{cls.__name__}: its bases have different events or ids: say which it has, with AggregateRoot[A | B] as "
            "its last base"
        )
    if any(_is_type_variable(given) and given not in cls.__parameters__ for given in inherited[0]):
        raise TypeError(f"{cls.__name__}: a base is generic: say which events it has, as in Base[Opened | Deposited]")


def event_types_of(owner: str, union: Any) -> Mapping[str, type[DomainEvent]]:
    """Stored name -> class, for each member of the union; nothing for one that is not known yet.

    Raises:
        TypeError: a member is no event class, or is generic; or two have one stored name.
    """
    if _is_type_variable(union):  # a base that is still generic
        return MappingProxyType({})
    table: dict[str, type[DomainEvent]] = {}
    for member in _members(union):
        if not (isinstance(member, type) and issubclass(member, DomainEvent) and member is not DomainEvent):
            raise TypeError(
                f"{owner}: {member!r} is not an event class; give DomainEvent subclasses, A | B | C, and no text: they "
                "have to be defined before the aggregate"
            )
        generic = member.__pydantic_generic_metadata__
        if generic["origin"] is not None or generic["parameters"]:
            raise TypeError(f"{owner}: {member!r} is generic: name it, as in class PriceChanged(Changed[int])")
        if table.get(member.event_type, member) is not member:
            raise TypeError(
                f"{owner}: {table[member.event_type]!r} and {member!r} are both stored as {member.event_type!r}"
            )
        table[member.event_type] = member
    return MappingProxyType(table)


def _members(union: Any) -> Iterator[Any]:
    """The classes of a union, also of one that is made of named unions, `type X = A | B`."""
    if hasattr(union, "__value__"):
        yield from _members(union.__value__)
    elif get_origin(union) is Annotated:
        yield from _members(get_args(union)[0])
    elif get_origin(union) in (Union, UnionType):
        for part in get_args(union):
            yield from _members(part)
    else:
        yield union


def id_type_of(owner: str, given: Any) -> type[UUID | str]:
    """UUID or str.

    Raises:
        TypeError: it is neither.
    """
    if _is_type_variable(given):
        return UUID
    bare = given
    while hasattr(bare, "__supertype__"):  # unwrap NewType, also of a NewType
        bare = bare.__supertype__
    if bare is not UUID and bare is not str:
        raise TypeError(f"{owner}: ids are UUID or str (or a NewType of one), not {given!r}")
    return bare


def _is_type_variable(given: Any) -> bool:
    return hasattr(given, "__bound__")
