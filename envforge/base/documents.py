"""Read JSON, YAML, and TOML documents into typed values; errors contain the path of the invalid value.

The type describes the document: a frozen dataclass, a tuple, a dict, or a union of them. msgspec converts strictly: a
number is not accepted as a string. Every reader is total: any bytes end in a value or in the error of ``Document``.
"""

from __future__ import annotations

import enum
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from msgspec import Struct
from packaging.version import Version

from envforge.base.files import regular
from envforge.base.terms import ComputeCapability, WheelTag
from envforge.errors import EnvforgeError, Hint, printable

if TYPE_CHECKING:
    import yaml

# msgspec reads three names from typing_extensions, or from typing without it; importing it takes longer than reading
if "typing_extensions" in sys.modules:
    import msgspec
else:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec
    finally:
        del sys.modules["typing_extensions"]

_T = TypeVar("_T")
_LONGEST = 120  # characters of a found value that an error shows
_MOST_NODES = 500_000  # of a YAML document with its aliases expanded; the largest real lockfiles have 200,000
_MOST_VALUES = 3_000_000  # of a JSON document, which takes less memory; records of conda have 6 for each file
_MOST_BITS = 64  # of an integer, as other readers of JSON have
_DEEPEST = 100  # levels of a YAML or TOML document, because PyYAML and `json.dumps` recurse

# strings with a rule; `_EXPECTED` says in words what each regular expression means
# no control characters, and no invisible ones, which could reverse or hide the rest of a line
_PRINTABLE = r"\A[^\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]+\Z"
_SHA256 = r"\A[0-9a-f]{64}\Z"
Printable = Annotated[str, msgspec.Meta(pattern=_PRINTABLE)]
"""A string for a terminal, from a document that anyone may have written: not empty, and without control characters."""
Sha256 = Annotated[str, msgspec.Meta(pattern=_SHA256)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
_EXPECTED = {
    _PRINTABLE: "a string without control characters",
    _SHA256: "64 lowercase hexadecimal digits",
}


def matching(pattern: str, expected: str) -> msgspec.Meta:
    """Return the annotation of a string that fully matches ``pattern``; ``expected`` describes it in errors."""
    pattern = rf"\A(?:{pattern})\Z"
    _EXPECTED[pattern] = expected
    return msgspec.Meta(pattern=pattern)


def _version(text: str) -> Version:
    try:
        return Version(text)
    except ValueError as error:
        raise ValueError(text) from error


# types that a string represents: how to parse it (ValueError if it's invalid), and what errors expect
_PARSERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    Version: (_version, "a version such as `12.4`, as a string"),
    WheelTag: (WheelTag.parse, "`cpu` or a CUDA tag"),
    ComputeCapability: (ComputeCapability.parse, "a compute capability such as `8.6`, as a string"),
    Path: (Path, "a path"),
    PurePosixPath: (PurePosixPath, "a path"),
}
_DESCRIBED = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
    "date": "a date such as `2026-08-11`",
    "datetime": "a time such as `2026-08-11T09:30:00Z`",
}


class Document(Struct, frozen=True, kw_only=True):
    """How errors describe a document.

    ``damaged`` starts each message, such as "the lockfile `x` is invalid". ``hint`` is the text of the hint;
    ``hints`` computes hints when an error is raised. With ``closed``, a field that the type lacks is an error, so that
    a misspelled field isn't ignored. Only a document that is ``trusted`` may be of any size.
    """

    damaged: str
    error: type[EnvforgeError]
    code: str
    hint: str = ""
    command: str = ""
    hints: Callable[[], tuple[Hint, ...]] | None = None
    closed: bool = False
    trusted: bool = False

    def fault(self, path: str, expected: str, found: object) -> EnvforgeError:
        """Return the error for the value at ``path``; an empty path means the whole document."""
        at = f" at `{printable(path)}`" if path else ""
        message = f"{self.damaged}{at}: expected {expected}, found {_shown(found)}"
        return self.error(message, hint=self.hints() if self.hints else self.hint, command=self.command, code=self.code)

    def read_bytes(self, path: Path) -> bytes:
        """Return the content of a regular file; raise the document's error if it can't be read."""
        try:
            if path.exists() and not path.is_file():  # opening a FIFO would block
                raise self.fault("", "a regular file", str(path))
            return regular(path).read_bytes()
        except OSError as error:
            message = f"{self.damaged}: cannot read `{path}`: {error.strerror or error}"
            raise self.error(
                message, hint=self.hints() if self.hints else self.hint, command=self.command, code=self.code
            ) from error

    def read_json(self, text: str | bytes, type_: type[_T]) -> _T:
        """Parse JSON as a value of ``type_``."""
        if not self.trusted and _count(text, ",[{") > _MOST_VALUES:
            raise self.fault("", f"at most {_MOST_VALUES:,} values", text)
        try:
            # strictly, because `json.loads` decodes bytes to lone surrogates
            text = text.decode(json.detect_encoding(text)) if isinstance(text, bytes) else text
            value = json.loads(text)
        except RecursionError as error:
            raise self.fault("", "JSON with fewer levels", text) from error
        except ValueError as error:  # no JSON, no UTF-8, or an integer of more digits than Python parses
            raise self.fault("", "JSON", str(error)) from error
        # the search for all of them takes seconds in repodata
        if (not self.trusted or "\\ud" in text.lower()) and (odd := _odd_value(text, value)) is not None:
            raise self.fault(*odd)
        return self.convert(value, type_)

    def read_yaml(self, text: str | bytes, type_: type[_T]) -> _T:
        """Parse YAML as a value of ``type_``."""
        try:
            value = load_yaml(text)
        except ValueError as error:
            raise self.fault("", "YAML", str(error)) from error
        return self.convert(value, type_)

    def read_toml(self, text: str, type_: type[_T]) -> _T:
        """Parse TOML as a value of ``type_``."""
        from envforge.base import toml  # noqa: PLC0415 - not every reader needs it

        if _count(text, ",\n") > _MOST_NODES:
            raise self.fault("", f"at most {_MOST_NODES:,} values", text)
        try:
            value = toml.loads(text)
        except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
            raise self.fault("", "TOML", str(error)) from error
        if _is_deep(value):
            raise self.fault("", "TOML with fewer levels", text)
        if (odd := _odd_value(text, value)) is not None:
            raise self.fault(*odd)
        return self.convert(value, type_)

    def convert(self, value: object, type_: type[_T], path: str = "") -> _T:
        """Return parsed JSON, YAML, or TOML as a value of ``type_``; ``path`` is where it is in the document."""
        try:
            converted = msgspec.convert(value, type_, dec_hook=_parse)
        except msgspec.ValidationError as error:
            where, expected, found = _locate(error, value, type_)
            raise self.fault(_join(path, where), expected, found) from error
        # msgspec can't forbid unknown fields of a dataclass, only those of its own structs
        if self.closed:
            for where, name, known in _unknown_fields(value, converted):
                raise self.fault(_join(path, where), f"one of the fields {', '.join(known)}", name)
        return converted


def load_yaml(text: str | bytes) -> Any:
    """Return the values of a YAML document; raise ``ValueError`` for anything that isn't one.

    The document may not nest deeply or, by its aliases, expand to more nodes than any real one has.
    """
    import yaml  # noqa: PLC0415 - slow to import, and not every reader needs it

    if _count(text, ",\n") > _MOST_NODES:  # libyaml would need a gigabyte before the nodes can be counted
        raise ValueError(f"more than {_MOST_NODES:,} values or lines")
    check_yaml_depth(text)
    loader: yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {}, 0)
        value = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (OverflowError, TypeError, AttributeError, KeyError, IndexError, RecursionError) as error:
        raise ValueError(f"a value that its tag doesn't allow ({type(error).__name__}: {error})") from error
    finally:
        loader.dispose()
    if (odd := _odd_value(text, value)) is not None:
        raise ValueError(f"{odd[0]}: {odd[2]}" if odd[0] else odd[2])
    return value


_BLOCK_START = re.compile(r"^[\s\0?:-]*", re.MULTILINE)
_SHALLOW = 500  # levels that libyaml composes without a crash


def check_yaml_depth(text: str | bytes, longest: int = sys.maxsize) -> None:
    """Raise ``ValueError`` if YAML nests deeply: libyaml 0.2.5 composes it recursively, and crashes the process.

    A text of more than ``longest`` characters is an error, too.
    """
    if len(text) > longest:
        raise ValueError(f"more than {longest:,} characters")
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    opened = plain.replace("{}", "").replace("[]", "")
    # neither bound can be exceeded by a document that nests less, and few documents reach them
    if opened.count("[") + opened.count("{") < _SHALLOW and max(map(len, _BLOCK_START.findall(plain))) < _SHALLOW:
        return
    import yaml  # noqa: PLC0415 - as above

    depth = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ValueError(f"more than {_DEEPEST} levels")
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _count(text: str | bytes, marks: str) -> int:
    """Return how often ``marks`` are in a text, which is about the number of its values."""
    return sum(text.count(each.encode()) if isinstance(text, bytes) else text.count(each) for each in marks)


# few documents match: looking at every value takes long
_MAY_BE_ODD = (
    r"\b(?:\d(?:[\d_:]{18}|[xXo][\da-fA-F_]{16}|b[01_]{63})|[nNiI](?i:an|nf|nfinity)\b)"
    r"|(?<![\w.])\.?\d[\d_.]*[eE]\+?[\d_]{3,}\b"  # once for each number, because `1.1.1` has several starts
    r"|[\\!%\0](?:u[dD]|!|<|TAG|(?<=\0))"  # surrogates; tags and UTF-16 of YAML, which can hide the rest
)
_MAY_BE_ODD_TEXT, _MAY_BE_ODD_BYTES = re.compile(_MAY_BE_ODD), re.compile(_MAY_BE_ODD.encode())


def _odd_value(text: str | bytes, value: object) -> tuple[str, str, str] | None:
    """Return the path, the expected value, and the found value of what later code can't format, count, or encode."""
    may_be = _MAY_BE_ODD_BYTES.search(text) if isinstance(text, bytes) else _MAY_BE_ODD_TEXT.search(text)
    waiting = [("", value)] if may_be else []
    while waiting:
        path, each = waiting.pop()
        match each:
            case str() as found if any("\ud800" <= letter <= "\udfff" for letter in found):
                return path, "Unicode text", "a lone surrogate, which no text contains"
            case int() as found if found.bit_length() > _MOST_BITS:
                return path, f"an integer of at most {_MOST_BITS} bits", f"{found.bit_length():,} bits"
            case float() as found if not math.isfinite(found):
                return path, "a finite number", str(found)
            case dict() as found:
                waiting += [(path, key) for key in found]
                waiting += [(_join(path, key) if isinstance(key, str) else path, inner) for key, inner in found.items()]
            case list() as found:
                waiting += [(f"{path}[{index}]", inner) for index, inner in enumerate(found)]
    return None


def _count_nodes(node: yaml.Node, counted: dict[int, int], depth: int) -> int:
    """Return how many nodes ``node`` expands to; raise ``ValueError`` if it nests or expands without measure."""
    if id(node) in counted:
        if not counted[id(node)]:
            raise ValueError("an alias inside of its own anchor")
        return counted[id(node)]
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} levels")
    # 0 marks a node whose content is being counted, so an alias of it there is a loop
    counted[id(node)] = 0
    total = 1
    if not isinstance(node.value, str):
        for item in node.value:
            # the value of a mapping is a list of pairs, the value of a sequence a list of nodes
            for each in item if isinstance(item, tuple) else (item,):
                total += _count_nodes(each, counted, depth + 1)
                if total > _MOST_NODES:
                    raise ValueError(f"more than {_MOST_NODES:,} values after the aliases are expanded")
    counted[id(node)] = total
    return total


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _parse(type_: type[Any], value: object) -> Any:
    parse, expected = _PARSERS[type_]
    if not isinstance(value, str) or not value:
        raise ValueError(expected)
    try:
        return _parse_once(parse, value)
    except ValueError as error:
        raise ValueError(expected) from error


# the values are frozen, and tables repeat them
@lru_cache(maxsize=1000)
def _parse_once(parse: Callable[[str], Any], text: str) -> Any:
    return parse(text)


_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])")
_MESSAGE = re.compile(r"(?P<expected>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)


def _locate(error: msgspec.ValidationError, top: object, type_: Any) -> tuple[str, str, object]:
    """Return the path, the expected value, and the found value of an error of msgspec."""
    match = cast("re.Match[str]", _MESSAGE.fullmatch(str(error)))  # the pattern matches every text
    value, types, path = top, [type_], ""
    for name, index, any_key in _STEP.findall(match["path"] or ""):
        if isinstance(value, dict):
            key = _failing_key(value, error, top, type_) if any_key else name
            value, path = value.get(key), _join(path, str(key))
        elif isinstance(value, (list, tuple)) and index:
            value, path = value[int(index)], f"{path}[{index}]"
        types = [inner for each in types for inner in _types_inside(each, name)]
    if match["key"] and isinstance(value, dict):
        key = _failing_key(value, error, top, type_)
        # a class has no key type: YAML reads `no:` as false, and a field is named by a string
        keys = [next(iter(get_args(each)), str) for each in types]
        return _join(path, str(key)), _in_words(match["expected"], keys), key
    missing = re.fullmatch(r"Object missing required field `(.*)`", match["expected"])
    if missing:
        types = [inner for each in types for inner in _types_inside(each, missing[1])]
        return _join(path, missing[1]), _described(types) or "a value", None
    return path, _in_words(match["expected"], types), value


def _failing_key(mapping: dict[Any, Any], error: msgspec.ValidationError, top: object, type_: Any) -> Any:
    """Return the key that ``error`` is about, which msgspec doesn't name: with this key only, it is raised again."""
    items = dict(mapping)
    keys = list(items)

    def is_among(some: list[Any]) -> bool:
        mapping.clear()
        mapping.update((key, items[key]) for key in some)
        try:
            msgspec.convert(top, type_, dec_hook=_parse)
        except msgspec.ValidationError as again:
            return str(again) == str(error)
        return False

    try:
        while len(keys) > 1:  # halves: each conversion reads the whole document
            middle = len(keys) // 2
            keys = keys[:middle] if is_among(keys[:middle]) else keys[middle:]
        return keys[0] if keys else ""
    finally:
        mapping.clear()
        mapping.update(items)


def _types_inside(type_: Any, name: str) -> list[Any]:
    """Return the types of the field ``name``, or of the items if ``name`` is empty, of a type and its alternatives."""
    if get_origin(type_) is Annotated:
        return _types_inside(get_args(type_)[0], name)
    if get_origin(type_) in (Union, UnionType):
        return [inner for each in get_args(type_) for inner in _types_inside(each, name)]
    if isinstance(type_, type) and issubclass(type_, Struct):
        hints = get_type_hints(type_, include_extras=True)
        return [hints[name]] if name in hints else []
    return [each for each in get_args(type_)[-1 if get_origin(type_) is dict else 0 :] if each is not ...]


def _described(types: list[Any]) -> str:
    """Return what errors expect of these types; empty if msgspec describes them better."""
    words: list[str] = []
    for each in types:
        if get_origin(each) in (Union, UnionType):
            words.append(_described(list(get_args(each))))
        elif get_origin(each) is Annotated:
            patterns = [meta.pattern for meta in get_args(each) if isinstance(meta, msgspec.Meta)]
            words += [_EXPECTED[pattern] for pattern in patterns if pattern in _EXPECTED]
        elif get_origin(each) is Literal:
            words.append(", ".join(f"`{choice}`" for choice in get_args(each)))
        elif isinstance(each, type) and issubclass(each, enum.Enum):
            words.append("one of " + ", ".join(f"`{choice.value}`" for choice in each))
        elif each in _PARSERS:
            words.append(_PARSERS[each][1])
    return " or ".join(filter(None, words))


def _in_words(message: str, types: list[Any]) -> str:
    found = re.match(r"Expected `([^`]*)`(?: of length >= (\d+))?(?: (>= \d+))?", message)
    if message.startswith("Invalid RFC3339 encoded "):
        return _DESCRIBED[message.rsplit(" ", 1)[1]]
    if found is None:
        return _described(types) if message.startswith("Invalid enum value") else message
    words = _described(types) or " or ".join(_DESCRIBED.get(each, each) for each in found[1].split(" | "))
    if found[2]:
        words += " that is not empty"
    return f"{words} {found[3]}" if found[3] else words


def _unknown_fields(value: object, converted: object, path: str = "") -> Iterator[tuple[str, str, list[str]]]:
    """Yield the path and the name of each field that the structs in ``converted`` lack, and their fields."""
    if isinstance(value, dict):
        if isinstance(converted, Struct):
            known = {each: getattr(converted, each) for each in converted.__struct_fields__}
        elif isinstance(converted, dict):
            known = converted
        else:
            return
        for name, item in value.items():
            if name in known:
                yield from _unknown_fields(item, known[name], _join(path, str(name)))
            elif isinstance(converted, Struct):
                yield path, str(name), sorted(known)
    elif isinstance(value, list) and isinstance(converted, (list, tuple)):
        for index, (item, other) in enumerate(zip(value, converted, strict=True)):
            yield from _unknown_fields(item, other, f"{path}[{index}]")


def _join(path: str, name: str) -> str:
    return f"{path}{name}" if name.startswith("[") or not path else f"{path}.{name}" if name else path


def _shown(found: object) -> str:
    """Format a found value for an error: on one line, escaped, and shortened."""
    if found is None:
        return "nothing"
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=True, default=str)
    return f"`{printable(text if len(text) <= _LONGEST else f'{text[: _LONGEST - 3]}...')}`"
