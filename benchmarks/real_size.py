"""Compare ``envforge install`` with its limit at the real size: torch for CUDA 13 with its libraries, 3 GB of wheels.

    python benchmarks/real_size.py [--rounds 3] [--folder DIR] [--wheels DIR]

Needs Python 3.11, 20 GB of disk, and a package index for ``pip download``, unless ``--wheels`` is a directory to which
it downloaded them before. The table is the one of ``benchmarks/install.py``: rounds in turn, over loopback, with a
conda channel of Python and ten small packages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

assert sys.platform != "win32"

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from install import compare, print_table  # noqa: E402 - after the path

from tests.support.real_wheels import TAG, TORCH, download_wheels  # noqa: E402


def main() -> None:
    """Get the wheels, run the benchmark, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--wheels", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        wheels = sorted(options.wheels.glob("*.whl")) if options.wheels else []
        if not wheels:
            folder = options.wheels or Path(name) / "wheels"
            folder.mkdir(parents=True, exist_ok=True)
            wheels = download_wheels(folder)
        found = compare(Path(name), wheels, 10, options.rounds)
        print_table(f"torch {TORCH}+{TAG} with {len(wheels)} wheels", found, Path(name))


if __name__ == "__main__":
    main()
