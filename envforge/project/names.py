"""What a project and its package may be called, so that every file system and every import takes the name.

Enters: a name as it was typed and the option it came from. Leaves: the name, or a ``RequestError`` with the rule.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterable

from envforge.errors import RequestError

LONGEST = 64
LONGEST_FOLDER = 200

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*")
# learn.microsoft.com, "Naming Files, Paths, and Namespaces": device names that no file may have, with any extension.
_WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
)
# What `import NAME` means already inside a project, beside the standard library (whose list leaves `test` out).
_TAKEN = frozenset({
    *("PIL", "conda", "envforge", "matplotlib", "mpl_toolkits", "pip", "pytest", "site_packages", "sklearn", "src"),
    *("test", "tests", "tqdm", "triton", "yaml", "functorch", "torchgen", "pkg_resources", "mpmath", "markupsafe"),
})  # fmt: skip


def check_project_name(name: str, option: str) -> str:
    """The name itself where every file system takes it; ``option`` says in errors where it came from."""
    if len(name) > LONGEST:
        raise _refusal(option, name[:20] + "…", f"a name has at most {LONGEST} characters, this one has {len(name)}")
    if not _NAME.fullmatch(name):
        raise _refusal(
            option, name, "a name starts with a letter and has ASCII letters and digits, with single `-` or `_` between"
        )
    if name.lower() in _WINDOWS_DEVICES:
        raise _refusal(option, name, "Windows reserves this name for a device")
    return name


def check_folder_name(name: str, option: str) -> str:
    """The name itself where every file system takes it for a folder, also with what ``place`` adds to it for a time."""
    if not name.isprintable():
        raise _bad_folder(option, name, "it has characters that cannot be seen")
    if len(name.encode()) > LONGEST_FOLDER:
        raise _bad_folder(
            option, name[:20] + "…", f"a name has at most {LONGEST_FOLDER} bytes, this {len(name.encode())}"
        )
    if is_windows_device(name):
        raise _bad_folder(option, name, "Windows reserves this name for a device")
    return name


def is_windows_device(name: str) -> bool:
    """Whether Windows takes a file's name for a device, with any ending."""
    return name.partition(".")[0].rstrip(" ").lower() in _WINDOWS_DEVICES


def package_name(project: str, option: str, installed: Iterable[str]) -> str:
    """The name under which Python imports the project; ``installed`` are conda and pip names of its environment."""
    package = project.replace("-", "_").lower()
    if keyword.iskeyword(package) or keyword.issoftkeyword(package) or package in ("true", "false", "none"):
        raise _refusal(option, project, f"`{package}` is a word of the Python language")
    if package in sys.stdlib_module_names:
        raise _refusal(option, project, f"`import {package}` is a module of Python's standard library")
    taken = {name.replace("-", "_").lower() for name in (*installed, *_TAKEN)}
    if package in taken:
        raise _refusal(option, project, f"`import {package}` already means something else in such a project")
    return package


def _bad_folder(option: str, name: str, rule: str) -> RequestError:
    return RequestError(f"{option}: {name!r} cannot be a folder: {rule}", hint="choose another DIR", code="bad-target")


def _refusal(option: str, name: str, rule: str) -> RequestError:
    return RequestError(
        f"{option}: {name!r} cannot be the name of a project: {rule}",
        hint="another name for the project, in any folder: --name my-project",
        code="bad-project-name",
    )
