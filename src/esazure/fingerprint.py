"""A fingerprint of the code that makes an aggregate's state of its events: it changes when that code does.

That code is the modules of the aggregate, its events and the model of its state, and those modules of the application
that these import, directly or not. Their whole bytecode counts, so that nothing is overlooked. What is installed beside
the application does not count, nor what is put together at run time.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.machinery import ModuleSpec
from os import urandom
from pathlib import Path
from time import time
from types import CodeType, ModuleType
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

from pydantic import VERSION, BaseModel

from esazure.aggregate import AggregateRoot

_FOREIGN = {*sys.stdlib_module_names, "esazure", "pydantic", "pydantic_core", "typing_extensions"}
_INSTALLED = {"site-packages", "dist-packages"}
_STARTED = time()
_known: WeakKeyDictionary[type[Any], str] = WeakKeyDictionary()
_log = logging.getLogger("esazure.snapshots")


def fingerprint(aggregate_class: type[AggregateRoot[Any, Any]], state: type[BaseModel], ours: set[type]) -> str:
    """64 hexadecimal digits, the same for as long as the class lives.

    When the code of a module cannot be found, or its file was changed after this process began and so may not be what
    runs, a warning says so, and nothing else ever has the same fingerprint.

    Args:
        aggregate_class: its events are fingerprinted with it.
        state: the model that its snapshots are written as.
        ours: bases whose modules do not count, because they are the library's.
    """
    if aggregate_class not in _known:
        _known[aggregate_class] = _fingerprint(aggregate_class, state, ours)
    return _known[aggregate_class]


def _fingerprint(aggregate_class: type[AggregateRoot[Any, Any]], state: type[BaseModel], ours: set[type]) -> str:
    models = [state, *aggregate_class.event_types.values()]
    owners = [aggregate_class, *models]
    began_with = {base.__module__ for owner in owners for base in owner.__mro__ if base not in ours}
    modules = _modules(began_with - sys.stdlib_module_names)
    if unknown := [name for name, module in modules.items() if module is None]:
        _log.warning(
            "%s: the code of %s cannot be found, or was changed while this process ran: "
            "other processes do not use the snapshots of this one",
            aggregate_class.__name__,
            ", ".join(unknown),
        )
        return sha256(urandom(32)).hexdigest()
    parts = [VERSION, *(owner.__qualname__ for owner in owners), *(str(list(model.model_fields)) for model in models)]
    parts += [f"{name} {module.digest}" for name, module in modules.items() if module is not None]
    return sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


class _Module(NamedTuple):
    digest: str
    imports: frozenset[str]
    """What may be modules: names that are imported, and names that are taken out of those."""


def _modules(names: set[str]) -> dict[str, _Module | None]:
    """These modules, and those of the application that they import, by name; None where the code is not known."""
    packages = {name.partition(".")[0] for name in names} - _FOREIGN
    found: dict[str, _Module | None] = {}
    left = [each for name in names for each in (name, *_packages_above(name))]
    while left:
        name = left.pop()
        if name not in found:
            module = found[name] = _module(name)
            if module is not None:
                left += [each for each in module.imports if _is_of_the_application(each, packages)]
    return dict(sorted(found.items()))


def _is_of_the_application(name: str, packages: set[str]) -> bool:
    package = name.partition(".")[0]
    if package in _FOREIGN or (spec := _spec_of(name)) is None:
        return False
    is_beside = spec.has_location and not _INSTALLED.intersection(Path(spec.origin or "").parts)
    return package in packages or is_beside


def _module(name: str) -> _Module | None:
    spec = _spec_of(name)
    if spec is not None and spec.loader is None and spec.submodule_search_locations is not None:
        return _Module("", frozenset())  # a package without code, or a directory that looks like one
    code = _code_of(name, spec)
    if code is None:
        return None
    if isinstance(code, bytes):
        return _Module(sha256(code).hexdigest(), frozenset())
    package = name.rpartition(".")[0] if spec is None else spec.parent or ""
    text = _told(code).encode("utf-8", "surrogatepass")
    return _Module(sha256(text).hexdigest(), frozenset(_imports(code, package)))


def _spec_of(name: str) -> ModuleSpec | None:
    """Where a module is, found without importing anything."""
    imported = _imported(name)
    if imported is not None:
        return cast("ModuleSpec | None", imported.get("__spec__"))
    parent, _, _ = name.rpartition(".")
    path: Sequence[str] | None = None
    if parent:
        above = _spec_of(parent)
        path = (_imported(parent) or {}).get("__path__") or (above.submodule_search_locations if above else None)
        if path is None:
            return None
    found = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    try:
        return next((spec for spec in found if spec is not None), None)
    except Exception:  # noqa: BLE001 - a finder may raise anything, and then an import of it fails as well
        return None


def _imported(name: str) -> dict[str, Any] | None:
    """What is in a module that was imported; None for an object that has taken its place and may do anything."""
    module = sys.modules.get(name)
    return vars(module) if issubclass(type(module), ModuleType) else None


def _code_of(name: str, spec: ModuleSpec | None) -> CodeType | bytes | None:
    """What a module runs; the bytes of its file when that is no Python, None when it cannot be known."""
    file = (_imported(name) or {}).get("__file__") or (spec.origin if spec and spec.has_location else None)
    try:
        if file is not None and Path(file).exists():
            state = Path(file).stat()
            if max(state.st_mtime, state.st_ctime) > _STARTED:
                return None
        get_code = getattr(spec.loader, "get_code", None) if spec else None
        code: CodeType | None = get_code(spec.name) if spec and get_code else None
        if code is not None or file is None:
            return code
        content = Path(file).read_bytes()
        is_python = file.endswith(".py") or name in ("__main__", "__mp_main__")  # which may be called anything
        return compile(content, file, "exec", dont_inherit=True) if is_python else content
    except Exception:  # noqa: BLE001 - a loader may raise anything
        return None


def _imports(code: CodeType, package: str) -> Iterator[str]:
    from importlib.util import resolve_name  # noqa: PLC0415 - both take longer than all of esazure
    from modulefinder import ModuleFinder  # noqa: PLC0415

    for kind, given in ModuleFinder().scan_opcodes(code):
        if kind == "absolute_import":
            taken, name = given
        elif kind == "relative_import":
            level, taken, name = given
            try:
                name = resolve_name("." * level + name, package)
            except ImportError:  # as it will when it runs
                continue
        else:
            continue
        yield from (name, *_packages_above(name), *(f"{name}.{each}" for each in taken or ()))
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _imports(value, package)


def _packages_above(name: str) -> Iterator[str]:
    """Which are run first when a module is imported."""
    while name := name.rpartition(".")[0]:
        yield name


def _told(value: object) -> str:
    """Code and its constants, without where they stand, and in a form that is the same in every process."""
    if isinstance(value, CodeType):
        counts = value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags
        names = value.co_name, value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars
        text = f"{value.co_code.hex()} {value.co_exceptiontable.hex()} {counts} {names} "
        return text + _told(value.co_consts)
    if isinstance(value, tuple):
        return f"({', '.join(map(_told, value))})"
    if isinstance(value, frozenset):  # in an order that every process chooses anew
        return f"{{{', '.join(sorted(map(_told, value)))}}}"
    return repr(value)
