"""Convert a lockfile to the formats of other tools, and write the files. The same lockfile produces the same bytes.

``source`` reads the lockfile, and each of the other modules writes the formats of one kind of tool.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from envforge.base.files import regular, write_atomic
from envforge.errors import EnvforgeError, RequestError
from envforge.export.conda import environment, explicit
from envforge.export.docker import dockerfile
from envforge.export.fleet import PROGRAM, kubernetes, skypilot, slurm
from envforge.export.pixi import pixi
from envforge.export.python import pylock, requirements
from envforge.export.source import MARK, Exported, LockSource

_SHEBANG = b"#!/bin/bash\n"  # precedes MARK in a script


class Format(Struct, frozen=True, kw_only=True):
    """One export format. ``file_name`` is the name that its tool expects; ``whole`` exports all platforms to one file.

    ``beside`` is the name of a second file. ``pattern`` matches the names that the tool accepts, and ``expected``
    describes them. ``installs_envforge`` means that the file installs envforge, or contains the command for it.
    """

    render: Callable[[LockSource], Exported]
    file_name: str
    beside: str = ""
    pattern: str = ".*"
    expected: str = ""
    whole: bool = False
    installs_envforge: bool = False


FORMATS = {
    "explicit": Format(render=explicit, file_name="conda-lock.explicit.txt"),
    "requirements": Format(render=requirements, file_name="requirements.txt"),
    "pylock": Format(
        render=pylock,
        file_name="pylock.toml",
        pattern=r"pylock\.(?:[^.]+\.)?toml",
        expected="`pylock.toml` or `pylock.NAME.toml` (PEP 751)",
    ),
    "pixi": Format(
        render=pixi,
        file_name="pixi.toml",
        beside="pixi.lock",
        pattern=r"pixi\.toml",
        expected="`pixi.toml`",
        whole=True,
    ),
    "dockerfile": Format(render=dockerfile, file_name="Dockerfile", whole=True, installs_envforge=True),
    "slurm": Format(render=slurm, file_name="verify.sbatch", beside=PROGRAM, whole=True),
    "skypilot": Format(
        render=skypilot, file_name="verify.sky.yaml", beside=PROGRAM, whole=True, installs_envforge=True
    ),
    "kubernetes": Format(
        render=kubernetes, file_name="verify.k8s.yaml", beside=PROGRAM, whole=True, installs_envforge=True
    ),
    "environment": Format(render=environment, file_name="environment.lock.yml"),
}


def check_name(kind: str, output: Path | None) -> None:
    """Raise ``RequestError`` if the tool doesn't accept the file name, or two files need a directory."""
    chosen = FORMATS[kind]
    if chosen.beside and output is None:
        name = chosen.file_name
        raise RequestError(
            f"`envforge export {kind}` writes two files, `{name}` and `{chosen.beside}`, so it requires `--output`",
            hint="to write them to a directory",
            command=f"envforge export {kind} -o DIR/{name}",
            code="output-needed",
        )
    if output is not None and re.fullmatch(chosen.pattern, output.name) is None:
        better = str(output.with_name(chosen.file_name))
        raise RequestError(
            f"invalid file name `{output.name}` for `{kind}`: expected {chosen.expected}",
            hint="to use the expected name",
            command=shlex.join(["envforge", "export", kind, "-o", better]),
            code="bad-name",
        )


def write_export(exported: Exported, output: Path, *, force: bool) -> tuple[Path, ...]:
    """Write an export and its additional files, into a new directory if necessary.

    Raises ``EnvforgeError`` if a file of the user would be replaced.
    """
    files = [*((output.with_name(name), text) for name, text in exported.beside), (output, exported.text)]
    if not force:
        _keep_others(output, [path for path, text in files if not _is_same(path, text)])
    for path, text in files:
        write_atomic(path, text)
    return tuple(path for path, _ in files)


def _keep_others(output: Path, paths: list[Path]) -> None:
    """Raise ``EnvforgeError`` if ``output`` isn't marked as an export; files next to a marked file belong to it."""
    there = [path for path in paths if path.exists() or path.is_symlink()]
    if not there or _is_ours(output):
        return
    raise EnvforgeError(
        f"`{there[-1]}` already exists, and `envforge export` did not create it",
        hint="to write another file, pass `--output FILE`; to replace it, pass `--force`",
        code="exists",
    )


def _is_same(path: Path, text: str) -> bool:
    """Return whether the file already has this text, as the program that several jobs share."""
    try:
        return not path.is_symlink() and regular(path).read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _is_ours(path: Path) -> bool:
    try:
        with regular(path).open("rb") as stream:
            return stream.read(200).removeprefix(_SHEBANG).startswith(MARK.encode())
    except OSError:
        return False
