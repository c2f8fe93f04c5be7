"""Plan the files of a project in memory, and write them into its directory in one transaction.

Names of projects and paths are checked for every file system. Answers are data: they are inserted into a template,
never rendered as one.

A target that doesn't exist is built in a temporary directory next to it, and renamed. In an existing directory, every
file is renamed from a staging directory under a journal. An interrupted run is undone: immediately if Python still
runs, otherwise by the next run.
"""

from __future__ import annotations

import hashlib
import keyword
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

from msgspec import Struct

from envforge import __version__
from envforge.base.envelope import Json
from envforge.base.files import sync_folder
from envforge.base.jinja import TemplateError, render_template
from envforge.base.staging import (
    STAGING,
    Interrupts,
    PlannedFile,
    Swap,
    TargetError,
    disk_errors,
    fault_of_name,
    is_windows_device,
    perform,
    staging,
    write_tree,
)
from envforge.errors import Hint, RequestError, printable
from envforge.lock.environment_spec import EnvironmentTexts
from envforge.lock.project import ENVIRONMENT_FILE, LOCK_FILE, VIRTUAL_PACKAGES_FILE
from envforge.project.questions import Answer
from envforge.project.record import NOT_HELD, PROJECT_FILE, ProjectRecord, TemplateOrigin, dump_baseline, dump_record
from envforge.project.templates import Source, Template, project_sources
from envforge.pytorch.matrix import FactsId, Selection

# objects with methods were the way out of the sandbox in similar tools, so templates see only plain data
_LEFT_OUT = ("accepted", "refused")  # hundreds of builds, which no generated file needs


def plain_selection(selection: Selection) -> dict[str, Any]:
    """Return the fields of the selection by name; versions, tags, and platforms are strings."""
    return {name: _plain(getattr(selection, name)) for name in selection.__struct_fields__ if name not in _LEFT_OUT} | {
        "build": _build(selection)
    }


def _build(selection: Selection) -> dict[str, Any]:
    build = selection.build
    fields = {name: _plain(getattr(build, name)) for name in build.__struct_fields__}
    cuda = build.tag.cuda
    return fields | {"pins": dict(build.pins), "cuda": None if cuda is None else str(cuda)}


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Enum):
        return {"name": value.name, "value": value.value}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value)


_SUFFIX = ".jinja"
_PACKAGE = "__package__"


class Project(Struct, frozen=True, kw_only=True):
    """Everything that a project's files are rendered from, except its lock. ``machine`` is the machine's JSON record.

    ``groups`` are the names of the file groups that the project has. ``envforge_requirement`` is what generated files
    install envforge by; empty means this version, and only a stated requirement is recorded. ``facts`` are the
    refreshed facts that the builds were selected with.
    """

    template: Template
    name: str
    package: str
    answers: tuple[tuple[str, Answer], ...]
    selections: tuple[Selection, ...]
    texts: EnvironmentTexts
    machine: Json = None
    groups: tuple[str, ...] = ()
    origin: TemplateOrigin = TemplateOrigin()
    envforge_requirement: str = ""
    facts: FactsId | None = None

    @property
    def torch(self) -> str:
        """The torch build of the first platform, such as ``torch 2.7.1+cu118``."""
        build = self.selections[0].build
        return f"torch {build.pin(build.torch)}"

    @property
    def chosen(self) -> tuple[tuple[str, bool], ...]:
        """Every group of the template, and whether the project has it."""
        return tuple((group.name, group.name in self.groups) for group in self.template.groups)


def plan_project(project: Project, lock_text: str | None) -> tuple[PlannedFile, ...]:
    """Return every file of the project, sorted by path; raise ``TemplateError`` if the template is invalid."""
    rendered = render_project(project)
    # the baseline has what the template rendered, so the lockfile and the record come after it
    files = [*rendered, dump_baseline(rendered)]
    if lock_text is not None:
        files.append(PlannedFile(path=PurePosixPath(LOCK_FILE), content=lock_text.encode()))
    record = record_of(project, tuple(files))
    files.append(PlannedFile(path=PurePosixPath(PROJECT_FILE), content=dump_record(record).encode()))
    return tuple(sorted(files, key=lambda file: file.path))


def render_project(project: Project) -> tuple[PlannedFile, ...]:
    """Return all files that are rendered from the template and the selection: no lock and no records."""
    generated = {
        PurePosixPath(ENVIRONMENT_FILE): project.texts.environment,
        PurePosixPath(VIRTUAL_PACKAGES_FILE): project.texts.virtual_packages,
    }
    files = _template_files(project)
    files += [PlannedFile(path=path, content=text.encode()) for path, text in generated.items()]
    _refuse_paths(files, project.template)
    return tuple(sorted(files, key=lambda file: file.path))


def record_of(project: Project, files: tuple[PlannedFile, ...]) -> ProjectRecord:
    """Return the record of a project that consists of these files."""
    return ProjectRecord(
        envforge_version=__version__,
        template=project.template.name,
        template_version=project.template.version,
        origin=project.origin,
        project=project.name,
        package=project.package,
        answers=project.answers,
        selections=project.selections,
        input_sha256=project.texts.sha256,
        files=tuple(sorted((str(file.path), hashlib.sha256(file.content).hexdigest()) for file in files)),
        machine=project.machine,
        groups=project.chosen,
        envforge_requirement=project.envforge_requirement,
        facts=project.facts,
    )


def _template_files(project: Project) -> list[PlannedFile]:
    from envforge.base.distribution import pinned_requirement, python_image  # noqa: PLC0415 - slow to import

    requirement = project.envforge_requirement or pinned_requirement()
    template, selections = project.template, [plain_selection(selection) for selection in project.selections]
    variables: dict[str, object] = {
        "project": project.name,
        "package": project.package,
        "answers": dict(project.answers),
        "groups": dict(project.chosen),
        "selection": selections[0],
        "selections": selections,
        "template": {"name": template.name, "version": template.version, "summary": template.summary},
        "envforge_version": __version__,
        "envforge_requirement": shlex.quote(requirement),
        "envforge_image": python_image(requirement),
    }
    sources = project_sources(template, project.groups)
    if not template.is_foreign:
        return [_planned(source, variables, project.package, render_template) for source in sources]
    from envforge.base.confined import Confined  # noqa: PLC0415 - only templates of other people need it

    with closing(Confined()) as confined:
        return [_planned(source, variables, project.package, confined.render) for source in sources]


def _planned(
    found: Source, variables: dict[str, object], package: str, render: Callable[[str, Mapping[str, object], str], str]
) -> PlannedFile:
    source, path = found.root / found.path, found.path
    try:
        content = source.read_bytes()
        executable = bool(source.stat().st_mode & 0o100)
        if path.name == _SUFFIX:
            raise TemplateError(f"the template file `{source}` has no name before `{_SUFFIX}`", code="template-damaged")
        if path.name.endswith(_SUFFIX):
            path = path.with_name(path.name.removesuffix(_SUFFIX))
            content = render(content.decode(), variables, str(source)).encode()
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"cannot read the template file `{source}`: {error}", code="template-damaged") from error
    place = PurePosixPath(*(part.replace(_PACKAGE, package) for part in path.parts))
    return PlannedFile(path=place, content=content, executable=executable)


LONGEST = 64
LONGEST_FOLDER = 200

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*")
# imports that a project already has, in addition to the standard library (whose list leaves `test` out)
_TAKEN = frozenset({
    *("PIL", "conda", "envforge", "matplotlib", "mpl_toolkits", "pip", "pytest", "site_packages", "sklearn", "src"),
    *("test", "tests", "tqdm", "triton", "yaml", "functorch", "torchgen", "pkg_resources", "mpmath", "markupsafe"),
})  # fmt: skip


def check_project_name(name: str, option: str) -> str:
    """Return the name if every file system accepts it; ``option`` is its source, for errors."""
    if len(name) > LONGEST:
        raise _refusal(option, name[:20] + "…", f"expected at most {LONGEST} characters, found {len(name)}")
    if not _NAME.fullmatch(name):
        raise _refusal(
            option, name, "expected a letter, then ASCII letters and digits, with single `-` or `_` between them"
        )
    if is_windows_device(name):
        raise _refusal(option, name, "Windows reserves this name for a device")
    return name


def check_folder_name(name: str, option: str) -> str:
    """Return the name if every file system accepts it for a directory, even with the suffix that ``place`` adds."""
    if not name.isprintable():
        raise _bad_folder(option, name, "it contains invisible characters")
    if len(name.encode()) > LONGEST_FOLDER:
        raise _bad_folder(
            option, name[:20] + "…", f"expected at most {LONGEST_FOLDER} bytes, found {len(name.encode())}"
        )
    if is_windows_device(name):
        raise _bad_folder(option, name, "Windows reserves this name for a device")
    return name


def package_name(project: str, option: str, installed: Iterable[str]) -> str:
    """Return the import name of the project; ``installed`` are conda and pip names of its environment."""
    package = project.replace("-", "_").lower()
    if keyword.iskeyword(package) or keyword.issoftkeyword(package) or package in ("true", "false", "none"):
        raise _refusal(option, project, f"`{package}` is a keyword of Python")
    if package in sys.stdlib_module_names:
        raise _refusal(option, project, f"`import {package}` is a module of Python's standard library")
    taken = {name.replace("-", "_").lower() for name in (*installed, *_TAKEN)}
    if package in taken:
        raise _refusal(option, project, f"`import {package}` already imports another package in such a project")
    return package


def _bad_folder(option: str, name: str, rule: str) -> RequestError:
    return RequestError(
        f"{option} `{printable(name)}` can't be the name of a directory: {rule}",
        hint="to create the project elsewhere, choose another DIR",
        code="bad-target",
    )


def _refusal(option: str, name: str, rule: str) -> RequestError:
    return RequestError(
        f"{option} `{printable(name)}` can't be the name of a project: {rule}",
        hint="to name the project differently from its directory, pass `--name NAME`, such as `--name my-project`",
        code="bad-project-name",
    )


def _refuse_paths(files: Iterable[PlannedFile], template: Template) -> None:
    """Raise ``TemplateError`` if two files have one path, or a path is reserved by a file system or another tool."""
    seen = {name.lower() for name in NOT_HELD}
    for file in files:
        for part in file.path.parts:
            fault = fault_of_name(part)
            if fault:
                raise TemplateError(
                    f"the template `{template.name}` writes `{printable(str(file.path))}`, "
                    f"but `{printable(part)}` {fault}",
                    code="template-path-refused",
                )
        key = str(file.path).lower()  # two names that differ in case are one file on macOS and Windows
        if key in seen or file.path.is_absolute():
            raise TemplateError(
                f"the template `{template.name}` writes `{file.path}` twice, or envforge writes that file itself",
                code="template-damaged",
            )
        seen.add(key)


_FORCE = Hint("to write into it, pass `--force`, which keeps your files and renames those in the way to NAME.orig")


class Placement(Struct, frozen=True, kw_only=True):
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
        elif _is_file_with(there, hashlib.sha256(file.content).hexdigest()):
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
    return not path.is_symlink() and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _free_name(target: Path, path: PurePosixPath) -> PurePosixPath:
    number = 0
    while True:
        name = path.with_name(f"{path.name}.orig{number or ''}")
        if not os.path.lexists(target / name):
            return name
        number += 1
