"""Check envforge on a machine with a GPU: ``python -m tools.gpu_acceptance --out DIR``.

The machine needs only a checkout, a Python with a CUDA build of torch, and the wheels that ``--prepare`` downloaded
elsewhere. Until they are unpacked, this module imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# of the packages that envforge and its tests need, those that these commands import
NEEDED = (
    *("click", "filelock", "hypothesis", "jinja2", "junitparser", "msgspec", "nvidia-ml-py", "packaging"),
    *("platformdirs", "pytest", "pyyaml", "rich"),
)
# modules that projects import, and the packages that have them, without torch, scikit-learn, and what these need
PROJECTS = {
    "imageio": "imageio",
    "lazy_loader": "lazy-loader",
    "skimage": "scikit-image",
    "tifffile": "tifffile",
    "torchao": "torchao",
    "tqdm": "tqdm",
}
_GLIBC = ("manylinux_2_28", "manylinux_2_24", "manylinux_2_17", "manylinux2014")  # pip compares them exactly


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps, or download the wheels; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_acceptance", description="Check envforge on a machine with a GPU."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="DIR", help="Write acceptance.json, .md, and .html into DIR.")
    what.add_argument("--prepare", type=Path, metavar="DIR", help="Download the wheels for --wheels into DIR.")
    parser.add_argument("--minutes", type=float, default=8.0, help="Stop after this time. [default: 8]")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="Import missing packages from these wheels.")
    parser.add_argument("--template", action="append", metavar="NAME", help="Check only these templates.")
    parser.add_argument("--cpu", action="store_true", help="Run on the CPU with tiny models, to test this command.")
    parser.add_argument("--python", default="3.12", help="Python of the GPU machine, for --prepare. [default: 3.12]")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {options.minutes:g}")
    if options.prepare is not None:
        return prepare(options.prepare, options.python)
    with tempfile.TemporaryDirectory(prefix="envforge-acceptance-") as scratch:
        site, projects = Path(scratch, "site"), Path(scratch, "projects")
        if options.wheels is not None and not unpack(options.wheels, site):
            parser.error(f"no wheels in {options.wheels}; to download them, run with --prepare on another machine")
        if options.wheels is not None and any(find_spec(name) is None for name in PROJECTS):
            unpack(options.wheels / "projects", projects)
        # first, because an installed package may be too old for envforge
        sys.path[:0] = [str(ROOT), str(site)]
        try:
            steps = import_module("tools.gpu_acceptance.steps")
        except ModuleNotFoundError as error:
            parser.error(f"the package {error.name} is missing; to bring it along, use --prepare and --wheels")
        code: int = steps.run(
            steps.Request(
                out=options.out,
                scratch=Path(scratch),
                minutes=options.minutes,
                paths=(str(ROOT), str(site)),
                projects=projects,
                templates=tuple(options.template or ()),
                is_cpu=options.cpu,
            )
        )
        return code


def prepare(folder: Path, python: str) -> int:
    """Download the wheels of ``NEEDED`` and all that they need, and of ``PROJECTS``, for another Python on Linux."""
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ranges = dict(re.findall(r'"([\w-]+)((?:>=|==)[^";\[]*)', lines))
    tags = [part for glibc in _GLIBC for part in ("--platform", f"{glibc}_{platform.machine()}")]
    download = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--python-version", python, *tags]
    for dest, wanted in (
        (folder, [f"{name}{ranges[name]}" for name in NEEDED]),
        (folder / "projects", ["--no-deps", *PROJECTS.values()]),
    ):
        done = subprocess.run([*download, "--dest", str(dest), *wanted], check=False)
        if done.returncode != 0:
            return done.returncode
    return 0


def unpack(wheels: Path, site: Path) -> int:
    """Unpack the wheels into a directory of modules, and return their number."""
    found = sorted(wheels.glob("*.whl"))
    for wheel in found:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)  # packages without build steps or scripts that these commands use
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
