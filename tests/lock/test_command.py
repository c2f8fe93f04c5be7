"""Test the command ``envforge lock``: output, JSON, exit codes, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import yaml

from envforge.base.urls import MIRRORS_VARIABLE
from tests.lock.conftest import World, environment_text
from tests.support.loopback import Request, Response

ROOT = Path(__file__).resolve().parents[2]


def environment(world: World) -> dict[str, str]:
    values = {**os.environ, MIRRORS_VARIABLE: world.mirrors.to_environment(), "PYTHONPATH": str(ROOT)}
    return {**values, "XDG_CACHE_HOME": str(world.folder.parent / "cache"), "TMPDIR": str(world.folder.parent / "tmp")}


def run(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "envforge", "lock", *words]
    return subprocess.run(
        command, cwd=world.folder, env=environment(world), capture_output=True, text=True, check=False
    )


def test_lock_then_check_then_change(world: World) -> None:
    made = run(world)
    assert made.returncode == 0, made.stderr
    words = made.stdout.splitlines()
    assert words[0].startswith("conda-lock.yml written, with a SHA-256 for every package (")
    assert words[1].startswith("  linux-64: torch 2.7.1+cu118; 12 conda packages, 4 wheels; ")
    assert words[1].endswith(" MB to download")
    assert words[2:] == [
        "solved against (from the torch version):",
        "  linux-64: __archspec=1 x86_64 __cuda=11.8 __glibc=2.28 __linux=5.10 __unix=0",
    ]
    assert made.stderr.startswith("solving for linux-64\n")
    checked = run(world, "--check")
    assert (checked.returncode, checked.stdout) == (0, "conda-lock.yml is up to date with environment.yml\n")
    world.write(environment_text(conda=("pandas",)))
    changed = run(world, "--check", "--json")
    document = json.loads(changed.stdout)
    assert (changed.returncode, document["ok"], document["command"]) == (1, False, "lock")
    assert document["result"]["differences"] == [
        {
            "code": "not-locked",
            "platform": "linux-64",
            "wanted": "`pandas` (conda) is requested",
            "found": "it is not locked",
        }
    ]


def test_json_has_one_document_and_failures_have_one_too(world: World) -> None:
    world.write(environment_text(pip=("torch==2.9.9+cu118",)))
    failed = run(world, "--json")
    document = json.loads(failed.stdout)
    assert failed.returncode == 1
    assert document["error"]["code"] == "no-solution"
    assert not world.lockfile.exists()


def test_an_interrupted_lock_leaves_the_old_one_and_no_process(world: World) -> None:
    arrived, gone = threading.Event(), threading.Event()
    plain = world.index.answer

    def stuck(request: Request) -> Response | None:
        arrived.set()
        gone.wait(60)
        return plain(request)

    world.index.answer = stuck  # type: ignore[method-assign]
    old = yaml.safe_dump(
        {"version": 1, "metadata": {"content_hash": {}, "channels": [], "platforms": []}, "package": []}
    )
    world.lockfile.write_text(old, encoding="utf-8")
    command = [sys.executable, "-m", "envforge", "lock"]
    with subprocess.Popen(
        command, cwd=world.folder, env=environment(world), stderr=subprocess.PIPE, text=True
    ) as process:
        assert arrived.wait(60)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=60)
    gone.set()
    assert process.returncode == 130
    assert "Traceback" not in talk
    assert world.lockfile.read_text(encoding="utf-8") == old
    assert world.left_behind() == ["conda-lock.yml", "environment.yml"]
    assert list((world.folder.parent / "tmp").iterdir()) == []
    assert _running_below(world.folder.parent) == []


def _running_below(folder: Path) -> list[str]:
    """The command lines of processes that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found
