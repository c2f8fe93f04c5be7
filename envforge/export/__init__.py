"""A lock in the words of other tools: pure functions from a lock to texts.

Enters: a ``Source``, one lockfile with what is to be installed from it. Leaves: an ``Exported``, the text of the file
and of those that belong beside it. The same lock gives the same bytes. In order: ``source``, one module
for each tool, ``write``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from envforge.export.conda import environment, explicit
from envforge.export.docker import dockerfile
from envforge.export.kubernetes import kubernetes
from envforge.export.pixi import pixi
from envforge.export.python import pylock, requirements
from envforge.export.skypilot import skypilot
from envforge.export.slurm import slurm
from envforge.export.source import Exported, Source

__all__ = ["FORMATS", "Exported", "Format", "Source"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One kind of export. ``file_name`` is what its tool looks for; ``whole`` takes all platforms into one file."""

    render: Callable[[Source], Exported]
    file_name: str
    whole: bool = False


FORMATS = {
    "explicit": Format(render=explicit, file_name="conda-lock.explicit.txt"),
    "requirements": Format(render=requirements, file_name="requirements.txt"),
    "pylock": Format(render=pylock, file_name="pylock.toml"),
    "pixi": Format(render=pixi, file_name="pixi.toml", whole=True),
    "dockerfile": Format(render=dockerfile, file_name="Dockerfile", whole=True),
    "slurm": Format(render=slurm, file_name="verify.sbatch", whole=True),
    "skypilot": Format(render=skypilot, file_name="verify.sky.yaml", whole=True),
    "kubernetes": Format(render=kubernetes, file_name="verify.k8s.yaml", whole=True),
    "environment": Format(render=environment, file_name="environment.lock.yml"),
}
