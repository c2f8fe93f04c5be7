"""Which paths a template may write to: inside the project, on every file system, and nowhere that is run or ours.

Enters: the planned files of a project. Leaves: nothing, or a ``TemplateError`` that names the file.
"""

from __future__ import annotations

from collections.abc import Iterable

from envforge.jinja import TemplateError
from envforge.project.baseline import NOT_HELD
from envforge.project.names import is_windows_device
from envforge.project.staging import STAGING, PlannedFile
from envforge.project.templates import Template

_LONGEST_PART = 200
# learn.microsoft.com, "Naming Files, Paths, and Namespaces": characters that no name may have.
_FORBIDDEN = frozenset('<>:"|?*\\')
_OTHERS = (".git", ".hg", ".svn", ".envforge", ".conda", STAGING)  # what is in there is run by git, or ours


def refuse_paths(files: Iterable[PlannedFile], template: Template) -> None:
    """Refuse two files in one place, and a path that some file system or another tool takes for something else."""
    seen = {name.lower() for name in NOT_HELD}
    for file in files:
        for part in file.path.parts:
            fault = _fault(part)
            if fault:
                raise TemplateError(
                    f"the template `{template.name}` gives {str(file.path)!r}: {part!r} {fault}",
                    code="template-path-refused",
                )
        key = str(file.path).lower()  # two names that differ in case are one file on macOS and Windows
        if key in seen or file.path.is_absolute():
            raise TemplateError(
                f"the template `{template.name}` gives `{file.path}` twice, or envforge writes that file itself",
                code="template-damaged",
            )
        seen.add(key)


def _fault(part: str) -> str:
    if part in ("..", "."):
        return "leads out of the project"
    if part.lower() in _OTHERS:
        return "is a folder that only its own tool writes into"
    if not part.isprintable() or _FORBIDDEN & set(part):
        return "has characters that not every file system takes"
    if part != part.rstrip(" ."):
        return "ends in a space or a dot, which Windows takes off"
    if is_windows_device(part):
        return "is a name that Windows reserves for a device"
    return f"is longer than {_LONGEST_PART} bytes" if len(part.encode()) > _LONGEST_PART else ""
