"""Read and write envforge.toml and the baseline of a project.

``.envforge/baseline.json`` has the rendered files by their paths, compressed, so that it is small and no search finds
the code twice. Each file must match its sha256 in ``envforge.toml``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import lzma
import re
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from msgspec import Struct, field

from envforge.base.documents import Document
from envforge.base.envelope import Json, to_json
from envforge.base.files import regular
from envforge.base.staging import PlannedFile, fault_of_name
from envforge.errors import EnvforgeError, Hint
from envforge.lock.project import LOCK_FILE
from envforge.project.questions import Answer
from envforge.pytorch.matrix import FactsId, Selection, selection_from_json, selection_to_json

PROJECT_FILE = "envforge.toml"
SCHEMA_VERSION = 1

_HEADER = "# How envforge created this project. envforge reads this file; the training code doesn't need it.\n"


class ProjectFileError(EnvforgeError):
    """An ``envforge.toml`` is invalid."""


class TemplateOrigin(Struct, frozen=True, kw_only=True):
    """The origin of a template: ``source`` is a directory or a ``git+`` URL, empty for a built-in template.

    ``commit`` is the git commit.
    """

    source: str = ""
    commit: str = ""


class ProjectRecord(Struct, frozen=True, kw_only=True):
    """The contents of ``envforge.toml``. ``files`` pairs each path with the SHA-256 of what envforge wrote there.

    ``groups`` has every group of the template and whether the project has it, so that a group which a later template
    adds differs from one that was left out. ``envforge_requirement`` is empty unless it was stated. ``facts`` are
    the refreshed facts that the builds were selected with; None means only the built-in ones.
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
    origin: TemplateOrigin = TemplateOrigin()
    envforge_requirement: str = ""
    facts: FactsId | None = None


class _TemplateTable(Struct, frozen=True, kw_only=True):
    name: str
    version: str
    source: str = ""
    commit: str = ""


class _ProjectTable(Struct, frozen=True, kw_only=True):
    name: str
    package: str


class _EnvironmentTable(Struct, frozen=True, kw_only=True):
    input_sha256: str


class _ProjectFile(Struct, frozen=True, kw_only=True):
    """The tables of ``envforge.toml``; others are settings of the user, which other modules read."""

    schema_version: Literal[1]
    envforge: str
    template: _TemplateTable
    project: _ProjectTable
    answers: dict[str, Answer]
    environment: _EnvironmentTable
    selection: tuple[Any, ...]
    files: dict[str, str]
    groups: dict[str, bool] = field(default_factory=dict)
    machine: Any = None
    envforge_requirement: str = ""
    facts: FactsId | None = None


def dump_record(record: ProjectRecord) -> str:
    """Return the text of ``envforge.toml``; the same record produces the same bytes."""
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "envforge": record.envforge_version,
        **({"envforge_requirement": record.envforge_requirement} if record.envforge_requirement else {}),
        "template": {"name": record.template, "version": record.template_version, **_origin(record.origin)},
        "project": {"name": record.project, "package": record.package},
        "answers": dict(record.answers),
        "groups": dict(record.groups),
        "environment": {"input_sha256": record.input_sha256},
        **({"facts": to_json(record.facts)} if record.facts is not None else {}),
        "selection": [selection_to_json(selection, candidates=False) for selection in record.selections],
    }
    if record.machine is not None:
        document["machine"] = to_json(record.machine, omit_none=True)  # TOML has no null
    document["files"] = dict(record.files)
    return _HEADER + dump_toml(document)


def dump_into(text: str, record: ProjectRecord) -> str:
    """Return the text of an ``envforge.toml`` with a new record and the user's own settings in it."""
    import tomlkit  # noqa: PLC0415 - slow to import, and only `update` rewrites this file

    document, fresh = tomlkit.parse(text), tomlkit.parse(dump_record(record))
    ours = set(_ProjectFile.__struct_fields__)
    # without settings of the user there is nothing to preserve, and plain text needs no comments kept
    if not document.keys() - ours:
        return dump_record(record)
    # a field that the new record doesn't have, such as `machine`
    for key in ours & document.keys() - fresh.keys():
        del document[key]
    for key, value in fresh.items():
        document[key] = value
    return tomlkit.dumps(document)


def find_project(here: Path) -> Path | None:
    """Return the nearest directory with an ``envforge.toml``, from ``here`` upward; ``Path()`` if that is ``here``."""
    start = here.absolute()
    found = next((folder for folder in (start, *start.parents) if (folder / PROJECT_FILE).is_file()), None)
    return Path() if found == Path.cwd() else found


def need_project_file(folder: Path) -> ProjectRecord:
    """Read ``envforge.toml`` of a project; raise if the directory has none."""
    record = read_project_file(folder)
    if record is None:
        raise no_project(f"`{folder}` has no `{PROJECT_FILE}`, so it isn't a project that envforge created")
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
    path = folder / PROJECT_FILE
    try:
        text = regular(path).read_text(encoding="utf-8")
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
    return {**dict(record.files), PROJECT_FILE: hashlib.sha256(dump_record(record).encode()).hexdigest()}


def parse_project_file(text: str, where: str) -> ProjectRecord:
    """Parse the text of an ``envforge.toml``; ``where`` names it in errors."""
    document = Document(
        damaged=f"the project file `{where}` is invalid",
        error=ProjectFileError,
        code="project-file-damaged",
        hints=lambda: (
            Hint(f"correct `{where}` at the place that the error names"),
            *_git_hints(Path(where).parent, PROJECT_FILE),
        ),
    )
    top = document.read_toml(text, _ProjectFile)
    selections = enumerate(top.selection)
    return ProjectRecord(
        envforge_version=top.envforge,
        template=top.template.name,
        template_version=top.template.version,
        project=top.project.name,
        package=top.project.package,
        answers=tuple(top.answers.items()),
        selections=tuple(
            selection_from_json(each, f"{where}, selection[{number}]", document.hints) for number, each in selections
        ),
        input_sha256=top.environment.input_sha256,
        files=tuple(sorted(top.files.items())),
        machine=top.machine,
        envforge_requirement=top.envforge_requirement,
        facts=top.facts,
        origin=TemplateOrigin(source=top.template.source, commit=top.template.commit),
        groups=tuple(top.groups.items()),
    )


def _origin(origin: TemplateOrigin) -> dict[str, str]:
    return {name: value for name, value in (("source", origin.source), ("commit", origin.commit)) if value}


BASELINE = ".envforge/baseline.json"
NOT_HELD = (LOCK_FILE, BASELINE, PROJECT_FILE)
_MOST_BYTES = 200_000_000  # of the unpacked baseline; a template has at most 100 MB


class _Packed(Struct, frozen=True, kw_only=True):
    """The JSON of a mapping from paths to ``_HeldFile``, as base64 of xz."""

    xz: str


class _HeldFile(Struct, frozen=True, kw_only=True):
    text: str | None = None
    base64: str | None = None
    executable: bool = False


class BaselineError(EnvforgeError):
    """The baseline is missing, unreadable, or not the one that ``envforge.toml`` records."""


def dump_baseline(files: tuple[PlannedFile, ...]) -> PlannedFile:
    """Return the file of the baseline; the same files produce the same bytes."""
    held = {str(file.path): _held(file) for file in sorted(files, key=attrgetter("path"))}
    packed = base64.b64encode(lzma.compress(json.dumps(held, ensure_ascii=False).encode(), preset=1)).decode()
    return PlannedFile(path=PurePosixPath(BASELINE), content=f'{{"xz": "{packed}"}}\n'.encode())


def read_baseline(folder: Path, record: ProjectRecord) -> dict[PurePosixPath, PlannedFile]:
    """Read the files of a project's baseline by path; raise ``BaselineError`` if they aren't those of the record."""
    path = folder / BASELINE
    try:
        text = regular(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BaselineError(
            f"`{path}` does not exist; without it, your changes can't be told from the template's",
            hint=_restore(folder),
            code="no-baseline",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"cannot read `{path}`: {error}", hint=_restore(folder), code="baseline-damaged") from error
    document = Document(
        damaged=f"the baseline `{path}` is invalid",
        error=BaselineError,
        code="baseline-damaged",
        hints=lambda: _restore(folder),
    )
    if text.startswith('{"xz": "'):
        text = _unpacked(document, document.read_json(text, _Packed).xz)
    held = document.read_json(text, dict[str, _HeldFile])  # baselines of earlier versions aren't compressed
    for name in held:
        # `update` removes a file that the template no longer has, so a path must be one that `new` would write
        place = PurePosixPath(name)
        if place.is_absolute() or not place.parts or any(map(fault_of_name, place.parts)) or str(place) != name:
            raise document.fault("", "paths that `envforge new` would write", name)
    found = {PurePosixPath(name): _file(document, name, each) for name, each in held.items()}
    _compare(found, record, path)
    return found


def _unpacked(document: Document, packed: str) -> str:
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MOST_BYTES)
    try:
        content = unpacker.decompress(base64.b64decode(packed, validate=True), max_length=_MOST_BYTES)
        text = content.decode() if unpacker.eof else None
    except (ValueError, lzma.LZMAError):
        text = None
    if text is None:
        raise document.fault("xz", "a complete xz archive of text in base64", packed[:20])
    return text


def _restore(folder: Path) -> tuple[Hint, ...]:
    """Return the command that restores baseline and project file if git has both, else one that makes them again."""
    again = Hint("to create the project again in another directory", "envforge new TEMPLATE DIR")
    return _git_hints(folder, BASELINE, PROJECT_FILE) or (again,)


def _git_hints(folder: Path, *names: str) -> tuple[Hint, ...]:
    from envforge.base.git import restore_hints  # noqa: PLC0415 - only errors need it

    return restore_hints(folder, *names)


def _held(file: PlannedFile) -> dict[str, str | bool]:
    held: dict[str, str | bool] = {"executable": True} if file.executable else {}
    try:
        return {"text": file.content.decode(), **held}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(file.content).decode(), **held}


def _file(document: Document, name: str, held: _HeldFile) -> PlannedFile:
    try:
        decoded = None if held.base64 is None else base64.b64decode(held.base64, validate=True)
    except ValueError as error:
        raise document.fault(f"{name}.base64", "bytes in base64", held.base64) from error
    content = decoded if held.text is None else held.text.encode()
    if content is None:
        raise document.fault(f"{name}.text", "a string", None)
    return PlannedFile(path=PurePosixPath(name), content=content, executable=held.executable)


def _compare(found: dict[PurePosixPath, PlannedFile], record: ProjectRecord, path: Path) -> None:
    wanted = {name: digest for name, digest in record.files if name not in NOT_HELD}
    there = {str(name): hashlib.sha256(file.content).hexdigest() for name, file in found.items()}
    different = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    if different:
        name = different[0]
        raise BaselineError(
            f"`{path}` doesn't match `{PROJECT_FILE}`: expected SHA-256 `{wanted.get(name, 'nothing')}` for `{name}`, "
            f"found `{there.get(name, 'nothing')}`",
            hint=_restore(path.parent.parent),
            code="baseline-damaged",
        )


_BARE = re.compile(r"[A-Za-z0-9_-]+")


# the bytes must equal those of tomlkit, because the SHA-256 of envforge.toml shows whether someone edited it
def dump_toml(document: Mapping[str, Any]) -> str:
    """Return the TOML of strings, numbers, booleans, lists, and mappings; the same values produce the same bytes."""
    return "\n".join(_lines(document, ())).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of a table, values first, because everything after a table header belongs to that table."""
    for name, value in table.items():
        if not _holds_tables(value):
            yield f"{_key(name)} = {_value(value)}"
    for name, value in table.items():
        if not _holds_tables(value):
            continue
        inner = (*path, _key(name))
        opening, closing = ("[[", "]]") if isinstance(value, list) else ("[", "]")
        for each in value if isinstance(value, list) else [value]:
            if isinstance(value, list) or not each or not all(_holds_tables(item) for item in each.values()):
                yield f"\n{opening}{'.'.join(inner)}{closing}"
            yield from _lines(each, inner)


def _holds_tables(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if not isinstance(value, (str, bool, int, float)):
        raise TypeError(f"TOML has no type for {value!r}")
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace(
        "\x7f", "\\u007f"
    )  # TOML has the escapes of JSON
