"""Measure ``envforge audit`` of a large environment: first (reads every file), warm (nothing changed), and ``--full``.

    python benchmarks/audit.py --prefix DIR [--rounds 3]             an environment that envforge installed
    python benchmarks/audit.py --files 20000 [--folder DIR]          a generated environment of about 1 GB

Prints the wall-clock time, CPU time, and peak memory of each, as Markdown.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from msgspec import Struct

assert sys.platform != "win32"

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PACKAGES = 100
LARGE_BYTES = 10_000_000
SMALL_BYTES = 5_000


class Measure(Struct, frozen=True, kw_only=True):
    """One run: wall-clock and CPU time, and peak memory."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def make(folder: Path, files: int) -> Path:
    """Create a prefix of ``PACKAGES`` packages, each with one large file and its share of small ones; nearly 1 GB."""
    from envforge.prefix.install import install  # noqa: PLC0415 - not needed for --prefix
    from envforge.prefix.values import InstallRequest  # noqa: PLC0415 - not needed for --prefix
    from tests.prefix.install.support import LockWriter  # noqa: PLC0415
    from tests.support.channel import SUBDIR, Channel, File, Package, python_package  # noqa: PLC0415

    chance = random.Random(0)  # noqa: S311 - the same bytes in each run
    channel = Channel(folder / "channel")
    channel.add(python_package())
    for number in range(PACKAGES):
        name = f"p{number:03}"
        small = [
            File(path=f"share/{name}/{index}.bin", data=chance.randbytes(SMALL_BYTES))
            for index in range(files // PACKAGES)
        ]
        large = File(path=f"lib/{name}.bin", data=chance.randbytes(LARGE_BYTES - SMALL_BYTES * len(small)))
        channel.add(Package(name=name, version="1.0", files=(large, *small)))
    lock = LockWriter(channel.folder.as_uri()).conda(*channel.packages.values()).write(folder / "conda-lock.yml")
    prefix = folder / "prefix"
    install(InstallRequest(lockfile=lock, prefix=prefix, platform=SUBDIR, cache=folder / "cache"))
    return prefix


def measure(prefix: Path, *options: str) -> Measure:
    """Run one audit in a new process; exit if it finds a difference."""
    words = [sys.executable, "-m", "envforge", "audit", "--prefix", str(prefix), *options]
    began = time.perf_counter()
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(words)} failed")
    return Measure(seconds=seconds, cpu_seconds=usage.ru_utime + usage.ru_stime, peak_mb=usage.ru_maxrss / 1024)


def report(prefix: Path, rounds: int) -> None:
    """Run the audits and print the table."""
    cache = prefix / ".envforge" / "audit.json"
    found: dict[str, list[Measure]] = {"first": [], "warm": [], "--full": []}
    for _ in range(rounds):
        cache.unlink(missing_ok=True)
        found["first"].append(measure(prefix))
        measure(prefix)  # only the second audit caches files that were written immediately before the first one
        found["warm"].append(measure(prefix))
        found["--full"].append(measure(prefix, "--full"))
    lines = ["| audit | wall | CPU | peak memory |", "|---|---|---|---|"]
    for name, runs in found.items():
        wall, cpu = (
            statistics.median(values) for values in zip(*((r.seconds, r.cpu_seconds) for r in runs), strict=True)
        )
        lines.append(f"| {name} | {wall:.2f} s | {cpu:.2f} s | {max(run.peak_mb for run in runs):.0f} MB |")
    print("\n".join(lines))  # noqa: T201 - the result


def main() -> None:
    """Parse the options, and create an environment if none is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", type=Path)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.prefix is not None:
        report(options.prefix, options.rounds)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.make:
            make(options.make, options.files)
            return
        words = [sys.executable, __file__, "--make", folder, "--files", str(options.files)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)  # peak memory counts from the fork
        report(Path(folder) / "prefix", options.rounds)


if __name__ == "__main__":
    main()
