"""Write an export atomically, file by file, without replacing files that envforge did not create."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from envforge.base.files import write_atomic
from envforge.errors import EnvforgeError, RequestError
from envforge.export.fleet import PROGRAM
from envforge.export.source import MARK, Exported

_NAMES = {
    "pixi": (r"pixi\.toml", "`pixi.toml`"),
    "pylock": (r"pylock\.(?:[^.]+\.)?toml", "`pylock.toml` or `pylock.NAME.toml` (PEP 751)"),
}
_BESIDE = {
    "pixi": ("pixi.toml", "pixi.lock"),
    "slurm": ("verify.sbatch", PROGRAM),
    "skypilot": ("verify.sky.yaml", PROGRAM),
    "kubernetes": ("verify.k8s.yaml", PROGRAM),
}
_SHEBANG = b"#!/bin/bash\n"  # precedes MARK in a script


def check_name(kind: str, output: Path | None) -> None:
    """Raise ``RequestError`` if the tool doesn't accept the file name, or two files need a directory."""
    if kind in _BESIDE and output is None:
        name, other = _BESIDE[kind]
        raise RequestError(
            f"`envforge export {kind}` writes two files, `{name}` and `{other}`, so it requires `--output`",
            hint="to write them to a directory",
            command=f"envforge export {kind} -o DIR/{name}",
            code="output-needed",
        )
    pattern, wanted = _NAMES.get(kind, (".*", ""))
    if output is not None and re.fullmatch(pattern, output.name) is None:
        raise RequestError(
            f"invalid file name `{output.name}` for `{kind}`: expected {wanted}",
            hint="to use the expected name",
            command=shlex.join(["envforge", "export", kind, "-o", str(output.with_name(f"{kind}.toml"))]),
            code="bad-name",
        )


def write_export(exported: Exported, output: Path, *, force: bool) -> tuple[Path, ...]:
    """Write an export and its additional files; raise ``EnvforgeError`` if a file of the user would be replaced."""
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
        return not path.is_symlink() and path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(200).removeprefix(_SHEBANG).startswith(MARK.encode())
    except OSError:
        return False
