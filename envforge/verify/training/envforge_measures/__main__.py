"""Run ``python -m envforge_measures SPECIFICATION``."""

from __future__ import annotations

import sys

from .main import main

if __name__ == "__main__":
    main(sys.argv[1])
