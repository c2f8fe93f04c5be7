"""Write a planned tree of files into its directory, in one transaction.

A target that doesn't exist is built in a temporary directory next to it, and renamed. In an existing directory, every
file is renamed from a staging directory under a journal. An interrupted run is undone: immediately if Python still
runs, otherwise by the next run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from envforge.base.files import sync_folder
from envforge.base.staging import (
    STAGING,
    Interrupts,
    PlannedFile,
    Swap,
    TargetError,
    disk_errors,
    perform,
    staging,
    write_tree,
)
from envforge.errors import Hint

_FORCE = Hint("to write into it, pass `--force`, which keeps your files and renames those in the way to NAME.orig")


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """What happened to each file; ``kept`` pairs a file of the user with its new name."""

    created: tuple[PurePosixPath, ...] = ()
    replaced: tuple[PurePosixPath, ...] = ()
    unchanged: tuple[PurePosixPath, ...] = ()
    kept: tuple[tuple[PurePosixPath, PurePosixPath], ...] = ()


def check_target(target: Path, *, force: bool, can_force: bool = False) -> None:
    """Raise for a target that is a link, a file, not empty (without ``force``), or has no parent directory.

    ``can_force`` is true if the command has the option ``--force``.
    """
    elsewhere = Hint("to create it elsewhere, choose another directory")
    if target.is_symlink():
        raise TargetError(
            f"the target `{target}` is a symbolic link to `{target.readlink()}`",
            hint=f"to create the project there, pass `{target.resolve()}` as DIR",
            code="target-is-link",
        )
    if target.exists() and not target.is_dir():
        raise TargetError(
            f"the target `{target}` is a file, expected a directory",
            hint="to create the project elsewhere, choose another DIR",
            code="target-is-file",
        )
    if not target.is_dir() and not target.parent.is_dir():
        parent = target.parent
        reason = "is not a directory" if parent.exists() else "does not exist"
        make = Hint("to create it", f"mkdir -p {shlex.quote(str(parent))}")
        raise TargetError(
            f"the parent directory `{parent}` of the target `{target}` {reason}",
            hint=(Hint("to create the project elsewhere, choose another DIR"),) if parent.exists() else (make,),
            code="no-parent-folder",
        )
    found = sorted(entry.name for entry in target.iterdir() if entry.name != STAGING) if target.is_dir() else []
    if found and not force:
        raise TargetError(
            f"the target `{target}` is not empty: it contains `{found[0]}`"
            + (f" and {len(found) - 1} more" * (len(found) > 1)),
            hint=(elsewhere, *([_FORCE] if can_force else [])),
            code="target-not-empty",
        )


def plan_placement(files: tuple[PlannedFile, ...], target: Path, written_before: Mapping[str, str]) -> Placement:
    """Return what ``place`` would do. ``written_before`` maps paths to the sha256 that an earlier run wrote there."""
    created, replaced, unchanged = [], [], []
    kept: list[tuple[PurePosixPath, PurePosixPath]] = []
    for file in files:
        there = target / file.path
        refuse_obstacle(target, file.path)
        if not os.path.lexists(there):
            created.append(file.path)
        elif _is_file_with(there, sha256(file.content).hexdigest()):
            unchanged.append(file.path)
        else:
            replaced.append(file.path)
            if not _is_file_with(there, written_before.get(str(file.path), "")):
                kept.append((file.path, _free_name(target, file.path)))
    return Placement(created=tuple(created), replaced=tuple(replaced), unchanged=tuple(unchanged), kept=tuple(kept))


def place(files: tuple[PlannedFile, ...], target: Path, *, force: bool, written_before: Mapping[str, str]) -> Placement:
    """Write all files into ``target``, or leave everything unchanged.

    Raises ``TargetError`` if the target can't be used, ``OutsideError`` if the disk fails, and ``KeyboardInterrupt``
    only after everything was undone.
    """
    check_target(target, force=force)
    with Interrupts() as interrupts, disk_errors(target):
        if target.is_dir():
            return _merge(files, target, written_before, interrupts)
        return _build_beside(files, target, interrupts)


def abandoned(target: Path) -> tuple[Path, ...]:
    """Return the directories that killed runs for this target left next to it."""
    parent = target.parent
    return tuple(sorted(parent.glob(f".{target.name}.envforge-*"))) if parent.is_dir() else ()


def enclosing_repository(target: Path) -> Path | None:
    """Return the root of the git repository around ``target``; None if there is none, or if ``target`` is the root."""
    place = target.absolute()
    if (place / ".git").exists():
        return None
    return next((parent for parent in place.parents if (parent / ".git").exists()), None)


def _build_beside(files: tuple[PlannedFile, ...], target: Path, interrupts: Interrupts) -> Placement:
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.envforge-", dir=target.parent))
    try:
        new = aside / "new"
        write_tree(files, new, interrupts)
        interrupts.check()
        new.rename(target)  # fails if a file, a link, or a non-empty directory was created there meanwhile
        sync_folder(target.parent)
    finally:
        shutil.rmtree(aside)
    return Placement(created=tuple(file.path for file in files))


def _merge(
    files: tuple[PlannedFile, ...], target: Path, written_before: Mapping[str, str], interrupts: Interrupts
) -> Placement:
    with staging(target) as stage:
        placement = plan_placement(files, target, written_before)
        swapped = tuple(file for file in files if file.path not in placement.unchanged)
        perform(Swap(files=swapped, kept=placement.kept), stage, target, interrupts)
    return placement


def refuse_obstacle(target: Path, path: PurePosixPath) -> None:
    """Raise if a link, a file, or a directory is in the way of a file."""
    for parent in (target / part for part in reversed(path.parents) if part.parts):
        if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
            raise TargetError(
                f"`{parent}` is a link or a file, expected a directory for `{path}`",
                hint="to move it out of the way",
                command=_move_away(parent),
                code="target-obstructed",
            )
    if (target / path).is_dir() and not (target / path).is_symlink():
        raise TargetError(
            f"`{target / path}` is a directory, expected a file",
            hint="to move it out of the way",
            command=_move_away(target / path),
            code="target-obstructed",
        )


def _move_away(path: Path) -> str:
    return f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.orig')}"


def _is_file_with(path: Path, digest: str) -> bool:
    return not path.is_symlink() and path.is_file() and sha256(path.read_bytes()).hexdigest() == digest


def _free_name(target: Path, path: PurePosixPath) -> PurePosixPath:
    number = 0
    while True:
        name = path.with_name(f"{path.name}.orig{number or ''}")
        if not os.path.lexists(target / name):
            return name
        number += 1
