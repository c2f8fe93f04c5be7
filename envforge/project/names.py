"""Check the names of projects and paths, so that every file system accepts them."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterable

from envforge.base.jinja import TemplateError
from envforge.base.staging import STAGING, PlannedFile
from envforge.errors import RequestError, printable
from envforge.project.record import NOT_HELD
from envforge.project.templates import Template

LONGEST = 64
LONGEST_FOLDER = 200

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*")
# learn.microsoft.com, "Naming Files, Paths, and Namespaces": device names that no file may have, with any extension.
_WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
)
# imports that a project already has, in addition to the standard library (whose list leaves `test` out)
_TAKEN = frozenset({
    *("PIL", "conda", "envforge", "matplotlib", "mpl_toolkits", "pip", "pytest", "site_packages", "sklearn", "src"),
    *("test", "tests", "tqdm", "triton", "yaml", "functorch", "torchgen", "pkg_resources", "mpmath", "markupsafe"),
})  # fmt: skip


def check_project_name(name: str, option: str) -> str:
    """Return the name if every file system accepts it; ``option`` is its source, for errors."""
    if len(name) > LONGEST:
        raise _refusal(option, name[:20] + "…", f"expected at most {LONGEST} characters, found {len(name)}")
    if not _NAME.fullmatch(name):
        raise _refusal(
            option, name, "expected a letter, then ASCII letters and digits, with single `-` or `_` between them"
        )
    if name.lower() in _WINDOWS_DEVICES:
        raise _refusal(option, name, "Windows reserves this name for a device")
    return name


def check_folder_name(name: str, option: str) -> str:
    """Return the name if every file system accepts it for a directory, even with the suffix that ``place`` adds."""
    if not name.isprintable():
        raise _bad_folder(option, name, "it contains invisible characters")
    if len(name.encode()) > LONGEST_FOLDER:
        raise _bad_folder(
            option, name[:20] + "…", f"expected at most {LONGEST_FOLDER} bytes, found {len(name.encode())}"
        )
    if is_windows_device(name):
        raise _bad_folder(option, name, "Windows reserves this name for a device")
    return name


def is_windows_device(name: str) -> bool:
    """Return whether Windows reserves a file name for a device, with any extension."""
    return name.partition(".")[0].rstrip(" ").lower() in _WINDOWS_DEVICES


def package_name(project: str, option: str, installed: Iterable[str]) -> str:
    """Return the import name of the project; ``installed`` are conda and pip names of its environment."""
    package = project.replace("-", "_").lower()
    if keyword.iskeyword(package) or keyword.issoftkeyword(package) or package in ("true", "false", "none"):
        raise _refusal(option, project, f"`{package}` is a keyword of Python")
    if package in sys.stdlib_module_names:
        raise _refusal(option, project, f"`import {package}` is a module of Python's standard library")
    taken = {name.replace("-", "_").lower() for name in (*installed, *_TAKEN)}
    if package in taken:
        raise _refusal(option, project, f"`import {package}` already imports another package in such a project")
    return package


def _bad_folder(option: str, name: str, rule: str) -> RequestError:
    return RequestError(
        f"{option} `{printable(name)}` can't be the name of a directory: {rule}",
        hint="to create the project elsewhere, choose another DIR",
        code="bad-target",
    )


def _refusal(option: str, name: str, rule: str) -> RequestError:
    return RequestError(
        f"{option} `{printable(name)}` can't be the name of a project: {rule}",
        hint="to name the project differently from its directory, pass `--name NAME`, such as `--name my-project`",
        code="bad-project-name",
    )


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
