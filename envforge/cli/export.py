"""``envforge export``: write the lockfile in the format of another tool, to stdout or to a file."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Literal

import click
from msgspec import Struct

from envforge.cli import print_result
from envforge.cli.options import Argument, JsonOption, Option, need_lock, platform_here, takes, variant
from envforge.errors import RequestError

FormatName = Literal[
    "explicit", "requirements", "pylock", "pixi", "dockerfile", "slurm", "skypilot", "kubernetes", "environment"
]


class ExportOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge export``."""

    kind: Annotated[FormatName, Argument(metavar="KIND")]
    lockfile: Annotated[Path | None, Option("Export this lockfile.  [default: the project's conda-lock.yml]")]
    variant: Annotated[str | None, variant("Export")]
    platform: Annotated[
        str | None,
        Option("Export this platform.  [default: this machine's; pixi, dockerfile, and jobs: all]", "-p", "--platform"),
    ]
    output: Annotated[Path | None, Option("Write to this file instead of stdout.", "-o", "--output")]
    requirement: Annotated[
        str | None,
        Option(
            "Make skypilot and kubernetes install envforge from this: a version, a git URL, or a wheel.  "
            "[env var: ENVFORGE_REQUIREMENT; default: this version]",
            "--envforge",
            metavar="REQUIREMENT",
        ),
    ]
    force: Annotated[bool, Option("Replace a file that `envforge export` did not create.")]
    as_json: JsonOption


@click.command("export")
@takes(ExportOptions)
def export(options: ExportOptions) -> None:
    """Export the lockfile to the format of another tool.

    KIND is explicit (conda, mamba, micromamba), requirements (pip, uv), pylock (pylock.toml), pixi (pixi.toml and
    pixi.lock), dockerfile, or environment (environment.yml with every version and build).

    slurm, skypilot, and kubernetes are jobs that verify every node of a fleet, run an all-reduce over all nodes, and
    compare the reports.

    The same lockfile always produces the same bytes. Every URL has its checksum. URLs with credentials are rejected.
    """
    from envforge.export import FORMATS, check_name, write_export
    from envforge.export.source import choose_platforms, read_source
    from envforge.lock.plan import read_any_lock

    kind, platform, output, here = options.kind, options.platform, options.output, platform_here()
    check_name(kind, output)
    words = ["envforge", "export", kind]
    words += [*(["-p", platform] if platform else []), *(["-o", str(output)] if output else [])]
    path = need_lock(options.lockfile, options.variant, shlex.join(words))
    read = read_any_lock(path, platform or here)
    platforms = choose_platforms(read, platform, here, whole=FORMATS[kind].whole)
    exported = FORMATS[kind].render(read_source(read, path, platforms, _requirement(kind, options.requirement)))
    written = write_export(exported, output, force=options.force) if output is not None else ()
    result = {"kind": kind, "platforms": platforms, "files": written, "text": None if written else exported.text}
    text = "\n".join(f"wrote {path}" for path in written) if written else exported.text.removesuffix("\n")
    print_result("export", result, text, as_json=options.as_json)


def _requirement(kind: str, option: str | None) -> str:
    """Return what the exported file installs envforge by; empty for formats that don't need it."""
    from envforge.base.distribution import fleet_requirement
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
