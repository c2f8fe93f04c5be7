"""The project's files, planned in memory.

Enters: a template, names, answers, one selection a platform, and the lock where there is one. Leaves: every file with
its path and bytes; ``envforge.project.place`` writes them. Answers are data: they are put into the text of a template,
never read as one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath

from envforge import __version__
from envforge.jinja import TemplateError, render
from envforge.project.place import PlannedFile
from envforge.project.questions import Answer
from envforge.project.record import NAME as PROJECT_FILE
from envforge.project.record import ProjectRecord, dump
from envforge.project.sources import Source, project_sources
from envforge.project.templates import Template
from envforge.report import Json
from envforge.select import Selection
from envforge.spec import ENVIRONMENT_FILE, LOCK_FILE, VIRTUAL_PACKAGES_FILE, EnvironmentTexts

_SUFFIX = ".jinja"
_PACKAGE = "__package__"


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """All that decides what a project's files say, but for its lock. ``machine`` is the JSON record of the machine.

    ``groups`` are the names of the file groups that the project has.
    """

    template: Template
    name: str
    package: str
    answers: tuple[tuple[str, Answer], ...]
    selections: tuple[Selection, ...]
    texts: EnvironmentTexts
    machine: Json = None
    groups: tuple[str, ...] = ()

    @property
    def chosen(self) -> tuple[tuple[str, bool], ...]:
        """Every group of the template, and whether the project has it."""
        return tuple((group.name, group.name in self.groups) for group in self.template.groups)


def plan_project(project: Project, lock_text: str | None) -> tuple[PlannedFile, ...]:
    """Every file of the project, sorted by path; raises ``TemplateError`` where the template is at fault."""
    generated = {
        PurePosixPath(ENVIRONMENT_FILE): project.texts.environment,
        PurePosixPath(VIRTUAL_PACKAGES_FILE): project.texts.virtual_packages,
    }
    if lock_text is not None:
        generated[PurePosixPath(LOCK_FILE)] = lock_text
    files = _template_files(project)
    files += [PlannedFile(path=path, content=text.encode()) for path, text in generated.items()]
    _refuse_collisions(files, project.template)
    digests = tuple(sorted((str(file.path), hashlib.sha256(file.content).hexdigest()) for file in files))
    record = ProjectRecord(
        envforge_version=__version__,
        template=project.template.name,
        template_version=project.template.version,
        project=project.name,
        package=project.package,
        answers=project.answers,
        selections=project.selections,
        input_sha256=project.texts.sha256,
        files=digests,
        machine=project.machine,
        groups=project.chosen,
    )
    files.append(PlannedFile(path=PurePosixPath(PROJECT_FILE), content=dump(record).encode()))
    return tuple(sorted(files, key=lambda file: file.path))


def _template_files(project: Project) -> list[PlannedFile]:
    template = project.template
    variables = {
        "project": project.name,
        "package": project.package,
        "answers": dict(project.answers),
        "groups": dict(project.chosen),
        "selection": project.selections[0],
        "selections": project.selections,
        "template": {"name": template.name, "version": template.version, "summary": template.summary},
        "envforge_version": __version__,
    }
    return [_planned(source, variables, project.package) for source in project_sources(template, project.groups)]


def _planned(found: Source, variables: dict[str, object], package: str) -> PlannedFile:
    source, path = found.root / found.path, found.path
    try:
        content = source.read_bytes()
        executable = bool(source.stat().st_mode & 0o100)
        if path.name.endswith(_SUFFIX):
            path = path.with_name(path.name.removesuffix(_SUFFIX))
            content = render(content.decode(), variables, str(source)).encode()
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"cannot read the template file `{source}`: {error}", code="template-damaged") from error
    place = PurePosixPath(*(part.replace(_PACKAGE, package) for part in path.parts))
    return PlannedFile(path=place, content=content, executable=executable)


def _refuse_collisions(files: list[PlannedFile], template: Template) -> None:
    seen: set[str] = {PROJECT_FILE}
    for file in files:
        key = str(file.path).lower()  # two names that differ in case are one file on macOS and Windows
        if key in seen:
            raise TemplateError(
                f"the template `{template.name}` gives `{file.path}` twice, or envforge writes that file itself",
                code="template-damaged",
            )
        seen.add(key)
