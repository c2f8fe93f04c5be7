"""``envforge export``: a lock in the words of another tool, to stdout or into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envforge.cli.lock_options import need_lock, variant_option
from envforge.cli.options import json_option, platform_here

if TYPE_CHECKING:
    from envforge.report import Json

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
    help="The lock to export.  [default: conda-lock.yml]",
)
@variant_option("Export")
@click.option(
    "-p", "--platform", help="Export this platform.  [default: this computer's; pixi, dockerfile and jobs: all]"
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here instead of to stdout."
)
@click.option("--force", is_flag=True, help="Replace a file that envforge export did not make.")
@json_option()
def export(*, kind: str, platform: str | None, output: Path | None, force: bool, as_json: bool, **lock: Any) -> None:
    """Write the lock for another tool.

    KIND is explicit (conda, mamba, micromamba), requirements (pip, uv), pylock (pylock.toml), pixi (pixi.toml and
    pixi.lock), dockerfile, or environment (environment.yml with every version and build).

    slurm, skypilot and kubernetes are jobs that verify every node of a fleet, with an all-reduce over all of them, and
    compare the reports.

    The same lock gives the same bytes. Every address has its checksum; credentials are refused.
    """
    from envforge.export import FORMATS
    from envforge.export.source import choose_platforms, read_source
    from envforge.export.write import check_name, write
    from envforge.install.explicit import read_any_lock
    from envforge.report import success

    here = platform_here()
    check_name(kind, output)
    path = need_lock(lock["lockfile"], lock["variant"], f"envforge export {kind}")
    read = read_any_lock(path, platform or here)
    platforms = choose_platforms(read, platform, here, whole=FORMATS[kind].whole)
    exported = FORMATS[kind].render(read_source(read, path, platforms))
    written = write(exported, output, force=force) if output is not None else ()
    if as_json:
        text = None if written else exported.text
        click.echo(success("export", _to_json(kind, platforms, written, text)))
    elif written:
        click.echo("\n".join(f"{path} is written" for path in written))
    else:
        click.echo(exported.text, nl=False)


def _to_json(kind: str, platforms: tuple[str, ...], written: tuple[Path, ...], text: str | None) -> Json:
    return {"kind": kind, "platforms": list(platforms), "files": [str(path) for path in written], "text": text}
