"""Measure ``envforge lock`` against conda-lock with conda and its rattler solver, on a channel of real size.

    python benchmarks/lock.py --conda PATH/TO/conda [--records DIR] [--copies 20] [--rounds 5]

The channel has every record of DIR (default: the real conda-forge records next to the checkout, else generated ones),
and copies of each under other names. Another process serves it on loopback. conda-lock is the one that envforge uses.
Each round starts both in turn, with empty caches (cold) and once more with full ones (warm). The table shows medians of
wall-clock and CPU time. Both lockfiles must have the same packages.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import zstandard

assert sys.platform != "win32"

from solver import RECORDS, SPECS, children_cpu_s, serve  # noqa: E402 - the module exists only on these platforms

ROOT = Path(__file__).resolve().parent.parent
GENERATED = 23_000  # records of each generated channel, as many as there are real ones


def main() -> None:
    """Write the channel, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conda", type=Path, required=True)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        is_real = given.records.is_dir()
        count = write_channel(folder / "channel", given.records if is_real else None, given.copies)
        server, url = serve(folder / "channel")
        try:
            times, packages = measure(folder, url, SPECS if is_real else ["top"], given.conda.absolute(), given.rounds)
        finally:
            server.terminate()
            server.wait()
    sys.stdout.write(f"{count:,} {'real' if is_real else 'generated'} records, {packages} packages locked\n\n")
    sys.stdout.write(table(times))


def write_channel(folder: Path, records: Path | None, copies: int) -> int:
    """Write each record ``copies`` times, all but the first under another name; return the number of records."""
    count = 0
    for subdir in ("linux-64", "noarch"):
        content = real(records / subdir) if records is not None else {"packages.conda": dict(generated(subdir))}
        for kind in ("packages", "packages.conda"):
            once = content.setdefault(kind, {})
            for number in range(1, copies):
                once |= {
                    f"copy{number}-{file}": {**record, "name": f"copy{number}-{record['name']}"}
                    for file, record in content[kind].items()
                    if not file.startswith("copy")
                }
            count += len(once)
        (folder / subdir).mkdir(parents=True)
        (folder / subdir / "repodata.json.zst").write_bytes(zstandard.compress(msgspec.json.encode(content)))
    return count


def real(folder: Path) -> dict[str, Any]:
    """Return the content of a repodata file."""
    with (folder / "repodata.json.zst").open("rb") as file:
        content: dict[str, Any] = msgspec.json.decode(zstandard.ZstdDecompressor().stream_reader(file).read())
    return content


def generated(subdir: str) -> Iterator[tuple[str, Any]]:
    """Yield records of packages in 10 versions each, of which ``top`` needs 200."""
    names = [f"package{number:04}" for number in range(GENERATED // 20)]
    for position, name in enumerate([*names, "top"] if subdir == "linux-64" else ["unused"]):
        needs = names[:200] if name == "top" else names[max(0, position - 3) : position]
        for minor in range(10):
            record = {
                "name": name,
                "version": f"1.{minor}",
                "build": "0",
                "build_number": 0,
                "depends": [f"{need} >=1.{minor}" for need in needs],
                "md5": f"{position * 10 + minor:032x}",
                "sha256": f"{position * 10 + minor:064x}",
                "size": 1000,
                "subdir": subdir,
                "timestamp": 1_700_000_000_000 + minor,
            }
            yield f"{name}-1.{minor}-0.conda", record


def measure(
    folder: Path, url: str, specs: list[str], conda: Path, rounds: int
) -> tuple[dict[str, list[tuple[float, float]]], int]:
    """Return wall-clock and CPU times of each candidate, and the number of locked packages."""
    environment = folder / "environment.yml"
    lines = "".join(f"\n  - {spec}" for spec in specs)
    environment.write_text(f"channels: [{url}]\nplatforms: [linux-64]\ndependencies:{lines}\n", encoding="utf-8")
    condarc = folder / "condarc"  # conda requires this name
    condarc.write_text("solver: rattler\nauto_update_conda: false\n", encoding="utf-8")
    target = folder / "conda-lock.yml"
    lock = ["lock", "--file", str(environment), "--platform", "linux-64", "--lockfile", str(target)]
    commands = {
        "envforge lock": [sys.executable, "-m", "envforge", *lock],
        "conda-lock with conda": [sys.executable, "-m", "conda_lock", *lock, "--conda", str(conda)],
    }
    times: dict[str, list[tuple[float, float]]] = {}
    locked: dict[str, set[str]] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            home = folder / "home"
            shutil.rmtree(home, ignore_errors=True)
            variables = {
                **os.environ,
                "HOME": str(home),
                "XDG_CACHE_HOME": str(home / "cache"),
                "ENVFORGE_CACHE": str(home / "envforge"),
                "CONDA_PKGS_DIRS": str(home / "pkgs"),
                "CONDARC": str(condarc),
                "PYTHONPATH": str(ROOT),
            }
            for kind in ("cold", "warm"):
                target.unlink(missing_ok=True)
                start, cpu = time.perf_counter(), children_cpu_s()
                done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, check=False)
                if done.returncode != 0:
                    raise SystemExit(f"{name} failed:\n{done.stderr.decode()[-3000:]}")
                times.setdefault(f"{kind}: {name}", []).append((time.perf_counter() - start, children_cpu_s() - cpu))
                locked[name] = set(re.findall(r"^  url: (\S+)", target.read_text(encoding="utf-8"), re.MULTILINE))
    mine, theirs = (locked[name] for name in commands)
    if mine != theirs:
        raise SystemExit(f"the lockfiles differ: {sorted(mine ^ theirs)[:10]}")
    return times, len(mine)


def table(times: dict[str, list[tuple[float, float]]]) -> str:
    """Return the medians as a Markdown table, with the ratio of envforge to conda-lock."""
    lines = ["| | wall | CPU | of conda-lock: wall, CPU |", "|---|---|---|---|"]
    medians = {name: [statistics.median(column) for column in zip(*own, strict=True)] for name, own in times.items()}
    for name, (wall, cpu) in sorted(medians.items()):
        of = medians[f"{name.partition(':')[0]}: conda-lock with conda"]
        ratio = f"{wall / of[0]:.2f}, {cpu / of[1]:.2f}" if "envforge" in name else ""
        lines.append(f"| {name} | {wall:.2f} s | {cpu:.2f} s | {ratio} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
