"""Write programs for tests."""

from __future__ import annotations

import shlex


def shebang(interpreter: str) -> str:
    """Return the first lines of a Python program; ``#!`` allows no spaces in a path, but sh and Python read both."""
    return f"#!/bin/sh\n'''exec' {shlex.quote(interpreter)} \"$0\" \"$@\"\n' '''\n"
