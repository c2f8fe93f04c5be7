"""Read conda packages such as ``numpy >=2,<3 py312*``, join their constraints, and compare packages with them.

Every form that conda, conda-lock, and the embedded solver would read differently is an error or written in another way.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from msgspec import Struct


class Spec(Struct, frozen=True, kw_only=True):
    """The constraints on a conda package; empty strings if there are none. ``version`` has no parentheses."""

    name: str
    version: str = ""
    build: str = ""
    channel: str = ""

    def __str__(self) -> str:
        version = self.version or ("*" if self.build else "")
        channel = f"{self.channel}::" if self.channel else ""
        return " ".join(filter(None, (f"{channel}{self.name}", version, self.build)))


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
SUBDIR = re.compile(r"(?:linux|osx|win|emscripten|wasi|freebsd|zos)-\w+|noarch")
_FILE = re.compile(
    rf"(?:(?P<channel>[a-z]+://.+)/(?:{SUBDIR.pattern})/|.*/)?"
    r"(?P<name>[^/]+?)(?:-(?P<version>[^/-]+)-(?P<build>[^/-]+))?\.(?:conda|tar\.bz2)(?:#.*)?"
)
_BUILD = re.compile(r"(?P<version>.*[^=<>!~,|(])=(?P<build>[^=<>!~,|()]+)")
_CONSTRAINT = re.compile(
    r"(?P<operator>[=!<>~]=|[<>=]|)(?P<version>(?:\d+!)?[0-9A-Za-z_][0-9A-Za-z_.+-]*?)(?P<star>\.?\*)?"
)
_MAX_ALTERNATIVES = 64
_LONGEST = 2000  # characters of a package; longer ones take seconds to parse
_EXAMPLE = "write a name and a version, such as `numpy >=2,<3`"


def parse_spec(text: str) -> Spec:
    """Parse a conda package such as ``conda-forge::numpy >=2,<3 py312*``; raise ``BadSpecError`` if it is invalid."""
    text = text.strip()
    if len(text) > _LONGEST:
        raise BadSpecError(f"`{text[:40]}…` is longer than {_LONGEST} characters", _EXAMPLE)
    if re.search(r"\s::|::\s", text):
        spelling = re.sub(r"\s*::\s*", "::", text)
        raise BadSpecError(f"`{text}` has a space next to `::`", f"write `{spelling}`")
    match = _SPEC.fullmatch(text)
    if match is None or _FILE.fullmatch(text) or "://" in text.partition("::")[2]:
        raise _not_a_package(text)
    version, build = _version_and_build(text, (match["rest"] or "").strip())
    keys = _bracket_keys(match["keys"] or "")
    version, build = _normalize(text, keys.get("version", version)), keys.get("build", build)
    if build and re.fullmatch(r"=[^,|=]+", version):  # only brackets can say this; `name =1.2 build` is exactly 1.2
        version = f"{version[1:]}.*"
    spec = Spec(
        name=match["name"].lower(),
        version=version,
        build=build,
        channel=_channel(keys.get("channel", match["channel"] or "")),
    )
    _check(text, spec)
    return spec


def join_versions(versions: Iterable[str]) -> str:
    """Return the version constraint that holds if all of these do; raise ``BadSpecError`` if it is too long."""
    # `,` binds tighter than `|`: `a|b` and `c` is `a,c|b,c`
    return _join([[tuple(part.split(",")) for part in version.split("|")] for version in versions])


def matches(spec: Spec, version: str, build: str) -> bool:
    """Return whether a version and a build satisfy a spec."""
    from rattler import Version, VersionSpec  # noqa: PLC0415 - 0.1 s, and reading needs no comparison

    if spec.version not in {"", "*"} and not VersionSpec(spec.version).matches(Version(version)):
        return False
    if spec.build.startswith("^"):
        return re.fullmatch(spec.build, build) is not None
    return spec.build in {"", "*"} or fnmatchcase(build, spec.build)


def _version_and_build(text: str, rest: str) -> tuple[str, str]:
    words = re.sub(r"\s*([<>=!~]+|[,|])\s*", r"\1", rest).split()
    if len(words) > 2:
        raise BadSpecError(
            f"`{text}` is not a conda package", "write a name, a version, and a build, such as `numpy 2.1.* py312*`"
        )
    version, build = (*words, "", "")[:2]
    if not build and (match := _BUILD.fullmatch(version)):
        version, build = match["version"], match["build"]
    # as conda reads it, `name =1.2 build` is exactly 1.2, but `name =1.2` is any 1.2.x
    if build and re.fullmatch(r"=[^=,|]+", version):
        version = version[1:]
    return version, build


def _normalize(text: str, version: str) -> str:
    """Return a version constraint without parentheses, or raise ``BadSpecError``."""
    if not version:
        return ""
    tokens = re.findall(r"[(),|]|[^(),|]+", version)
    try:
        alternatives = _any(text, tokens)
    except RecursionError as error:
        raise BadSpecError(f"`{text}` has too many parentheses", _EXAMPLE) from error
    if tokens:
        raise _bad_constraint(text, "".join(tokens))
    return _join([alternatives])


Alternatives = list[tuple[str, ...]]  # each one a list of constraints that hold together


def _join(all_of: list[Alternatives]) -> str:
    found: Alternatives = [()]
    for alternatives in all_of:
        found = _both(found, alternatives)
    return "|".join(",".join(dict.fromkeys(word for word in each if word != "*")) or "*" for each in found)


def _any(text: str, tokens: list[str]) -> Alternatives:
    found = _all(text, tokens)
    while tokens[:1] == ["|"]:
        del tokens[0]
        found += _all(text, tokens)
    return found


def _all(text: str, tokens: list[str]) -> Alternatives:
    found = _one(text, tokens)
    while tokens[:1] == [","]:
        del tokens[0]
        found = _both(found, _one(text, tokens))
    return found


def _both(some: Alternatives, others: Alternatives) -> Alternatives:
    # each `,` between parentheses multiplies them
    if len(some) * len(others) > _MAX_ALTERNATIVES:
        raise BadSpecError("the constraints have too many alternatives", "combine them into fewer, without `|`")
    return [(*one, *other) for one, other in itertools.product(some, others)]


def _one(text: str, tokens: list[str]) -> Alternatives:
    first = tokens.pop(0) if tokens else ""
    if first != "(":
        return [(_constraint(text, first.strip()),)]
    found = _any(text, tokens)
    if tokens[:1] != [")"]:
        raise _bad_constraint(text, "(")
    del tokens[0]
    return found


def _constraint(text: str, word: str) -> str:
    if word in {"*", "=*"}:
        return "*"
    match = _CONSTRAINT.fullmatch(word)
    if match is None:
        raise _bad_constraint(text, word)
    operator, version, star = match["operator"], match["version"], match["star"] or ""
    if operator == "==" and star:  # to conda, `==1.2.*` is exactly 1.2
        raise BadSpecError(f"`{word}` in `{text}` matches only {version}", f"write `={version}`")
    # conda ignores the star after `>=1.*`, but py-rattler doesn't; for `=1*`, it is the reverse
    if (operator in {"<", "<=", ">", ">="} and star == ".*") or (operator == "=" and star == "*"):
        star = ""
    if operator == "=" and star:
        operator = ""
    if (star and operator not in {"", "!="}) or (star == "*" and operator == "!="):
        raise BadSpecError(f"`{word}` in `{text}` is not a version constraint", f"write `{operator}{version}`")
    if operator == "~=" and ("." not in version or "+" in version):
        raise BadSpecError(
            f"`{word}` in `{text}` is not a version constraint", "write two numbers or more, such as `~=1.4`"
        )
    return f"{operator}{version}{star}"


def _bad_constraint(text: str, word: str) -> BadSpecError:
    if re.search(r"[^<>=!~][<>=!~]", word):
        return BadSpecError(f"`{text}` has version constraints without a comma", "write them as in `numpy >=2,<3`")
    what = f"`{word}` in `{text}` is not a version constraint" if word else f"`{text}` lacks a version"
    return BadSpecError(what, "write it as in `numpy >=2,<3`")


def _bracket_keys(text: str) -> dict[str, str]:
    keys: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _KEY.match(text, position)
        if match is None or match[1] in keys:
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
    if "/" in name and SUBDIR.fullmatch(last):
        raise BadSpecError(f"the channel `{name}` contains a platform", _INSTEAD["subdir"])
    return name


def _not_a_package(text: str) -> BadSpecError:
    """Return the error for a text of another shape, with the spelling that its author probably means."""
    if match := _FILE.fullmatch(text):
        channel = f"{match['channel']}::" if match["channel"] else ""
        spelling = f"{channel}{match['name']} {match['version'] or 'VERSION'} {match['build'] or 'BUILD'}"
        return BadSpecError(f"`{text}` is a file, not a conda package", f"write `{spelling}`")
    if "{{" in text or "$" in text:
        return BadSpecError(f"`{text}` contains a variable", "write its value")
    if match := re.fullmatch(r"([^#]*[^#\s])\s*#\s*(.*)", text):
        return BadSpecError(
            f"`{text}` is not a conda package, because its comment is part of it",
            f"write the comment after a space and outside of quotes: `{match[1]}  # {match[2]}`",
        )
    if match := re.fullmatch(r"([\w./-]+):([\w.-]+)", text):
        spelling = f"{match[1]} ={match[2]}" if match[2][0].isdigit() else f"{match[1]}::{match[2]}"
        return BadSpecError(f"`{text}` is not a conda package", f"write `{spelling}`")
    if text[:1] in set("<>=!~"):  # `[numpy >=2, <3]` is a list of two
        return BadSpecError(f"`{text}` is not a conda package", 'write quotes around a package, as in `"numpy >=2,<3"`')
    return BadSpecError(f"`{text}` is not a conda package", _EXAMPLE)


def _check(text: str, spec: Spec) -> None:
    from rattler import MatchSpec  # noqa: PLC0415 - 0.1 s, which `envforge --help` doesn't need
    from rattler.exceptions import InvalidMatchSpecError  # noqa: PLC0415

    try:
        MatchSpec(" ".join(filter(None, (spec.name, spec.version or "*", spec.build))))
    except InvalidMatchSpecError as error:
        reason = " ".join(str(error).split())
        raise BadSpecError(f"`{text}` is not a conda package: {reason}", _EXAMPLE) from error
