"""Update a project to its template."""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import click
from click.core import ParameterSource
from msgspec import Struct
from msgspec.structs import replace

from envforge.base.distribution import stated_requirement
from envforge.base.envelope import Json, fields_to_json
from envforge.base.staging import PlannedFile, settle_interrupted
from envforge.cli import print_result
from envforge.cli.options import (
    DIRECTORY,
    JsonOption,
    MachineOption,
    Option,
    chosen_machine,
    fail_on_incomplete_change,
    hints_inside,
    repeated_command,
    takes,
    warn_of_incomplete_environment,
)
from envforge.cli.progress import counted, show_progress
from envforge.cli.project_options import LockSourceOptions, RequirementOption, SelectionOptions, TemplateOptions
from envforge.errors import EnvforgeError, Hint
from envforge.lock.project import LOCK_FILE
from envforge.lock.pylock import has_own_pylock, pylock_of
from envforge.machine.record import machine_from_json, machine_to_json, redact
from envforge.machine.values import Machine
from envforge.project import create
from envforge.project.changes import FileChange, is_text, unified_diff
from envforge.project.create import BuildQuery
from envforge.project.record import PROJECT_FILE, ProjectRecord, find_project, need_project_file, no_project
from envforge.project.templates import open_template
from envforge.project.update import Locks, Update, UpdateRequest, apply, derived_variants, plan_update, relock_variants
from envforge.pytorch.facts_file import note_of_other_facts
from envforge.pytorch.matrix import Request, load_matrix

_UNEDITED = {"update": "replaced", "add": "added", "remove": "removed"}  # what happens to files that you didn't edit
_FEWEST_TO_COUNT = 3  # fewer files are listed by name
_SELECTION = ("cuda", "torch", "python", "platforms", "prefer", "torch_index")


class UpdateOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge update``."""

    selection: SelectionOptions
    machine: MachineOption
    wishes: TemplateOptions
    envforge: RequirementOption
    directory: Annotated[
        Path | None,
        Option(
            "Directory of the project.  [default: the nearest with an envforge.toml, from here upward]",
            type=DIRECTORY,
            metavar="DIR",
        ),
    ]
    template_version: Annotated[
        str | None,
        Option("Update to this version of the template; for git, a branch, tag, or commit.", metavar="VERSION"),
    ]
    on_conflict: Annotated[
        Literal["inline", "rej"],
        Option("If both sides changed the same lines, write markers, or keep yours and write NAME.rej.", "--conflict"),
    ] = "inline"
    dry_run: Annotated[bool, Option("Show the changes as a diff, without writing anything.")]
    check: Annotated[
        bool, Option("Check for a newer template, without writing anything. Exits with 1 if there is one.")
    ]
    lock: LockSourceOptions
    as_json: JsonOption

    @property
    def typed(self) -> frozenset[str]:
        """The options of the selection that the command line has; all others are kept as recorded."""
        context = click.get_current_context()
        return frozenset(
            name for name in _SELECTION if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        )


@click.command()
@takes(UpdateOptions)
def update(options: UpdateOptions) -> None:
    """Update a project to its template, and keep your edits.

    The template is rendered again with the recorded answers, and its changes are merged into your files. If both sides
    changed the same lines, the file contains both between markers. To switch to another build, pass --cuda, --torch, or
    --python: environment.yml and the lockfile are updated too. All files change in one transaction.

    Exits with 1 if conflicts remain, or if --check finds a newer template.
    """
    if _run(options):
        raise click.exceptions.Exit(1)


def _run(options: UpdateOptions) -> bool:
    """Run the update; return whether something remains to be done."""
    folder = options.directory or find_project(Path.cwd()) or Path()
    for lockfile in (folder / LOCK_FILE, *folder.glob(f"lockfiles/*/{LOCK_FILE}")):
        fail_on_incomplete_change(lockfile)
    warn_of_incomplete_environment()
    # undoing an interrupted run writes, which these two options rule out
    if not (options.dry_run or options.check) and settle_interrupted(folder):
        click.echo(f"note: completed or undid an interrupted run in {folder} first", err=True)
    record = _record(options, folder)
    name = record.origin.source or record.template
    with open_template(name, folder, version=options.template_version) as opened:
        wishes, query = _wishes(options, record, folder)
        planned = plan_update(folder, record, opened, wishes)
    if options.check:
        _print_check(planned, as_json=options.as_json)
        return planned.is_newer
    locks = Locks() if options.dry_run else _lock(options, planned, query)
    written = not options.dry_run and apply(planned, locks)
    _print_update(options, planned, locks, written=written)
    return bool(planned.unresolved) or any(change.conflicts for change in planned.changes)


def _record(options: UpdateOptions, folder: Path) -> ProjectRecord:
    if options.directory is None and not (folder / PROJECT_FILE).is_file():
        raise no_project(f"neither `{folder.absolute()}` nor a parent directory has an `{PROJECT_FILE}`")
    return need_project_file(folder)


def _wishes(options: UpdateOptions, record: ProjectRecord, folder: Path) -> tuple[UpdateRequest, BuildQuery | None]:
    """Return the wishes, and what their builds are selected from, unless the builds are kept."""
    wishes = UpdateRequest(
        variables=options.wishes.var,
        with_groups=options.wishes.with_groups,
        without_groups=options.wishes.without_groups,
        on_conflict=options.on_conflict,
        envforge_requirement=_requirement(options, record, folder),
    )
    if not options.typed and options.machine is None:
        return wishes, None
    machine, matrix = _machine(options, record, folder), load_matrix()
    # a build changes on all platforms of the project, unless `--platform` names others
    recorded = tuple(selection.build.platform for selection in record.selections)
    platforms = options.selection.known_platforms(matrix) if "platforms" in options.typed else recorded
    typed = options.selection.to_request(matrix)
    chosen = {name: getattr(typed, name) for name in options.typed - {"platforms"}}
    former: Request = replace(record.selections[0].request, platform=None)
    query = BuildQuery(machine=machine, request=replace(former, **chosen), platforms=platforms, matrix=matrix)
    note = note_of_other_facts(record.facts, matrix.refreshed)
    if note:
        click.echo(f"warning: {note}", err=True)
    recorded_machine = machine_to_json(redact(machine))
    return replace(wishes, selections=query.select(), machine=recorded_machine, facts=matrix.refreshed), query


def _requirement(options: UpdateOptions, record: ProjectRecord, folder: Path) -> str:
    recorded = record.envforge_requirement
    return (
        stated_requirement(options.envforge, os.environ, (recorded, str(folder / PROJECT_FILE)) if recorded else None)
        or ""
    )


def _machine(options: UpdateOptions, record: ProjectRecord, folder: Path) -> Machine:
    """Return the machine of ``--machine``, else the one that the project was created for, else this one."""
    if options.machine is not None or record.machine is None:
        return chosen_machine(options.machine)
    return machine_from_json(record.machine, f"{folder / PROJECT_FILE}, machine")


def _lock(options: UpdateOptions, planned: Update, query: BuildQuery | None) -> Locks:
    """Return the new locks of the project and its variants; none if the environment is unchanged."""
    texts = planned.changed_texts
    if texts is None or options.lock.no_lock:
        return Locks()
    way = options.lock.way(planned.folder)
    try:
        with show_progress() as show:
            own = None if planned.lock_texts is None else create.obtain_lock(texts, way, show)
            variants = relock_variants(planned.folder, texts, way, show)
    except EnvforgeError as error:
        error.hints = (
            *_ways_in_catalogue(options, planned, query),
            Hint("to update the project without its lockfile", repeated_command({"no_lock": True, "fresh": None})),
            *hints_inside(planned.folder, error.hints, "then, in the project, "),
        )
        raise
    warnings = [*(() if own is None else own.warnings)]
    warnings += [f"variant {variant.name}: {warning}" for variant in variants for warning in variant.warnings]
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    return Locks(own=None if own is None else own.text, variants=variants)


def _ways_in_catalogue(options: UpdateOptions, planned: Update, query: BuildQuery | None) -> tuple[Hint, ...]:
    """Return the builds whose lockfile is in the catalogue; it has none for an environment.yml that was edited."""
    from envforge.cli.new import ways_in_catalogue

    texts = planned.changed_texts
    if (
        query is None
        or texts is None
        or texts.sha256 != planned.project.texts.sha256
        or derived_variants(planned.folder)
    ):
        return ()
    return ways_in_catalogue(planned.project, query, python=options.selection.python is not None)


def _print_check(update: Update, *, as_json: bool) -> None:
    """Print whether the template is newer."""
    text = f"{_head(update)}: up to date"
    if update.is_newer:
        touched = counted(sum(change.writes for change in update.changes), "file")
        directory = "" if update.folder == Path() else f" --directory {shlex.quote(str(update.folder))}"
        text = f"{_head(update)}: update available ({touched} would change); run `envforge update{directory}`"
    print_result("update", {"newer": update.is_newer, **_facts(update)}, text, as_json=as_json)


def _print_update(options: UpdateOptions, update: Update, locks: Locks, *, written: bool) -> None:
    """Print what changed, or with ``dry_run`` would change."""
    if options.as_json:
        stale = tuple(path for path in update.stale_locks if path not in locks.paths)
        result = {
            "dry_run": options.dry_run,
            "written": written,
            "lock": "renewed" if LOCK_FILE in locks.paths else "to-renew" if LOCK_FILE in stale else "kept",
            "locks_renewed": locks.paths,
            "locks_to_renew": stale,
            "pylocks_to_renew": () if options.dry_run else _stale_pylocks(update),
            "unresolved": update.unresolved,
            **_facts(update),
        }
        print_result("update", result, "", as_json=True)
        return
    if not written and not (options.dry_run and (update.is_newer or update.changes)):
        click.echo(f"{_head(update)}: up to date, nothing changed")
        _print_changes(update)
        # an earlier update may have left a conflict that nobody resolved
        for path in update.unresolved:
            click.echo(f"warning: `{path}` still has both sides of a conflict; search for <<<<<<<", err=True)
        return
    verb = "would be updated" if options.dry_run else "updated"
    click.echo(f"{_head(update)}: {verb}\n")
    _print_changes(update)
    _print_locks(options, update, locks)
    if options.dry_run:
        for change in update.changes:
            click.echo(_diff_of(change), nl=False)
    for note in update.notes:
        click.echo(f"note: {note}", err=True)
    conflicts = [change for change in update.changes if change.conflicts]
    if conflicts and not options.dry_run:
        click.echo(f"\n{counted(len(conflicts), 'file')} with conflicts; resolve them, then commit", err=True)


def _diff_of(change: FileChange) -> str:
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
    one, other = (b"" if file is None else file.content for file in (before, after))
    names = ("/dev/null" if before is None else f"a/{old}", "/dev/null" if after is None else f"b/{new}")
    return unified_diff(one, other, *names).decode()


def _print_changes(update: Update) -> None:
    """Print a line for each change, but only one for the files of a directory that you didn't edit."""
    directories: dict[PurePosixPath, list[FileChange]] = {}
    for change in update.changes:
        directories.setdefault(change.path.parent, []).append(change)
    for directory, changes in directories.items():
        plain = [change for change in changes if change.action in _UNEDITED and not change.note]
        if len(plain) < _FEWEST_TO_COUNT or directory == PurePosixPath():
            plain = []
        if plain:
            parts = [(verb, sum(change.action == action for change in plain)) for action, verb in _UNEDITED.items()]
            told = ", ".join(f"{counted(count, 'file')} {verb}" for verb, count in parts if count)
            edited = "none of yours edited" if plain == changes else f"edited by you: {len(changes) - len(plain)}"
            click.echo(f"  {'update':<9} {directory}/: {told}; {edited}")
        for change in changes:
            if change not in plain:
                moved = f"{change.moved_from} → " if change.moved_from else ""
                note = f"  ({change.note})" if change.note else ""
                click.echo(f"  {change.action:<9} {moved}{change.path}{note}")


def _print_locks(options: UpdateOptions, update: Update, locks: Locks) -> None:
    for path in locks.paths:
        click.echo(f"  {'lock':<9} {path}")
    pylocks = _stale_pylocks(update)
    for path in update.stale_locks:
        pylock = pylock_of(Path(path)).as_posix()
        if path in locks.paths:
            if pylock in pylocks:
                _warn_of_stale(update, path, pylock)
        elif options.dry_run and not options.lock.no_lock and update.changed_texts is not None:
            click.echo(f"  {'lock':<9} {path} would be updated")
        else:
            _warn_of_stale(update, path, f"{path} and {pylock}" if pylock in pylocks else path)


def _stale_pylocks(update: Update) -> tuple[str, ...]:
    """Return each pylock.toml next to a lockfile that the update makes out of date."""
    own = (path for path in update.stale_locks if has_own_pylock(update.folder / path))
    return tuple(pylock_of(Path(path)).as_posix() for path in own)


def _warn_of_stale(update: Update, lockfile: str, files: str) -> None:
    variant = "" if lockfile == LOCK_FILE else f" --variant {lockfile.split('/')[1]}"
    pylock = " --pylock" if files != lockfile else ""
    enter = "" if update.folder == Path() else f"cd {shlex.quote(str(update.folder))} && "
    verb, them = ("belong", "them") if " and " in files else ("belongs", "it")
    command = f"{enter}envforge lock{variant}{pylock}"
    click.echo(f"warning: {files} {verb} to the previous environment; to update {them}, run `{command}`", err=True)


def _head(update: Update) -> str:
    template, before = update.project.template, update.before
    versions = template.version
    if before.template_version != versions:
        versions = f"{before.template_version} → {versions}"
    commits = [commit[:10] for commit in (before.origin.commit, update.project.origin.commit) if commit]
    commit = f" ({' → '.join(dict.fromkeys(commits))})" if commits else ""
    return f"{before.project}, from {template.name} {versions}{commit}"


def _facts(update: Update) -> dict[str, Json]:
    changes: list[Json] = [
        {
            **fields_to_json(change, "before", "after", "beside"),
            "beside": str(change.beside.path) if change.beside else None,
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
