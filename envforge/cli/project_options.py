"""Define the options of `new`, `update`, and `explain` that select a build, a template, and a lockfile."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.base.suggest import nearest
from envforge.cli.options import Decorator, chosen_mirrors, collected, mirror_option
from envforge.errors import Hint, RequestError

if TYPE_CHECKING:
    from packaging.version import Version

    from envforge.base.terms import WheelTag
    from envforge.project.locking import LockWay
    from envforge.pytorch.matrix import Matrix
    from envforge.pytorch.selection import Request


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateOptions:
    """The answers and groups, as typed."""

    var: tuple[str, ...]
    with_groups: tuple[str, ...]
    without_groups: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LockOptions:
    """The source of the lock, as typed."""

    no_lock: bool
    fresh: bool
    conda_exe: Path | None
    catalogue: str | None
    mirrors: tuple[str, ...]

    def way(self, folder: Path, *, dry_run: bool = False) -> LockWay:
        """Return how to obtain a lock; a relative catalogue and the project's settings belong to ``folder``."""
        from envforge.project.locking import LockWay

        mirrors = chosen_mirrors(self.mirrors)
        if self.no_lock:
            return LockWay(wanted=False)
        from envforge.catalogue.address import chosen_catalogue

        return LockWay(
            fresh=self.fresh,
            dry_run=dry_run,
            conda_exe=self.conda_exe,
            mirrors=mirrors,
            team=chosen_catalogue(self.catalogue, folder, os.environ),
        )


def template_options() -> Decorator:
    """Add ``--var --with --without``, which the command receives as ``template_options``."""
    options = (
        click.option(
            "--var",
            multiple=True,
            metavar="KEY=VALUE",
            help="Answer one question of the template. May be provided more than once.",
        ),
        click.option(
            "--with",
            "with_groups",
            multiple=True,
            metavar="NAME,…",
            help="Add these groups of files, or `all`; `envforge templates show TEMPLATE` lists them.",
        ),
        click.option(
            "--without",
            "without_groups",
            multiple=True,
            metavar="NAME,…",
            help="Leave these groups of files out, or `all` except those of --with.",
        ),
    )
    return collected(options, TemplateOptions, "template_options")


def requirement_option() -> Decorator:
    """Add ``--envforge REQUIREMENT`` as ``envforge``, the option of ``distribution.stated_requirement``."""
    return click.option(
        "--envforge",
        metavar="REQUIREMENT",
        help="Version, git URL, or wheel of envforge that generated files install.  [env var: ENVFORGE_REQUIREMENT]",
    )


def lock_options() -> Decorator:
    """Add ``--no-lock --fresh --conda-exe --catalogue --mirror``, which the command receives as ``lock_options``."""
    options = (
        click.option("--no-lock", is_flag=True, help="Don't create a lockfile; `envforge lock` creates it later."),
        click.option("--fresh", is_flag=True, help="Solve again, even if the catalogue has a lockfile."),
        click.option(
            "--conda-exe",
            type=click.Path(path_type=Path),
            help="Solve with this conda, mamba, or micromamba instead of the built-in solver.",
        ),
        click.option(
            "--catalogue",
            metavar="URL",
            envvar="ENVFORGE_CATALOGUE",
            show_envvar=True,
            help="Search the catalogue of your team before the built-in one; see `envforge lockfiles`.",
        ),
        mirror_option(),
    )
    return collected(options, LockOptions, "lock_options")


TORCH_INDEX_VARIABLE = "ENVFORGE_TORCH_INDEX"
_OLDEST_PYTHON = "3.10"  # the oldest version that the code of the templates supports
_ALIKE = 0.8  # the ratio of difflib; `cu99` is not near `cu129`
_PREFERENCES = ("newest-torch", "direct", "widest")


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionOptions:
    """The options as typed; ``None`` and ``auto`` leave the choice to ``select``."""

    cuda: str = "auto"
    torch: str | None = None
    python: str | None = None
    platforms: tuple[str, ...] = ()
    prefer: str = "newest-torch"
    torch_index: str | None = None

    def to_request(self, matrix: Matrix) -> Request:
        """Return the request without its platform; raise ``RequestError`` if a value doesn't exist."""
        from envforge.pytorch.selection import PYTORCH_INDEX, Preference, Request

        return Request(
            cuda=_tag(self.cuda, matrix),
            torch=None if self.torch is None else _torch(self.torch, matrix),
            python=None if self.python is None else _python(self.python, matrix),
            prefer=Preference(self.prefer),
            torch_index=PYTORCH_INDEX if self.torch_index is None else _index(self.torch_index),
        )

    def known_platforms(self, matrix: Matrix) -> tuple[str, ...]:
        """Return the requested platforms, each once; raise ``RequestError`` if one has no builds."""
        for platform in self.platforms:
            if platform not in matrix.platforms:
                raise _unknown("platform", platform, matrix.platforms, nearest(platform.lower(), matrix.platforms))
        return tuple(dict.fromkeys(self.platforms))


def selection_options() -> Decorator:
    """Add the options of the selection, which the command receives as ``selection_options``."""
    options = (
        click.option(
            "--cuda",
            default="auto",
            show_default=True,
            metavar="CUDA",
            help="CUDA version of the PyTorch build: auto, cpu, or a version such as 11.8 or cu118.",
        ),
        click.option("--torch", metavar="VERSION", help="PyTorch release, such as 2.7.1, or 2.7 for the newest 2.7."),
        click.option("--python", metavar="VERSION", help="Python version of the environment, such as 3.12."),
        click.option(
            "-p",
            "--platform",
            "platforms",
            multiple=True,
            metavar="SUBDIR",
            help="Plan for this platform, such as linux-64. May be provided more than once.  [default: the machine's]",
        ),
        click.option(
            "--prefer",
            type=click.Choice(_PREFERENCES),
            default="newest-torch",
            show_default=True,
            help="Rank builds by newest torch, best driver support, or widest range of machines.",
        ),
        click.option(
            "--torch-index",
            metavar="URL",
            envvar=TORCH_INDEX_VARIABLE,
            show_envvar=True,
            help="Use this PyTorch wheel index; leave the tag out.  [default: https://download.pytorch.org/whl]",
        ),
    )
    return collected(options, SelectionOptions, "selection_options")


def _tag(text: str, matrix: Matrix) -> WheelTag | None:
    from envforge.base.terms import WheelTag

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
    near = tagged or nearest(text.strip().lower(), table.names, alike=_ALIKE)
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
    from packaging.version import Version

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
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion:
        return None


def _index(url: str) -> str:
    """Return the URL of a wheel index without the tag, which is added to it; a lockfile records it."""
    from envforge.base.urls import show_url

    trimmed = url.strip().rstrip("/")
    last = trimmed.rsplit("/", 1)[-1]
    if not _is_url(trimmed):
        problem = "is not the URL of a wheel index"
        hint = "to use a mirror, pass its URL, such as `--torch-index https://mirror.example/pytorch/whl`"
    elif "@" in trimmed.split("/", 3)[2]:
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
    from envforge.base.urls import Url

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
    from envforge.base.distribution import upgrade_command

    option, versions = table.option, table.versions
    if asked is None:
        series = re.match(r"\d+(\.\d+)*", text)
        newest = _newest_of(series[0], versions) if series else None
        return _unknown(option, text, table.names, newest or nearest(text, table.names, alike=_ALIKE))
    if asked > max(versions):
        end = table.names[-1]
        confirmed = "" if end == str(max(versions)) else ", whose builds aren't confirmed yet"
        return RequestError(
            f"`--{option} {text}` is newer than the table of {table.checked}, which ends at {end}{confirmed}",
            hint=(
                Hint(f"to use the newest version with confirmed builds, pass `--{option} {max(versions)}`"),
                Hint("to get a newer table", upgrade_command()),
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
    asked = tuple(map(int, series.split(".")))
    return max((version for version in versions if version.release[: len(asked)] == asked), default=None)


def _nearest_version(asked: Version, versions: Sequence[Version]) -> Version:
    """Return the newest version of a series such as ``12``, else the nearest version."""
    return _newest_of(str(asked), versions) or min(versions, key=lambda version: _distance(version, asked))


def _distance(version: Version, asked: Version) -> tuple[int, int, int]:
    return abs(version.major - asked.major), abs(version.minor - asked.minor), abs(version.micro - asked.micro)


def _unknown(option: str, value: str, names: Sequence[str], near: Version | str | None) -> RequestError:
    """Return the error for a value that doesn't exist, with what exists and the nearest value."""
    return RequestError(
        f"unknown value `{value}` for `--{option}`; expected one of: {', '.join(names)}",
        hint=f"did you mean `--{option} {near}`?" if near else f"to let envforge choose, omit `--{option}`",
        code=f"unknown-{option}",
    )
