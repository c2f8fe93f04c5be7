"""Read a line below ``pip:``, such as ``rich>=13; python_version < '3.12'``.

Lines that pip reads but a lockfile can't contain are errors with what works instead: options, directories, and files.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from urllib.parse import unquote

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from envforge.base.urls import hide_secrets, show_url
from envforge.errors import Hint
from envforge.lock.lockfile import check_package_url, file_name_of
from envforge.lock.platforms import is_valid_marker


class BadRequirementError(Exception):
    """A line that can't be honored; ``hints`` are the spellings that work."""

    def __init__(self, reason: str, hints: Iterable[Hint], code: str = "bad-requirement") -> None:
        super().__init__(reason)
        self.hints = tuple(hints)
        self.code = code


def parse_requirement(text: str) -> Requirement:
    """Parse a line below ``pip:``; raise ``BadRequirementError`` if a lockfile can't contain what it requests."""
    text = text.strip()
    if len(text) > _LONGEST:
        reason = f"`{text[:40]}…` below `pip:` is longer than {_LONGEST} characters"
        raise BadRequirementError(reason, (Hint('write a requirement such as `"rich>=13"`'),))
    for pattern, reason, hint in _NOT_LOCKED:
        if match := pattern.match(text):
            hints = hint(match) if callable(hint) else (Hint(hint),)
            raise BadRequirementError(f"`{text}` below `pip:` {reason}", hints, "pip-option")
    invalid = f"`{text}` below `pip:` is not a valid requirement"
    try:
        requirement = Requirement(text)
    except ValueError as error:
        raise BadRequirementError(f"{invalid}: {str(error).splitlines()[0]}", (Hint(_spelling(text)),)) from error
    if requirement.marker is not None and not is_valid_marker(requirement.marker):
        raise BadRequirementError(f"{invalid}: its marker can't be evaluated", (Hint(_spelling(text)),))
    # no index states the hash of a direct URL, so the URL must contain it
    if requirement.url is not None and not _is_wheel(requirement):
        name = canonicalize_name(requirement.name).replace("-", "_")
        raise BadRequirementError(
            f"the URL of `{requirement.name}` below `pip:` must be that of a wheel of `{name}`, with `#sha256=DIGEST` "
            f"at its end, but it is `{text}`",
            (Hint(f'write it as `"{requirement.name} @ https://HOST/{name}-1.0-py3-none-any.whl#sha256=DIGEST"`'),),
        )
    return requirement


def pinned(requirement: Requirement) -> Requirement:
    """Return a requirement with a pin of the version in place of the URL of its wheel, if it has one."""
    if requirement.url is None:
        return requirement
    pin = Requirement(str(requirement))
    pin.url, pin.specifier = None, SpecifierSet(f"=={_wheel_in(requirement.url)[1]}")
    return pin


def _wheel_in(url: str) -> tuple[str, Version]:
    """Return the name and the version in the URL of a wheel; raise ``ValueError``."""
    check_package_url(url)
    return parse_wheel_filename(unquote(file_name_of(url)))[:2]


def _is_wheel(requirement: Requirement) -> bool:
    """Return whether the URL of a requirement is that of its wheel, with its SHA-256."""
    url = requirement.url or ""
    try:
        return bool(_DIRECT.fullmatch(url)) and _wheel_in(url)[0] == canonicalize_name(requirement.name)
    except ValueError:
        return False


_LONGEST = 2000  # characters of a requirement; longer ones take seconds to parse
_DIRECT = re.compile(r"https://\S+#sha256=[0-9a-f]{64}")
_NAME = r"[A-Za-z0-9][\w.-]*(?:\[[^\]]*\])?"
# a typing mistake, and its correction
_CORRECTIONS = (
    (re.compile(r"(?<![<>=!~])=(?![=<>])"), "=="),
    (re.compile(r"=([<>])"), r"\1="),
    (re.compile(r"~=\s*(\d+)(?![\w.])"), r"~=\1.0"),
    (re.compile(r"((?:[<>]=?|~=)\s*\d[\w.]*?)\.\*"), r"\1"),
    (re.compile(rf"^({_NAME})\s+v?(\d[\w.+]*)$"), r"\1==\2"),
    (re.compile(r"(?<=[\w*])\s+(?=[<>=!~]=?\s*\d)(?<!^)"), ","),
)


def _spelling(text: str) -> str:
    """Return the hint for an invalid requirement: what its author probably means."""
    if len(text.splitlines()) > 1:
        return "write each requirement as `- NAME` on its own line"
    if "{{" in text or "$" in text:
        return "write the value of the variable"
    corrected = text
    for pattern, correction in _CORRECTIONS:
        corrected = pattern.sub(correction, corrected)
        if _is_valid(corrected):
            return hide_secrets(f'write `"{corrected}"`')
    parts = re.split(r"\s*,\s*|\s+", text.strip(" ,"))
    if all(map(_is_valid, parts)):
        return "write each requirement as `- NAME` on its own line"
    return 'write a requirement such as `"rich>=13"`'


def _is_valid(text: str) -> bool:
    try:
        Requirement(text)
    except ValueError:
        return False
    return True


def _directory(match: re.Match[str]) -> tuple[Hint, ...]:
    # in a file of pip, the quotes are those of a shell
    directory = shlex.quote(match["directory"].strip().strip("'\""))
    option = "-e " if match.re is _EDITABLE else ""
    return (
        Hint("remove the line"),
        Hint(
            "to install the directory into the environment, list `- pip` among the dependencies, then",
            # `-m`, because without pip in the environment, `pip` would be that of another Python
            f"envforge lock && envforge install && envforge run -- python -m pip install --no-deps {option}{directory}",
        ),
    )


def _index(match: re.Match[str]) -> tuple[Hint, ...]:
    url = show_url(match["url"].strip("'\"")) if match["url"] else "https://download.pytorch.org/whl/cu118"
    return (Hint(f"list the index at the top level of the file: `pip-repositories: [{url}]`"),)


def _file_url(match: re.Match[str]) -> tuple[Hint, ...]:
    return (Hint(f'write it as `"{match["name"]} @ {show_url(match["url"])}#sha256=DIGEST"`'),)


_EDITABLE = re.compile(r"(?:-e|--editable)[ =]\s*(?P<directory>.*)")
_INDEX_OPTION = r"(?:--(?:extra-)?index-url|-i(?![a-z-]))[ =]*(?P<url>\S*)"
_SUPPORTED_BY_PIP_ONLY = "is an option, which is not supported there"
_PUBLISH = "publish a wheel of it, and write `NAME @ https://HOST/NAME.whl#sha256=DIGEST`"
# requirements that a lockfile can't contain: how they start, why, and what to write instead
_NOT_LOCKED: tuple[tuple[re.Pattern[str], str, str | Callable[[re.Match[str]], tuple[Hint, ...]]], ...] = (
    (
        re.compile(rf"(?:(?:-e|--editable)[ =]\s*)?(?:{_NAME}\s*@\s*)?(?:git|hg|svn|bzr)\+"),
        "is a repository, which has no checksum",
        _PUBLISH,
    ),
    (_EDITABLE, "is a local directory, which a lockfile can't contain", _directory),
    (
        re.compile(r"(?P<url>https?://\S*/(?P<name>[\w.]+?)-\d[^/\s]*\.(?:whl|zip|tar\.\w+))$"),
        "has neither a name nor a checksum",
        _file_url,
    ),
    (re.compile(r"\S+\.(?:whl|zip|tar\.\w+)(?:\[.*\])?$"), "is a file, which a lockfile can't contain", _PUBLISH),
    (
        re.compile(r"(?P<directory>(?:\.{1,2}(?:[/\\\[].*)?|[/~].*|file:.*|[\w.-]+/[^@\s]*))$"),
        "is a local directory, which a lockfile can't contain",
        _directory,
    ),
    (
        re.compile(r"(?:-r(?![a-z-]*[=])|--requirement\b)"),
        "is a file",
        "list the requirements of that file below `pip:`",
    ),
    (
        re.compile(r"(?:-c(?![a-z-]*[=])|--constraint\b)"),
        "is a file",
        "write each constraint at its package below `pip:`, such as `rich>=13,<14`",
    ),
    (re.compile(r".*--pre\b"), "is an option", "pin the pre-release, such as `rich==14.0rc1`"),
    (re.compile(rf"(?:.*\s)?{_INDEX_OPTION}"), "is an option", _index),
    (
        re.compile(r"(?:.*\s)?(?:-f(?![a-z-])|--find-links\b)(?P<url>)"),
        "is an option",
        lambda match: (*_index(match), Hint("to use one wheel, write `NAME @ https://HOST/NAME.whl#sha256=DIGEST`")),
    ),
    (re.compile(r".*\s--hash\b"), "has a hash", "remove `--hash`: the lockfile records the SHA-256 of every file"),
    (re.compile(r"--?[A-Za-z]"), _SUPPORTED_BY_PIP_ONLY, "remove the line"),
    (re.compile(rf"{_NAME}[^;@]*\s--?[a-z]"), "has an option, which is not supported there", "remove the option"),
)
