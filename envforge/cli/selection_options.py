"""The options that ask for a PyTorch build, shared by explain, new and lock, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from envforge.cli.options import Decorator, collected
from envforge.errors import RequestError
from envforge.nearest import nearest as most_like

if TYPE_CHECKING:
    from packaging.version import Version

    from envforge.cuda import WheelTag
    from envforge.matrix import Matrix
    from envforge.selection import Request

TORCH_INDEX_VARIABLE = "ENVFORGE_TORCH_INDEX"
_PREFERENCES = ("newest-torch", "direct", "widest")


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionOptions:
    """The words of the command line, as typed; ``None`` and ``auto`` leave the choice to ``select``."""

    cuda: str = "auto"
    torch: str | None = None
    python: str | None = None
    platforms: tuple[str, ...] = ()
    prefer: str = "newest-torch"
    torch_index: str | None = None

    def to_request(self, matrix: Matrix) -> Request:
        """The request that the words stand for, without platform; raises ``RequestError`` where one names nothing."""
        from envforge.selection import PYTORCH_INDEX, Preference, Request

        return Request(
            cuda=_tag(self.cuda, matrix),
            torch=None if self.torch is None else _torch(self.torch, matrix),
            python=None if self.python is None else _python(self.python, matrix),
            prefer=Preference(self.prefer),
            torch_index=PYTORCH_INDEX if self.torch_index is None else _index(self.torch_index),
        )

    def known_platforms(self, matrix: Matrix) -> tuple[str, ...]:
        """The platforms that were named, each once; raises ``RequestError`` where one has no builds."""
        for platform in self.platforms:
            if platform not in matrix.platforms:
                raise _unknown("platform", platform, matrix.platforms)
        return tuple(dict.fromkeys(self.platforms))


def selection_options() -> Decorator:
    """``--cuda --torch --python --platform --prefer --torch-index``; the command receives ``selection_options``."""
    options = (
        click.option(
            "--cuda",
            default="auto",
            show_default=True,
            metavar="CUDA",
            help="CUDA of the PyTorch build: auto, cpu, or a version such as 11.8 or cu118.",
        ),
        click.option("--torch", metavar="VERSION", help="PyTorch release, for example 2.7.1, or 2.7 for its newest."),
        click.option("--python", metavar="VERSION", help="Python of the environment, for example 3.12."),
        click.option(
            "-p",
            "--platform",
            "platforms",
            multiple=True,
            metavar="SUBDIR",
            help="Platform to plan for, for example linux-64; may be repeated.  [default: the machine's own]",
        ),
        click.option(
            "--prefer",
            type=click.Choice(_PREFERENCES),
            default="newest-torch",
            show_default=True,
            help="What to rank first: the newest torch, the best driver support, or the widest range of machines.",
        ),
        click.option(
            "--torch-index",
            metavar="URL",
            envvar=TORCH_INDEX_VARIABLE,
            show_envvar=True,
            help="Mirror of the PyTorch wheel index, without the tag.  [default: https://download.pytorch.org/whl]",
        ),
    )
    return collected(options, SelectionOptions, "selection_options")


def _tag(text: str, matrix: Matrix) -> WheelTag | None:
    from envforge.cuda import WheelTag

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
    plausible = tag is not None and tag.cuda is not None and tag.cuda.major <= max(versions).major + 1
    asked = tag.cuda if tag is not None and plausible else None
    raise _unknown_version("cuda", text, asked, versions, checked=matrix.checked, other=other)


def _torch(text: str, matrix: Matrix) -> Version:
    """A release by its number, or the newest of ``2.7``: one with known builds before one that was only announced."""
    exists = {str(version): version for version in matrix.torches}
    if text in exists:
        return exists[text]
    confirmed = {build.torch for build in matrix.builds if build.confirmed}
    series = [version for version in matrix.torches if f"{version.major}.{version.minor}" == text]
    if series:
        return max(series, key=lambda version: (version in confirmed, version))
    raise _unknown_version("torch", text, _version(text), matrix.torches, checked=matrix.checked)


def _python(text: str, matrix: Matrix) -> Version:
    exists = {str(version): version for version in matrix.pythons}
    if text in exists:
        return exists[text]
    raise _unknown_version("python", text, _version(text), matrix.pythons, checked=matrix.checked)


def _version(text: str) -> Version | None:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion:
        return None


def _index(url: str) -> str:
    """An address that wheels lie under; the tag is added to it, and a lock records it."""
    trimmed = url.strip().rstrip("/")
    last = trimmed.rsplit("/", 1)[-1]
    if not re.fullmatch(r"(https?|file)://[^\s?#]+", trimmed):
        fault, hint = "is not the address of an index", "--torch-index https://mirror.example/pytorch/whl"
    elif "@" in trimmed.split("/", 3)[2]:
        fault, hint = "contains credentials, which a lock would record", "put them into ~/.netrc"
    elif re.fullmatch(r"cpu|cu\d+", last):
        fault, hint = f"ends in the tag `{last}`, which is added", f"--torch-index {trimmed.removesuffix('/' + last)}"
    else:
        return trimmed
    shown = re.sub(r"//[^/@]*@", "//***@", url)
    raise RequestError(f"`--torch-index {shown}` {fault}", hint=hint, code="bad-torch-index")


def _unknown_version(
    option: str,
    text: str,
    asked: Version | None,
    versions: Sequence[Version],
    *,
    checked: str,
    other: Sequence[str] = (),
) -> RequestError:
    """The error for a version that is not in the table: newer than its end, or between its rows."""
    names = [*other, *(str(version) for version in versions)]
    if asked is None:
        return _unknown(option, text, names)
    nearest = min(versions, key=lambda version: _distance(version, asked))
    if asked > max(versions):
        return RequestError(
            f"`--{option} {text}` is newer than the table of {checked}, which ends at {max(versions)}",
            hint=f"--{option} {nearest}, or a newer envforge: pip install --upgrade envforge",
            code=f"unknown-{option}",
        )
    return _unknown(option, text, names, nearest=str(min(versions) if asked < min(versions) else nearest))


def _distance(version: Version, asked: Version) -> tuple[int, int, int]:
    return abs(version.major - asked.major), abs(version.minor - asked.minor), abs(version.micro - asked.micro)


def _unknown(option: str, value: str, names: Sequence[str], *, nearest: str = "") -> RequestError:
    """The error for a value that names nothing: what exists, and the nearest of it."""
    near = nearest or most_like(value.lower(), names) or names[0]
    return RequestError(
        f"`--{option} {value}` names nothing that exists; there is: {', '.join(names)}",
        hint=f"did you mean --{option} {near}?",
        code=f"unknown-{option}",
    )
