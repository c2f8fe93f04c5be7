"""Create a project: draft it from a template and a selection, obtain its lockfile, and write it in one transaction."""

from __future__ import annotations

import datetime as dt
import shlex
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from envforge.base.data_files import lockfiles_root, templates_root
from envforge.base.staging import PlannedFile, settle_interrupted
from envforge.base.urls import Mirrors, Url, show_url
from envforge.catalogue.index import CatalogueEntry, filled, find_entry, list_entries, verified_text
from envforge.errors import OutsideError, RequestError
from envforge.lock.environment_spec import (
    TORCH_FAMILY,
    EnvironmentTexts,
    render_texts,
    split_conda_spec,
    torch_requirement_names,
)
from envforge.lock.project import ENVIRONMENT_FILE, LOCK_FILE, VIRTUAL_PACKAGES_FILE
from envforge.machine.record import machine_to_json, redact
from envforge.machine.values import Machine
from envforge.project.plan import (
    Placement,
    Project,
    abandoned,
    check_project_name,
    check_target,
    enclosing_repository,
    package_name,
    place,
    plan_placement,
    plan_project,
)
from envforge.project.questions import Answer, TemplateQuestion, choose_groups, gather_answers
from envforge.project.record import written_files
from envforge.project.templates import Opened, Template, open_template, source_from
from envforge.pytorch.matrix import Build, Matrix, Request, Selection
from envforge.pytorch.reasons import NoBuildError
from envforge.pytorch.select import select_platforms

if TYPE_CHECKING:
    from envforge.catalogue.index import ChosenCatalogue
    from envforge.lock.request import LockRequest, LockStep


LockOrigin = Literal["catalogue", "solved", "to-solve", "none"]


class LockWay(Struct, frozen=True, kw_only=True):
    """How to obtain the lock. ``fresh`` ignores the catalogues; ``team`` is searched before the built-in one."""

    wanted: bool = True
    fresh: bool = False
    dry_run: bool = False
    conda_exe: Path | None = None
    mirrors: Mirrors = Mirrors()
    team: ChosenCatalogue | None = None


class ProjectLock(Struct, frozen=True, kw_only=True):
    """The lock of a new project.

    ``date`` is the day of publication if the lock has a ``publisher``, which means a team's catalogue. For the built-in
    catalogue, it is the date of the newest record in the lock.
    """

    origin: LockOrigin
    text: str | None = None
    entry: str = ""
    publisher: str = ""
    date: dt.date | None = None
    requirements: str = ""
    warnings: tuple[str, ...] = ()


class LockedProject(Struct, frozen=True, kw_only=True):
    """A project with its lock.

    ``silent_host`` is a server that didn't answer, so that the project has another build, whose lockfile is in the
    catalogue; empty if the project has the build that was selected.
    """

    project: Project
    lock: ProjectLock
    silent_host: str = ""


class NoNetworkError(OutsideError):
    """The catalogue has no lockfile for a project, and a server that a solve requires can't be reached."""


def find_locked(
    project: Project, query: BuildQuery, way: LockWay, progress: Callable[[LockStep], None]
) -> LockedProject | None:
    """Return the project with a lock of a catalogue; None if it must be solved.

    Without a network, it is the project on the best build whose lockfile is in the catalogue. Raises ``NoNetworkError``
    if there is none.
    """
    if not way.wanted:
        return LockedProject(project=project, lock=ProjectLock(origin="none"))
    found = find_lock(project.texts, way, progress)
    if found is not None:
        return LockedProject(project=project, lock=found)
    # without a network, a solve would fail only after all its retries, so the first requests go to the servers
    host = None if way.fresh or way.conda_exe is not None else unreachable_host(project, way.mirrors)
    if host is None:
        return None
    other = next(locked_projects(project, query), None)
    if other is None:
        raise _no_network(project, host)
    return LockedProject(project=other, lock=obtain_lock(other.texts, way, progress), silent_host=host)


def _no_network(project: Project, host: str) -> NoNetworkError:
    builds = [
        f"torch {each.build.pin(each.build.torch)} with Python {each.python} on {each.build.platform}"
        for each in project.selections
    ]
    needs = builds[0] if len(builds) == 1 else f"the combination of {' and '.join(builds)}"
    packages = [spec for group in project.template.groups if group.name in project.groups for spec in group.conda]
    needs += f" and {', '.join(packages)}" if packages else ""
    return NoNetworkError(
        f"the catalogue has no lockfile for {needs}, and `{host}`, which a solve requires, can't be reached",
        code="no-network",
    )


def obtain_lock(texts: EnvironmentTexts, way: LockWay, progress: Callable[[LockStep], None]) -> ProjectLock:
    """Find or solve the lock for ``texts``, and report each step to ``progress``."""
    if not way.wanted:
        return ProjectLock(origin="none")
    found = find_lock(texts, way, progress)
    if found is not None:
        return found
    return ProjectLock(origin="to-solve") if way.dry_run else _solve(texts, way, progress)


def find_lock(texts: EnvironmentTexts, way: LockWay, progress: Callable[[LockStep], None]) -> ProjectLock | None:
    """Return the lock of exactly these texts from the team's catalogue or the built-in one; None if neither has it."""
    if way.fresh:
        return None
    found = None if way.team is None else _from_team(texts.sha256, way.team, progress)
    if found is not None:
        return found
    entry = find_entry(lockfiles_root(), texts.sha256)
    return None if entry is None else _filled(entry, verified_text(entry), progress)


def _from_team(input_sha256: str, team: ChosenCatalogue, progress: Callable[[LockStep], None]) -> ProjectLock | None:
    """Find the lock in the team's catalogue; skip a catalogue that can't be reached, raise if it is invalid."""
    from envforge.catalogue.directory import NoCatalogueError, lock_text, open_catalogue  # noqa: PLC0415 - only if a team has a catalogue

    try:
        with open_catalogue(team.address, team.public_key) as source:
            entry = find_entry(source.root, input_sha256)
            return None if entry is None else _filled(entry, lock_text(source, entry, team.public_key), progress)
    # without the team's server, the built-in catalogue still works; an invalid signature stops
    except (OutsideError, NoCatalogueError) as error:
        _telling(progress)(f"skipping the catalogue that {team.source} names: {error.message}")
        return None


def _filled(entry: CatalogueEntry, text: str, progress: Callable[[LockStep], None]) -> ProjectLock:
    return ProjectLock(
        origin="catalogue",
        text=filled(text, str(entry.path), _telling(progress)),
        entry=f"{entry.template} {entry.variant}" if entry.published is None else entry.name,
        publisher="" if entry.published is None else entry.published.by,
        date=entry.date,
        requirements=entry.requirements.words,
    )


def _telling(progress: Callable[[LockStep], None]) -> Callable[[str], None]:
    def tell(text: str) -> None:
        from envforge.lock.request import LockStep  # noqa: PLC0415 - most locks of the catalogue need no message

        progress(LockStep(text=text, is_note=True))

    return tell


def _solve(texts: EnvironmentTexts, way: LockWay, progress: Callable[[LockStep], None]) -> ProjectLock:
    from envforge.lock.locking import lock  # noqa: PLC0415 - slow to import, and a lock of the catalogue needs none

    with request_aside(texts, way) as request:
        report = lock(request, progress)
        text = request.lockfile.read_text(encoding="utf-8")
    return ProjectLock(origin="solved", text=text, warnings=report.warnings)


@contextmanager
def request_aside(texts: EnvironmentTexts, way: LockWay) -> Iterator[LockRequest]:
    """Yield a request to lock ``texts`` in a temporary directory, which is removed at the end of the block."""
    from envforge.lock.request import LockRequest  # noqa: PLC0415 - slow to import, and a lock of the catalogue needs none

    with tempfile.TemporaryDirectory(prefix="envforge-lock-") as name:
        folder = Path(name)
        for file, text in ((ENVIRONMENT_FILE, texts.environment), (VIRTUAL_PACKAGES_FILE, texts.virtual_packages)):
            (folder / file).write_text(text, encoding="utf-8", newline="\n")
        yield LockRequest(
            environment=folder / ENVIRONMENT_FILE,
            lockfile=folder / LOCK_FILE,
            conda_exe=way.conda_exe,
            mirrors=way.mirrors,
            is_aside=True,
        )


_ANSWER_S = 4.0
_PREFERRED = "is the best build with a lockfile in the catalogue"


class BuildQuery(Struct, frozen=True, kw_only=True):
    """What a project's builds are selected from."""

    machine: Machine
    request: Request
    platforms: tuple[str, ...]
    matrix: Matrix

    def select(self) -> tuple[Selection, ...]:
        """Return the best build for each platform; raise ``NoBuildError`` if there is none."""
        return select_platforms(self.machine, self.request, self.platforms, self.matrix)

    def select_build(self, build: Build) -> tuple[Selection, ...]:
        """Return ``build``, and its counterparts on the other platforms, with the request as it was made."""
        exact = replace(self.request, torch=build.torch, cuda=build.tag)
        answers = select_platforms(self.machine, exact, self.platforms, self.matrix, preferred=_PREFERRED)
        return tuple(
            replace(answer, request=replace(answer.request, torch=self.request.torch, cuda=self.request.cuda))
            for answer in answers
        )

    def without(self, *options: str) -> BuildQuery:
        """Return the query without some of the requested versions: ``cuda``, ``torch``, ``python``."""
        without: dict[str, Any] = dict.fromkeys(options)
        return replace(self, request=replace(self.request, **without))


def locked_projects(project: Project, query: BuildQuery) -> Iterator[Project]:
    """Yield the project on each build that fits the query and has a lockfile in the built-in catalogue, best first."""
    try:
        best = query.select()
    except NoBuildError:
        return
    first = next((each for each in best if each.build.platform == query.machine.platform), best[0])
    platforms = {each.build.platform for each in best}
    known = {
        (entry.selection.torch, entry.selection.tag)
        for entry in list_entries(lockfiles_root())
        if set(entry.platforms) == platforms
    }
    for candidate in first.accepted:
        if (candidate.build.torch, candidate.build.tag) in known:
            found = _with_build(project, query, candidate.build)
            if found is not None and find_entry(lockfiles_root(), found.texts.sha256) is not None:
                yield found


def _with_build(project: Project, query: BuildQuery, build: Build) -> Project | None:
    try:
        selections = query.select_build(build)
        texts = render_texts(selections, project.template.needs_with(project.groups), templates_root())
    except (NoBuildError, RequestError):  # another platform, or another member of the torch family, has no such build
        return None
    return replace(project, selections=selections, texts=texts)


def unreachable_host(project: Project, mirrors: Mirrors) -> str | None:
    """Return the first server needed for a solve that doesn't answer within a few seconds; None if all answer."""
    from envforge.lock.solver.request import ALIAS  # noqa: PLC0415 - imports rattler, and only a solve needs it

    urls = [f"{ALIAS}/conda-forge", *dict.fromkeys(selection.index_url for selection in project.selections)]
    return _first_silent([mirrors.to_mirror(url) for url in urls])


def _first_silent(urls: Iterable[str]) -> str | None:
    asked = []
    for url in urls:
        answered = threading.Event()
        # a daemon, because a name server that doesn't answer can't be interrupted
        thread = threading.Thread(target=_ask, args=(url, answered), daemon=True)
        thread.start()
        asked.append((url, thread, answered))
    for _, thread, _ in asked:
        thread.join(_ANSWER_S + 1)
    return next((_host(url) for url, _, answered in asked if not answered.is_set()), None)


def _ask(url: str, answered: threading.Event) -> None:
    """Set ``answered`` if the server sends any HTTP response; a proxy that rejects the connection doesn't count."""
    from envforge.base.net import Client, NetworkError  # noqa: PLC0415 - a lock of the catalogue needs no network

    try:
        folder = Url.parse(url).file_path
        if folder is None:
            Client(timeout_s=_ANSWER_S).send(f"{url.rstrip('/')}/", method="HEAD", redirect=False).close()
    except (NetworkError, ValueError):
        return
    if folder is None or folder.exists():
        answered.set()


def _host(url: str) -> str:
    try:
        return Url.parse(url).host
    except ValueError:
        return show_url(url)


class NewRequest(Struct, frozen=True, kw_only=True):
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
    way: LockWay = LockWay()
    envforge_requirement: str = ""
    force: bool = False
    dry_run: bool = False


class Created(Struct, frozen=True, kw_only=True):
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
    # absolute, because `.` has no name
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


def create(template: str, request: NewRequest, progress: Callable[[LockStep], None]) -> Created:
    """Create a project of a template, which is a name, a directory, or the URL of a repository."""
    with open_template(template, Path()) as opened:
        if not request.dry_run:
            settle_interrupted(request.target)
        check_target(request.target, force=request.force)
        project = draft_project(opened, request)
        locked = find_locked(project, request.query, request.way, progress)
        if locked is None:
            locked = LockedProject(project=project, lock=obtain_lock(project.texts, request.way, progress))
        return write_project(project, locked, request)


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
