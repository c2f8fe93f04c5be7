"""The beginning of a template of one's own.

Enters: the name of the template. Leaves: its files, planned; it renders, trains and passes ``envforge templates test``
as it is.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from envforge.errors import RequestError
from envforge.jinja import render
from envforge.project.staging import PlannedFile
from envforge.project.templates import COMMON, NAME_PATTERN
from envforge.resources import data_folder

_MANIFEST = PurePosixPath("template.yml")


def plan_starter(name: str) -> tuple[PlannedFile, ...]:
    """Every file of a new template; raises ``RequestError`` where a template cannot have that name."""
    if not NAME_PATTERN.fullmatch(name) or name == COMMON:
        raise RequestError(
            f"FOLDER: {name!r} cannot be the name of a template, which has small letters, digits and `-`",
            hint="envforge templates new my-template",
            code="bad-template-name",
        )
    root = data_folder() / "starter"
    return tuple(_planned(root, path, name) for path in sorted(root.rglob("*.jinja")))


def _planned(root: Path, source: Path, name: str) -> PlannedFile:
    """A file of the starter is itself a template: what the new template is to render stands in it as raw text."""
    path = PurePosixPath(source.relative_to(root).as_posix())
    text = render(source.read_text(encoding="utf-8"), {"name": name}, str(source))
    place = path.with_suffix("") if path.with_suffix("") == _MANIFEST else path
    return PlannedFile(path=place, content=text.encode())
