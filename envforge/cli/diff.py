"""``envforge diff``: compare two lockfiles, from files or from git, as text, Markdown, or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct

from envforge.base.envelope import Json, fields_to_json
from envforge.base.urls import hide_secrets, show_url
from envforge.cli import print_result
from envforge.cli.options import (
    Argument,
    JsonOption,
    Option,
    cached_size,
    platform_here,
    takes,
    warn_of_incomplete_change,
    warn_of_incomplete_environment,
)
from envforge.cli.progress import counted, megabytes

if TYPE_CHECKING:
    from envforge.lock.diff import Change, LockComparison, Pinned, PlatformDiff
    from envforge.lock.lockfile import Lockfile

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


class DiffOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge diff``."""

    before: Annotated[str, Argument(metavar="A")]
    after: Annotated[str | None, Argument(metavar="[B]")] = None
    as_markdown: Annotated[bool, Option("Print Markdown for a pull request.", "--markdown")]
    as_json: JsonOption


@click.command("diff")
@takes(DiffOptions)
def diff(options: DiffOptions) -> None:
    """Show what changes from lockfile A to lockfile B: packages, downloads, and machine requirements.

    A and B are files (conda-lock.yml, pylock.toml, or @EXPLICIT), git:REV for the project's conda-lock.yml at that
    revision, or git:REV:PATH for another file, relative to the current directory.  [default for B: conda-lock.yml of
    the project]

    Also shows changes of channels, variables, categories, and other settings.

    Exits with 0 if both install the same files and have the same settings, and with 1 if they differ or can't be read.
    """
    from envforge.base.redact import change_texts
    from envforge.lock.diff import compare
    from envforge.lock.project import find_lockfile
    from envforge.pytorch.matrix import load_matrix

    warn_of_incomplete_environment()
    before, after = options.before, options.after or str(find_lockfile(Path()))
    locks = [_read(spec) for spec in (before, after)]
    compared = compare(locks[0], locks[1], load_matrix(), _known_sizes(locks))
    comparison = change_texts(compared, hide_secrets)  # variables, categories, and names can contain a URL
    text = (_to_markdown if options.as_markdown else _to_words)(comparison, before, after)
    print_result("diff", _to_json(comparison), text, as_json=options.as_json, is_ok=comparison.is_same)


def _read(spec: str) -> Lockfile:
    from envforge.base.git import GIT_PREFIX, read_revision
    from envforge.lock.plan import parse_any_lock, read_any_lock
    from envforge.lock.project import find_lockfile

    if spec.startswith(GIT_PREFIX):
        folder = Path() if ":" in spec.removeprefix(GIT_PREFIX) else find_lockfile(Path()).parent
        return parse_any_lock(read_revision(spec, folder), spec, platform_here())
    warn_of_incomplete_change(Path(spec))
    return read_any_lock(Path(spec), platform_here())


def _known_sizes(locks: list[Lockfile]) -> dict[str, int]:
    """Return the sizes of the files in this computer's package cache, by SHA-256."""
    from envforge.lock.plan import Artifact, Digest

    found = {}
    for package in (package for lock in locks for package in lock.packages if package.sha256 and package.file_name):
        digest = Digest(algorithm="sha256", hex=package.sha256 or "")
        size = cached_size(Artifact(package=package, digest=digest))
        if size is not None:
            found[digest.hex] = size
    return found


def _to_words(comparison: LockComparison, before: str, after: str) -> str:
    if comparison.is_same:
        return f"{after} installs the same files as {before}"
    settings = [_shown(f"  {one.what}: {_from_to(one.before, one.after)}") for one in comparison.settings]
    settings = ["", "settings:", *settings] if settings else []
    return "\n".join([f"from {before} to {after}", *settings, *map(_platform_words, comparison.platforms)])


def _platform_words(one: PlatformDiff) -> str:
    lines = ["", f"{one.platform}: {_summary(one)}"]
    lines += [f"  requires {shift.what}: {_from_to(shift.before, shift.after)}" for shift in one.machine]
    if one.new_files:
        lines.append(f"  to download: {_fetch(one)}")
    width = max((len(change.name) for change in one.changes), default=0)
    lines += [f"  {_SIGNS[change.kind]} {change.name:{width}}  {_change(change)}" for change in one.changes]
    return "\n".join(_shown(line) for line in lines)


def _summary(one: PlatformDiff) -> str:
    counts = [f"{len(one.of(kind))} {kind}" for kind in ("added", "removed", "changed") if one.of(kind)]
    whole = {"added": "new platform; ", "removed": "platform removed; ", "changed": ""}[one.kind]
    return whole + (", ".join(counts) or "no packages")


def _change(change: Change) -> str:
    by = " (pip)" if change.manager == "pip" else ""
    was, will = _sides(change)
    return _from_to(was, will) + by if change.kind == "changed" else (will or was) + by


def _sides(change: Change) -> tuple[str, str]:
    """Return both sides of a change, each with what differs in it."""
    return tuple("" if pinned is None else _side(change.what, pinned) for pinned in (change.before, change.after))  # type: ignore[return-value] # two of them


def _side(what: str, pinned: Pinned) -> str:
    more = {"file": f" (checksum {pinned.checksum[:12]}…)", "address": f" from {show_url(pinned.url)}"}
    return f"{pinned}{more.get(what, f' ({pinned.category})' if what == 'category' else '')}"


def _from_to(before: str, after: str) -> str:
    return f"{before or 'none'} → {after or 'none'}"


def _fetch(one: PlatformDiff) -> str:
    files = counted(one.new_files, "file")
    if one.sized == 0:
        return f"{files} of unknown size"
    if one.sized == one.new_files:
        return f"{files}, {megabytes(one.fetch_bytes)}"
    unknown = counted(one.new_files - one.sized, "file")
    return f"{files}, {megabytes(one.fetch_bytes)} plus {unknown} of unknown size"


def _shown(text: str) -> str:
    """Replace characters that control a terminal or start a new line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _to_markdown(comparison: LockComparison, before: str, after: str) -> str:
    if comparison.is_same:
        return f"{_code(after)} installs the same files as {_code(before)}."
    lines = [f"### From {_code(before)} to {_code(after)}"]
    settings = [
        (one.what, *(_code(side) if side else "none" for side in (one.before, one.after)))
        for one in comparison.settings
    ]
    lines += ["", *(f"- **{what}**: {was} → {will}" for what, was, will in settings)] if settings else []
    for one in comparison.platforms:
        lines += ["", f"#### {_code(one.platform)}: {_summary(one)}", ""]
        lines += [f"- **{shift.what}**: {_from_to(shift.before, shift.after)}" for shift in one.machine]
        lines += [f"- **to download**: {_fetch(one)}"] if one.new_files else []
        lines += ["", "<details><summary>packages</summary>", "", "| | package | from | to |", "|---|---|---|---|"]
        lines += [_row(change) for change in one.changes]
        lines += ["", "</details>"]
    return "\n".join(lines)


def _row(change: Change) -> str:
    was, will = (_code(side) if side else "" for side in _sides(change))
    return f"| {change.kind} | {_code(change.name)} ({change.manager}) | {was} | {will} |"


def _code(text: str) -> str:
    """Return text as inline code that can't end its span or its table cell, whatever a lockfile contains."""
    return "`" + _shown(text).replace("`", "'").replace("|", "\\|") + "`"


def _to_json(comparison: LockComparison) -> dict[str, Json]:
    settings: list[Json] = [fields_to_json(one) for one in comparison.settings]
    return {"platforms": [_platform_json(one) for one in comparison.platforms], "settings": settings}


def _platform_json(one: PlatformDiff) -> dict[str, Json]:
    changes: list[Json] = [
        {**fields_to_json(change), "before": _pinned_json(change.before), "after": _pinned_json(change.after)}
        for change in one.changes
    ]
    sizes: dict[str, Json] = {"new_files_of_known_size": one.sized, "known_bytes": one.fetch_bytes}
    return {**fields_to_json(one, "sized", "fetch_bytes"), "changes": changes, **sizes}


def _pinned_json(pinned: Pinned | None) -> Json:
    return None if pinned is None else {**fields_to_json(pinned, "checksum"), "url": show_url(pinned.url)}
