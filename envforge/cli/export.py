"""``envforge export``: write the lockfile in the format of another tool, to stdout or to a file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envforge.cli.options import json_option, need_lock, platform_here, variant_option

if TYPE_CHECKING:
    from envforge.base.envelope import Json

KINDS = (
    "explicit",
    "requirements",
    "pylock",
    "pixi",
    "dockerfile",
    "slurm",
    "skypilot",
    "kubernetes",
    "environment",
)


@click.command("export")
@click.argument("kind", metavar="KIND", type=click.Choice(KINDS))
@click.option(
    "--lockfile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Export this lockfile.  [default: the project's conda-lock.yml]",
)
@variant_option("Export")
@click.option(
    "-p", "--platform", help="Export this platform.  [default: this machine's; pixi, dockerfile, and jobs: all]"
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead of stdout."
)
@click.option(
    "--envforge",
    "requirement",
    metavar="REQUIREMENT",
    help="Make skypilot and kubernetes install envforge from this: a version, a git URL, or a wheel.  "
    "[env var: ENVFORGE_REQUIREMENT; default: this version]",
)
@click.option("--force", is_flag=True, help="Replace a file that `envforge export` did not create.")
@json_option()
def export(*, kind: str, platform: str | None, output: Path | None, force: bool, as_json: bool, **lock: Any) -> None:
    """Export the lockfile to the format of another tool.

    KIND is explicit (conda, mamba, micromamba), requirements (pip, uv), pylock (pylock.toml), pixi (pixi.toml and
    pixi.lock), dockerfile, or environment (environment.yml with every version and build).

    slurm, skypilot, and kubernetes are jobs that verify every node of a fleet, run an all-reduce over all nodes, and
    compare the reports.

    The same lockfile always produces the same bytes. Every URL has its checksum. URLs with credentials are rejected.
    """
    from envforge.base.envelope import success
    from envforge.export import FORMATS
    from envforge.export.source import choose_platforms, read_source
    from envforge.export.write import check_name, write_export
    from envforge.lock.plan import read_any_lock

    here = platform_here()
    check_name(kind, output)
    words = ["envforge", "export", kind]
    words += [*(["-p", platform] if platform else []), *(["-o", str(output)] if output else [])]
    path = need_lock(lock["lockfile"], lock["variant"], shlex.join(words))
    read = read_any_lock(path, platform or here)
    platforms = choose_platforms(read, platform, here, whole=FORMATS[kind].whole)
    exported = FORMATS[kind].render(read_source(read, path, platforms, _requirement(kind, lock["requirement"])))
    written = write_export(exported, output, force=force) if output is not None else ()
    if as_json:
        text = None if written else exported.text
        click.echo(success("export", _to_json(kind, platforms, written, text)))
    elif written:
        click.echo("\n".join(f"wrote {path}" for path in written))
    else:
        click.echo(exported.text, nl=False)


def _requirement(kind: str, option: str | None) -> str:
    """Return what the exported file installs envforge by; empty for formats that don't need it."""
    import os

    from envforge.base.distribution import fleet_requirement
    from envforge.errors import RequestError
    from envforge.export import FORMATS

    if not FORMATS[kind].installs_envforge:
        if option is not None:
            kinds = ", ".join(f"`{name}`" for name, each in FORMATS.items() if each.installs_envforge)
            raise RequestError(
                f"`--envforge` can't be used with `{kind}`; only these formats install envforge: {kinds}",
                hint="to export this format, omit `--envforge`",
                code="no-requirement-needed",
            )
        return ""
    return fleet_requirement(option, os.environ)


def _to_json(kind: str, platforms: tuple[str, ...], written: tuple[Path, ...], text: str | None) -> Json:
    return {"kind": kind, "platforms": list(platforms), "files": [str(path) for path in written], "text": text}
