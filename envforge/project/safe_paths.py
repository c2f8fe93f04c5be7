"""Check the paths that a template writes: inside the project, valid on every file system, not of another tool."""

from __future__ import annotations

from collections.abc import Iterable

from envforge.errors import printable
from envforge.jinja import TemplateError
from envforge.project.baseline import NOT_HELD
from envforge.project.names import is_windows_device
from envforge.project.staging import STAGING, PlannedFile
from envforge.project.templates import Template

_LONGEST_PART = 200
# learn.microsoft.com, "Naming Files, Paths, and Namespaces": characters that no name may have
_FORBIDDEN = frozenset('<>:"|?*\\')
_OTHERS = (".git", ".hg", ".svn", ".envforge", ".conda", STAGING)  # git runs files there, or envforge owns it


def refuse_paths(files: Iterable[PlannedFile], template: Template) -> None:
    """Raise ``TemplateError`` if two files have one path, or a path is reserved by a file system or another tool."""
    seen = {name.lower() for name in NOT_HELD}
    for file in files:
        for part in file.path.parts:
            fault = _fault(part)
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


def _fault(part: str) -> str:
    if part in ("..", "."):
        return "leads outside the project"
    if part.lower() in _OTHERS:
        return "is a directory of another tool"
    if not part.isprintable() or _FORBIDDEN & set(part):
        return "contains characters that some file systems reject"
    if part != part.rstrip(" ."):
        return "ends with a space or a dot, which Windows removes"
    if is_windows_device(part):
        return "is a device name on Windows"
    return f"is longer than {_LONGEST_PART} bytes" if len(part.encode()) > _LONGEST_PART else ""
