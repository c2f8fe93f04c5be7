"""Run the measurements on several projects, each in a fork of one process that has imported torch.

stdin is JSON, ``[[folder, [measure, …]], …]``. The output of the measurements is in ``folder/lines.json``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import sklearn.datasets  # type: ignore[import-untyped]  # noqa: F401 - imported once for all forks
import torch

from envforge.programs import envforge_measures as main
from envforge.programs.envforge_measures import context, device, learning, speed  # noqa: F401 - once for all
from tests.templates.conftest import PACKAGE

assert sys.platform != "win32"


def _import_what_torch_puts_off() -> None:
    """The first step of an optimizer imports seconds' worth of torch: once, before the forks."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(1)
    optimizer.step()


def _run(folder: str, measures: list[str]) -> None:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            lines: list[dict[str, Any]] = []
            sys.dont_write_bytecode = True
            specification = {"device": "cpu", "project": folder, "package": PACKAGE, "measures": measures}
            main.run(specification, lines.append)
            Path(folder, "lines.json").write_text(json.dumps(lines), encoding="utf-8")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    _import_what_torch_puts_off()
    for project, asked in json.load(sys.stdin):
        _run(project, asked)
