"""Compute what activating an environment changes: variables, and the scripts of its packages.

If another environment is active, it is deactivated first and its scripts run, as in ``conda activate``. Source of the
rules: conda documentation, "Managing environments" (``etc/conda/activate.d``, ``env_vars.d``, ``conda-meta/state``) and
"conda init and activation".
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envforge.errors import EnvforgeError, printable

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNSET = "***unset***"
_WINDOWS_FOLDERS = ("", "Library/mingw-w64/bin", "Library/usr/bin", "Library/bin", "Scripts", "bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """Deactivation scripts, variables to set (None unsets), and activation scripts, in this order.

    ``label`` is shown in the prompt. ``left_prompt`` is what the deactivated environment has added to the prompt.
    """

    prefix: Path
    label: str
    changes: tuple[tuple[str, str | None], ...]
    leaving: tuple[Path, ...] = ()
    entering: tuple[Path, ...] = ()
    left_prompt: str = ""

    @property
    def scripts(self) -> tuple[Path, ...]:
        """All scripts; if there are none, no shell is needed."""
        return (*self.leaving, *self.entering)

    def applied(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return ``environment`` with the variables changed; scripts are not run."""
        changed = dict(environment)
        for name, value in self.changes:
            if value is None:
                changed.pop(name, None)
            else:
                changed[name] = value
        return changed


def activation(prefix: Path, label: str, environment: Mapping[str, str], *, suffix: str = "sh") -> Activation:
    """Return what activating ``prefix`` changes in ``environment``; ``suffix`` is the type of script of the shell.

    Raises ``EnvforgeError`` if a file of variables in the prefix is invalid.
    """
    level = _level(environment)
    left = Path(environment["CONDA_PREFIX"]) if level and environment.get("CONDA_PREFIX") else None
    again = left is not None and _same(left, prefix)
    changes: dict[str, str | None] = {}
    if left is not None:
        changes |= _restored(left, environment, level)
    if not again:
        changes |= {"CONDA_SHLVL": str(level + 1), **({f"CONDA_PREFIX_{level}": str(left)} if left else {})}
    modifier = f"({label}) "
    changes |= {
        "PATH": _path(prefix, left, environment.get("PATH", "")),
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": str(prefix),
        "CONDA_PROMPT_MODIFIER": modifier,
    }
    base_level = level - 1 if again else level
    for name, value in variables(prefix).items():
        present = changes.get(name, environment.get(name))
        if present is not None and present != value:
            changes[f"__CONDA_SHLVL_{base_level}_{name}"] = present
        changes[name] = value
    return Activation(
        prefix=prefix,
        label=label,
        changes=tuple(sorted(changes.items())),
        leaving=_scripts(left, "deactivate.d", suffix)[::-1] if left is not None else (),
        entering=_scripts(prefix, "activate.d", suffix),
        left_prompt=environment.get("CONDA_PROMPT_MODIFIER", "") if left is not None else "",
    )


def variables(prefix: Path) -> dict[str, str | None]:
    """Return the variables of an environment: of its packages (``env_vars.d``), then of ``conda-meta/state``.

    The user sets those in ``conda-meta/state`` with ``conda env config vars set``.
    """
    found: dict[str, str | None] = {}
    for path in sorted((prefix / "etc" / "conda" / "env_vars.d").glob("*.json")):
        found |= _checked(_read(path), path, "")
    state = prefix / "conda-meta" / "state"
    if state.is_file():
        document = _read(state)
        rows = document.get("env_vars", {}) if isinstance(document, dict) else document
        found |= _checked(rows, state, "env_vars")
    return found


def bin_folders(prefix: Path) -> tuple[Path, ...]:
    """Return the directories of an environment for ``PATH``, in order."""
    if os.name == "nt":
        return tuple(prefix / folder for folder in _WINDOWS_FOLDERS)
    return (prefix / "bin",)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _checked(rows: Any, path: Path, place: str) -> dict[str, str | None]:
    if not isinstance(rows, dict):
        raise _damaged(path, f"{place or 'the document'}: expected a table of variables, found `{type(rows).__name__}`")
    for name, value in rows.items():
        where = f"{place}.{name}" if place else name
        if not _NAME.fullmatch(name):
            raise _damaged(path, f"`{where}` is not a valid variable name")
        if not isinstance(value, str) or "\0" in value:
            raise _damaged(path, f"{where}: expected a string, found `{printable(str(value))}`")
    return {name: None if value == _UNSET else value for name, value in rows.items()}


def _damaged(path: Path, why: str) -> EnvforgeError:
    return EnvforgeError(
        f"cannot read the environment variables in `{path}`: {why}",
        hint="fix the file; to remove it",
        command=f"rm {shlex.quote(str(path))}",
        code="variables-damaged",
    )


def _level(environment: Mapping[str, str]) -> int:
    text = environment.get("CONDA_SHLVL", "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _restored(left: Path, environment: Mapping[str, str], level: int) -> dict[str, str | None]:
    """Return the values that the variables of an active environment had before, as recorded by conda."""
    restored: dict[str, str | None] = {}
    for name in variables(left):
        kept = f"__CONDA_SHLVL_{level - 1}_{name}"
        restored[name] = environment.get(kept)
        if kept in environment:
            restored[kept] = None
    return restored


def _path(prefix: Path, left: Path | None, path: str) -> str:
    ours = [str(folder) for folder in bin_folders(prefix)]
    gone = {*ours, *(str(folder) for folder in bin_folders(left))} if left is not None else set(ours)
    return os.pathsep.join([*ours, *(folder for folder in path.split(os.pathsep) if folder not in gone)])


def _scripts(prefix: Path, folder: str, suffix: str) -> tuple[Path, ...]:
    return tuple(sorted((prefix / "etc" / "conda" / folder).glob(f"*.{suffix}")))
