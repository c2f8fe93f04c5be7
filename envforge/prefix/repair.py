"""Restore a prefix to its lockfile: reinstall what differs, and move away files that belong to no package."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from envforge.errors import EnvforgeError
from envforge.lock.project import ENVFORGE_DIRECTORY
from envforge.prefix.audit import audit
from envforge.prefix.audit_report import AuditReport, AuditRequest, Repair, owners
from envforge.prefix.install import install
from envforge.prefix.journal import journal_path, lock_prefix
from envforge.prefix.values import InstallRequest, Progress

MOVED = f"{ENVFORGE_DIRECTORY}/moved"
_ROUNDS = 2


def repair(report: AuditReport, audited: AuditRequest, request: InstallRequest, progress: Progress) -> Repair:
    """Undo the drift of ``report`` with ``install``, which downloads, verifies, and links only what differs.

    A second round repairs what the first one uncovered: files that an uninstalled package left behind, and files that
    it shared with another package.
    """
    if not journal_path(report.prefix).exists():
        raise EnvforgeError(
            f"envforge did not create `{report.prefix}`, so `--fix` does not change it",
            hint="to install the lockfile into it anyway",
            command=shlex.join(
                ["envforge", "install", str(report.lockfile), "--prefix", str(report.prefix), "--force"]
            ),
            code="prefix-foreign",
        )
    linked: dict[str, None] = {}
    removed: dict[str, None] = {}
    moved: list[str] = []
    for _ in range(_ROUNDS):
        if not report.drift:
            break
        with lock_prefix(report.prefix):
            moved += _move_aside(report.prefix, [found.path for found in report.drift if found.kind == "file-stray"])
        done = install(replace(request, reinstall=owners(report.drift), reread=True), progress)
        linked |= dict.fromkeys(done.linked)
        removed |= dict.fromkeys(done.removed)
        report = audit(audited, progress)
    return Repair(
        linked=tuple(linked),
        removed=tuple(removed),
        moved=tuple(moved),
        moved_to=report.prefix / MOVED,
        after=report,
    )


def _move_aside(prefix: Path, paths: Iterable[str]) -> Iterator[str]:
    """Move files to ``MOVED`` and yield their paths; files that were moved earlier are not replaced."""
    for path in sorted(paths):
        # a file that belongs to no package may be someone's work, so it is moved and never deleted
        target = prefix / MOVED / path
        number = 1
        while target.exists() or target.is_symlink():
            number += 1
            target = (prefix / MOVED / path).with_name(f"{Path(path).name}.{number}")
        target.parent.mkdir(parents=True, exist_ok=True)
        (prefix / path).rename(target)
        _remove_empty((prefix / path).parent)
        yield path


def _remove_empty(folder: Path) -> None:
    """Remove directories that contain only bytecode."""
    while folder.name != "site-packages" and all(entry.name == "__pycache__" for entry in folder.iterdir()):
        shutil.rmtree(folder)
        folder = folder.parent
