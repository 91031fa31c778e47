"""A fingerprint of the code that makes something of an aggregate's events: it changes when that code does.

That code is the modules of the aggregate, its events, and the model or the function of what is made, and those modules
of the application that these import, directly or not: all of their bytecode, so that nothing is overlooked. It is read
from where they were loaded; when it may not be what runs, the fingerprint is one that no other process has. What is
installed beside the application does not count, nor what is put together at run time.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from hashlib import sha256
from importlib.machinery import ModuleSpec
from os import urandom
from pathlib import Path
from stat import S_ISDIR, S_ISLNK
from time import time
from types import CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

from pydantic import VERSION, BaseModel

from esazure.aggregate import AggregateRoot

_FOREIGN = {*sys.stdlib_module_names, "esazure", "pydantic", "pydantic_core", "typing_extensions"}
_INSTALLED = {"site-packages", "dist-packages"}
_PLAIN = {bool, int, float, complex, str, bytes, Decimal, NoneType}
_HOLDERS = (staticmethod, classmethod, MethodType)
_STARTED = time() - 0.02  # the times of files come from a clock that is a few milliseconds late
_known: WeakKeyDictionary[type[Any], WeakKeyDictionary[Any, str]] = WeakKeyDictionary()
_log = logging.getLogger("esazure.snapshots")


def fingerprint(
    aggregate_class: type[AggregateRoot[Any, Any]], model: type[BaseModel], function: Callable[..., Any] | None = None
) -> str:
    """64 hexadecimal digits, the same for as long as the class lives.

    When it cannot be known that the code which was found is the code which runs, a warning says so, and nothing else
    ever has the same fingerprint. It cannot when a module's code is not found, when its file, or a link or directory on
    the way to it, was changed after this process began, or when a function that is loaded is not in it.

    Args:
        aggregate_class: its events are fingerprinted with it.
        model: what is made.
        function: what makes it, when that is no method of the class.
    """
    known = _known.setdefault(aggregate_class, WeakKeyDictionary())
    made = function or model
    if made not in known:
        known[made] = _fingerprint(aggregate_class, model, [function] if function else [])
    return known[made]


def _fingerprint(
    aggregate_class: type[AggregateRoot[Any, Any]], model: type[BaseModel], functions: Sequence[Callable[..., Any]]
) -> str:
    models = [model, *aggregate_class.event_types.values()]
    owners: list[Any] = [*functions, aggregate_class, *models]
    began_with = {base.__module__ for owner in owners for base in _bases(owner) if not _is_foreign(base.__module__)}
    packages = {name.partition(".")[0] for name in began_with}
    modules = _modules(began_with, packages)
    unknown = {owner.__module__ for owner in owners} & {"builtins"}  # as a class says that was made by `exec`
    unknown |= {name for name, module in modules.items() if module is None or not _runs(name, modules, packages)}
    if unknown:
        _log.warning(
            "%s: the code of %s cannot be found, or was changed while this process ran: "
            "other processes do not use the snapshots and inline views that this one keeps",
            aggregate_class.__name__,
            ", ".join(sorted(unknown)),
        )
        return sha256(urandom(32)).hexdigest()
    parts = [VERSION, *(owner.__qualname__ for owner in owners), *(str(list(each.model_fields)) for each in models)]
    parts += [f"{name} {module.digest}" for name, module in modules.items() if module is not None]
    # What is loaded under which name, for a method may have been replaced, or the class be made by a function.
    parts += [f"{name} {_live(value)}" for owner in owners for name, value in _attributes(_bases(owner))]
    return sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _runs(name: str, modules: Mapping[str, _Module | None], packages: set[str]) -> bool:
    """Whether every function in a module that is loaded is in the code that was found for the module it is of."""
    namespace = _imported(name) or {}
    if not hasattr(getattr(namespace.get("__spec__"), "loader", None), "get_code"):
        return True  # its loader may change code that it loads, as pytest does with tests
    for function in _loaded(namespace, name):
        home = str(function.__globals__.get("__name__"))
        if home not in modules and _is_of_the_application(home, packages):
            return False
        module, is_generated = modules.get(home), function.__code__.co_filename == "<string>"  # as by dataclass
        if module is not None and not is_generated and _told(function.__code__) not in module.functions:
            return False
    return True


def _loaded(namespace: Mapping[str, Any], name: str) -> Iterator[FunctionType]:
    """The functions in a module, and those of the classes that it defines."""
    for value in list(namespace.values()):
        # Not isinstance, which asks objects that may do anything.
        kind = type(value)
        if kind is FunctionType or (issubclass(kind, type) and value.__module__ == name):
            yield from (each for _, each in _attributes((value,)) if type(each) is FunctionType)


def _attributes(owners: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """A function; or the functions and plain values of a class and its bases, by name."""
    attributes: dict[str, Any] = {}
    for owner in reversed(owners):
        attributes |= vars(owner) if isinstance(owner, type) else {"": owner}
    for name, value in sorted(attributes.items()):
        kind = type(value)
        held = value.__func__ if kind in _HOLDERS else value.fget if kind is property else value
        if type(held) is FunctionType:
            is_ours = not _is_foreign(held.__globals__.get("__name__", ""))
        else:
            is_ours = kind in _PLAIN and not name.startswith("__")
        if is_ours:
            yield name, held


def _live(value: Any) -> str:
    """A plain value; the code of a function, and what of that kind it was made with."""
    if type(value) is not FunctionType:
        return repr(value)
    held = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    for cell in value.__closure__ or ():
        with suppress(ValueError):  # it is empty
            held.append(cell.cell_contents)
    codes = [_told(each.__code__) for each in held if type(each) is FunctionType]
    return f"{_told(value.__code__)} {codes} {[each for each in held if type(each) in _PLAIN]}"


def _bases(owner: Any) -> Sequence[Any]:
    return owner.__mro__ if isinstance(owner, type) else (owner,)


def _is_foreign(name: str) -> bool:
    return name.partition(".")[0] in _FOREIGN


class _Module(NamedTuple):
    digest: str
    imports: frozenset[str] = frozenset()
    """What may be modules: names that are imported, and names that are taken out of those."""
    functions: frozenset[str] = frozenset()
    """The code of each of its functions."""


def _modules(names: set[str], packages: set[str]) -> dict[str, _Module | None]:
    """These modules, and those of the application that they import, by name; None where the code is not known."""
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
    if _is_foreign(name) or (spec := _spec_of(name)) is None:
        return False
    is_beside = spec.has_location and not _INSTALLED.intersection(Path(spec.origin or "").parts)
    return name.partition(".")[0] in packages or is_beside


def _module(name: str) -> _Module | None:
    spec = _spec_of(name)
    if spec is not None and spec.loader is None and spec.submodule_search_locations is not None:
        return _Module("")  # a package without code, or a directory that looks like one
    code = _code_of(name, spec)
    if code is None:
        return None
    if isinstance(code, bytes):
        return _Module(sha256(code).hexdigest())
    package = name.rpartition(".")[0] if spec is None else spec.parent or ""
    text = _told(code).encode("utf-8", "surrogatepass")
    functions = frozenset(_told(each) for each in _codes_in(code))
    return _Module(sha256(text).hexdigest(), frozenset(_imports(code, package)), functions)


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
        if file is not None and _was_changed(Path(file).absolute()):
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


def _was_changed(file: Path) -> bool:
    """Whether this file, or what leads to it, was changed since this process began."""
    left = [file]
    while left:
        for path in (last := left.pop(), *last.parents):
            try:
                state = path.lstat()
            except OSError:  # nothing is there, or a file that is an archive is above
                continue
            changed = max(state.st_mtime, state.st_ctime)
            if S_ISDIR(state.st_mode):  # a file that comes or goes changes both times, to be moved changes one
                changed = 0 if state.st_mtime_ns == state.st_ctime_ns else state.st_ctime
            if changed > _STARTED:
                return True
            if S_ISLNK(state.st_mode):
                left.append(path.parent / path.readlink())
    return False


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield value
            yield from _codes_in(value)


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
