"""Test that the process ends with one line and the right exit code despite broken streams, directories, and signals."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVFORGE = shlex.join([sys.executable, "-m", "envforge"])
NEW = "new image-classification digits --cuda 11.8 --machine t4"
STDOUT_FULL = "error: can't write to stdout: No space left on device\n"
NO_DIRECTORY = "error: the working directory no longer exists\n\nhint: change to another directory\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the commands are lines of a POSIX shell")
needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def shell(line: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``envforge`` is this checkout; its exit code is that of the start of a pipe."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONDA_", "ENVFORGE_"))}
    environment = kept | {"PYTHONPATH": str(ROOT)} | variables
    program = f'envforge() {{ {ENVFORGE} "$@"; }}\n{line}\nexit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", program], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("line", "exit_code", "printed"),
    [
        pytest.param("envforge detect --json >/dev/full", 3, STDOUT_FULL, marks=needs_dev_full),
        pytest.param("envforge verify >/dev/full", 3, STDOUT_FULL, marks=needs_dev_full),
        pytest.param(f"envforge {NEW} >/dev/full", 3, STDOUT_FULL, marks=needs_dev_full),
        pytest.param("envforge --help >/dev/full", 3, STDOUT_FULL, marks=needs_dev_full),
        ("envforge templates >&-", 0, ""),
        ("envforge templates <&- >&-", 0, ""),
        ("envforge templates | head -c 0", 3, ""),
        ("envforge verify | head -c 0", 3, ""),
        ("envforge detcet 2>&1 | head -c 0", 2, ""),
        ("envforge detcet 2>&-", 2, ""),
        ("envforge templates <&- >/dev/null", 0, ""),
    ],
)
def test_unwritable_stream_is_one_line(
    line: str, exit_code: int, printed: str, unbuffered: str, tmp_path: Path
) -> None:
    run = shell(line, tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert (run.returncode, run.stderr) == (exit_code, printed)


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_are_as_dev_null(closed: str, tmp_path: Path) -> None:
    assert shell(f"envforge {NEW} --no-lock {closed}", tmp_path).returncode == 0
    written = [path for path in (tmp_path / "digits").rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if b"Created digits" in path.read_bytes()] == []


@needs_dev_full
def test_usage_error_is_reported_if_stdout_is_full(tmp_path: Path) -> None:
    run = shell("envforge detect --json --jsn >/dev/full", tmp_path)
    assert (run.returncode, run.stderr.splitlines()[0]) == (2, "error: no such option `--jsn` for `envforge detect`")


@pytest.mark.parametrize("command", [NEW, "verify", "lock --check", "install", "run true", "info", "shell --print"])
def test_deleted_working_directory_is_named(command: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    run = shell(f"cd gone && rmdir ../gone && envforge {command}", tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (3, "", NO_DIRECTORY)


@pytest.mark.parametrize(("module", "words"), [("click", ["--help"]), ("packaging", ["explain"])])
def test_interrupt_during_an_import_is_one_line(module: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    run = subprocess.run(
        [sys.executable, "-m", "envforge", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "error: interrupted\n")


def test_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    run = shell("trap '' INT\nenvforge --version", ROOT, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (run.returncode, run.stderr) == (0, "")


def test_interrupt_after_the_work_prints_no_traceback(tmp_path: Path) -> None:
    program = (
        "import atexit, os, signal\nfrom envforge.errors import exit_process\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\nexit_process(0)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGQUIT"])
def test_tests_start_children_with_default_signals(name: str) -> None:
    assert signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN
