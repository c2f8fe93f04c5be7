"""Measure the solver's solver_launcher against a bare py-rattler solve of the same environment.

    python benchmarks/solver.py [--records FOLDER] [--rounds 7]

FOLDER is a channel with ``linux-64`` and ``noarch`` repodata (default: the real conda-forge records next to the
checkout). Another process serves it on loopback. Each round starts each candidate once, in turn, as a new process with
an empty repodata cache. The table shows the median and the spread of the wall-clock time, and the median of the CPU
time, which depends less on other programs. "its own" is a lock whose conda returns the recorded solve immediately: the
time that conda-lock itself needs.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

assert sys.platform != "win32"

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT.parent / "shared" / "data" / "conda-forge"
SPECS = ["python 3.11.*", "numpy", "pillow", "tqdm", "matplotlib-base", "pandas", "scikit-learn", "jupyterlab", "pip"]
PUBLIC = "https://conda.anaconda.org/conda-forge"
BARE = """
import asyncio, os, sys, tempfile
from rattler import Gateway, GenericVirtualPackage, PackageName, Version, solve
from rattler.package import BuildString
facts = [("__glibc", "2.28", "0"), ("__linux", "5.10", "0"), ("__unix", "0", "0"), ("__archspec", "1", "x86_64")]
virtual = [GenericVirtualPackage(PackageName(n), Version(v), BuildString(b)) for n, v, b in facts]
with tempfile.TemporaryDirectory() as folder:
    found = asyncio.run(solve([sys.argv[1]], sys.argv[2:], gateway=Gateway(cache_dir=folder),
                              platforms=["linux-64", "noarch"], virtual_packages=virtual))
sys.stdout.write(f"{len(found)}\\n")
sys.stdout.flush()
os._exit(0)
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    server, url = serve(given.records)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _measure(_candidates(Path(folder), url), given.rounds)
    finally:
        server.terminate()
        server.wait()


def _candidates(folder: Path, url: str) -> dict[str, list[str]]:
    sys.path.insert(0, str(ROOT))
    from envforge.lock.condalock import solver_launcher  # noqa: PLC0415 - found through the line above

    os.environ.update(ENVFORGE_MIRRORS=f"{PUBLIC}={url}", CONDA_SUBDIR="linux-64", HOME=str(folder))
    conda = str(solver_launcher(folder))
    environment = folder / "environment.yml"
    specs = "".join(f"\n  - {spec}" for spec in SPECS)
    environment.write_text(f"channels: [conda-forge]\nplatforms: [linux-64]\ndependencies:{specs}\n", encoding="utf-8")
    create = [conda, "create", "-p", "/p", "--dry-run", "--json", "-c", "conda-forge", *SPECS]
    lock = ["lock", "-f", str(environment), "--lockfile", str(folder / "conda-lock.yml")]
    return {
        "bare py-rattler solve": [sys.executable, "-I", "-c", BARE, url, *SPECS],
        "solver_launcher: create": create,
        "solver_launcher: --version": [conda, "--version"],
        "conda-lock: its own time": _with_conda(lock, _replayed(folder, create)),
        "conda-lock: total": _with_conda(lock, conda),
    }


def _with_conda(lock: list[str], conda: str) -> list[str]:
    return [sys.executable, "-m", "conda_lock", *lock, "--conda", conda]


def _replayed(folder: Path, create: list[str]) -> str:
    """Write a conda that prints the recorded output of ``create`` immediately."""
    answer = folder / "answer.json"
    answer.write_bytes(subprocess.run(create, check=True, capture_output=True).stdout)
    script = folder / "replayed"
    script.write_text(f'#!/bin/sh\nif test "$1" = create; then exec cat "{answer}"; fi\n', encoding="utf-8")
    script.chmod(0o755)
    return str(script)


def _measure(candidates: dict[str, list[str]], rounds: int) -> None:
    walls: dict[str, list[float]] = {name: [] for name in candidates}
    cpus: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, command in candidates.items():
            start, cpu = time.perf_counter(), children_cpu_s()
            subprocess.run(command, check=True, capture_output=True)
            walls[name].append(time.perf_counter() - start)
            cpus[name].append(children_cpu_s() - cpu)
    bare = statistics.median(walls["bare py-rattler solve"])
    for name, taken in walls.items():
        median, cpu = statistics.median(taken), statistics.median(cpus[name])
        spread = f"({min(taken):.2f} to {max(taken):.2f})"
        line = f"{name:26} {median:6.2f} s  {spread}  {median / bare:5.2f} x bare, CPU {cpu:.2f} s"
        print(line)  # noqa: T201 - the result


def children_cpu_s() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Serve a directory on loopback from another process; return the process and the URL."""
    program = (
        "import functools, http.server as h, sys;"
        "s = h.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(h.SimpleHTTPRequestHandler, "
        "directory=sys.argv[1])); print(s.server_port, flush=True); s.serve_forever()"
    )
    command = [sys.executable, "-c", program, str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    url = f"http://127.0.0.1:{server.stdout.readline().strip() if server.stdout else ''}"
    with urlopen(f"{url}/noarch/"):  # noqa: S310 - loopback
        return server, url


if __name__ == "__main__":
    main()
