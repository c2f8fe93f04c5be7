"""Read and write ``envforge.toml``, the record of how a project was created. Unknown fields are ignored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envforge import toml
from envforge.errors import EnvforgeError, Hint
from envforge.fields import Document, Fields, WrongValue, read_boolean, read_string
from envforge.project.questions import Answer
from envforge.report import Json
from envforge.revision import restore_hints
from envforge.select import Selection, selection_from_json, selection_to_json

NAME = "envforge.toml"
SCHEMA_VERSION = 1

_OURS = {
    *("schema_version", "envforge", "template", "project", "answers", "groups", "environment", "selection"),
    *("machine", "files", "envforge_requirement"),
}
_HEADER = "# How envforge created this project. envforge reads this file; the training code doesn't need it.\n"


class ProjectFileError(EnvforgeError):
    """An ``envforge.toml`` is invalid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The origin of a template: ``source`` is a directory or a ``git+`` URL, empty for a built-in template.

    ``commit`` is the git commit.
    """

    source: str = ""
    commit: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectRecord:
    """The contents of ``envforge.toml``. ``files`` pairs each path with the SHA-256 of what envforge wrote there.

    ``groups`` has every group of the template and whether the project has it, so that a group which a later template
    adds differs from one that was left out. ``envforge_requirement`` is empty unless it was stated.
    """

    envforge_version: str
    template: str
    template_version: str
    project: str
    package: str
    answers: tuple[tuple[str, Answer], ...]
    selections: tuple[Selection, ...]
    input_sha256: str
    files: tuple[tuple[str, str], ...]
    machine: Json = None
    groups: tuple[tuple[str, bool], ...] = ()
    origin: Origin = Origin()
    envforge_requirement: str = ""


def dump(record: ProjectRecord) -> str:
    """Return the text of ``envforge.toml``; the same record produces the same bytes."""
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "envforge": record.envforge_version,
        **_requirement(record),
        "template": {"name": record.template, "version": record.template_version, **_origin(record.origin)},
        "project": {"name": record.project, "package": record.package},
        "answers": dict(record.answers),
        "groups": dict(record.groups),
        "environment": {"input_sha256": record.input_sha256},
        "selection": [selection_to_json(selection, candidates=False) for selection in record.selections],
    }
    if record.machine is not None:
        document["machine"] = _without_null(record.machine)
    document["files"] = dict(record.files)
    return _HEADER + toml.dumps(document)


def dump_into(text: str, record: ProjectRecord) -> str:
    """Return the text of an ``envforge.toml`` with a new record and the user's own settings in it."""
    import tomlkit  # noqa: PLC0415 - slow to import, and only `update` rewrites this file

    document, fresh = tomlkit.parse(text), tomlkit.parse(dump(record))
    if not document.keys() - _OURS:
        return dump(record)
    for key in _OURS & document.keys() - fresh.keys():
        del document[key]
    for key, value in fresh.items():
        document[key] = value
    return tomlkit.dumps(document)


def find_project(here: Path) -> Path | None:
    """Return the nearest directory with an ``envforge.toml``, from ``here`` upward; ``Path()`` if that is ``here``."""
    start = here.absolute()
    found = next((folder for folder in (start, *start.parents) if (folder / NAME).is_file()), None)
    return Path() if found == Path.cwd() else found


def need_project_file(folder: Path) -> ProjectRecord:
    """Read ``envforge.toml`` of a project; raise if the directory has none."""
    record = read_project_file(folder)
    if record is None:
        raise no_project(f"`{folder}` has no `{NAME}`, so it isn't a project that envforge created")
    return record


def no_project(message: str) -> ProjectFileError:
    """Return the error for a directory without a project."""
    return ProjectFileError(
        message,
        hint=(
            Hint("to update a project from another directory, pass `--directory DIR`"),
            Hint("to create a project", "envforge new TEMPLATE DIR"),
        ),
        code="no-project",
    )


def read_project_file(folder: Path) -> ProjectRecord | None:
    """Read ``envforge.toml`` of a project; return ``None`` if the directory has none."""
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ProjectFileError(f"cannot read `{path}`: {error}", code="project-file-unreadable") from error
    return parse_project_file(text, str(path))


def written_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that envforge wrote into ``folder``, by path; empty if it wrote none."""
    record = read_project_file(folder)
    if record is None:
        return {}
    return {**dict(record.files), NAME: hashlib.sha256(dump(record).encode()).hexdigest()}


def parse_project_file(text: str, where: str) -> ProjectRecord:
    """Parse the text of an ``envforge.toml``; ``where`` names it in errors."""
    document = Document(
        damaged=f"the project file `{where}` is invalid",
        error=ProjectFileError,
        code="project-file-damaged",
        hints=lambda: (
            Hint(f"correct `{where}` at the place that the error names"),
            *restore_hints(Path(where).parent, NAME),
        ),
        mapping="a table",
    )
    try:
        top = Fields(document, "", toml.loads(text))
    except toml.TOMLDecodeError as error:
        raise document.fault("", "TOML", str(error)) from error
    if top.raw("schema_version") != SCHEMA_VERSION:
        raise top.fault("schema_version", str(SCHEMA_VERSION), top.raw("schema_version"))
    return _record(top, where)


def _requirement(record: ProjectRecord) -> dict[str, str]:
    return {"envforge_requirement": record.envforge_requirement} if record.envforge_requirement else {}


def _origin(origin: Origin) -> dict[str, str]:
    return {name: value for name, value in (("source", origin.source), ("commit", origin.commit)) if value}


def _without_null(value: Json) -> Any:
    """Omit fields without a value, because TOML has no null."""
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    return value


def _record(top: Fields, where: str) -> ProjectRecord:
    template, project, answers, files = (top.inner(name) for name in ("template", "project", "answers", "files"))
    selections, groups = top.items("selection"), top.optional("groups")
    return ProjectRecord(
        envforge_version=top.need("envforge", read_string),
        template=template.need("name", read_string),
        template_version=template.need("version", read_string),
        project=project.need("name", read_string),
        package=project.need("package", read_string),
        answers=tuple((name, answers.need(name, _read_answer)) for name in answers.value),
        selections=tuple(selection_from_json(s.value, f"{where}, {s.path}", top.document.hints) for s in selections),
        input_sha256=top.inner("environment").need("input_sha256", read_string),
        files=tuple((path, files.need(path, read_string)) for path in sorted(files.value)),
        machine=top.raw("machine"),
        envforge_requirement=top.get("envforge_requirement", read_string) or "",
        origin=Origin(
            source=template.get("source", read_string) or "", commit=template.get("commit", read_string) or ""
        ),
        groups=tuple((name, groups.need(name, read_boolean)) for name in groups.value) if groups else (),
    )


def _read_answer(value: object) -> Answer:
    if not isinstance(value, (str, int, bool)):
        raise WrongValue("a string, an integer, or a boolean")
    return value
