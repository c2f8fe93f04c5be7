"""Test questions on a pseudo-terminal, with a copy of envforge whose templates have questions."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import sys
from pathlib import Path

import pytest

from envforge.project.record import read_project_file

assert sys.platform != "win32"

ROOT = Path(__file__).resolve().parents[2]
CTRL_C = "\x03"
MANIFEST = """
name: demo
version: 1
summary: A demo
questions:
  - {name: epochs, type: int, default: 5, help: How many epochs, pattern: "[1-9][0-9]*"}
  - {name: size, type: choice, default: small, choices: [small, large], help: Which size}
  - {name: flip, type: bool, default: false, help: Mirror images}
"""


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A folder from which ``python -m envforge`` knows the template ``demo`` and no other."""
    root = tmp_path / "tool"
    shutil.copytree(ROOT / "envforge", root / "envforge", ignore=shutil.ignore_patterns("__pycache__", "templates"))
    (root / "templates" / "demo" / "files").mkdir(parents=True)
    for source in (ROOT / "templates").glob("*.jinja"):
        shutil.copy(source, root / "templates")
    (root / "templates" / "demo" / "template.yml").write_text(MANIFEST, encoding="utf-8")
    (root / "templates" / "demo" / "files" / "note.jinja").write_text("{{ answers.epochs }}\n", encoding="utf-8")
    return root


def _on_terminal(demo: Path, typed: tuple[str, ...], *options: str) -> tuple[int, str]:
    """Run ``new`` on a terminal of its own and type one text at each question; the exit code and all that it said."""
    command = [sys.executable, "-m", "envforge", "new", "demo", "net", "--machine", "cpu", "--no-lock", *options]
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # also where the tests were started with Ctrl-C switched off
        os.chdir(demo)
        os.execv(sys.executable, command)
    said, left, last = b"", list(typed), ""
    with os.fdopen(terminal, "r+b", buffering=0) as stream:
        while True:
            # readline drops a signal, and the line after it, that arrive while it prepares the terminal
            if last.startswith(CTRL_C) and not select.select([stream], [], [], 2)[0]:
                stream.write(last.encode())
            try:
                part = stream.read(4096)
            except OSError:  # Linux ends a terminal that nobody holds any more with EIO
                break
            if not part:
                break
            said += part
            if left and said.endswith(b"]: "):
                last = left.pop(0)
                stream.write(last.encode())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode()


def _answers(demo: Path) -> dict[str, object]:
    record = read_project_file(demo / "net")
    assert record is not None
    return dict(record.answers)


def test_what_is_typed_is_the_answer_and_enter_takes_the_default(demo: Path) -> None:
    code, said = _on_terminal(demo, ("7\n", "large\n", "\n"))

    assert code == 0, said
    assert _answers(demo) == {"epochs": 7, "size": "large", "flip": False}
    assert (demo / "net" / "note").read_text(encoding="utf-8") == "7\n"
    assert "Which size (small/large) [small]:" in said


def test_a_bad_answer_is_asked_again_with_the_rule(demo: Path) -> None:
    code, said = _on_terminal(demo, ("none\n", "3\n", "\n", "\n"))

    assert code == 0, said
    assert "expected a whole number that matches `[1-9][0-9]*`" in said
    assert _answers(demo)["epochs"] == 3


def test_defaults_and_var_leave_nothing_to_ask(demo: Path) -> None:
    code, said = _on_terminal(demo, (), "--defaults", "--var", "flip=yes")

    assert code == 0, said
    assert "How many epochs" not in said
    assert _answers(demo) == {"epochs": 5, "size": "small", "flip": True}


def test_ctrl_c_at_a_question_leaves_nothing_and_exits_130(demo: Path) -> None:
    code, said = _on_terminal(demo, ("7\n", f"{CTRL_C}\n"))  # Enter wakes a read that began just after the signal

    assert code == 130, said
    assert not (demo / "net").exists()
    assert [path.name for path in demo.iterdir() if path.name.startswith(".")] == []
