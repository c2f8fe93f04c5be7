"""Run pytest in several directories in turn, each in a fork of one process that has imported torch.

Reads JSON from stdin: ``[[directory, [argument, …]], …]``, with pytest's arguments. Writes a JSON list of exit codes to
stdout, and pytest's output to ``pytest.txt`` in each directory.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import sklearn.datasets  # type: ignore[import-untyped]  # noqa: F401 - imported once for all forks
import torch
import tqdm  # type: ignore[import-untyped]  # noqa: F401

assert sys.platform != "win32"

_LONGEST_S = 120  # of one job, on two busy cores; the tests of a job take up to 20 s


def _import_what_torch_puts_off() -> None:
    """The first step of an optimizer imports seconds' worth of torch: once, before the forks."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(1)
    optimizer.zero_grad()
    optimizer.step()


def _stop(*_: object) -> NoReturn:
    raise TimeoutError("a planted fault keeps a test from ending")


def _run(folder: str, arguments: list[str]) -> int:
    child = os.fork()
    if child == 0:
        code = 99
        signal.signal(signal.SIGALRM, _stop)
        signal.alarm(_LONGEST_S)
        try:
            os.chdir(folder)
            output = os.open("pytest.txt", os.O_CREAT | os.O_WRONLY)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.path.insert(0, folder)
            code = int(
                pytest.main(
                    ["-x", "-q", "-p", "no:cacheprovider", "--tb=short", f"--basetemp={folder}/tmp", *arguments]
                )
            )
            sys.stdout.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")  # the ranks of a fault need not import torch either
    torch.set_num_threads(1)
    _import_what_torch_puts_off()
    codes = [_run(str(Path(folder)), arguments) for folder, arguments in json.load(sys.stdin)]
    json.dump(codes, sys.stdout)
