"""The baseline: what the template gave a project, whole, so that ``envforge update`` can tell its changes from yours.

Enters and leaves: the rendered files, to the text of ``.envforge/baseline.json`` and back. Every file stands on one
line, by its path; ``envforge.toml`` has the sha256 of each, and what does not agree with it is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path, PurePosixPath

from envforge.errors import EnvforgeError
from envforge.fields import Document, Fields, WrongValue, read_boolean, read_string
from envforge.project.record import NAME as PROJECT_FILE
from envforge.project.record import ProjectRecord
from envforge.project.staging import PlannedFile
from envforge.spec import LOCK_FILE

BASELINE = ".envforge/baseline.json"
NOT_HELD = (LOCK_FILE, BASELINE, PROJECT_FILE)
_HINT = f"restore it from version control: git checkout HEAD -- {BASELINE} {PROJECT_FILE}"


class BaselineError(EnvforgeError):
    """A baseline that is not there, cannot be read, or is not the one that ``envforge.toml`` speaks of."""


def dump_baseline(files: tuple[PlannedFile, ...]) -> PlannedFile:
    """The baseline of these files: the same files give the same bytes."""
    lines = [f"{json.dumps(str(f.path))}: {json.dumps(_held(f), ensure_ascii=False)}" for f in sorted(files, key=_path)]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    return PlannedFile(path=PurePosixPath(BASELINE), content=text.encode())


def read_baseline(folder: Path, record: ProjectRecord) -> dict[PurePosixPath, PlannedFile]:
    """The files of a project's baseline by path; raises ``BaselineError`` where it is not whole."""
    path = folder / BASELINE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BaselineError(
            f"`{path}` is not there: without it nobody can tell what in the project is yours and what the template's",
            hint=_HINT,
            code="no-baseline",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"cannot read `{path}`: {error}", hint=_HINT, code="baseline-damaged") from error
    document = Document(
        damaged=f"the baseline `{path}` is damaged", error=BaselineError, code="baseline-damaged", hint=_HINT
    )
    files = document.read_json(text)
    found = {PurePosixPath(name): _file(files.inner(name), name) for name in files.value}
    _compare(found, record, path)
    return found


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
            f"`{path}` does not agree with `{PROJECT_FILE}`, which records sha256 `{wanted.get(name, 'nothing')}` of "
            f"`{name}`; the baseline has `{there.get(name, 'nothing')}`",
            hint=_HINT,
            code="baseline-damaged",
        )
