"""Update a project to its template, and lock its variants again.

Nothing is written into the project, so that the variants change in the same transaction as everything else.

An ``Update`` is planned in memory; ``apply`` writes it in one transaction.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from envforge.base.envelope import Json
from envforge.base.staging import Interrupts, PlannedFile, Swap, TargetError, disk_errors, perform, staging
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.environment_spec import EnvironmentTexts, render_texts
from envforge.lock.lockfile import list_variants
from envforge.lock.project import ENVIRONMENT_FILE, LOCK_FILE, VARIANTS_DIRECTORY, VIRTUAL_PACKAGES_FILE
from envforge.project.changes import FileChange, OnConflict, has_conflict, plan_changes, read_there
from envforge.project.create import LockWay, request_aside
from envforge.project.plan import Project, record_of, render_project
from envforge.project.questions import Answer, TemplateQuestion, choose_groups, gather_answers, shown
from envforge.project.record import BASELINE, PROJECT_FILE, ProjectRecord, dump_baseline, dump_into, read_baseline
from envforge.project.templates import Opened, Template
from envforge.pytorch.matrix import FactsId, Selection

if TYPE_CHECKING:
    from envforge.lock.request import LockStep

_FILES = (ENVIRONMENT_FILE, VIRTUAL_PACKAGES_FILE, LOCK_FILE)


class VariantLock(Struct, frozen=True, kw_only=True):
    """One variant and its new files."""

    name: str
    files: tuple[PlannedFile, ...]
    warnings: tuple[str, ...] = ()


def derived_variants(folder: Path) -> tuple[str, ...]:
    """Return the variants that were derived from the project's environment.yml; the user maintains all others."""
    names = list_variants(folder)
    if not names:
        return ()
    from envforge.lock.variants import is_derived  # noqa: PLC0415 - most projects have no variants

    return tuple(name for name in names if is_derived(folder / VARIANTS_DIRECTORY / name / ENVIRONMENT_FILE))


def relock_variants(
    folder: Path, texts: EnvironmentTexts, way: LockWay, progress: Callable[[LockStep], None]
) -> tuple[VariantLock, ...]:
    """Derive and lock each variant for ``texts`` in a temporary directory; raise if one can't be locked."""
    from envforge.base.terms import WheelTag  # noqa: PLC0415 - as above
    from envforge.lock.variants import lock_variant  # noqa: PLC0415 - as above

    names = derived_variants(folder)
    if not names:
        return ()
    made = []
    with request_aside(texts, way) as request:
        aside = request.environment.parent
        for variant in names:
            place = PurePosixPath(VARIANTS_DIRECTORY, variant)
            shutil.copytree(folder / place, aside / place)  # a variant keeps the versions that still fit
            report = lock_variant(request, WheelTag.parse(variant), progress).report
            paths = [place / file for file in _FILES]
            files = tuple(PlannedFile(path=path, content=(aside / path).read_bytes()) for path in paths)
            made.append(VariantLock(name=variant, files=files, warnings=report.warnings))
    return tuple(made)


_LOCKED_FROM = (PurePosixPath(ENVIRONMENT_FILE), PurePosixPath(VIRTUAL_PACKAGES_FILE))


class UpdateRequest(Struct, frozen=True, kw_only=True):
    """What the user requests instead of what is recorded; ``selections`` is ``None`` to keep the builds.

    ``machine`` and ``facts`` are what new builds were selected with.
    """

    variables: tuple[str, ...] = ()
    with_groups: tuple[str, ...] = ()
    without_groups: tuple[str, ...] = ()
    selections: tuple[Selection, ...] | None = None
    machine: Json = None
    facts: FactsId | None = None
    envforge_requirement: str = ""
    on_conflict: OnConflict = "inline"


class Update(Struct, frozen=True, kw_only=True):
    """A planned update; ``notes`` are for the user, ``rendered`` are the files that the template produces now."""

    folder: Path
    before: ProjectRecord
    project: Project
    rendered: tuple[PlannedFile, ...]
    changes: tuple[FileChange, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_newer(self) -> bool:
        """True if the template, or a request, changes a rendered file or a recorded answer.

        The content decides, not the template's version or commit.
        """
        recorded = {name: digest for name, digest in self.before.files if name not in (LOCK_FILE, BASELINE)}
        given = {str(file.path): sha256(file.content).hexdigest() for file in self.rendered}
        return recorded != given or self._wanted(self.before) != self._wanted(record_of(self.project, self.rendered))

    @property
    def unresolved(self) -> tuple[str, ...]:
        """The files that contain both sides of a conflict now, from this update or an earlier one."""
        found = ((file.path, read_there(self.folder, file.path)) for file in self.rendered)
        return tuple(str(path) for path, there in found if there is not None and has_conflict(there.content))

    @property
    def changes_record(self) -> bool:
        """True if the record changes, even if only in the template's version or commit."""
        origin, before = self.project.origin, self.before
        versions = (before.template_version, before.origin.commit)
        return self.is_newer or versions != (self.project.template.version, origin.commit)

    @property
    def lock_texts(self) -> EnvironmentTexts | None:
        """The new input of the project's lock; ``None`` if it is unchanged, has conflicts, or there is no lock."""
        return self.changed_texts if (self.folder / LOCK_FILE).is_file() else None

    @property
    def changed_texts(self) -> EnvironmentTexts | None:
        """The new input of the project's locks; ``None`` if it is unchanged or has conflicts."""
        changed = [change for change in self.changes if change.path in _LOCKED_FROM and change.after is not None]
        if not changed or any(change.conflicts for change in changed):
            return None
        after = {change.path: change.after for change in changed}
        texts = [_text(after.get(path) or read_there(self.folder, path)) for path in _LOCKED_FROM]
        return EnvironmentTexts(environment=texts[0], virtual_packages=texts[1]) if all(texts) else None

    @property
    def stale_locks(self) -> tuple[str, ...]:
        """The lockfiles of the project and its variants that the update makes out of date."""
        if not any(change.path in _LOCKED_FROM and change.writes for change in self.changes):
            return ()
        own = (LOCK_FILE,) if (self.folder / LOCK_FILE).is_file() else ()
        return own + tuple(f"lockfiles/{name}/{LOCK_FILE}" for name in derived_variants(self.folder))

    def _wanted(self, record: ProjectRecord) -> ProjectRecord:
        """Return what the user chose, without versions and digests that follow from it."""
        origin = replace(record.origin, commit="")
        without = replace(
            record, envforge_version="", template_version="", files=(), input_sha256="", machine=None, facts=None
        )
        return replace(without, origin=origin)


class Locks(Struct, frozen=True, kw_only=True):
    """The new lockfiles of an update; all others are kept."""

    own: str | None = None
    variants: tuple[VariantLock, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the files, relative to the project."""
        own = () if self.own is None else (LOCK_FILE,)
        return own + tuple(str(variant.files[-1].path) for variant in self.variants)


def plan_update(folder: Path, record: ProjectRecord, opened: Opened, wishes: UpdateRequest) -> Update:
    """Render the project again and compare; raise ``EnvforgeError`` if the baseline or an answer is invalid."""
    template = opened.template
    if not opened.is_foreign:
        _refuse_other_layout(folder, record, template)
    # merged from what the template wrote then, because a newer envforge doesn't have the old template
    base = read_baseline(folder, record)
    answers, notes = carried_answers(template, record, wishes.variables)
    groups = _carried_groups(template, record, dict(answers), wishes)
    selections = record.selections if wishes.selections is None else wishes.selections
    project = Project(
        template=template,
        name=record.project,
        package=record.package,
        answers=answers,
        selections=selections,
        texts=render_texts(selections, template.needs_with(groups), _templates(template)),
        machine=record.machine if wishes.selections is None else wishes.machine,
        facts=record.facts if wishes.selections is None else wishes.facts,
        groups=groups,
        origin=opened.origin,
        envforge_requirement=wishes.envforge_requirement,
    )
    rendered = render_project(project)
    new = {file.path: file for file in rendered}
    return Update(
        folder=folder,
        before=record,
        project=project,
        rendered=rendered,
        changes=plan_changes(base, new, folder, wishes.on_conflict),
        notes=notes,
    )


_LAYOUT = 3  # the version in which the built-in templates got two layers, whose files can't be merged with older ones


def _refuse_other_layout(folder: Path, record: ProjectRecord, template: Template) -> None:
    """Raise if the project has the files of an older layout."""
    versions = (record.template_version, template.version)
    if not all(version.isdecimal() for version in versions) or not int(versions[0]) < _LAYOUT <= int(versions[1]):
        return
    raise EnvforgeError(
        f"`{folder}` was created from version {versions[0]} of the template `{template.name}`; since {_LAYOUT}, a "
        f"project has few files of its own and `{record.package}/engine/`, so files can't be merged; nothing changed",
        hint=(
            Hint("to create a new project in another directory", f"envforge new {template.name} DIR"),
            Hint("carry your changes of config.py, data.py, and model.py over, and loss and evaluation to task.py"),
        ),
        code="other-layout",
    )


def carried_answers(
    template: Template, record: ProjectRecord, variables: tuple[str, ...]
) -> tuple[tuple[tuple[str, Answer], ...], tuple[str, ...]]:
    """Return the recorded answers, replaced by ``variables``, and notes about added and removed questions."""
    recorded, named = dict(record.answers), {variable.partition("=")[0] for variable in variables}

    def again(question: TemplateQuestion) -> Answer:
        return _still_valid(question, recorded[question.name]) if question.name in recorded else question.default

    answers = gather_answers(template.questions, variables, again)
    asked = {question.name for question in template.questions}
    notes = [
        f"the template has a new question, `{name}`, which gets its default, `{shown(answer)}`"
        for name, answer in answers
        if name not in recorded and name not in named
    ]
    notes += [f"the template no longer has the question `{name}`" for name in recorded if name not in asked]
    return answers, tuple(notes)


def _still_valid(question: TemplateQuestion, answer: Answer) -> Answer:
    try:
        return question.parse(shown(answer))
    except ValueError as rule:
        raise RequestError(
            f"the answer `{shown(answer)}` to `{question.name}` in `{PROJECT_FILE}` isn't valid now; expected {rule}",
            hint=f"to use the default, pass `--var {question.name}={shown(question.default)}`",
            code="bad-answer",
        ) from rule


def apply(update: Update, locks: Locks) -> bool:
    """Apply the update in one transaction, and return whether anything was written.

    Raise ``TargetError`` if a file was edited after the update was planned.
    """
    given = (*update.rendered, dump_baseline(update.rendered))
    lock = () if locks.own is None else (PlannedFile(path=PurePosixPath(LOCK_FILE), content=locks.own.encode()),)
    variants = tuple(file for variant in locks.variants for file in variant.files)
    # without the merged files: an edit of the user doesn't belong to what the template wrote
    record = record_of(update.project, (*given, *lock))
    # an update without a new lock keeps the lockfile, and so its recorded digest
    if locks.own is None:
        former = tuple((name, digest) for name, digest in update.before.files if name == LOCK_FILE)
        record = replace(record, files=tuple(sorted((*record.files, *former))))
    notes = [PlannedFile(path=PurePosixPath(PROJECT_FILE), content=_record_text(update.folder, record)), given[-1]]
    if not update.changes_record and locks.own is None:
        notes = []  # the project is unchanged, so the recorded version of envforge is kept, too
    files = [change.after for change in update.changes if change.writes and change.after is not None]
    files += [change.beside for change in update.changes if change.beside is not None]
    wanted = [file for file in (*files, *lock, *variants, *notes) if not _is_there(update.folder, file)]
    removed = _removed(update)
    if not wanted and not removed:
        return False
    with Interrupts() as interrupts, disk_errors(update.folder), staging(update.folder) as stage:
        # inside the lock of the directory: locking takes minutes, in which someone may edit a file
        _refuse_edited(update)
        perform(Swap(files=tuple(wanted), removed=removed), stage, update.folder, interrupts)
    return True


def _carried_groups(
    template: Template, record: ProjectRecord, answers: Mapping[str, Answer], wishes: UpdateRequest
) -> tuple[str, ...]:
    """Return the recorded groups, new groups of the template by their default, and the user's changes."""
    recorded = dict(record.groups)
    groups = tuple(replace(group, default=recorded.get(group.name, group.default)) for group in template.groups)
    return choose_groups(groups, answers, wishes.with_groups, wishes.without_groups)


def _templates(template: Template) -> Path:
    return template.common_root.parent


def _text(file: PlannedFile | None) -> str:
    return "" if file is None else file.content.decode().replace("\r\n", "\n")


def _record_text(folder: Path, record: ProjectRecord) -> bytes:
    return dump_into((folder / PROJECT_FILE).read_text(encoding="utf-8"), record).encode()


def _is_there(folder: Path, file: PlannedFile) -> bool:
    there = read_there(folder, file.path)
    return there is not None and (there.content, there.executable) == (file.content, file.executable)


def _removed(update: Update) -> tuple[PurePosixPath, ...]:
    gone = [change.path for change in update.changes if change.action == "remove"]
    return tuple(gone + [change.moved_from for change in update.changes if change.moved_from and change.writes])


def _refuse_edited(update: Update) -> None:
    """Raise if a file is no longer the one that the plan was made from."""
    for change in update.changes:
        if not change.writes:
            continue
        path = change.moved_from or change.path
        there = read_there(update.folder, path)
        if (there and (there.content, there.executable)) != (
            change.before and (change.before.content, change.before.executable)
        ):
            raise TargetError(
                f"`{update.folder / path}` was edited during the update, so nothing was written",
                hint="to update with your edit, run the command again",
                code="edited-since",
            )
