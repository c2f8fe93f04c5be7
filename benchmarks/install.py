"""Compare ``envforge install`` with its limit: py-rattler and uv called directly, over loopback, each in a new process.

    python benchmarks/install.py --wheel torch-….whl [--packages 200] [--rounds 5] [--folder DIR]
    python benchmarks/install.py --wheel torch-….whl --memory 50 200 400

Creates a channel of that many conda packages in addition to the running Python. Installs them and the wheel with a cold
(empty) and a warm cache, directly and with envforge in turn. Then measures an install with nothing to do, ``audit``,
and ``lock --check``. Prints the medians of wall-clock and CPU time, the peak memory of each, and the sizes of caches as
Markdown. With ``--memory``, prints only the peak memory of envforge by the number of packages. The best wheel is the
published one: pip download --no-deps torch==2.13.0
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

assert sys.platform != "win32"

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from envforge.prefix.clean import measure as measure_folder  # noqa: E402 - after the path

MAKE = """
import random, sys
from pathlib import Path
from tests.prefix.install.support import LockWriter
from tests.support.channel import Channel, python_package, text_package

from tests.support.wheel import sha256_of
from urllib.parse import quote

folder, packages, url = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
wheels = sorted((folder / "channel" / "wheels").iterdir())
chance = random.Random(0)
words = [f"{chance.getrandbits(64):x}" for _ in range(5000)]
channel = Channel(folder / "channel")
channel.add(python_package())
for number in range(packages):
    texts = {f"share/p{number:03}/{name:02}.txt": " ".join(chance.choices(words, k=1500)) for name in range(40)}
    channel.add(text_package(f"p{number:03}", "1.0", texts))
channel.index()
LockWriter(url).conda(*channel.packages.values()).wheel(*wheels).write(folder / "conda-lock.yml")
lines = [f"{w.name.split('-')[0]} @ {url}/wheels/{quote(w.name)} --hash=sha256:{sha256_of(w)}" for w in wheels]
(folder / "requirements.txt").write_text(chr(10).join(lines))
asked = [f"  - {name}" for name in channel.packages]
lines = ["channels:", f"  - {url}", "platforms:", "  - linux-64", "dependencies:", *asked, ""]
(folder / "environment.yml").write_text(chr(10).join(lines))
"""
BY_HAND = """
import asyncio, json, os, subprocess, sys
from pathlib import Path
import rattler
from uv import find_uv_bin
channel, requirements, prefix, cache = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
folder = Path(os.environ["CHANNEL_FOLDER"])
records = []
for subdir in ("noarch", str(rattler.Subdir.current())):
    path = folder / subdir / "repodata.json"
    records += rattler.RepoData.from_path(path).into_repo_data(rattler.Channel(channel))
asyncio.run(rattler.install(records, prefix, cache_dir=cache / "pkgs", show_progress=False))
subprocess.run([find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--python", str(prefix / "bin/python"),
                "--cache-dir", str(cache / "uv"), "--require-hashes", "-r", requirements], check=True)
sys.stdout.flush()
os._exit(0)
"""


class Measure(Struct, frozen=True, kw_only=True):
    """One run: wall-clock and CPU seconds, and the peak memory of its largest process."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def measure(words: list[str], environment: dict[str, str], *, accepted: tuple[int, ...] = (0,)) -> Measure:
    """Run a command until it exits; exit if its exit code isn't accepted."""
    began = time.perf_counter()
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) not in accepted:
        raise SystemExit(f"{' '.join(words)} failed:\n{errors.decode()}")
    cpu = usage.ru_utime + usage.ru_stime
    return Measure(seconds=seconds, cpu_seconds=cpu, peak_mb=usage.ru_maxrss / 1024)


def compiling(folder: Path) -> dict[str, str]:
    """Return variables with which Python stores compiled modules, as it does for an installed package."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "compiled")}


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the directory over HTTP from another process."""
    program = (
        "import sys, time; from pathlib import Path; from tests.support.loopback import Loopback\n"
        "with Loopback(Path(sys.argv[1])) as server:\n    print(server.url, flush=True)\n    sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        if server.stdout is None or server.stdin is None:
            raise SystemExit("the server has no pipes")
        yield server.stdout.readline().strip()
        server.stdin.close()


@contextmanager
def made(folder: Path, wheels: Iterable[Path], packages: int) -> Iterator[str]:
    """Create a channel and a lockfile in ``folder``, and serve it.

    Another process does the work, because peak memory is measured from the fork.
    """
    served = folder / "channel" / "wheels"
    served.mkdir(parents=True)
    for wheel in wheels:
        copy = os.link if wheel.stat().st_dev == served.stat().st_dev else shutil.copyfile
        copy(wheel, served / wheel.name)
    with serving(folder / "channel") as url:
        making = [sys.executable, "-c", MAKE, str(folder), str(packages), url]
        subprocess.run(making, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        yield url


def compare(folder: Path, wheels: Iterable[Path], packages: int, rounds: int) -> dict[str, list[Measure]]:
    """Return all runs by name; the sides take turns in running first."""
    script = folder / "by_hand.py"
    script.write_text(BY_HAND, encoding="utf-8")
    environment = compiling(folder) | {"CHANNEL_FOLDER": str(folder / "channel")}
    ours = [sys.executable, "-m", "envforge"]
    found: dict[str, list[Measure]] = {}
    measure([*ours, "--version"], environment)
    measure([sys.executable, "-c", "import envforge.prefix.apply, uv"], environment)
    with made(folder, wheels, packages) as url:
        install = [*ours, "install", str(folder / "conda-lock.yml"), "--frozen", "--prefix"]
        hand = [sys.executable, str(script), url, str(folder / "requirements.txt")]
        sides = [("by hand", hand, []), ("envforge", install, ["--cache"])]
        for number in range(rounds):
            for state in ("cold", "warm"):
                for name, words, option in sides if number % 2 else reversed(sides):
                    cache, prefix = folder / f"cache {name}", folder / f"prefix {name}"
                    shutil.rmtree(prefix, ignore_errors=True)
                    if state == "cold":
                        shutil.rmtree(cache, ignore_errors=True)
                    os.sync()
                    run = [*words, str(prefix), *option, str(cache)]
                    found.setdefault(f"{state}, {name}", []).append(measure(run, environment))
            found.setdefault("nothing to do, envforge", []).append(measure(run_of(sides, folder), environment))
            audit = [*ours, "audit", "--prefix", str(folder / "prefix envforge")]
            found.setdefault("audit, first", []).append(measure(audit, environment))
            found.setdefault("audit, warm", []).append(measure(audit, environment))
            check = [*ours, "lock", "--check", "--lockfile", str(folder / "conda-lock.yml")]
            check += ["--file", str(folder / "environment.yml")]
            found.setdefault("lock --check", []).append(measure(check, environment, accepted=(0, 1)))  # generated
    return found


def run_of(sides: list[tuple[str, list[str], list[str]]], folder: Path) -> list[str]:
    """Return the envforge install into the prefix that envforge installed last."""
    _, words, option = sides[1]
    return [*words, str(folder / "prefix envforge"), *option, str(folder / "cache envforge")]


def print_memory(folder: Path, wheel: Path, counts: list[int]) -> None:
    """Print the peak memory of a cold and a warm install, by the number of packages."""
    lines = ["| conda packages | cold | warm |", "|---|---|---|"]
    environment = compiling(folder)
    for count in counts:
        place = folder / str(count)
        with made(place, [wheel], count):
            run = [sys.executable, "-m", "envforge", "install", str(place / "conda-lock.yml"), "--frozen"]
            run += ["--prefix", str(place / "prefix"), "--cache", str(place / "cache")]
            peaks = [measure(run, environment).peak_mb]
            shutil.rmtree(place / "prefix")
            peaks.append(measure(run, environment).peak_mb)
        shutil.rmtree(place)
        lines.append(f"| {count} | {peaks[0]:.0f} MB | {peaks[1]:.0f} MB |")
    print("\n".join(lines))  # noqa: T201 - the result


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--packages", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="+", metavar="N")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        if options.memory:
            print_memory(Path(name), options.wheel, options.memory)
            return
        found = compare(Path(name), [options.wheel], options.packages, options.rounds)
        what = f"{options.packages} conda packages, Python {platform.python_version()}, {options.wheel.name}"
        print_table(what, found, Path(name))


def print_table(what: str, found: dict[str, list[Measure]], folder: Path) -> None:
    """Print the medians, the ratios to the limit, and the sizes of the caches that the last round left."""
    lines = [f"{what}; {os.cpu_count()} cores, {len(found['cold, by hand'])} rounds, medians", ""]
    lines += ["| what | wall | CPU | of the limit: wall, CPU | peak memory |", "|---|---|---|---|---|"]
    middle = {name: (_median(runs, "seconds"), _median(runs, "cpu_seconds")) for name, runs in found.items()}
    for name, (wall, cpu) in sorted(middle.items()):
        limit = middle.get(name.replace("envforge", "by hand"))
        share = f"{wall / limit[0]:.2f}, {cpu / limit[1]:.2f}" if limit and "envforge" in name else ""
        peak = max(run.peak_mb for run in found[name])
        lines.append(f"| {name} | {wall:.2f} s | {cpu:.2f} s | {share} | {peak:.0f} MB |")
    sizes = [measure_folder(folder / f"cache {name}").bytes for name in ("by hand", "envforge")]
    lines.append(
        f"| cache on disk | {sizes[0] / 1e9:.2f} GB by hand | {sizes[1] / 1e9:.2f} GB | {sizes[1] / sizes[0]:.2f} | |"
    )
    rounds = {
        name: [(round(run.seconds, 2), round(run.cpu_seconds, 2)) for run in runs] for name, runs in found.items()
    }
    lines += ["", json.dumps(rounds)]
    print("\n".join(lines))  # noqa: T201 - the result


def _median(runs: list[Measure], field: str) -> float:
    return float(statistics.median(getattr(run, field) for run in runs))


if __name__ == "__main__":
    main()
