"""Run the user's own conda for conda-lock, with its output and exit code, and record the packages of a solve.

``envforge.lock.previous_lock`` reads the record. The launcher calls ``main("/opt/conda/bin/conda", ["create", …])``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RECORDS = "ENVFORGE_SOLVE_RECORDS"


def write_launcher(directory: Path, conda_exe: Path) -> Path:
    """Write an executable into ``directory`` that calls ``conda_exe`` through this module."""
    # conda-lock recognizes micromamba by the name of the file, so the launcher has the same name
    call = f"main({str(conda_exe)!r}, sys.argv[1:])"
    program = f"import sys; sys.path[:] = {sys.path!r}; from envforge.lock.tee import main; {call}"
    if os.name == "nt":
        path = directory / f"{conda_exe.stem}.bat"
        path.write_text(f'@"{sys.executable}" -c "{program.replace("%", "%%")}" %*\r\n', encoding="utf-8")
        return path
    path = directory / conda_exe.name
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(program)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def main(conda_exe: str, words: Sequence[str]) -> None:
    """Run one call of ``conda_exe`` and exit with its code."""
    answer = subprocess.run([conda_exe, *words], stdout=subprocess.PIPE, check=False)
    folder = os.environ.get(RECORDS)
    if folder and "--json" in words and words[0] in {"create", "install", "update"} and answer.returncode == 0:
        _record(Path(folder), answer.stdout.decode("utf-8", "replace"))
    sys.stdout.buffer.write(answer.stdout)
    sys.stdout.flush()
    raise SystemExit(answer.returncode)


def _record(folder: Path, text: str) -> None:
    # conda and mamba may print other text before and after the JSON document
    actions = json.loads(text[text.index("{") : text.rindex("}") + 1]).get("actions", {})
    document = json.dumps({"version": 1, "packages": actions.get("FETCH", [])})
    name = hashlib.sha256(document.encode()).hexdigest()[:16]
    aside = folder / f".{name}.{os.getpid()}"
    aside.write_text(document, encoding="utf-8")
    aside.replace(folder / f"{name}.json")
