"""Report what ``envforge update`` did, as text and as JSON."""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import click

from envforge.project.changes import Change
from envforge.project.staging import PlannedFile
from envforge.project.textmerge import is_text
from envforge.project.update import Locks, Update
from envforge.report import Json, success
from envforge.spec import LOCK_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What was done, and the values that its report needs."""

    written: bool
    dry_run: bool
    no_lock: bool
    as_json: bool


def say_check(update: Update, *, as_json: bool) -> None:
    """Print whether the template is newer."""
    if as_json:
        click.echo(success("update", {"newer": update.is_newer, **_facts(update)}))
    elif update.is_newer:
        touched = sum(change.writes for change in update.changes)
        click.echo(
            f"{_head(update)}: update available ({_files(touched)} would change); run `{_command(update, 'update')}`"
        )
    else:
        click.echo(f"{_head(update)}: up to date")


def say(update: Update, locks: Locks, told: Told) -> None:
    """Print what changed, or with ``dry_run`` would change."""
    if told.as_json:
        stale = tuple(path for path in update.stale_locks if path not in locks.paths)
        result: Json = {
            "dry_run": told.dry_run,
            "written": told.written,
            "lock": "renewed" if LOCK_FILE in locks.paths else "to-renew" if LOCK_FILE in stale else "kept",
            "locks_renewed": [*locks.paths],
            "locks_to_renew": [*stale],
            "unresolved": [*update.unresolved],
            **_facts(update),
        }
        click.echo(success("update", result))
        return
    if not told.written and not (told.dry_run and (update.is_newer or update.changes)):
        click.echo(f"{_head(update)}: up to date, nothing changed")
        _say_changes(update)
        for path in update.unresolved:
            click.echo(f"warning: `{path}` still has both sides of a conflict; search for <<<<<<<", err=True)
        return
    verb = "would be updated" if told.dry_run else "updated"
    click.echo(f"{_head(update)}: {verb}\n")
    _say_changes(update)
    _say_locks(update, locks, told)
    if told.dry_run:
        for change in update.changes:
            click.echo(diff_of(change), nl=False)
    for note in update.notes:
        click.echo(f"note: {note}", err=True)
    conflicts = [change for change in update.changes if change.conflicts]
    if conflicts and not told.dry_run:
        click.echo(f"\n{_files(len(conflicts))} with conflicts; resolve them, then commit", err=True)


def diff_of(change: Change) -> str:
    """Return a change as a unified diff; for a binary file, only that it differs."""
    if not change.writes:
        return ""
    text = _diff(change.before, change.after, str(change.moved_from or change.path), str(change.path))
    if change.beside is not None:
        text += _diff(None, change.beside, str(change.beside.path), str(change.beside.path))
    return text


def _diff(before: PlannedFile | None, after: PlannedFile | None, old: str, new: str) -> str:
    if any(file is not None and not is_text(file.content) for file in (before, after)):
        return f"Binary files a/{old} and b/{new} differ\n"
    one, other = (_lines(file) for file in (before, after))
    names = ("/dev/null" if before is None else f"a/{old}", "/dev/null" if after is None else f"b/{new}")
    found = difflib.unified_diff(one, other, *names)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in found)


def _lines(file: PlannedFile | None) -> list[str]:
    return [] if file is None else re.findall(r"[^\n]*\n|[^\n]+", file.content.decode())


def _say_changes(update: Update) -> None:
    for change in update.changes:
        moved = f"{change.moved_from} → " if change.moved_from else ""
        note = f"  ({change.note})" if change.note else ""
        click.echo(f"  {change.action:<9} {moved}{change.path}{note}")


def _say_locks(update: Update, locks: Locks, told: Told) -> None:
    for path in locks.paths:
        click.echo(f"  {'lock':<9} {path}")
    for path in update.stale_locks:
        if path in locks.paths:
            continue
        if told.dry_run and not told.no_lock and update.changed_texts is not None:
            click.echo(f"  {'lock':<9} {path} would be updated")
        else:
            variant = "" if path == LOCK_FILE else f" --variant {path.split('/')[1]}"
            command = _in_project(update, f"envforge lock{variant}")
            click.echo(f"warning: {path} belongs to the previous environment; to update it, run `{command}`", err=True)


def _head(update: Update) -> str:
    template, before = update.project.template, update.before
    versions = template.version
    if before.template_version != versions:
        versions = f"{before.template_version} → {versions}"
    commits = [commit[:10] for commit in (before.origin.commit, update.project.origin.commit) if commit]
    commit = f" ({' → '.join(dict.fromkeys(commits))})" if commits else ""
    return f"{before.project}, from {template.name} {versions}{commit}"


def _command(update: Update, name: str) -> str:
    """Return an envforge command for the project, from the working directory."""
    directory = "" if update.folder == Path() else f" --directory {shlex.quote(str(update.folder))}"
    return f"envforge {name}{directory}"


def _in_project(update: Update, command: str) -> str:
    return command if update.folder == Path() else f"cd {shlex.quote(str(update.folder))} && {command}"


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _facts(update: Update) -> dict[str, Json]:
    changes: list[Json] = [
        {
            "path": str(change.path),
            "action": change.action,
            "conflicts": change.conflicts,
            "moved_from": str(change.moved_from) if change.moved_from else None,
            "beside": str(change.beside.path) if change.beside else None,
            "note": change.note,
        }
        for change in update.changes
    ]
    origin = update.project.origin
    return {
        "template": {
            "name": update.project.template.name,
            "version": update.project.template.version,
            "former_version": update.before.template_version,
            "source": origin.source or None,
            "commit": origin.commit or None,
        },
        "changes": changes,
        "notes": list(update.notes),
    }
