"""List the contents of a directory, and start processes that fail at an exact point of their work."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "os.chmod")


def tree(folder: Path) -> dict[str, str]:
    """Every file and link below a folder with its content, and every folder; ``{}`` where there is none."""
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = path.read_text(encoding="utf-8")
    return found


def names(folder: Path) -> list[str]:
    """The names of what lies directly in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def in_child(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> int:
    """Run ``work`` in a forked process and return its exit code, negative for the signal that ended it.

    0 done, 1 an exception, 130 a KeyboardInterrupt; ``before`` prepares the process (limits, users, traps).
    """
    if sys.platform != "win32":
        child = os.fork()
        if child == 0:
            code = 1
            try:
                before()
                work()
                code = 0
            except KeyboardInterrupt:
                code = 130
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    raise NotImplementedError("Windows has no fork")


def trap_each(action: Callable[[], object], below: Path) -> None:
    """Run ``action`` just before each operation of this process on a path below ``below``."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(str(below)):
            action()

    sys.addaudithook(hook)


def trap(number: int, action: Callable[[], object], below: Path) -> None:
    """Run ``action`` just before the ``number``-th of these operations, counted from 1."""
    left = iter([None] * (number - 1) + [action])

    def count() -> None:
        spring = next(left, None)
        if spring is not None:
            spring()

    trap_each(count, below)


def trap_rename(target: Path, action: Callable[[], object]) -> None:
    """Run ``action`` just before this process first renames something to ``target``."""
    left = [action]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and str(arguments[1]) == str(target) and left:
            left.pop()()

    sys.addaudithook(hook)


def send(number: signal.Signals) -> Callable[[], None]:
    """An action that gives this process a signal."""
    return lambda: os.kill(os.getpid(), number)
