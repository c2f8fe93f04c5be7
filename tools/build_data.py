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

from tools.facts.matrix import architectures, drivers, nvidia_drivers, releases, requirements, wheels
from tools.facts.read import FACTS, FactError, Facts, read_facts

DATA = Path(__file__).resolve().parent.parent / "envforge" / "data"
_GENERATED = "# Generated from data/facts by `python -m tools.build_data`. Do not edit."


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
        "architectures.toml": _text(_ARCHITECTURES, architectures(facts)),
        "drivers.toml": _text(_DRIVERS, drivers(facts)),
        "name_mapping.toml": _text(_NAMES, _names(facts)),
        "nvidia-drivers.toml": _text(_NVIDIA, nvidia_drivers(facts)),
        "torch_releases.toml": _text(_RELEASES, releases(facts)),
        "torch_requirements.toml": _text(_REQUIREMENTS, requirements(facts)),
        "torch_wheels.toml": _text(_WHEELS, wheels(facts)),
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


def _names(facts: Facts) -> dict[str, Any]:
    rows = [{"python": row.python, "conda": row.conda} for row in facts.names]
    sources = dict.fromkeys(row.source for row in facts.names)
    checked = max(row.checked for row in facts.names)
    return {"source": "; ".join(sources), "checked": checked, "package": rows}


def _text(comments: Mapping[str, str], document: Mapping[str, Any]) -> str:
    """Write one value on each line, as `envforge.base.data_files` reads it without a TOML parser.

    `comments` has the comment of the file under "", and the comment of a key under the key.
    """
    lines = [comments[""], _GENERATED, ""]
    for key, value in document.items():
        comment = [comments[key]] if key in comments else []
        tables = _tables(key, value)
        if not tables:
            lines += [*comment, _line(key, value)]
            continue
        lines += [*([""] if lines[-1] else []), *comment]
        for header, table in tables:
            lines += [header, *(_line(name, inner) for name, inner in table.items() if inner is not None), ""]
    return "\n".join(lines).rstrip() + "\n"


def _tables(key: str, value: object) -> list[tuple[str, dict[Any, Any]]]:
    """Return the headers and tables of a value, none if it is no table."""
    if isinstance(value, list):
        return [(f"[[{key}]]", row) for row in value if isinstance(row, dict)]
    if not isinstance(value, dict):
        return []
    inner = [(f"[{key}.{name}]", table) for name, table in value.items() if isinstance(table, dict)]
    return inner or [(f"[{key}]", value)]


def _line(key: object, value: object) -> str:
    return f"{key} = {json.dumps(value.isoformat() if isinstance(value, dt.date) else value, ensure_ascii=False)}"


_RELEASES = {
    "": "# Releases of torch, and the torchvision and torchaudio that belong to them.",
    "python_default": """\
# The Python of a new environment if the user names none: the newest that the build supports, up to `at_most`.
# The first rule whose tag matches applies.""",
}
_WHEELS = {
    "": """\
# Which torch builds exist: release, CUDA tag, and conda subdir.
# glibc: of the manylinux tag in the file name; `linux_x86_64` files were built in the manylinux2014 image (2.17),
# `linux_aarch64` files of CUDA builds in the 2.28 one. plain: packages whose version has no `+tag` there.
# torchaudio = false: the index of the tag has none for the release.""",
}
_ARCHITECTURES = {
    "": """\
# Which compute capabilities each CUDA build has kernels for.
# Rules (CUDA C++ programming guide, binary and PTX compatibility): a kernel for X.y runs on X.z with z >= y, but not
# across the line between desktop and Tegra. The driver compiles PTX for X.y for any capability from X.y on, if the
# driver is at or above the toolkit's own.""",
    "known": "# Every compute capability that a released GPU has.",
    "tegra": "# Tegra (Jetson) chips, which run only kernels built for exactly this capability.",
}
_DRIVERS = {
    "": """\
# Which NVIDIA driver each CUDA version needs. `linux` and `windows` are the oldest drivers. A newer driver supports
# every older toolkit (backward compatibility), even if the driver is newer than this table. envforge doesn't rely on
# forward-compatibility packages.""",
    "family": """\
# From this driver on, every toolkit of the major version runs (minor-version compatibility), except what the toolkit
# compiled to PTX: the driver can compile PTX only if it is at or above the toolkit's own row below.""",
    "toolkit": "# The driver that comes with the toolkit. From this driver on, everything works (direct).",
}
_NVIDIA = {
    "": """\
# What NVIDIA drivers and Tegra chips support, if the driver returns nothing or returns the values of a compat library.
# branches: first number of the driver version, and the newest CUDA version that this driver supports.
# tegra: system on chip in /proc/device-tree/compatible, and its compute capability.
# The source of each row is in data/facts.""",
}
_NAMES = {
    "": """\
# conda-forge's name of a Python package, if the two names differ. Every other package has one name on both sides.
# A conda package that only pulls in others (matplotlib next to matplotlib-base) needs no row.""",
}
_REQUIREMENTS = {
    "": """\
# What PyTorch wheels need from conda-forge in addition to their own CUDA libraries, by release.
# A row applies to torch `since` <= release < `before` (either may be missing). Names are those of conda-forge.
# Sources: "as recorded in pip's report" means `requires_dist` of the wheel of that release.""",
}

if __name__ == "__main__":
    raise SystemExit(main())
