"""Read the requests of an environment.yml: what it requests, for which platforms, and on which line.

Every construct is either honored or an error that names its line and the spelling that works. ``docs/lock.md`` has the
table of the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NoReturn

import yaml
from msgspec import Struct
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envforge.base.documents import check_yaml_depth
from envforge.base.suggest import nearest
from envforge.base.urls import hide_secrets
from envforge.errors import EnvforgeError, Hint
from envforge.lock.lockfile import is_reserved_variable
from envforge.lock.match_spec import SUBDIR, BadSpecError, Spec, parse_spec
from envforge.lock.pip_requirement import BadRequirementError, parse_requirement
from envforge.lock.platforms import EVERYWHERE, KNOWN_PLATFORMS, SelectorError, parse_selector, selector_of_comment

Section = Literal["conda", "pip"]
_Marked = yaml.Node | yaml.Token  # what has a place in the text
Keys = dict[str, tuple[yaml.Node, yaml.Node]]  # the key and the value of each entry of a mapping

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
# of conda: others are accepted unless they resemble one of these
_VIRTUAL = (
    *("__archspec", "__conda", "__cuda", "__cuda_arch", "__freebsd", "__glibc", "__linux", "__musl", "__osx"),
    *("__unix", "__win"),
)
_CHANNEL = re.compile(r"[a-z+]+://\S+|(?:[A-Za-z]:)?[/\\].*|[\w.-]+(?:/[\w.-]+)*/?")
_SELECTOR_KEY = re.compile(r"sel\((.*)\)")
_ALIKE = 0.6
_LONGEST_TEXT = 200_000  # characters of a file, as PyYAML parses 100,000 a second; an export of 500 packages has 30,000


class Line(Struct, frozen=True, kw_only=True):
    """A place in an environment file."""

    path: Path
    number: int

    def __str__(self) -> str:
        return f"`{self.path}`, line {self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageRequest:
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
    entries: tuple[PackageRequest, ...]
    dependencies: yaml.SequenceNode = field(compare=False, repr=False)
    indexes: yaml.SequenceNode | None = field(compare=False, repr=False)


def parse_environment(text: str, path: Path) -> Environment:
    """Parse an environment file; raise ``EnvforgeError`` with the line of a construct that can't be honored."""
    return _Reader(text, path).environment()


def parse_virtual_packages(text: str, path: Path) -> dict[str, dict[str, str]]:
    """Parse a virtual-packages.yml: the versions by platform and name; raise ``EnvforgeError`` as for the other."""
    return _Reader(text, path).virtual_packages()


class _Reader:
    """Read one file. The node graph of YAML has the line of each value, and all keys of a mapping."""

    def __init__(self, text: str, path: Path) -> None:
        self._path = path
        self._text = text
        self._category = "main"
        self._top: Keys = {}

    def environment(self) -> Environment:
        root = self._compose()
        if root is None:
            raise self._error(None, "the file is empty", "add `channels:`, `platforms:`, and `dependencies:`")
        self._top = self._keys(root, "a mapping with `dependencies:`")
        self._category = self._string("category", "main")
        if not re.fullmatch(r"[^\s,](?:[^,]*[^\s,])?", self._category):  # commas separate categories in a lockfile
            hint = "write one name without a comma, such as `category: main`"
            self._fail(self._top["category"][1], f"`{self._category}` is not the name of a category", hint)
        for name, (key, _) in self._top.items():
            if name not in _KEYS:
                near = nearest(name.lower().replace("_", "-"), _KEYS, alike=_ALIKE)
                hint = f"did you mean `{near}:`?" if near else _REMOVE
                if name.lower() in {"pip", "pypi"}:
                    hint = "write `- pip:` among the `dependencies:`"
                self._fail(key, f"the key `{name}` is unknown", hint)
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
            channels=self._channels(),
            platforms=tuple(dict.fromkeys(self._strings("platforms"))),
            pip_repositories=self._strings("pip-repositories"),
            allow_registry=self._boolean("allow-pypi-requests"),
            category=self._category,
            variables=self._variables(),
            entries=tuple(self._entries(dependencies)),
            dependencies=dependencies,
            indexes=self._sequence("pip-repositories"),
        )

    def virtual_packages(self) -> dict[str, dict[str, str]]:
        """Return the versions in a virtual-packages.yml by platform and name, as they are written."""
        root = self._compose()
        top = {} if root is None else self._known_keys(root, ("subdirs",))
        platforms = {} if not top else self._known_keys(top["subdirs"][1], KNOWN_PLATFORMS)
        found: dict[str, dict[str, str]] = {}
        for platform, (_, value) in platforms.items():
            below = {} if _is_null(value) else self._known_keys(value, ("packages",))
            packages = {} if not below else self._known_keys(below["packages"][1], _VIRTUAL, is_closed=False)
            found[platform] = {name: self._virtual(name, *pair) for name, pair in packages.items()}
        return found

    def _known_keys(self, node: yaml.Node, known: Sequence[str], *, is_closed: bool = True) -> Keys:
        """Return the entries of a mapping, which is empty if it is null; raise for a key that is none of ``known``."""
        found = {} if _is_null(node) else self._keys(node, f"a mapping with `{known[0]}:`")
        for name, (key, value) in found.items():
            if self._selected(key) != EVERYWHERE or self._selected(value) != EVERYWHERE:
                self._fail(key, f"`{name}:` has a selector", "list each platform below `subdirs:`", "bad-selector")
            near = nearest(name, known, alike=_ALIKE if is_closed else 0.8)
            if name not in known and (is_closed or near):
                hint = f"did you mean `{near}:`?" if near else f"use {', '.join(f'`{one}:`' for one in known)}"
                self._fail(key, f"the key `{name}` is unknown", hint)
        return found

    def _virtual(self, name: str, key: yaml.Node, value: yaml.Node) -> str:
        if not re.fullmatch(r"__[a-z0-9_]+", name):
            self._fail(key, f"`{name}` is not the name of a virtual package", "write two underscores, as in `__glibc`")
        text = self._scalar(value, "a version", is_string=False)  # the text, because YAML reads 2.40 as the number 2.4
        if not re.fullmatch(r"\d[\w.]*(?: \S+)?", text):
            self._fail(value, f"`{text}` is not a version of `{name}`", f'write it as in `{name}: "2.28"`')
        return text

    def _compose(self) -> yaml.Node | None:
        try:
            check_yaml_depth(self._text, _LONGEST_TEXT)
            # nodes and not values: only nodes have lines, and keep keys that are there twice
            root = yaml.compose(self._text, Loader=yaml.SafeLoader)
            self._refuse_lost_selectors()
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise self._not_yaml(error) from error
        return root

    def _refuse_lost_selectors(self) -> None:
        """Raise for a selector that belongs to no package, because it follows an alias or something that opens.

        An alias of a package with a selector is an error, too: YAML has no comments in what an alias repeats.
        """
        anchor = ""
        limited: set[str] = set()
        for token in yaml.scan(self._text, Loader=yaml.SafeLoader):
            alias = str(token.value) if isinstance(token, yaml.AliasToken) else ""
            if anchor:
                is_limited = self._selected_after(token, _COMMENT) != EVERYWHERE
                (limited.add if is_limited else limited.discard)(anchor)
            anchor = str(token.value) if isinstance(token, yaml.AnchorToken) else ""
            if not isinstance(token, _WITHOUT_COMMENT):
                continue
            if self._selected_after(token, _COMMENT if alias else _ONLY_COMMENT) == EVERYWHERE:
                if alias in limited:
                    what = f"the alias `*{alias}` repeats a package with a selector"
                    self._fail(token, what, _NO_ALIAS, code="bad-selector")
                continue
            if alias:
                self._fail(token, "an alias has a selector", _NO_ALIAS, code="bad-selector")
            self._fail(token, "a selector comes before its package", _AT_PACKAGES, code="bad-selector")

    def _selected_after(self, token: yaml.Token, comment: re.Pattern[str]) -> frozenset[str]:
        start = token.end_mark.index
        match = comment.match(self._text[start : next_line(self._text, start)])
        return EVERYWHERE if match is None else self._selects(token, match[1])

    def _not_yaml(self, error: Exception) -> EnvforgeError:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        problem = " ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None))))
        reason = " ".join((problem or str(error)).split())
        hint = next((hint for sign, hint in _YAML_HINTS if sign in reason), "")
        return EnvforgeError(
            f"`{self._path}`{line}: not valid YAML: {hide_secrets(reason)}", hint=hint, code="bad-environment"
        )

    def _entries(self, dependencies: yaml.SequenceNode) -> Iterator[PackageRequest]:
        for node in dependencies.value:
            if isinstance(node, yaml.MappingNode):
                yield from self._mapping(node, dependencies)
            else:
                yield self._conda(node, self._selected(node), dependencies)

    def _mapping(self, node: yaml.MappingNode, siblings: yaml.SequenceNode) -> Iterator[PackageRequest]:
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
                self._fail_keys(keys)
            else:
                self._fail_key(name, key, value)

    def _fail_keys(self, keys: Keys) -> NoReturn:
        """Raise for an entry with several keys, most of which are meant as several entries."""
        other = next(name for name in reversed(keys) if name != "pip")
        key, value = keys[other]
        hint = f"write `- {_package_of(other, value)}` as an entry of its own"
        if not isinstance(value, yaml.ScalarNode):
            hint = _NOT_CONTAINED
        if {"if", "then"} <= keys.keys():
            hint = f"write each package with a selector, such as `- numpy  # [{_value(keys['if'][1], 'linux')}]`"
        elif "name" in keys:
            version = _value(keys["version"][1], "") if "version" in keys else ""
            hint = f"write `- {' '.join(filter(None, (_value(keys['name'][1], 'NAME'), version and f'={version}')))}`"
        elif _SELECTOR_KEY.fullmatch(other):
            hint = f"write `- {other}: {_value(value, '[…]')}` as an entry of its own"
        first = next(name for name in keys if name != other)
        self._fail(key, f"the key `{other}:` shares an entry with `{first}:`", hint)

    def _fail_key(self, name: str, key: yaml.Node, value: yaml.Node) -> NoReturn:
        if name.lower() in {"pip", "pypi", "pips"}:
            self._fail(key, f"the key `{name}:` is unknown among the dependencies", "write `pip:`")
        if name == "<<":
            hint = f"write `- {value.value}`" if isinstance(value, yaml.ScalarNode) else _ONE_EACH
            self._fail(key, "`<<:` merges mappings, and a package is none", hint)
        if match := re.fullmatch(r"(?i)\s*sel(?:ector)?\s*[(\[]\s*(.*?)\s*[)\]]\s*", name):
            hint = f"write `- sel({match[1]}): {_value(value, '[…]')}`"
            self._fail(key, f"the key `{name}:` is not a selector", hint, code="bad-selector")
        if isinstance(value, yaml.ScalarNode):
            self._fail(
                key, f"`{name}: {value.value}` is a mapping, not a package", f"write `- {_package_of(name, value)}`"
            )
        self._fail(
            key,
            f"the key `{name}:` is unknown among the dependencies",
            _NOT_CONTAINED,
        )

    def _under_selector(
        self, value: yaml.Node, platforms: frozenset[str], holder: yaml.Node
    ) -> Iterator[PackageRequest]:
        siblings = value if isinstance(value, yaml.SequenceNode) else None
        for node in siblings.value if siblings else [value]:
            if isinstance(node, yaml.MappingNode) and any(_value(key, "") == "pip" for key, _ in node.value):
                hint = "write the selector at `pip:`, as in `- pip:  # [linux]`"
                self._fail(
                    node, "`sel(...):` contains conda packages only, but lists `pip:`", hint, code="bad-selector"
                )
            yield replace(self._conda(node, platforms & self._selected(node), siblings), holder=holder)

    def _conda(self, node: yaml.Node, platforms: frozenset[str], siblings: yaml.SequenceNode | None) -> PackageRequest:
        text = self._scalar(node, "a package such as `numpy >=2,<3`")
        if ";" in text:
            self._fail(node, f"`{text}` has a marker, which only packages below `pip:` can have", _SELECTOR)
        try:
            spec = parse_spec(text)
        except BadSpecError as error:
            self._fail(node, str(error), error.hint)
        return PackageRequest(
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

    def _pip(self, key: yaml.Node, value: yaml.Node, holder: yaml.Node) -> Iterator[PackageRequest]:
        if _is_null(value):  # no wheel; a list whose lines are all comments is null, too
            return
        if not isinstance(value, yaml.SequenceNode):
            self._fail(value, "the value of `pip:` is not a list", "write each package as `- NAME` on its own line")
        outer = self._selected(key)
        for node in value.value:
            if isinstance(node, yaml.MappingNode):
                self._fail_wheel(node)
            text = self._scalar(node, "a requirement such as `rich>=13`")
            try:
                requirement = parse_requirement(text)
            except BadRequirementError as error:
                raise self._error(node, str(error), error.hints, code=error.code) from error
            yield PackageRequest(
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

    def _fail_wheel(self, node: yaml.MappingNode) -> NoReturn:
        key, value = (_value(one, "NAME") for one in node.value[0]) if node.value else ("", "NAME")
        if key.startswith("-"):  # `--no-binary :all:` has a colon at its end
            self._fail(node, f"`{key}` below `pip:` is an option, which is not supported there", _REMOVE)
        package = value if _SELECTOR_KEY.fullmatch(key) else f"{key}=={value}" if key else value
        hint = f"write `- {package}`, and a selector at the end of its line, such as `# [linux64]`"
        self._fail(node, "a mapping below `pip:` is not a requirement", hint)

    def _selected(self, node: yaml.Node) -> frozenset[str]:
        """Return the platforms that the comment at the end of a node's last line selects."""
        return self._selects(node, self._comment(node))

    def _selects(self, node: _Marked, comment: str) -> frozenset[str]:
        try:
            found = selector_of_comment(comment)
        except SelectorError as error:
            self._fail(node, str(error), error.hint, code="bad-selector")
        return EVERYWHERE if found is None else found

    def _comment(self, node: yaml.Node) -> str:
        start = int(node.end_mark.index)
        if isinstance(node, yaml.ScalarNode) and node.style in {"|", ">"}:  # its comment follows the sign
            start = int(node.start_mark.index) + 1
        elif node.end_mark.column == 0:  # a block ends where the next line starts
            return ""
        match = _COMMENT.match(self._text[start : next_line(self._text, start)])
        return match[1] if match else ""

    def _variables(self) -> tuple[tuple[str, str], ...]:
        if "variables" not in self._top or _is_null(self._top["variables"][1]):
            return ()
        variables = self._top["variables"][1]
        if isinstance(variables, yaml.SequenceNode) and variables.value:
            name, _, content = _value(variables.value[0], "NAME=VALUE").partition("=")
            hint = f'write each as `{name.strip()}: "{content.strip()}"` on its own line, without a dash'
            self._fail(variables, "the value of `variables:` is a list, not a mapping", hint)
        found = self._keys(variables, "a mapping of names to values")
        for name, (key, value) in found.items():
            if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) is None:
                self._fail(key, f"`{name}` is not the name of an environment variable", "use letters, digits, and `_`")
            if is_reserved_variable(name):
                self._fail(
                    key, f"`variables:` can't contain `{name}`, which selects the environment or its Python", _REMOVE
                )
            if _is_null(value):
                self._fail(key, f"the variable `{name}` has no value", f'write `{name}: ""` for an empty one')
            if "\0" in self._scalar(value, "a value", is_string=False):
                self._fail(key, f"the value of `{name}` contains a null character", _REMOVE)
            self._refuse_selector(value, "variables")
        return tuple((name, str(value.value)) for name, (_, value) in found.items())

    def _strings(self, key: str) -> tuple[str, ...]:
        sequence = self._sequence(key)
        found = []
        for node in sequence.value if sequence else ():
            found.append(self._scalar(node, "a string"))
            self._refuse_selector(node, key)
        return tuple(found)

    def _channels(self) -> tuple[str, ...]:
        sequence = self._sequence("channels")
        for node in sequence.value if sequence else ():
            name = self._scalar(node, "a string")
            if re.match(r"[.~]", name):
                self._fail(node, f"the channel `{name}` is a relative path", "write a name, a URL, or an absolute path")
            if not _CHANNEL.fullmatch(name):
                hint = "write a name such as `conda-forge`, or a URL"
                self._fail(node, f"`{name}` is not the name of a channel", hint)
            host = name.partition("://")[2].partition("/")[0].rpartition("@")[2]
            if "$" in host:
                hint = "write the host itself; a variable can be the user, the password, or a part of the path"
                self._fail(node, f"the host of the channel `{name}` contains a variable", hint)
            parent, _, last = name.rstrip("/").rpartition("/")
            if parent and SUBDIR.fullmatch(last):
                self._fail(node, f"the channel `{name}` contains a platform", f"write `{parent}`")
        return self._strings("channels")

    def _refuse_selector(self, node: yaml.Node, key: str) -> None:
        if self._selected(node) != EVERYWHERE:
            self._fail(
                node,
                f"`{key}:` has a selector, but applies to all platforms",
                _AT_PACKAGES,
                "bad-selector",
            )

    def _sequence(self, key: str) -> yaml.SequenceNode | None:
        node = self._top[key][1] if key in self._top else None
        if node is None or (_is_null(node) and key != "dependencies"):
            return None
        if not isinstance(node, yaml.SequenceNode):
            example = f"`{key}: []`"
            if isinstance(node, yaml.MappingNode):
                example = "`- NAME` for each package"
            elif not _is_null(node):
                example = f"`{key}: [{node.value}]`"
            self._fail(node, f"the value of `{key}:` is not a list", f"write it as a list, such as {example}")
        return node

    def _string(self, key: str, default: str) -> str:
        node = self._top[key][1] if key in self._top else None
        if isinstance(node, yaml.SequenceNode):
            self._fail(node, f"the value of `{key}:` is a list", f"write one string: `{key}: NAME`")
        return default if node is None or _is_null(node) else self._scalar(node, "a string")

    def _boolean(self, key: str) -> bool:
        if key not in self._top:
            return True
        node = self._top[key][1]
        if node.tag != "tag:yaml.org,2002:bool":
            self._fail(node, f"the value of `{key}:` is not a boolean", "write `true` or `false`")
        # YAML 1.1, which conda-lock reads, has these words for true
        return str(node.value).lower() in {"true", "yes", "on"}

    def _keys(self, node: yaml.Node, expected: str) -> Keys:
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
            is_list = isinstance(node, yaml.SequenceNode) and is_string
            self._fail(node, f"expected {expected}, found {_kind(node)}", _ONE_EACH if is_list else _REMOVE)
        if is_string and node.tag != "tag:yaml.org,2002:str":
            # a number is a version without its package, and no package has such a name
            hint = f'write `"{node.value}"`' if node.value[:1].isalpha() else f"write {expected}"
            self._fail(node, f"expected {expected}, found {_kind(node)} `{node.value}`", hint)
        return str(node.value)

    def _line(self, node: _Marked) -> Line:
        return Line(path=self._path, number=node.start_mark.line + 1)

    def _fail(self, node: _Marked, reason: str, hint: str, code: str = "bad-environment") -> NoReturn:
        raise self._error(node, reason, hint, code=code)

    def _error(
        self, node: _Marked | None, reason: str, hint: str | tuple[Hint, ...], code: str = "bad-environment"
    ) -> EnvforgeError:
        where = f"`{self._path}`" if node is None else str(self._line(node))
        hint = hide_secrets(hint) if isinstance(hint, str) else hint
        return EnvforgeError(f"{where}: {hide_secrets(reason)}", hint=hint, code=code)


# what a message of PyYAML contains, and what works instead
_YAML_HINTS = (
    ("\\t", "write spaces instead of the tab"),
    ("'@'", "write a name such as `numpy`, which can't start with `@`"),
    ("'`'", "write the value without backquotes"),
    ("'%'", "write the values themselves: `{% … %}` is not YAML"),
    ("another document", "write one document, without `---` between its lines"),
    ("mapping values are not allowed", "write quotes around the value"),
    ("expected <block end>", "indent the lines of a list alike"),
    ("could not find expected ':'", "write a space after each `-`, and a colon after each key"),
    ("undefined alias", "define the anchor above, or write the value"),
)
_REMOVE = "remove it"
_NO_ALIAS = "write the package itself in place of the alias"
_NOT_CONTAINED = "remove it: a lockfile contains only conda packages and, below `pip:`, wheels"
_ONE_EACH = "write each as `- NAME` on its own line"
_AT_PACKAGES = "write selectors at the packages"
_SELECTOR = "write a selector at the end of the line, such as `# [linux64]`"


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _kind(node: yaml.Node) -> str:
    kinds = {"map": "a mapping", "seq": "a list", "null": "nothing", "int": "the number", "float": "the number"}
    return {**kinds, "bool": "the boolean", "timestamp": "the date"}.get(node.tag.rpartition(":")[2], "the string")


def _value(node: yaml.Node, default: str) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) and not _is_null(node) else default


def _package_of(name: str, value: yaml.Node) -> str:
    """Return the line that a mapping such as ``python: 3.10`` probably means."""
    if not isinstance(value, yaml.ScalarNode) or _is_null(value):
        return name
    version = str(value.value)
    if name.rstrip().endswith(":"):  # `conda-forge :: numpy`
        return f"{name.rstrip(': ')}::{version}"
    return f"{name} {version}" if version[:1] in set("=<>!~*") else f"{name} ={version}"


# what follows a package on its line; in a list in brackets, that may be further packages
_COMMENT = re.compile(r"""(?:'[^']*'|"(?:[^"\\]|\\.)*"|[^'"#\n]|(?<!\s)#)*(#[^\r\n\x85\u2028\u2029]*)""")

_ONLY_COMMENT = re.compile(r"[ \t\[{-]*(#[^\r\n\x85\u2028\u2029]*)")
# tokens that open a value or refer to one: no node ends there
_WITHOUT_COMMENT = (
    yaml.AliasToken,
    yaml.AnchorToken,
    yaml.TagToken,
    yaml.BlockEntryToken,
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
)


def last_index(node: yaml.Node) -> int:
    """Return the end of the last scalar of a node, because PyYAML puts the end of a block after trailing comments."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return last_index(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return last_index(node.value[-1])
    index: int = node.end_mark.index
    if isinstance(node, yaml.ScalarNode) and node.style in {"|", ">"}:
        index = len((node.end_mark.buffer or "")[:index].rstrip())
    return index


BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # what YAML 1.1 takes for the end of a line


def line_start(text: str, index: int) -> int:
    """Return where the line of an index begins."""
    return max((match.end() for match in BREAK.finditer(text, 0, index)), default=0)


def next_line(text: str, index: int) -> int:
    """Return where the line after the one of an index begins."""
    match = BREAK.search(text, index)
    return match.end() if match else len(text)
