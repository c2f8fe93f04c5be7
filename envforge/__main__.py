"""Run the command line: the entry point of ``envforge`` and of ``python -m envforge``."""

from __future__ import annotations

import os
from typing import NoReturn


def run() -> NoReturn:
    """Run the command line of this process and exit.

    The imports take most of a short run, so Ctrl-C during them must end like any other: one line, and exit code 130.
    """
    _open_streams()
    try:
        from envforge.cli import run_process  # noqa: PLC0415 - an interrupt during this import must be caught

        run_process()
    except KeyboardInterrupt:
        os.write(2, b"error: interrupted\n")
        os._exit(130)


def _open_streams() -> None:
    """Open ``/dev/null`` in place of closed standard streams: otherwise, the next file gets their descriptors."""
    for descriptor in range(3):
        if not _is_open(descriptor):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free descriptor is this one


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    run()
