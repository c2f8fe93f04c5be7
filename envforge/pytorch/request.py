"""Read the versions that someone requests; an error lists the versions that exist and suggests the nearest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.version import Version

from envforge.base.terms import WheelTag
from envforge.base.urls import Url, has_secrets, show_url
from envforge.errors import Hint, RequestError
from envforge.pytorch.matrix import Matrix
from envforge.pytorch.selection import PYTORCH_INDEX, Preference, Request

_OLDEST_PYTHON = "3.10"  # the oldest version that the code of the templates supports
_ALIKE = 0.8  # the ratio of difflib; `cu99` is not near `cu129`


def read_request(
    matrix: Matrix,
    *,
    cuda: str = "auto",
    torch: str | None = None,
    python: str | None = None,
    prefer: str = "newest-torch",
    torch_index: str | None = None,
) -> Request:
    """Return the request of these versions, without its platform; raise ``RequestError`` if one doesn't exist.

    ``auto`` and None leave the choice to ``select``.
    """
    return Request(
        cuda=_tag(cuda, matrix),
        torch=None if torch is None else _torch(torch, matrix),
        python=None if python is None else _python(python, matrix),
        prefer=Preference(prefer),
        torch_index=PYTORCH_INDEX if torch_index is None else _index(torch_index),
    )


def known_platforms(matrix: Matrix, platforms: Iterable[str]) -> tuple[str, ...]:
    """Return the platforms, each once; raise ``RequestError`` if one has no builds."""
    for platform in platforms:
        if platform not in matrix.platforms:
            raise _unknown("platform", platform, matrix.platforms, _nearest(platform.lower(), matrix.platforms, 0.5))
    return tuple(dict.fromkeys(platforms))


def _tag(text: str, matrix: Matrix) -> WheelTag | None:
    if text.strip().lower() == "auto":
        return None
    try:
        tag = WheelTag.parse(text)
    except ValueError:
        tag = None
    if tag in matrix.tags:
        return tag
    versions = [known.cuda for known in matrix.tags if known.cuda is not None]
    other = ["auto", "cpu", *(str(known) for known in matrix.tags if not known.is_cpu)]
    number = text.strip().lower().removeprefix("cu")
    is_series = re.fullmatch(r"\d{1,2}", number) is not None
    asked = tag.cuda if tag is not None and not is_series else _version(number)
    table = _Table(option="cuda", versions=versions, names=[*other, *map(str, versions)], checked=matrix.checked)
    if asked is not None and asked.major <= max(versions).major + 1:
        raise _unknown_version(text, asked, table)
    mistyped = re.match(r"\d{2}", number)  # such as `cu1118` or `12x`
    newest = _newest_of(mistyped[0], versions) if mistyped else None
    tagged = str(WheelTag(newest)) if newest is not None and not text[:1].isdecimal() else newest
    near = tagged or _nearest(text.strip().lower(), table.names)
    raise _unknown("cuda", text, table.names, near)


def _torch(text: str, matrix: Matrix) -> Version:
    """Return a release by its number, or the newest of a series such as ``2.7``; confirmed builds come first."""
    exists = {str(version): version for version in matrix.torches}
    if text in exists:
        return exists[text]
    confirmed = {build.torch for build in matrix.builds if build.confirmed}
    series = [version for version in matrix.torches if f"{version.major}.{version.minor}" == text]
    if series:
        return max(series, key=lambda version: (version in confirmed, version))
    table = _Table(option="torch", versions=sorted(confirmed), names=[*exists], checked=matrix.checked)
    raise _unknown_version(text, _version(text), table)


def _python(text: str, matrix: Matrix) -> Version:
    supported = [version for version in matrix.pythons if version >= Version(_OLDEST_PYTHON)]
    exists = {str(version): version for version in supported}
    if text in exists:
        return exists[text]
    asked = _version(text)
    if asked is not None and asked < supported[0] and asked.release != (3,):
        raise RequestError(
            f"`--python {text}` is older than {_OLDEST_PYTHON}, the oldest version that projects support",
            hint=f"to use the oldest version, pass `--python {_OLDEST_PYTHON}`",
            code="unknown-python",
        )
    raise _unknown_version(
        text, asked, _Table(option="python", versions=supported, names=[*exists], checked=matrix.checked)
    )


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except ValueError:
        return None


def _index(url: str) -> str:
    """Return the URL of a wheel index without the tag, which is added to it; a lockfile records it."""
    trimmed = url.strip().rstrip("/")
    last = trimmed.rsplit("/", 1)[-1]
    if not _is_url(trimmed):
        problem = "is not the URL of a wheel index"
        hint = "to use a mirror, pass its URL, such as `--torch-index https://mirror.example/pytorch/whl`"
    elif has_secrets(trimmed) or "@" in trimmed.split("/", 3)[2]:
        problem = "contains credentials, which a lockfile would record"
        hint = "to provide credentials for the host, add them to ~/.netrc, and omit them from `--torch-index`"
    elif re.fullmatch(r"cpu|cu\d+", last):
        problem = f"ends with the tag `{last}`, which envforge adds itself"
        hint = f"to use this index, pass `--torch-index {trimmed.removesuffix('/' + last)}`"
    else:
        return trimmed
    raise RequestError(f"`--torch-index {show_url(url)}` {problem}", hint=hint, code="bad-torch-index")


def _is_url(text: str) -> bool:
    """Return whether ``text`` is an absolute HTTP or file URL, without a query and a fragment."""
    if re.fullmatch(r"(https?|file)://[^\s?#]+", text) is None:
        return False
    try:
        url = Url.parse(text)
    except ValueError:
        return False
    return url.port != 0 and (bool(url.host) if url.scheme != "file" else len(url.path) > 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """The values of one option: ``names`` are all of them, ``versions`` those to suggest, oldest first."""

    option: str
    versions: Sequence[Version]
    names: Sequence[str]
    checked: str


def _unknown_version(text: str, asked: Version | None, table: _Table) -> RequestError:
    """Return the error for a version that isn't in the table: newer than its end, or between its rows."""
    option, versions = table.option, table.versions
    if asked is None:
        series = re.match(r"\d+(\.\d+)*", text)
        newest = _newest_of(series[0], versions) if series else None
        return _unknown(option, text, table.names, newest or _nearest(text, table.names))
    if asked > max(versions):
        end = table.names[-1]
        confirmed = "" if end == str(max(versions)) else ", whose builds aren't confirmed yet"
        return RequestError(
            f"`--{option} {text}` is newer than the table of {table.checked}, which ends at {end}{confirmed}",
            hint=(
                Hint(f"to use the newest version with confirmed builds, pass `--{option} {max(versions)}`"),
                Hint("to read newer facts", "envforge facts refresh"),
            ),
            code=f"unknown-{option}",
        )
    if asked < min(versions) and _newest_of(str(asked), versions) is None:
        return RequestError(
            f"`--{option} {text}` is older than {min(versions)}, the oldest version in the table",
            hint=f"to use the oldest version, pass `--{option} {min(versions)}`",
            code=f"unknown-{option}",
        )
    return _unknown(option, text, table.names, _nearest_version(asked, versions))


def _newest_of(series: str, versions: Sequence[Version]) -> Version | None:
    """Return the newest version of a series such as ``12``; None if it has none."""
    asked = series.split(".")
    found = (version for version in versions if [str(number) for number in version.release[: len(asked)]] == asked)
    return max(found, default=None)


def _nearest_version(asked: Version, versions: Sequence[Version]) -> Version:
    """Return the newest version of a series such as ``12``, else the nearest version."""
    return _newest_of(str(asked), versions) or min(versions, key=lambda version: _distance(version, asked))


def _nearest(text: str, names: Sequence[str], alike: float = _ALIKE) -> str | None:
    from envforge.base.suggest import nearest  # noqa: PLC0415 - only errors need it

    return nearest(text, names, alike=alike)


def _distance(version: Version, asked: Version) -> tuple[int, int, int]:
    return abs(version.major - asked.major), abs(version.minor - asked.minor), abs(version.micro - asked.micro)


def _unknown(option: str, value: str, names: Sequence[str], near: Version | str | None) -> RequestError:
    """Return the error for a value that doesn't exist, with what exists and the nearest value."""
    return RequestError(
        f"unknown value `{value}` for `--{option}`; expected one of: {', '.join(names)}",
        hint=f"did you mean `--{option} {near}`?" if near else f"to let envforge choose, omit `--{option}`",
        code=f"unknown-{option}",
    )
