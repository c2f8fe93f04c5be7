"""``envforge kernel``: register the environment as a Jupyter kernel."""

from __future__ import annotations

import os
from pathlib import Path

import click

from envforge.cli.options import json_option, meant, prefix_options, usable


@click.command("kernel")
@prefix_options
@click.option("--kernel", "kernel", metavar="NAME", help="Name of the kernel.  [default: from the project's name]")
@click.option("--display-name", metavar="TEXT", help="Name that Jupyter shows.  [default: Python (PROJECT)]")
@click.option("--remove", "is_removed", is_flag=True, help="Remove the kernel of this environment.")
@json_option()
def kernel(
    *,
    prefix: Path | None,
    name: str | None,
    kernel: str | None,
    display_name: str | None,
    is_removed: bool,
    as_json: bool,
) -> None:
    """Register the environment as a Jupyter kernel.

    Requires ipykernel in the environment; Jupyter can be installed elsewhere. Run it again after an install that
    changes the environment's variables or activation scripts.
    """
    from envforge.base.envelope import success
    from envforge.prefix import kernel as kernels

    environment = meant(prefix, name) if is_removed else usable(prefix, name)
    folder = kernels.kernels_folder(os.environ, Path.home()) / kernels.kernel_name(kernel, environment)
    if is_removed:
        kernels.remove(environment, folder)
        words = f"removed kernel {folder.name} ({folder})"
    else:
        title = display_name or f"Python ({environment.label})"
        kernels.register(environment, kernels.Kernel(folder=folder, display_name=title), os.environ)
        undo = " ".join(filter(None, ["envforge kernel --remove", environment.option, kernel and f"--kernel {kernel}"]))
        words = f"registered kernel {folder.name} ({title}) in {folder}\nto remove it, run `{undo}`"
    if as_json:
        words = success(
            "kernel",
            {"kernel": folder.name, "folder": str(folder), "prefix": str(environment.prefix), "removed": is_removed},
        )
    click.echo(words)
