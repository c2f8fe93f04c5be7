"""Rebuild `lockfiles/`: solve every target of `tools/catalogue/targets.toml` against the records in `data/facts`.

    python -m tools.build_catalogue
    python -m tools.build_catalogue --check

No network. `lockfiles/PROVENANCE.json` lists where the URL, the hash, and the requirements of each file were read.

    python -m tools.build_catalogue --conda-forge DIR --source TEXT

Solve against the `<subdir>/repodata.json.zst` files in DIR instead, for example a mirror of the channel. Afterwards
`data/facts/conda-forge` has the records that the new lockfiles name; TEXT is the source of the new ones.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.facts.read import FACTS, FactError

ROOT = Path(__file__).resolve().parent.parent
LOCKFILES = ROOT / "lockfiles"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, and write or compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Write nothing. Exits with 1 if a file is out of date.")
    parser.add_argument("--facts", type=Path, default=FACTS, help="Read the facts from this directory.")
    parser.add_argument("--conda-forge", type=Path, metavar="DIR", help="Solve against this copy of conda-forge.")
    parser.add_argument("--source", metavar="TEXT", help="State where the copy of conda-forge comes from.")
    options = parser.parse_args(arguments)
    if (options.conda_forge is None) != (options.source is None):
        parser.error("--conda-forge and --source need each other")
    from tools.catalogue.build import CONDA_FORGE, Builder, write  # noqa: PLC0415 - heavy, and not needed for --help
    from tools.catalogue.records import Channel, CondaRecords  # noqa: PLC0415 - as above

    today = dt.datetime.now(tz=dt.timezone.utc).date()
    channel = Channel(folder=options.conda_forge, source=options.source, checked=today) if options.source else None
    try:
        builder = Builder(root=ROOT, facts=options.facts, channel=channel)
    except FactError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    builts = builder.build()
    if options.check:
        with tempfile.TemporaryDirectory() as name:
            write(builts, Path(name))
            return _check(Path(name))
    write(builts, LOCKFILES)
    if channel is not None:
        CondaRecords(builder.used).write(options.facts / CONDA_FORGE)
    print(f"Wrote {len(builts)} lockfiles to {LOCKFILES}")
    return 0


def _check(built: Path) -> int:
    changed = [path for path in sorted(built.rglob("*")) if path.is_file() and not _is_same(path, built)]
    for path in changed:
        print(f"out of date: {path.relative_to(built)}", file=sys.stderr)
    if changed:
        print("hint: to rebuild the lockfiles, run `python -m tools.build_catalogue`", file=sys.stderr)
    return 1 if changed else 0


def _is_same(path: Path, built: Path) -> bool:
    stored = LOCKFILES / path.relative_to(built)
    return stored.is_file() and stored.read_bytes() == path.read_bytes()


if __name__ == "__main__":
    raise SystemExit(main())
