"""Rebuild the generated files of `envforge/data` from `data/facts`, or check that they are up to date.

    python -m tools.build_data
    python -m tools.build_data --check

`data/facts/README.md` describes the facts and how to add a torch release or a CUDA tag.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.facts.matrix import matrix, names, nvidia_drivers, other_gpus, requirements
from tools.facts.read import FACTS, FactError, Facts, read_facts

DATA = Path(__file__).resolve().parent.parent / "envforge" / "data"
_GENERATED = "Generated from data/facts by `python -m tools.build_data`. Do not edit."


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Write nothing. Exits with 1 if a file is out of date.")
    parser.add_argument("--facts", type=Path, default=FACTS, help="Read the facts from this directory.")
    parser.add_argument("--output", type=Path, default=DATA, help="Write to this directory, or compare with it.")
    options = parser.parse_args(arguments)
    try:
        files = build(read_facts(options.facts))
    except FactError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.check:
        return _check(files, options.output)
    for name, text in files.items():
        (options.output / name).write_text(text, encoding="utf-8", newline="\n")
    print(f"Wrote {len(files)} files to {options.output}")
    return 0


def build(facts: Facts) -> dict[str, str]:
    """Return the contents of every generated file by its name; raise `FactError` if facts contradict each other."""
    return {
        "matrix.json": _text(matrix(facts)),
        "name_mapping.json": _text(names(facts)),
        "nvidia-drivers.json": _text(nvidia_drivers(facts)),
        "other-gpus.json": _text(other_gpus(facts)),
        "torch_requirements.json": _text(requirements(facts)),
    }


def _check(files: Mapping[str, str], folder: Path) -> int:
    outdated = [name for name, text in files.items() if not _is_same(folder / name, text)]
    for name in outdated:
        print(f"out of date: {folder / name}", file=sys.stderr)
    if outdated:
        print("hint: to rebuild the data, run `python -m tools.build_data`", file=sys.stderr)
    return 1 if outdated else 0


def _is_same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _text(document: Mapping[str, Any]) -> str:
    """Return JSON with one row on each line, so that a changed fact is a changed line."""
    lines = [f'"comment": {_json(_GENERATED)}']
    for key, value in document.items():
        if isinstance(value, list) and isinstance(value[0], (dict, list)):
            rows = map(_json, value)
            lines.append(f"{_json(key)}: [\n" + ",\n".join(rows) + "\n]")
        else:
            lines.append(f"{_json(key)}: {_json(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: object) -> str:
    if isinstance(value, dict):
        value = {name: inner for name, inner in value.items() if inner is not None}
    return json.dumps(value, ensure_ascii=False, default=dt.date.isoformat)


if __name__ == "__main__":
    raise SystemExit(main())
