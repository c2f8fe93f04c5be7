"""Provide a conda-compatible executable on top of py-rattler, so that conda-lock needs no conda.

The launcher calls ``envforge.lock.solver.__main__``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MODULES = ("envforge", "rattler", "packaging")


def executable(directory: Path) -> Path:
    """Write the launcher ``conda`` (``conda.bat`` on Windows) into ``directory`` and return its path.

    The launcher runs this interpreter in isolated mode, so that ``PYTHONPATH`` and the current directory can't replace
    a module. It contains the directories from which this process imports the solver, so that it works from a source
    checkout, too.
    """
    roots = list(dict.fromkeys(str(_import_root(module)) for module in _MODULES))
    program = (
        f"import runpy, sys; sys.path[:0] = [p for p in {roots!r} if p not in sys.path]; "
        "runpy.run_module('envforge.lock.solver', run_name='__main__', alter_sys=True)"
    )
    path = directory / ("conda.bat" if os.name == "nt" else "conda")
    path.write_text(_batch(program) if os.name == "nt" else _shell(program), encoding="utf-8")
    path.chmod(0o755)
    return path


def _shell(program: str) -> str:
    import shlex  # noqa: PLC0415 - each call imports this package, and should start in milliseconds

    return f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -c {shlex.quote(program)} "$@"\n'


def _batch(program: str) -> str:
    escaped = program.replace("%", "%%")
    return f'@"{sys.executable}" -I -c "{escaped}" %*\r\n'


def _import_root(module: str) -> Path:
    from importlib.util import find_spec  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"`{module}` is not importable in this interpreter", name=module)
    return Path(spec.origin).resolve().parent.parent
