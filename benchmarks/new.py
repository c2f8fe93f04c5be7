"""Measure ``envforge new`` with a catalogue lockfile against copier and cookiecutter rendering as many files.

    python benchmarks/new.py --copier PATH/TO/copier --cookiecutter PATH/TO/cookiecutter [--rounds 7]

The other tools get a local template without version control. It has the same files that ``new`` writes, and renders as
many of them. Each round starts each candidate once, in turn, as a new process. An unmeasured round before them compiles
all modules into a directory of this script. The table shows the median of wall-clock and CPU time; CPU time depends
less on other programs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from envforge.base.data_files import templates_root
from envforge.project.templates import load_template, project_sources

assert sys.platform != "win32"

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "image-classification"
NEW = [sys.executable, "-m", "envforge", "new", TEMPLATE, "--machine", "a10g", "--cuda", "11.8"]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copier", type=Path, required=True)
    parser.add_argument("--cookiecutter", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([*NEW, str(folder / "net")], cwd=ROOT, check=True, capture_output=True)
        files = _files(folder / "net")
        rendered = _rendered()
        _copier_template(folder, files[:rendered])
        _cookiecutter_template(folder, files[rendered:])
        cookiecutter = [str(given.cookiecutter), "--no-input", "--output-dir", str(folder), str(folder / "cookie")]
        candidates = {
            "envforge new (from the catalogue)": [*NEW, "--name", "net"],
            "envforge new --no-lock": [*NEW, "--name", "net", "--no-lock"],
            "copier copy": [str(given.copier), "copy", "--defaults", "--quiet", str(folder / "template")],
            "cookiecutter": cookiecutter,
            "python -c 'import click'": [sys.executable, "-c", "import click"],
        }
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        times: dict[str, list[tuple[float, float]]] = {candidate: [] for candidate in candidates}
        for number in range(given.rounds + 1):
            for position, (candidate, command) in enumerate(candidates.items()):
                target = folder / f"net-{position}-{number}"
                last = {"cookiecutter": [f"project={target.name}"], "python -c 'import click'": []}
                measured = _time([*command, *last.get(candidate, [str(target)])], environment)
                times[candidate] += [measured] if number else []
                if candidate in ("copier copy", "cookiecutter") and len(_files(target)) < len(files):
                    raise SystemExit(f"{candidate} wrote {len(_files(target))} files, wanted {len(files)}")
        _show(times, len(files), rendered)


def _files(folder: Path) -> list[Path]:
    """Return every file; envforge's own records come last, so that no tool renders them."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(found, key=lambda path: (path.parts[0] == ".envforge", path.suffix == ".yml", path))


def _rendered() -> int:
    """Return how many files ``new`` renders, including environment.yml and virtual-packages.yml."""
    template = load_template(templates_root(), TEMPLATE)
    sources = project_sources(template, template.default_groups({}))
    return sum(source.path.name.endswith(".jinja") for source in sources) + 2


def _copier_template(folder: Path, rendered: list[Path]) -> None:
    shutil.copytree(folder / "net", folder / "template")
    for path in (folder / "template" / each for each in rendered):
        text = path.read_text(encoding="utf-8").replace("{", "{{ '{' }}")
        path.with_name(f"{path.name}.jinja").write_text(f"{text}{{# {{{{ project }}}} #}}", encoding="utf-8")
        path.unlink()
    (folder / "template" / "copier.yml").write_text("project:\n  type: str\n  default: net\n", encoding="utf-8")


def _cookiecutter_template(folder: Path, copied: list[Path]) -> None:
    inner = folder / "cookie" / "{{cookiecutter.project}}"
    shutil.copytree(folder / "net", inner)
    for path in (inner / each for each in _files(inner) if each not in copied):
        text = path.read_text(encoding="utf-8").replace("{", "{{ '{' }}")
        path.write_text(f"{text}{{# {{{{ cookiecutter.project }}}} #}}", encoding="utf-8")
    settings = {"project": "net", "_copy_without_render": [str(path) for path in copied]}
    (folder / "cookie" / "cookiecutter.json").write_text(json.dumps(settings), encoding="utf-8")


def _time(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _show(times: dict[str, list[tuple[float, float]]], files: int, rendered: int) -> None:
    sys.stdout.write(f"{files} files, {rendered} of them rendered\n\n| | wall | CPU |\n|---|---|---|\n")
    for name, measured in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*measured, strict=True))
        sys.stdout.write(f"| {name} | {wall:.2f} s | {cpu:.2f} s |\n")


if __name__ == "__main__":
    main()
