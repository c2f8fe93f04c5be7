"""Create a project: draft it from a template and a selection, obtain its lockfile, and write it in one transaction."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from envforge.base.data_files import templates_root
from envforge.base.staging import PlannedFile
from envforge.errors import RequestError
from envforge.lock.environment_spec import TORCH_FAMILY, render_texts, split_conda_spec, torch_requirement_names
from envforge.lock.project import ENVIRONMENT_FILE, LOCK_FILE
from envforge.machine.record import machine_to_json, redact
from envforge.project.locking import BuildQuery, LockedProject, LockWay, ProjectLock
from envforge.project.place import Placement, abandoned, enclosing_repository, place, plan_placement
from envforge.project.plan import Project, check_project_name, package_name, plan_project
from envforge.project.questions import Answer, TemplateQuestion, choose_groups, gather_answers
from envforge.project.record import written_files
from envforge.project.template_source import Opened, source_from
from envforge.project.templates import Template


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRequest:
    """A project to create in ``target``, on the builds that ``query`` selects.

    ``name`` defaults to the name of the target. ``variables`` are answers, as ``KEY=VALUE``; ``with_groups`` and
    ``without_groups`` are names of file groups. ``force`` writes into a directory that isn't empty. ``dry_run`` writes
    nothing. ``envforge_requirement`` is what generated files install envforge by; empty means this version.
    """

    target: Path
    query: BuildQuery
    name: str | None = None
    variables: tuple[str, ...] = ()
    with_groups: tuple[str, ...] = ()
    without_groups: tuple[str, ...] = ()
    way: LockWay = LockWay()  # noqa: RUF009 - a frozen value
    envforge_requirement: str = ""
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Created:
    """A project that was created or, with ``dry_run``, would be."""

    project: Project
    target: Path
    files: tuple[PlannedFile, ...]
    placement: Placement
    lock: ProjectLock
    dry_run: bool = False
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about the builds and the lockfile, each once."""
        found = [warning for selection in self.project.selections for warning in selection.warnings]
        return tuple(dict.fromkeys([*found, *self.lock.warnings, *self._stale_lock()]))

    def has_module(self, name: str) -> bool:
        """Return whether the project's package has a module of that name."""
        return PurePosixPath(self.project.package, f"{name}.py") in {file.path for file in self.files}

    def _stale_lock(self) -> tuple[str, ...]:
        changed = PurePosixPath(ENVIRONMENT_FILE) in self.placement.replaced
        if self.lock.text is not None or not changed or not (self.target / LOCK_FILE).exists():
            return ()
        return (f"{LOCK_FILE} in {self.target} still belongs to the previous environment",)


def draft_project(
    opened: Opened, request: NewRequest, ask: Callable[[TemplateQuestion], Answer] | None = None
) -> Project:
    """Return the project in memory; raise ``EnvforgeError`` if a name, an answer, or a group is invalid.

    ``ask`` answers the questions that ``request`` leaves open; without it, they get their defaults.
    """
    template = opened.template
    option = "DIR" if request.name is None else "--name"
    name = check_project_name(request.target.absolute().name if request.name is None else request.name, option)
    package = package_name(name, option, _installed(template))
    answers = gather_answers(template.questions, request.variables, ask)
    groups = choose_groups(template.groups, dict(answers), request.with_groups, request.without_groups)
    selections = request.query.select()
    source = source_from(opened.origin.source, request.target) if opened.is_foreign else ""
    return Project(
        template=template,
        name=name,
        package=package,
        answers=answers,
        selections=selections,
        texts=render_texts(selections, template.needs_with(groups), templates_root()),
        machine=machine_to_json(redact(request.query.machine)),
        groups=groups,
        origin=replace(opened.origin, source=source),
        envforge_requirement=request.envforge_requirement,
        facts=request.query.matrix.refreshed,
    )


def write_project(wanted: Project, locked: LockedProject, request: NewRequest) -> Created:
    """Write the locked project, or with ``dry_run`` plan it; ``wanted`` is the project as it was drafted."""
    target, project = request.target, locked.project
    files, before = plan_project(project, locked.lock.text), written_files(target)
    if request.dry_run:
        placement = plan_placement(files, target, before)
    else:
        placement = place(files, target, force=request.force, written_before=before)
    return Created(
        project=project,
        target=target,
        files=files,
        placement=placement,
        lock=locked.lock,
        dry_run=request.dry_run,
        notes=(*_note_of_other_build(wanted, locked, target), *_notes_about(target)),
    )


def require_platform(project: Project, platform: str) -> None:
    """Raise ``EnvforgeError`` if the project has no packages for a platform, on which it is to be installed."""
    if platform not in {each.build.platform for each in project.selections}:
        platforms = ", ".join(f"`{each.build.platform}`" for each in project.selections)
        raise RequestError(
            f"`--install` requires a project for `{platform}`, this computer's platform, but it is for {platforms}",
            hint="to create the project without its environment, omit `--install`",
            code="no-platform-to-install",
        )


def _installed(template: Template) -> tuple[str, ...]:
    """Return the names that the environment's packages are imported by; ``names`` knows those that differ."""
    needs = template.needs_with([group.name for group in template.groups])
    return (*TORCH_FAMILY, *torch_requirement_names(), *(split_conda_spec(spec)[0] for spec in needs.conda))


def _note_of_other_build(wanted: Project, locked: LockedProject, target: Path) -> tuple[str, ...]:
    """Return the line that names the build that was not selected, and how to switch to it."""
    if not locked.silent_host:
        return ()
    build, directory = wanted.selections[0].build, shlex.quote(str(target))
    switch = f"envforge update --directory {directory} --cuda {build.tag.cuda or 'cpu'} --torch {build.torch}"
    reason = f"{locked.silent_host} can't be reached, so the project uses {locked.project.torch}"
    other = f"whose lockfile is in the catalogue, instead of {wanted.torch}"
    return (f"{reason}, {other}; to switch when you are online, run `{switch}`",)


def _notes_about(target: Path) -> list[str]:
    repository = enclosing_repository(target)
    notes = []
    if repository is not None:
        note = f"{target} is inside another git repository, which begins at {repository}"
        notes.append(f"{note}; to keep the project out of it, choose a DIR outside")
    for folder in abandoned(target):
        remove = f"rm -r {shlex.quote(str(folder))}"
        notes.append(f"an interrupted run left `{folder}`, which nothing uses; to remove it, run `{remove}`")
    return notes
