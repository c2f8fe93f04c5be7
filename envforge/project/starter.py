"""Plan the files of a new template, which passes ``envforge templates test`` unchanged."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from envforge.errors import RequestError, printable
from envforge.jinja import render
from envforge.project.staging import PlannedFile
from envforge.project.templates import COMMON, NAME_PATTERN
from envforge.resources import data_folder

_MANIFEST = PurePosixPath("template.yml")


def plan_starter(name: str) -> tuple[PlannedFile, ...]:
    """Return every file of a new template; raise ``RequestError`` if the name is invalid."""
    if not NAME_PATTERN.fullmatch(name) or name == COMMON:
        raise RequestError(
            f"DIR `{printable(name)}` can't be the name of a template: expected lowercase letters, digits, and `-`",
            hint="to start a template with a valid name",
            command="envforge templates new my-template",
            code="bad-template-name",
        )
    root = data_folder() / "starter"
    return tuple(_planned(root, path, name) for path in sorted(root.rglob("*.jinja")))


def _planned(root: Path, source: Path, name: str) -> PlannedFile:
    """Render a file of the starter, which is itself a template: its raw blocks become the new template."""
    path = PurePosixPath(source.relative_to(root).as_posix())
    text = render(source.read_text(encoding="utf-8"), {"name": name}, str(source))
    place = path.with_suffix("") if path.with_suffix("") == _MANIFEST else path
    return PlannedFile(path=place, content=text.encode())
