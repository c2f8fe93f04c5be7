"""``envforge diff``: compare two lockfiles, from files or from git, as text, Markdown, or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import click

from envforge.cli.options import Argument, JsonOption, Option, platform_here, takes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from envforge.base.envelope import Json
    from envforge.lock.diff import Change, Comparison, Pinned, PlatformDiff
    from envforge.lock.lockfile import Lockfile

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffOptions:
    """The command line of ``envforge diff``."""

    before: Annotated[str, Argument(metavar="A")]
    after: Annotated[str | None, Argument(metavar="[B]")] = None
    as_markdown: Annotated[bool, Option("Print Markdown for a pull request.", "--markdown")]
    as_json: JsonOption


@click.command("diff")
@takes(DiffOptions)
def diff(options: DiffOptions) -> None:
    """Show what changes from lockfile A to lockfile B: packages, downloads, and machine requirements.

    A and B are files (conda-lock.yml or @EXPLICIT), git:REV for the project's conda-lock.yml at that revision, or
    git:REV:PATH for another file, relative to the current directory.  [default for B: conda-lock.yml of the project]

    Exits with 0 if both install the same files, and with 1 if they differ or can't be read.
    """
    from pathlib import Path

    from envforge.base.envelope import finding, success
    from envforge.cli.options import warn_of_incomplete_environment
    from envforge.lock.diff import compare
    from envforge.lock.project import find_lockfile
    from envforge.pytorch.matrix import load_matrix

    warn_of_incomplete_environment()
    before, after = options.before, options.after or str(find_lockfile(Path()))
    locks = [_read(spec) for spec in (before, after)]
    comparison = compare(locks[0], locks[1], load_matrix(), _known_sizes(locks))
    if options.as_json:
        result = _to_json(comparison)
        click.echo(success("diff", result) if comparison.is_same else finding("diff", result))
    elif options.as_markdown:
        click.echo(_to_markdown(comparison, before, after))
    else:
        click.echo(_to_words(comparison, before, after))
    if not comparison.is_same:
        raise click.exceptions.Exit(1)


def _read(spec: str) -> Lockfile:
    from pathlib import Path

    from envforge.base.git import GIT_PREFIX, read_revision
    from envforge.cli.options import warn_of_incomplete_change
    from envforge.lock.plan import parse_any_lock, read_any_lock
    from envforge.lock.project import find_lockfile

    if spec.startswith(GIT_PREFIX):
        folder = Path() if ":" in spec.removeprefix(GIT_PREFIX) else find_lockfile(Path()).parent
        return parse_any_lock(read_revision(spec, folder), spec, platform_here())
    warn_of_incomplete_change(Path(spec))
    return read_any_lock(Path(spec), platform_here())


def _known_sizes(locks: list[Lockfile]) -> Mapping[str, int]:
    """Return the sizes of the files in this computer's package cache, by SHA-256."""
    import os
    from pathlib import Path

    from envforge.lock.plan import Artifact, Digest
    from envforge.prefix.cache import Store, default_root
    from envforge.prefix.clean import file_bytes

    store = Store(Path(os.environ.get("ENVFORGE_CACHE") or default_root()))
    found = {}
    for package in (package for lock in locks for package in lock.packages if package.sha256 and package.file_name):
        digest = Digest(algorithm="sha256", hex=package.sha256 or "")
        size = file_bytes(store.path(Artifact(package=package, digest=digest)))
        if size is not None:
            found[digest.hex] = size
    return found


def _to_words(comparison: Comparison, before: str, after: str) -> str:
    if comparison.is_same:
        return f"{after} installs the same files as {before}"
    return "\n".join([f"from {before} to {after}", *(_platform_words(one) for one in comparison.platforms)])


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
    from envforge.base.urls import show_url

    more = {"file": f" (checksum {pinned.checksum[:12]}…)", "address": f" from {show_url(pinned.url)}"}
    return f"{pinned}{more.get(what, f' ({pinned.category})' if what == 'category' else '')}"


def _from_to(before: str, after: str) -> str:
    return f"{before or 'none'} → {after or 'none'}"


def _fetch(one: PlatformDiff) -> str:
    from envforge.cli.progress import megabytes

    files = f"{one.new_files} file" + ("s" if one.new_files > 1 else "")
    if one.sized == 0:
        return f"{files} of unknown size"
    if one.sized == one.new_files:
        return f"{files}, {megabytes(one.fetch_bytes)}"
    unknown = one.new_files - one.sized
    return f"{files}, {megabytes(one.fetch_bytes)} plus {unknown} file{'' if unknown == 1 else 's'} of unknown size"


def _shown(text: str) -> str:
    """Replace characters that control a terminal or start a new line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _to_markdown(comparison: Comparison, before: str, after: str) -> str:
    if comparison.is_same:
        return f"{_code(after)} installs the same files as {_code(before)}."
    lines = [f"### From {_code(before)} to {_code(after)}"]
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
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "`" + plain.replace("`", "'").replace("|", "\\|") + "`"


def _to_json(comparison: Comparison) -> Json:
    return {
        "platforms": [
            {
                "platform": one.platform,
                "kind": one.kind,
                "changes": [_change_json(change) for change in one.changes],
                "machine": [{"what": s.what, "before": s.before, "after": s.after} for s in one.machine],
                "new_files": one.new_files,
                "new_files_of_known_size": one.sized,
                "known_bytes": one.fetch_bytes,
            }
            for one in comparison.platforms
        ]
    }


def _change_json(change: Change) -> Json:
    return {
        "name": change.name,
        "manager": change.manager,
        "kind": change.kind,
        "what": change.what,
        "before": _pinned_json(change.before),
        "after": _pinned_json(change.after),
    }


def _pinned_json(pinned: Pinned | None) -> Json:
    from envforge.base.urls import show_url

    if pinned is None:
        return None
    return {
        "version": pinned.version,
        "build": pinned.build,
        "url": show_url(pinned.url),
        "sha256": pinned.sha256,
        "category": pinned.category,
    }
