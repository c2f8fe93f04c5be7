"""Read the requests of an environment.yml: what it requests, for which platforms, and on which line.

Every construct is either honored or an error that names its line and the spelling that works. ``docs/lock.md`` has the
table of the grammar.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NoReturn

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from envforge.base.documents import check_yaml_depth
from envforge.base.suggest import nearest
from envforge.base.urls import hide_secrets
from envforge.errors import EnvforgeError, Hint
from envforge.lock.platforms import (
    EVERYWHERE,
    SelectorError,
    is_valid_marker,
    parse_selector,
    selector_of_comment,
)

Section = Literal["conda", "pip"]

_KEYS = (
    "name",
    "prefix",
    "channels",
    "platforms",
    "dependencies",
    "pip-repositories",
    "allow-pypi-requests",
    "category",
    "variables",
)
_SELECTOR_KEY = re.compile(r"sel\((.*)\)")
_ALIKE = 0.6
_LONGEST = 2000  # characters of a package; longer ones take seconds to parse
_LONGEST_TEXT = 200_000  # characters of a file, as PyYAML parses 100,000 a second; an export of 500 packages has 30,000


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A place in an environment file."""

    path: Path
    number: int

    def __str__(self) -> str:
        return f"`{self.path}`, line {self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """The constraints on a conda package; empty strings if there are none."""

    name: str
    version: str = ""
    build: str = ""
    channel: str = ""

    def __str__(self) -> str:
        version = self.version or ("*" if self.build else "")
        channel = f"{self.channel}::" if self.channel else ""
        return " ".join(filter(None, (f"{channel}{self.name}", version, self.build)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One requested package. ``platforms`` are those that its selectors allow.

    ``spec`` is set for conda packages, ``requirement`` for wheels. ``node`` is the text of the package in the file,
    ``siblings`` the list that contains it, and ``holder`` the mapping around it (``pip:``, ``sel(...):``).
    """

    name: str
    section: Section
    text: str
    platforms: frozenset[str]
    category: str
    line: Line
    spec: Spec | None = None
    requirement: Requirement | None = None
    node: yaml.Node = field(compare=False, repr=False)
    siblings: yaml.SequenceNode | None = field(compare=False, repr=False)
    holder: yaml.Node | None = field(default=None, compare=False, repr=False)

    @property
    def is_virtual(self) -> bool:
        """Whether this is a property of the machine, such as ``__glibc``."""
        return self.section == "conda" and self.name.startswith("__")


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The content of one environment file. ``dependencies`` is its list of packages."""

    path: Path
    text: str
    channels: tuple[str, ...]
    platforms: tuple[str, ...]
    pip_repositories: tuple[str, ...]
    allow_registry: bool
    category: str
    variables: tuple[tuple[str, str], ...]
    entries: tuple[Entry, ...]
    dependencies: yaml.SequenceNode = field(compare=False, repr=False)
    indexes: yaml.SequenceNode | None = field(compare=False, repr=False)


def parse_environment(text: str, path: Path) -> Environment:
    """Parse an environment file; raise ``EnvforgeError`` with the line of a construct that can't be honored."""
    return _Reader(text, path).environment()


def parse_spec(text: str) -> Spec:
    """Parse a conda package such as ``conda-forge::numpy >=2,<3 py312*``; raise ``BadSpecError`` if it is invalid."""
    if len(text) > _LONGEST:
        raise BadSpecError(f"`{text[:_LONGEST]}` is longer than {_LONGEST} characters", "write a name and a version")
    match = _SPEC.fullmatch(text.strip())
    if "://" in text.partition("::")[2] or match is None:
        raise BadSpecError(f"`{text}` is not a conda package", "write a name and a version, such as `numpy >=2,<3`")
    version, build = _version_and_build(text, (match["rest"] or "").strip())
    keys = _bracket_keys(match["keys"] or "")
    spec = Spec(
        name=match["name"].lower(),
        version=keys.get("version", version),
        build=keys.get("build", build),
        channel=_channel(keys.get("channel", match["channel"] or "")),
    )
    _check_spec(text, spec)
    return spec


class BadSpecError(Exception):
    """A conda package that can't be honored; ``hint`` is the spelling that works."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


_SPEC = re.compile(
    r"(?:(?P<channel>[^\s\[\]'\"#=<>!~,|]+)::)?(?P<name>[A-Za-z0-9_][\w.-]*)"
    r"(?P<rest>[ =<>!~][^#'\"\[\]\n;@]*)?(?:\[(?P<keys>.*)\])?"
)
_KEY = re.compile(r"\s*(\w+)\s*=\s*(?:'([^']*)'|\"([^\"]*)\"|([^,'\"\s]+))\s*(?:,|$)")
_VERSION_AND_BUILD = re.compile(r"=(?P<version>[^=<>!~,|\s]+)=(?P<build>[^=\s]+)")
_SUBDIR = re.compile(r"(?:linux|osx|win|emscripten|wasi)-\w+|noarch")


def _version_and_build(text: str, rest: str) -> tuple[str, str]:
    short = _VERSION_AND_BUILD.fullmatch(re.sub(r"\s*=\s*", "=", rest))
    if short:  # as conda reads it, `name=1.2=build` is exactly 1.2, but `name=1.2` is any 1.2.x
        return short["version"], short["build"]
    words = re.sub(r"\s*([<>=!~,|]+)\s*", r"\1", rest).split()
    if any(re.search(r"[^<>=!~,|(][<>!~]", word) for word in words):
        raise BadSpecError(f"`{text}` has version constraints without a comma", "write them as in `numpy >=2,<3`")
    if len(words) > 2:
        raise BadSpecError(
            f"`{text}` is not a conda package", "write a name, a version, and a build, such as `numpy 2.1.* py312*`"
        )
    version, build = (*words, "", "")[:2]
    exact = re.fullmatch(r"(==[^=,|]+)=([^=]+)", version)
    return (exact[1], exact[2]) if exact and not build else (version, build)


def _bracket_keys(text: str) -> dict[str, str]:
    keys: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _KEY.match(text, position)
        if match is None:
            raise BadSpecError(f"`[{text}]` is not valid", "write it as in `numpy[version='>=2', build='py312*']`")
        keys[match[1]] = match[2] or match[3] or match[4] or ""
        position = match.end()
    for key in keys.keys() - {"version", "build", "channel"}:
        raise BadSpecError(f"the key `{key}` in `[{text}]` is not supported", _INSTEAD.get(key, _INSTEAD["md5"]))
    return keys


_INSTEAD = {
    "md5": "select the file by its version and build, such as `numpy 2.1.0 py312h1234567_0`",
    "subdir": "write a selector at the end of the line, such as `# [linux64]`",
    "platform": "write a selector at the end of the line, such as `# [linux64]`",
    "name": "write the name in front of the bracket",
}


def _channel(name: str) -> str:
    last = name.rstrip("/").rpartition("/")[2]
    if "/" in name and _SUBDIR.fullmatch(last):
        raise BadSpecError(f"the channel `{name}` contains a platform", _INSTEAD["subdir"])
    return name


def _check_spec(text: str, spec: Spec) -> None:
    from rattler import MatchSpec  # noqa: PLC0415 - 0.1 s, which `envforge --help` doesn't need
    from rattler.exceptions import InvalidMatchSpecError  # noqa: PLC0415

    try:
        MatchSpec(" ".join(filter(None, (spec.name, spec.version or "*", spec.build))))
    except InvalidMatchSpecError as error:
        raise BadSpecError(
            f"`{text}` is not a conda package: {' '.join(str(error).split())}",
            "write a name and a version, such as `numpy >=2,<3`",
        ) from error


class _Reader:
    """Read one file. The node graph of YAML has the line of each value, and all keys of a mapping."""

    def __init__(self, text: str, path: Path) -> None:
        self._path = path
        self._text = text
        self._top = self._keys(self._compose(), "a mapping with `dependencies:`")
        self._category = self._string("category", "main")

    def environment(self) -> Environment:
        for name, (key, _) in self._top.items():
            if name not in _KEYS:
                near = nearest(name.lower().replace("_", "-"), _KEYS, alike=_ALIKE)
                self._fail(key, f"the key `{name}` is unknown", f"did you mean `{near}:`?" if near else _REMOVE)
            if self._top[name][1].start_mark.line > key.start_mark.line or name != "dependencies":
                self._refuse_selector(key, name)
        dependencies = self._sequence("dependencies")
        if dependencies is None:
            raise self._error(
                None, "the key `dependencies:` is missing", "add it, such as `dependencies: [python 3.12.*]`"
            )
        return Environment(
            path=self._path,
            text=self._text,
            channels=self._strings("channels"),
            platforms=tuple(dict.fromkeys(self._strings("platforms"))),
            pip_repositories=self._strings("pip-repositories"),
            allow_registry=self._boolean("allow-pypi-requests"),
            category=self._category,
            variables=self._variables(),
            entries=tuple(self._entries(dependencies)),
            dependencies=dependencies,
            indexes=self._sequence("pip-repositories"),
        )

    def _compose(self) -> yaml.Node:
        try:
            check_yaml_depth(self._text, _LONGEST_TEXT)
            root = yaml.compose(self._text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise EnvforgeError(
                f"`{self._path}` is not valid YAML: {' '.join(str(error).split())}", code="bad-environment"
            ) from error
        if root is None:
            raise self._error(None, "the file is empty", "add `channels:`, `platforms:`, and `dependencies:`")
        return root

    def _entries(self, dependencies: yaml.SequenceNode) -> Iterator[Entry]:
        for node in dependencies.value:
            if isinstance(node, yaml.MappingNode):
                yield from self._mapping(node, dependencies)
            else:
                yield self._conda(node, self._selected(node), dependencies)

    def _mapping(self, node: yaml.MappingNode, siblings: yaml.SequenceNode) -> Iterator[Entry]:
        keys = self._keys(node, "a package or `pip:`")
        for name, (key, value) in keys.items():
            selector = _SELECTOR_KEY.fullmatch(name)
            if name == "pip" and len(keys) == 1:
                yield from self._pip(key, value, node)
            elif selector and len(keys) == 1:
                try:
                    platforms = parse_selector(selector[1])
                except SelectorError as error:
                    self._fail(key, str(error), error.hint, code="bad-selector")
                yield from self._under_selector(value, platforms & self._selected(key), node)
            elif len(keys) > 1:
                other = name if name != "pip" else next(other for other in keys if other != "pip")
                self._fail(
                    keys[other][0],
                    f"the key `{other}:` shares an entry with `{next(one for one in keys if one != other)}:`",
                    f"write `- {_package_of(other, keys[other][1])}` as an entry of its own",
                )
            else:
                self._fail_key(name, key, value)

    def _fail_key(self, name: str, key: yaml.Node, value: yaml.Node) -> NoReturn:
        if name.lower() in {"pip", "pypi", "pips"}:
            self._fail(key, f"the key `{name}:` is unknown among the dependencies", "write `pip:`")
        if isinstance(value, yaml.ScalarNode):
            self._fail(
                key, f"`{name}: {value.value}` is a mapping, not a package", f"write `- {_package_of(name, value)}`"
            )
        self._fail(
            key,
            f"the key `{name}:` is unknown among the dependencies",
            "remove it: a lockfile contains only conda packages and, below `pip:`, wheels",
        )

    def _under_selector(self, value: yaml.Node, platforms: frozenset[str], holder: yaml.Node) -> Iterator[Entry]:
        siblings = value if isinstance(value, yaml.SequenceNode) else None
        for node in siblings.value if siblings else [value]:
            yield replace(self._conda(node, platforms & self._selected(node), siblings), holder=holder)

    def _conda(self, node: yaml.Node, platforms: frozenset[str], siblings: yaml.SequenceNode | None) -> Entry:
        text = self._scalar(node, "a package such as `numpy >=2,<3`")
        if ";" in text:
            self._fail(node, f"`{text}` has a marker, which only packages below `pip:` can have", _INSTEAD["subdir"])
        try:
            spec = parse_spec(text)
        except BadSpecError as error:
            self._fail(node, str(error), error.hint)
        return Entry(
            name=spec.name,
            section="conda",
            text=text,
            platforms=platforms,
            category=self._category,
            line=self._line(node),
            spec=spec,
            node=node,
            siblings=siblings,
        )

    def _pip(self, key: yaml.Node, value: yaml.Node, holder: yaml.Node) -> Iterator[Entry]:
        if _is_null(value):  # no wheel; a list whose lines are all comments is null, too
            return
        if not isinstance(value, yaml.SequenceNode):
            self._fail(value, "the value of `pip:` is not a list", "write each package as `- NAME` on its own line")
        outer = self._selected(key)
        for node in value.value:
            if isinstance(node, yaml.MappingNode):
                package = node.value[0][1].value if node.value else "NAME"
                hint = f"write `- {package}`, and a selector at the end of its line, such as `# [linux64]`"
                self._fail(node, "a mapping below `pip:` is not a requirement", hint)
            text = self._scalar(node, "a requirement such as `rich>=13`")
            requirement = self._requirement(text, node)
            yield Entry(
                name=canonicalize_name(requirement.name),
                section="pip",
                text=text,
                platforms=outer & self._selected(node),
                category=self._category,
                line=self._line(node),
                requirement=requirement,
                node=node,
                siblings=value,
                holder=holder,
            )

    def _requirement(self, text: str, node: yaml.Node) -> Requirement:
        for pattern, reason, hint in _NOT_LOCKED:
            if match := pattern.match(text):
                words = hint(match) if callable(hint) else (Hint(hint),)
                raise self._error(node, f"`{text}` below `pip:` {reason}", words, code="pip-option")
        try:
            requirement = _requirement(text)
        except InvalidRequirement as error:
            raise self._error(
                node,
                f"`{text}` below `pip:` is not a valid requirement: {str(error).splitlines()[0]}",
                'write a requirement such as `"rich>=13"`',
                code="bad-requirement",
            ) from error
        # no index states the hash of a direct URL, so the URL must contain it
        if requirement.url is not None and not _DIRECT.fullmatch(requirement.url):
            raise self._error(
                node,
                f"the URL of `{requirement.name}` below `pip:` must start with `https://` and end with its SHA-256, "
                f"but it is `{text}`",
                f'write it as `"{requirement.name} @ https://HOST/{requirement.name}.whl#sha256=DIGEST"`',
                code="bad-requirement",
            )
        return requirement

    def _selected(self, node: yaml.Node) -> frozenset[str]:
        """Return the platforms that the comment at the end of a node's last line selects."""
        try:
            found = selector_of_comment(self._comment(node))
        except SelectorError as error:
            self._fail(node, str(error), error.hint, code="bad-selector")
        return EVERYWHERE if found is None else found

    def _comment(self, node: yaml.Node) -> str:
        start = int(node.end_mark.index)
        if node.end_mark.column == 0:  # a block scalar ends where the next line starts
            return ""
        match = _COMMENT.match(self._text[start : next_line(self._text, start)])
        return match[1] if match else ""

    def _variables(self) -> tuple[tuple[str, str], ...]:
        if "variables" not in self._top or _is_null(self._top["variables"][1]):
            return ()
        found = self._keys(self._top["variables"][1], "a mapping of names to values")
        for name, (key, _) in found.items():
            if re.fullmatch(r"[A-Za-z_]\w*", name) is None:
                self._fail(key, f"`{name}` is not the name of an environment variable", "use letters, digits, and `_`")
        return tuple((name, self._scalar(value, "a value", is_string=False)) for name, (_, value) in found.items())

    def _strings(self, key: str) -> tuple[str, ...]:
        sequence = self._sequence(key)
        found = []
        for node in sequence.value if sequence else ():
            found.append(self._scalar(node, "a string"))
            self._refuse_selector(node, key)
        return tuple(found)

    def _refuse_selector(self, node: yaml.Node, key: str) -> None:
        if self._selected(node) != EVERYWHERE:
            self._fail(
                node,
                f"`{key}:` has a selector, but applies to all platforms",
                "write selectors at the packages",
                "bad-selector",
            )

    def _sequence(self, key: str) -> yaml.SequenceNode | None:
        node = self._top[key][1] if key in self._top else None
        if node is None or (_is_null(node) and key != "dependencies"):
            return None
        if not isinstance(node, yaml.SequenceNode):
            self._fail(node, f"the value of `{key}:` is not a list", f"write it as a list, such as `{key}: []`")
        return node

    def _string(self, key: str, default: str) -> str:
        node = self._top[key][1] if key in self._top else None
        return default if node is None or _is_null(node) else self._scalar(node, "a string")

    def _boolean(self, key: str) -> bool:
        if key not in self._top:
            return True
        node = self._top[key][1]
        if node.tag != "tag:yaml.org,2002:bool":
            self._fail(node, f"the value of `{key}:` is not a boolean", "write `true` or `false`")
        return str(node.value).lower() in {"true", "yes", "on"}

    def _keys(self, node: yaml.Node, expected: str) -> Mapping[str, tuple[yaml.Node, yaml.Node]]:
        """Return the key and the value of each entry of a mapping; a key may occur only once."""
        if not isinstance(node, yaml.MappingNode):
            self._fail(node, f"expected {expected}, found {_kind(node)}", _REMOVE)
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = self._scalar(key, "a key", is_string=False)
            if name in found:
                first = found[name][0].start_mark.line + 1
                self._fail(key, f"the key `{name}:` is already on line {first}", "merge the two into one")
            found[name] = (key, value)
        return found

    def _scalar(self, node: yaml.Node, expected: str, *, is_string: bool = True) -> str:
        if not isinstance(node, yaml.ScalarNode) or _is_null(node):
            self._fail(node, f"expected {expected}, found {_kind(node)}", _REMOVE)
        if is_string and node.tag != "tag:yaml.org,2002:str":
            self._fail(node, f"expected {expected}, found {_kind(node)} `{node.value}`", f'write `"{node.value}"`')
        return str(node.value)

    def _line(self, node: yaml.Node) -> Line:
        return Line(path=self._path, number=node.start_mark.line + 1)

    def _fail(self, node: yaml.Node, reason: str, hint: str, code: str = "bad-environment") -> NoReturn:
        raise self._error(node, reason, hint, code=code)

    def _error(
        self, node: yaml.Node | None, reason: str, hint: str | tuple[Hint, ...], code: str = "bad-environment"
    ) -> EnvforgeError:
        where = f"`{self._path}`" if node is None else str(self._line(node))
        return EnvforgeError(f"{where}: {hide_secrets(reason)}", hint=hint, code=code)


_REMOVE = "remove it"


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _kind(node: yaml.Node) -> str:
    kinds = {"map": "a mapping", "seq": "a list", "null": "nothing", "int": "the number", "float": "the number"}
    return {**kinds, "bool": "the boolean", "timestamp": "the date"}.get(node.tag.rpartition(":")[2], "the string")


def _package_of(name: str, value: yaml.Node) -> str:
    """Return the line that a mapping such as ``python: 3.10`` probably means."""
    if not isinstance(value, yaml.ScalarNode) or _is_null(value):
        return name
    version = str(value.value)
    return f"{name} {version}" if version[:1] in set("=<>!~*") else f"{name} ={version}"


# what follows a package on its line; in a list in brackets, that may be further packages
_COMMENT = re.compile(r"""(?:'[^']*'|"(?:[^"\\]|\\.)*"|[^'"#\n]|(?<!\s)#)*(#.*)""")


def _requirement(text: str) -> Requirement:
    """Return a requirement of pip; raise ``InvalidRequirement`` also if its marker can't be evaluated."""
    if len(text) > _LONGEST:
        raise InvalidRequirement(f"it is longer than {_LONGEST} characters")
    requirement = Requirement(text)
    if requirement.marker is not None and not is_valid_marker(requirement.marker):
        raise InvalidRequirement("its marker can't be evaluated")
    return requirement


def last_index(node: yaml.Node) -> int:
    """Return the end of the last scalar of a node, because PyYAML puts the end of a block after trailing comments."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return last_index(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return last_index(node.value[-1])
    index: int = node.end_mark.index
    return index


def next_line(text: str, index: int) -> int:
    """Return where the line after the one of an index begins."""
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1


_DIRECT = re.compile(r"https://\S+#sha256=[0-9a-f]{64}")


def _editable(match: re.Match[str]) -> tuple[Hint, ...]:
    directory = shlex.quote(match["directory"].strip())
    option = "-e " if match.re is _EDITABLE else ""
    return (
        Hint("remove the line"),
        Hint(
            "to install the directory into the environment",
            f"envforge install && envforge run -- pip install --no-deps {option}{directory}",
        ),
    )


_EDITABLE = re.compile(r"(?:-e|--editable)[ =](?P<directory>.*)")
# requirements that a lockfile can't contain: how they start, why, and what to write instead
_NOT_LOCKED = (
    (_EDITABLE, "is a local directory, which a lockfile can't contain", _editable),
    (re.compile(r"(?P<directory>\.{1,2}(?:/.*)?$)"), "is a local directory, which a lockfile can't contain", _editable),
    (re.compile(r"(?:-r|--requirement)\b"), "is a file", "list the requirements of that file below `pip:`"),
    (
        re.compile(r"(?:-c|--constraint)\b"),
        "is a file",
        "write each constraint at its package below `pip:`, such as `rich>=13,<14`",
    ),
    (re.compile(r"--pre\b"), "is an option", "pin the pre-release, such as `rich==14.0rc1`"),
    (
        re.compile(r"(?:-f|--find-links|-i|--index-url|--extra-index-url)\b"),
        "is an option",
        "list the index at the top level of the file: `pip-repositories: [https://download.pytorch.org/whl/cu118]`",
    ),
    (re.compile(r".*\s--hash\b"), "has a hash", "remove `--hash`: the lockfile records the SHA-256 of every file"),
    (re.compile(r"--?[A-Za-z]"), "is an option, which is not supported there", "remove the line"),
    (
        re.compile(r"(?:[\w.-]+\s*@\s*)?(?:git|hg|svn|bzr)\+"),
        "is a repository, which has no checksum",
        "publish a wheel of it, and write `NAME @ https://HOST/NAME.whl#sha256=DIGEST`",
    ),
)
