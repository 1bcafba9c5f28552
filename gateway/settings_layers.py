"""Where settings come from: layers of key and value, each checked on its own so that an error can name its source."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

__all__ = ["Layers", "SettingsError"]

_PREFIX = "TIDEGATE_"
# Kubernetes describes a service named "tidegate…" to every pod in variables like TIDEGATE_PORT=tcp://10.0.0.1:8000.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")

Tree = dict[str, Any]


class SettingsError(Exception):
    """The settings can't be used: one line with the source, the key and what was expected."""


class Layers:
    """Collects layers, the later over the earlier, into `tree`, which has the shape of the struct `shape`."""

    def __init__(self, shape: type[Struct]) -> None:
        self.tree: Tree = {}
        self._shape = shape
        self._sources: dict[str, str] = {}

    def add_file(self, path: Path) -> None:
        """A TOML file. Raises SettingsError."""
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: expected TOML: {error}") from error
        self._add(self._shape, tree, (), str(path))

    def add_environment(self, env: Mapping[str, str]) -> None:
        """Every variable that begins with TIDEGATE_. Lists are JSON, or separated by commas. Raises SettingsError."""
        for variable, text in sorted(env.items()):
            if not variable.startswith(_PREFIX) or _SERVICE_LINK.search(variable) or _SERVICE_URL.match(text):
                continue
            words = variable.removeprefix(_PREFIX).lower()
            path, kind = self._find(self._shape, words, (), variable)
            self._add(kind, _from_text(kind, text, variable), path, variable)

    def add_flags(self, flags: Mapping[str, object]) -> None:
        """`flags` has dotted keys; the last word of one is the flag's name. Raises SettingsError."""
        for key, value in flags.items():
            path = tuple(key.split("."))
            flag = f"--{path[-1].replace('_', '-')}"
            kind: Any = self._shape
            for name in path:
                kind = _fields(kind)[name]
            self._add(kind, value, path, flag)

    def add_values(self, values: Mapping[str, object], source: str) -> None:
        """Sections by name, each a mapping or its struct. Raises SettingsError."""
        self._add(self._shape, msgspec.to_builtins(values), (), source)

    def source(self, key: str) -> str | None:
        """Which file, variable or flag has set the key (or, of a section, any key in it)."""
        found = self._sources.get(key)
        within = (source for name, source in self._sources.items() if name.startswith(f"{key}."))
        return found or next(within, None)

    def error(self, key: str, problem: str) -> SettingsError:
        return _error(self.source(key), key, problem)

    def check_complete(self) -> None:
        """Raises SettingsError for a section that lacks a key which has no default."""
        self._check_complete(self._shape, self.tree, ())

    def _check_complete(self, kind: Any, tree: Tree, path: tuple[str, ...]) -> None:
        for name, value in tree.items():
            inner = _section(_mapping(kind) or _fields(kind)[name])
            if inner is not None:
                self._check_complete(inner, value, (*path, name))
        if _mapping(kind) is None:
            for required in (field.encode_name for field in msgspec.structs.fields(kind) if field.required):
                if required not in tree:
                    source = self.source(".".join(path))
                    raise _error(source, ".".join((*path, required)), "is missing")

    def _add(self, kind: Any, value: Any, path: tuple[str, ...], source: str) -> None:
        """Check `value`, which stands at `path`, and put its leaves into the tree."""
        section = _section(kind)
        key = ".".join(path)
        if section is None:
            try:
                msgspec.convert(value, kind)
            except msgspec.ValidationError as error:
                raise _error(source, *_problem(kind, value, key, error)) from error
            self._table(path[:-1])[path[-1]] = value
            self._sources[key] = source
            return
        if value is None and NoneType in get_args(kind):
            return
        if not isinstance(value, dict):
            raise _error(source, key, f"expected a section [{key}]")
        self._table(path)
        self._sources[key] = source
        entry = _mapping(section)
        names: Mapping[str, Any] = {} if entry is not None else _fields(section)
        for name, inner in cast("Tree", value).items():
            if entry is None and name not in names:
                raise _unknown(source, path, name, names)
            self._add(names.get(name, entry), inner, (*path, name), source)

    def _table(self, path: tuple[str, ...]) -> Tree:
        tree = self.tree
        for name in path:
            tree = tree.setdefault(name, {})
        return tree

    def _find(self, kind: Any, words: str, path: tuple[str, ...], variable: str) -> tuple[tuple[str, ...], Any]:
        """Which key `words`, the rest of a variable's name in lower case, stand for, and its type."""
        entry = _mapping(kind)
        if entry is not None:
            return self._find_entry(entry, words, path, variable)
        names = _fields(kind)
        if words in names:
            return (*path, words), names[words]
        for name, inner in names.items():
            section = _section(inner)
            if section is not None and words.startswith(f"{name}_"):
                return self._find(section, words.removeprefix(f"{name}_"), (*path, name), variable)
        raise _unknown(variable, path, words, names)

    def _find_entry(self, entry: Any, words: str, path: tuple[str, ...], variable: str) -> tuple[tuple[str, ...], Any]:
        """In a section of named entries: an entry that is there already, else the name that leaves a known key."""
        there: Tree = self.tree
        for name in path:
            there = there.get(name, {})
        for name in sorted(there, key=len, reverse=True):
            prefix = re.sub(r"\W", "_", name).lower() + "_"
            if words.startswith(prefix):
                return self._find(entry, words.removeprefix(prefix), (*path, name), variable)
        names = _fields(entry)
        for name in sorted(names, key=len, reverse=True):
            if words.endswith(f"_{name}") and words != f"_{name}":
                return (*path, words.removesuffix(f"_{name}"), name), names[name]
        raise _unknown(variable, (*path, "<name>"), words, names)


def _error(source: str | None, key: str, problem: str) -> SettingsError:
    return SettingsError(": ".join(part for part in (source, key, problem) if part))


def _unknown(source: str, path: tuple[str, ...], name: str, names: Iterable[str]) -> SettingsError:
    key = ".".join((*path, name))
    close = get_close_matches(name, names, n=2, cutoff=0.7)
    hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(sorted(names))}"
    return _error(source, key, f"there is no such setting; {hint}")


def _problem(kind: Any, value: Any, key: str, error: msgspec.ValidationError) -> tuple[str, str]:
    """Where in the value something else was expected, and what."""
    if get_origin(kind) is dict and isinstance(value, dict):
        entry = get_args(kind)[1]
        for name, inner in cast("Tree", value).items():
            try:
                msgspec.convert(inner, entry)
            except msgspec.ValidationError as found:
                return _problem(entry, inner, f"{key}.{name}", found)
    text = str(error).partition(" - at ")[0].replace("`", "")
    words = _words(kind) if text.startswith("Invalid enum value") else []
    return key, text[:1].lower() + text[1:] + (f", expected one of {', '.join(words)}" if words else "")


def _words(kind: Any) -> list[str]:
    """The words that a value may be."""
    if get_origin(kind) is Literal:
        return [repr(word) for word in get_args(kind)]
    return [word for one in get_args(kind) for word in _words(one)]


def _fields(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in msgspec.structs.fields(kind)}


def _plain(kind: Any) -> Any:
    """The type without `None` as an alternative."""
    if get_origin(kind) in (Union, UnionType):
        kinds = [one for one in get_args(kind) if one is not NoneType]
        return kinds[0] if len(kinds) == 1 else kind
    return kind


def _section(kind: Any) -> Any:
    """The struct, or the mapping of structs, that this type is; None for the type of a single value."""
    plain = _plain(kind)
    if _mapping(plain) is not None or (isinstance(plain, type) and issubclass(plain, Struct)):
        return plain
    return None


def _mapping(kind: Any) -> Any:
    """The struct that a mapping of structs holds."""
    arguments = get_args(kind)
    if get_origin(kind) is dict and isinstance(arguments[1], type) and issubclass(arguments[1], Struct):
        return arguments[1]
    return None


def _from_text(kind: Any, text: str, variable: str) -> Any:
    """What a variable's text means for the type; left as it is where it means nothing, for the check to say so."""
    plain = _plain(kind)
    several = get_origin(plain) in (Union, UnionType) and text.lstrip().startswith("[")
    if several or _section(kind) is not None or get_origin(plain) in (dict, tuple, list):
        if not text.lstrip().startswith(("[", "{")) and get_origin(plain) is tuple:
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            return json.loads(text)
        except ValueError as error:
            raise SettingsError(f"{variable}: expected JSON: {error}") from error
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        return text
