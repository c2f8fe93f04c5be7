"""Check in seconds that training works on this machine: ``python -m PACKAGE.smoke``. See ``engine/smoke.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import train
from .engine import smoke
from .engine.errors import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    return smoke.main(train, arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main))
