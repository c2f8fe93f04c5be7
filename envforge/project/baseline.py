"""Read and write the baseline: the rendered files of a project, so that ``envforge update`` can tell changes apart.

``.envforge/baseline.json`` has one line for each file, by its path. It must match the sha256 of each file in
``envforge.toml``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path, PurePosixPath

from envforge.errors import EnvforgeError, Hint
from envforge.fields import Document, Fields, WrongValue, read_boolean, read_string
from envforge.project.record import NAME as PROJECT_FILE
from envforge.project.record import ProjectRecord
from envforge.project.staging import PlannedFile
from envforge.revision import restore_hints
from envforge.spec import LOCK_FILE

BASELINE = ".envforge/baseline.json"
NOT_HELD = (LOCK_FILE, BASELINE, PROJECT_FILE)


class BaselineError(EnvforgeError):
    """The baseline is missing, unreadable, or not the one that ``envforge.toml`` records."""


def dump_baseline(files: tuple[PlannedFile, ...]) -> PlannedFile:
    """Return the file of the baseline; the same files produce the same bytes."""
    lines = [f"{json.dumps(str(f.path))}: {json.dumps(_held(f), ensure_ascii=False)}" for f in sorted(files, key=_path)]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    return PlannedFile(path=PurePosixPath(BASELINE), content=text.encode())


def read_baseline(folder: Path, record: ProjectRecord) -> dict[PurePosixPath, PlannedFile]:
    """Read the files of a project's baseline by path; raise ``BaselineError`` if they aren't those of the record."""
    path = folder / BASELINE
    try:
        text = path.read_text(encoding="utf-8")
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
    files = document.read_json(text)
    found = {PurePosixPath(name): _file(files.inner(name), name) for name in files.value}
    _compare(found, record, path)
    return found


def _restore(folder: Path) -> tuple[Hint, ...]:
    """Return the command that restores baseline and project file if git has both, else one that makes them again."""
    again = Hint("to create the project again in another directory", "envforge new TEMPLATE DIR")
    return restore_hints(folder, BASELINE, PROJECT_FILE) or (again,)


def _path(file: PlannedFile) -> PurePosixPath:
    return file.path


def _held(file: PlannedFile) -> dict[str, str | bool]:
    held: dict[str, str | bool] = {"executable": True} if file.executable else {}
    try:
        return {"text": file.content.decode(), **held}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(file.content).decode(), **held}


def _file(entry: Fields, name: str) -> PlannedFile:
    encoded = entry.get("base64", _read_base64)
    content = entry.need("text", read_string).encode() if encoded is None else encoded
    return PlannedFile(
        path=PurePosixPath(name), content=content, executable=entry.get("executable", read_boolean) or False
    )


def _read_base64(value: object) -> bytes:
    try:
        return base64.b64decode(read_string(value), validate=True)
    except ValueError as error:
        raise WrongValue("bytes in base64") from error


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
