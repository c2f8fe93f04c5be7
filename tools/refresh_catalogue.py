"""Solve the lockfiles of the catalogue again, against the public channels and the PyTorch index.

    python -m tools.refresh_catalogue [--only cpu-linux-64] [--summary FILE]

A lockfile changes only if it would install other files. One that can't be solved is kept; the command then exits with
1. ``--summary`` writes the changes as Markdown, for a pull request.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import requests
from msgspec import Struct, field

from envforge.catalogue.index import PLACEHOLDER
from envforge.errors import EnvforgeError
from envforge.lock.lockfile import parse_lockfile, update_sha256
from envforge.lock.locking import lock
from envforge.lock.project import ENVIRONMENT_FILE, LOCK_FILE, VIRTUAL_PACKAGES_FILE
from envforge.lock.request import LockRequest
from envforge.pytorch.matrix import load_matrix
from tools.catalogue.build import INDEX_FILE, PROVENANCE_FILE, Built, entry_of, write
from tools.catalogue.select_target import Plan, plan, read_targets

ROOT = Path(__file__).resolve().parent.parent
# files of the Python package index are stored relative to it: see lockfiles/README.md
_INDEX_FILES = re.compile(r"https://[\w.-]+/packages/(?=[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/)")


class Refresher(Struct):
    """A solver of plans, which compares the results with the stored catalogue."""

    stored: Path
    solve: Callable[[Plan], str]
    sizes: Callable[[Mapping[str, str]], Mapping[str, int]]
    today: dt.date
    changes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def refresh(self, plans: Iterable[Plan]) -> tuple[Built, ...]:
        """Return the lockfile of each plan: the new one, or the stored one if it installs the same files."""
        index = json.loads((self.stored / INDEX_FILE).read_text(encoding="utf-8"))
        entries = {entry["file"]: entry for entry in index["entries"]}
        sources = _sources(json.loads((self.stored / PROVENANCE_FILE).read_text(encoding="utf-8")))
        found = (self._one(each, entries.get(each.target.file), sources) for each in plans)
        return tuple(built for built in found if built is not None)

    def _one(
        self, planned: Plan, entry: Mapping[str, Any] | None, sources: Mapping[str, tuple[str, str, str]]
    ) -> Built | None:
        file = planned.target.file
        old = (self.stored / file).read_text(encoding="utf-8") if entry else None
        try:
            solved = self.solve(planned)
        except EnvforgeError as error:
            self.failures.append(f"- `{file}`: {error.message}")
            return Built(name=file, text=old, entry=entry, sources=_of(old, file, sources)) if old and entry else None
        new = update_sha256(_INDEX_FILES.sub(PLACEHOLDER, solved))
        is_same = old is not None and _files(old, file) == _files(new, file)
        if old is not None and entry is not None and is_same and entry["input_sha256"] == planned.texts.sha256:
            return Built(name=file, text=old, entry=entry, sources=_of(old, file, sources))
        self.changes.append(_difference(old, new, file))
        addresses = {package.sha256 or "": package.url for package in parse_lockfile(solved, file).packages}
        made = entry_of(planned, file, new, sizes=self.sizes(addresses), date=self.today, matrix=load_matrix())
        return Built(name=file, text=new, entry=made, sources=_of(new, file, sources, self.today))

    def summary(self) -> str:
        """Return the changes and failures as Markdown."""
        parts = [f"{len(self.changes)} lockfiles have changed.", *self.changes]
        if self.failures:
            parts += ["## Not solved", "\n".join(self.failures)]
        return "\n\n".join(parts) + "\n"


def solve_publicly(planned: Plan) -> str:
    """Return the lockfile that ``envforge lock`` writes for a plan now."""
    with tempfile.TemporaryDirectory(prefix="catalogue-") as name:
        work = Path(name)
        (work / ENVIRONMENT_FILE).write_text(planned.texts.environment, encoding="utf-8", newline="\n")
        (work / VIRTUAL_PACKAGES_FILE).write_text(planned.texts.virtual_packages, encoding="utf-8", newline="\n")
        lock(LockRequest(environment=work / ENVIRONMENT_FILE, lockfile=work / LOCK_FILE))
        return (work / LOCK_FILE).read_text(encoding="utf-8")


def sizes_by_head(addresses: Mapping[str, str]) -> Mapping[str, int]:
    """Return the bytes of each file by its sha256, as its server states them; files without a size are left out."""
    sizes = {}
    with requests.Session() as session:
        for sha256, url in addresses.items():
            answer = session.head(url, allow_redirects=True, timeout=60)
            if answer.ok and answer.headers.get("Content-Length", "").isdecimal():
                sizes[sha256] = int(answer.headers["Content-Length"])
    return sizes


def _files(text: str, file: str) -> set[tuple[str, str | None]]:
    return {(package.url, package.sha256) for package in parse_lockfile(text, file).packages}


def _of(
    text: str, file: str, sources: Mapping[str, tuple[str, str, str]], today: dt.date | None = None
) -> Mapping[str, tuple[str, str, str]]:
    stated = f"solved against the public channels and indexes on {today}"
    return {url: sources.get(url, (stated,) * 3) for url, _ in _files(text, file)}


def _sources(provenance: Mapping[str, Any]) -> Mapping[str, tuple[str, str, str]]:
    return {
        url: (group["address"], group["sha256"], group["requirements"])
        for group in provenance["groups"]
        for url in group["files"]
    }


def _difference(old: str | None, new: str, file: str) -> str:
    if old is None:
        return f"## `{file}`\n\nA new lockfile."
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / side / "conda-lock.yml" for side in ("old", "new")]
        for path, text in zip(paths, (old, new), strict=True):
            path.parent.mkdir()
            path.write_text(text, encoding="utf-8", newline="\n")
        words = [sys.executable, "-m", "envforge", "diff", *map(str, paths), "--markdown"]
        told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return f"## `{file}`\n\n{told.stdout.strip() or told.stderr.strip()}".replace(f"{name}/", "")


def main() -> int:
    """Solve, write, and summarize."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="variant and platform; may be provided more than once")
    parser.add_argument("--summary", type=Path, help="file for the summary")
    arguments = parser.parse_args()
    matrix = load_matrix()
    plans = [plan(target, matrix, ROOT / "templates") for target in read_targets()]
    chosen = {each.target.name for each in plans} if arguments.only is None else set(arguments.only)

    def solve(planned: Plan) -> str:
        print(f"solving {planned.target.file}", file=sys.stderr)
        return solve_publicly(planned)

    refresher = Refresher(ROOT / "lockfiles", solve, sizes_by_head, dt.datetime.now(tz=dt.timezone.utc).date())
    builts = refresher.refresh(each for each in plans if each.target.name in chosen)
    if arguments.only is None:
        write(builts, ROOT / "lockfiles")
    if arguments.summary is not None:
        arguments.summary.write_text(refresher.summary(), encoding="utf-8", newline="\n")
    print(refresher.summary())
    return 1 if refresher.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
