"""Read JSON, TOML, and YAML documents strictly: every field by name, with its path in errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from packaging.version import Version

from envforge.base.terms import ComputeCapability, WheelTag
from envforge.errors import EnvforgeError, Hint

_T = TypeVar("_T")
_LONGEST = 120


class WrongValue(ValueError):  # noqa: N818 - carries only the expected value; `Fields` turns it into an error
    """A value is invalid; the text describes the expected value."""


def show_plainly(found: object) -> str:
    """Format a found value for errors about TOML and YAML."""
    return "nothing" if found is None else f"`{found if isinstance(found, str) else _shorten(str(found))}`"


def show_as_json(found: object) -> str:
    """Format a found value for errors about JSON."""
    return f"`{_shorten(json.dumps(found, ensure_ascii=False, default=str))}`"


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """How errors describe a document.

    ``damaged`` starts each message, such as "the lockfile `x` is invalid". ``hint`` is the text of the hint;
    ``hints`` computes hints when an error is raised. ``mapping`` names the format's mapping type; ``show`` formats a
    found value.
    """

    damaged: str
    error: type[EnvforgeError]
    code: str
    hint: str = ""
    command: str = ""
    hints: Callable[[], tuple[Hint, ...]] | None = None
    mapping: str = "a mapping"
    show: Callable[[object], str] = show_plainly

    def fault(self, path: str, wanted: str, found: object) -> EnvforgeError:
        """Return the error for the value at ``path``; an empty path means the whole document."""
        at = f" at `{path}`" if path else ""
        message = f"{self.damaged}{at}: expected {wanted}, found {self.show(found)}"
        hint = self.hints() if self.hints else self.hint
        return self.error(message, hint=hint, command=self.command, code=self.code)

    def read_json(self, text: str) -> Fields:
        """Parse JSON whose top level is a mapping."""
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise self.fault("", "JSON", str(error)) from error
        return Fields(self, "", value)

    def read_yaml(self, text: str) -> Fields:
        """Parse YAML whose top level is a mapping."""
        import yaml  # noqa: PLC0415 - slow to import, and not every reader needs it

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            value = yaml.load(text, Loader=loader)  # noqa: S506 - a safe loader in either case
        except yaml.YAMLError as error:
            raise self.fault("", "YAML", " ".join(str(error).split())) from error
        return Fields(self, "", value)


class Fields:
    """A mapping that is read field by field; errors contain the path of the field in the document."""

    __slots__ = ("document", "path", "seen", "value")

    def __init__(self, document: Document, path: str, value: object) -> None:
        if not isinstance(value, dict):
            raise document.fault(path, document.mapping, value)
        self.document, self.path = document, path
        self.value: dict[Any, Any] = value
        self.seen: set[str] = set()

    def at(self, name: str) -> str:
        """Return the path of a field in the document."""
        return f"{self.path}.{name}" if self.path else name

    def fault(self, name: str, wanted: str, found: object) -> EnvforgeError:
        """Return the error for a field."""
        return self.document.fault(self.at(name), wanted, found)

    def has(self, name: str) -> bool:
        """Return whether a field exists and is not null."""
        return self.raw(name) is not None

    def raw(self, name: str) -> Any:
        """Return the value without validation, or ``None`` if the field is missing."""
        self.seen.add(name)
        return self.value.get(name)

    def get(self, name: str, reader: Callable[[object], _T]) -> _T | None:
        """Return an optional field, or ``None`` if it is missing or null."""
        found = self.raw(name)
        return None if found is None else self._read(name, found, reader)

    def need(self, name: str, reader: Callable[[object], _T]) -> _T:
        """Return a required field."""
        return self._read(name, self.raw(name), reader)

    def _read(self, name: str, found: object, reader: Callable[[object], _T]) -> _T:
        try:
            return reader(found)
        except WrongValue as wrong:
            raise self.fault(name, str(wrong), found) from wrong

    def inner(self, name: str) -> Fields:
        """Return a required mapping."""
        return Fields(self.document, self.at(name), self.raw(name))

    def optional(self, name: str) -> Fields | None:
        """Return an optional mapping, or ``None`` if it is missing or null."""
        return self.inner(name) if self.has(name) else None

    def list_of(self, name: str, reader: Callable[[object], _T], *, optional: bool = False) -> tuple[_T, ...]:
        """Return the values of a list; with ``optional``, an empty tuple if it is missing or null."""
        items = self._list(name, optional=optional)
        try:
            return tuple(map(reader, items))
        except WrongValue:  # read again to find the index of the invalid item; the first pass is faster without it
            return tuple(self._read(f"{name}[{i}]", item, reader) for i, item in enumerate(items))

    def items(self, name: str, *, optional: bool = False) -> tuple[Fields, ...]:
        """Return the mappings of a list; with ``optional``, an empty tuple if it is missing or null."""
        items = self._list(name, optional=optional)
        return tuple(Fields(self.document, f"{self.at(name)}[{i}]", item) for i, item in enumerate(items))

    def _list(self, name: str, *, optional: bool) -> list[object]:
        found = self.raw(name)
        if found is None and optional:
            return []
        if not isinstance(found, list):
            raise self.fault(name, "a list", found)
        return found

    def refuse_others(self) -> None:
        """Raise the document's error for a field that was not read, so that a misspelled field isn't ignored."""
        for name in self.value:
            if name not in self.seen:
                raise self.fault(str(name), f"one of the fields {', '.join(sorted(self.seen))}", name)


def read_string(value: object) -> str:
    """Return a string, which may be empty."""
    if not isinstance(value, str):
        raise WrongValue("a string")
    return value


def read_text(value: object) -> str:
    """Return a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise WrongValue("a string")
    return value


def read_boolean(value: object) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        raise WrongValue("true or false")
    return value


def read_integer(value: object) -> int:
    """Return an integer."""
    if not isinstance(value, int) or isinstance(value, bool):  # bool is a subclass of int
        raise WrongValue("an integer")
    return value


def read_natural(value: object) -> int:
    """Return an integer that is not negative."""
    number = read_integer(value)
    if number < 0:
        raise WrongValue("an integer that is not negative")
    return number


def read_texts(value: object) -> tuple[tuple[str, str], ...]:
    """Return an object of strings as sorted pairs."""
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise WrongValue("an object of strings")
    return tuple(sorted(value.items()))


def read_digest(value: object, digits: int = 64) -> str:
    """Return a digest in lowercase hexadecimal digits; a SHA-256 has 64."""
    text = read_text(value)
    if len(text) != digits or set(text) - set("0123456789abcdef"):
        raise WrongValue(f"{digits} lowercase hexadecimal digits")
    return text


def parsed(parse: Callable[[str], _T], wanted: str) -> Callable[[object], _T]:
    """Return a reader for strings that ``parse`` accepts; ``parse`` raises ``ValueError`` for the others."""
    # the values are frozen, and tables repeat them, so each string is parsed once
    parse = lru_cache(maxsize=1000)(parse)

    def read(value: object) -> _T:
        text = read_text(value)
        try:
            return parse(text)
        except ValueError as error:
            raise WrongValue(wanted) from error

    return read


def one_of(choices: tuple[Any, ...]) -> Callable[[object], Any]:
    """Return a reader that accepts only these values."""

    def read(value: object) -> Any:
        if value not in choices:
            raise WrongValue("one of " + ", ".join(f"`{choice}`" for choice in choices))
        return value

    return read


read_version = parsed(Version, "a version such as `12.4`, as a string")
read_tag = parsed(WheelTag.parse, "`cpu` or a CUDA tag")
read_capability = parsed(ComputeCapability.parse, "a compute capability such as `8.6`, as a string")


def read_capabilities(value: object) -> tuple[ComputeCapability, ...]:
    """Return a list of compute capabilities."""
    wanted = "a list of compute capabilities such as `8.6`"
    if not isinstance(value, list):
        raise WrongValue(wanted)
    try:
        return tuple(read_capability(item) for item in value)
    except WrongValue as wrong:
        raise WrongValue(wanted) from wrong
