"""Write the pictures of the docs from real output: ``python -m tools.write_pictures [terminal] [curves] [report]``.

- ``terminal``: SVG recordings of commands (the package rich).
- ``curves``: the training curves of a new project, trained on this machine.
- ``report``: a screenshot of the HTML report of ``envforge verify`` (the package playwright, Chromium on PATH).

No picture may contain a path or the name of this machine, so recordings are checked, and reports are redacted.
"""

from __future__ import annotations

import argparse
import getpass
import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs" / "assets"
_COLUMNS = 92
_MARGIN = 3
_PROJECT = ("new", "image-classification", "digits", "--cuda", "11.8", "--machine", "t4")
_RECORDINGS = {
    "first-hour.svg": (
        ("envforge explain --machine v100", 5),
        (f"envforge {' '.join(_PROJECT)}", None),
        ("cd digits", None),
        ("envforge lock --check", None),
    ),
    "verify-machine.svg": (
        ("envforge verify machine --machine t4", 2),
        ("envforge verify machine --machine b200", 12),
    ),
}

# rich's own format loads its font from another server
_SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
  <style>
    .{unique_id}-matrix {{
      font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
      font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
    }}
    {styles}
  </style>
  <defs>
    <clipPath id="{unique_id}-clip-terminal">
      <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
    </clipPath>
    {lines}
  </defs>
  <rect fill="#1e2a2f" width="100%" height="100%" rx="8" />
  <g transform="translate(26,22)"><circle cx="0" cy="0" r="7" fill="#ff5f57" /><circle cx="22" cy="0" r="7"
    fill="#febc2e" /><circle cx="44" cy="0" r="7" fill="#28c840" /></g>
  <g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix">{matrix}</g>
  </g>
</svg>
"""


def main(arguments: Sequence[str]) -> None:
    """Write the named pictures, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    writers = {"terminal": write_recordings, "curves": write_curves, "report": write_report}
    parser.add_argument("picture", nargs="*", choices=[[], *writers])
    for name in parser.parse_args(arguments).picture or writers:
        with tempfile.TemporaryDirectory() as directory:
            writers[name](Path(directory))


def write_recordings(directory: Path) -> None:
    """Write the terminal pictures; tests/docs/test_pictures.py fails if one is out of date."""
    for name, picture in record_all(directory).items():
        (ASSETS / name).write_text(picture, encoding="utf-8")


def record_all(directory: Path) -> dict[str, str]:
    """Run all commands in ``directory``, in order, and return each picture by its name."""
    return {name: _record(commands, directory) for name, commands in _RECORDINGS.items()}


def _record(commands: Sequence[tuple[str, int | None]], directory: Path) -> str:
    from rich.console import Console  # noqa: PLC0415 - each picture needs other packages
    from rich.text import Text  # noqa: PLC0415

    console = Console(record=True, width=_COLUMNS + _MARGIN, file=io.StringIO(), force_terminal=True)
    for number, (command, shown) in enumerate(commands):
        if number and not command.startswith("envforge lock"):
            console.print()
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")), soft_wrap=True)
        program, *words = command.split()
        here = directory / "digits" if (directory / "digits").is_dir() else directory
        output = _envforge(words, here) if program == "envforge" else ""
        lines = output.splitlines()
        for line in lines[:shown]:
            console.print(_colored(line), soft_wrap=True)
        if shown is not None and len(lines) > shown:
            console.print(Text("…", "dim"))
    text = console.export_text(clear=False)
    private = {str(directory), str(ROOT), str(Path.home()), platform.node(), getpass.getuser()}
    if found := [word for word in private if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)]:
        sys.exit(f"error: the recording contains {found}")
    return console.export_svg(code_format=_SVG, unique_id="terminal")


def _colored(line: str) -> object:
    from rich.text import Text  # noqa: PLC0415

    text = Text(line)
    text.highlight_regex(r"^(FAIL)\b", "bold red")
    text.highlight_regex(r"^(PASS)\b", "bold green")
    text.highlight_regex(r"^(WARN|UNKNOWN)\b", "bold yellow")
    text.highlight_regex(r"^  (linux-64|why|grade|groups|lock|lockfile|needs|requires|observed|expected|run) ", "cyan")
    return text


def write_curves(directory: Path) -> None:
    """Train a new project on this machine, and keep its curves."""
    _envforge(_PROJECT, directory)
    project = directory / "digits"
    subprocess.run([sys.executable, "-m", "digits.train", "--epochs", "8", "--ema", "0.98"], cwd=project, check=True)
    _write_small(project / "runs" / "default" / "curves.png", ASSETS / "curves.png")


def write_report(directory: Path) -> None:
    """Train a new project with this machine's torch under `envforge verify`, and photograph the report."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if browser is None:
        sys.exit("error: no Chromium on PATH")
    _envforge(("new", "image-classification", "digits", "--cuda", "cpu"), directory)
    project = directory / "digits"
    _envforge(("verify", "train", "--prefix", _home_of_torch(), "--html", "report.html"), project)
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        page.set_viewport_size({"width": 1100, "height": 720})
        page.goto((project / "report.html").as_uri())
        page.screenshot(path=directory / "verify-report.png")
        page.locator("#charts").screenshot(path=directory / "verify-charts.png")
    for name in ("verify-report.png", "verify-charts.png"):
        _write_small(directory / name, ASSETS / name)


def _home_of_torch() -> str:
    """Return the environment that contains torch, which is not this one if a ``.pth`` file adds it."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        sys.exit("error: torch is not installed")
    return str(Path(found.origin).parents[4])


def _write_small(source: Path, target: Path) -> None:
    """Copy a picture with a palette of 128 colors, which halves the size of charts and pages."""
    from PIL import Image  # noqa: PLC0415

    with Image.open(source) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)


def _envforge(words: Sequence[str], directory: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONDA_", "ENVFORGE_"))}
    environment = kept | {"NO_COLOR": "1", "COLUMNS": str(_COLUMNS), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", "envforge", *words],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if run.returncode not in {0, 1}:
        sys.exit(f"error: envforge {' '.join(words)}\n{run.stdout}")
    return run.stdout


if __name__ == "__main__":
    main(sys.argv[1:])
