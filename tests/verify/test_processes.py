"""Test that no process of a check outlives the command `verify`, however the command ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.transcripts import ROOT

assert sys.platform == "linux"

from tests.verify.training.test_process import has_ended  # noqa: E402 - it exists only there

LEAVES = "setsid env -i sh -c 'echo $$ >> {pids}; exec sleep 60' </dev/null >/dev/null 2>&1 &\nsleep 0.3\n"
HANGS = "sh -c 'echo $$ >> {pids}; sleep 60; true' &\nwait\n"


@pytest.mark.parametrize("probe", [LEAVES, LEAVES.replace("setsid", "").replace(">/dev/null 2>&1", ""), HANGS])
def test_no_process_of_a_probe_outlives_verify(tmp_path: Path, probe: str) -> None:
    done = subprocess.run(verify_command(tmp_path, probe), env=probe_environment(tmp_path), timeout=90, check=False)
    assert done.returncode in {0, 1}
    pids = (tmp_path / "pids").read_text().split()
    assert pids
    assert [pid for pid in pids if not has_ended(int(pid), 5.0)] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_process_of_a_probe_outlives_a_signal(tmp_path: Path, number: int) -> None:
    environment = {**probe_environment(tmp_path), "ENVFORGE_PROBE_TIMEOUT": "60"}
    with subprocess.Popen(verify_command(tmp_path, LEAVES + HANGS), env=environment) as process:
        pids = tmp_path / "pids"
        until = time.monotonic() + 60
        while not (pids.exists() and len(pids.read_text().split()) > 1) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=60) != 0
    found = pids.read_text().split()
    assert len(found) > 1
    assert [pid for pid in found if not has_ended(int(pid), 5.0)] == []


def verify_command(folder: Path, probe: str) -> list[str]:
    """`verify` of a machine whose `nvidia-smi` is a script."""
    (folder / "bin").mkdir()
    script = folder / "bin/nvidia-smi"
    script.write_text("#!/bin/sh\n" + probe.format(pids=folder / "pids"))
    script.chmod(0o755)
    return [sys.executable, "-m", "envforge", "verify", "machine", "--fast"]


def probe_environment(folder: Path) -> dict[str, str]:
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    return {"HOME": str(folder), "PATH": path, "PYTHONPATH": str(ROOT), "ENVFORGE_PROBE_TIMEOUT": "2"}


STARTS = """
import subprocess, sys
from envforge.base.process import adopt_orphans, ending_children
adopt_orphans()
with ending_children():
    print(subprocess.Popen(["/bin/sleep", "60"], stdout=subprocess.DEVNULL).pid, flush=True)
"""


@pytest.mark.parametrize("setsid", ["", "setsid"])
def test_process_of_another_packages_check_ends(tmp_path: Path, setsid: str) -> None:
    """What was there before is kept, and with it what may be part of it."""
    own = f"{setsid} sleep 60 >/dev/null 2>&1 & echo $!; "
    for before, ends in ((own, [False, False]), ("", [True])):
        command = ["sh", "-c", f'{before}exec "$0" -c "$1"', sys.executable, STARTS]
        done = subprocess.run(command, env=probe_environment(tmp_path), stdout=subprocess.PIPE, timeout=60, check=True)
        pids = [int(pid) for pid in done.stdout.split()]
        assert [has_ended(pid, 1.0) for pid in pids] == ends
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
