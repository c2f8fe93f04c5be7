"""Convert a lockfile to the formats of other tools. The same lockfile always produces the same bytes.

Module order: ``source``, one module for each tool, ``write``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from envforge.export.conda import environment, explicit
from envforge.export.docker import dockerfile
from envforge.export.fleet import kubernetes, skypilot, slurm
from envforge.export.pixi import pixi
from envforge.export.python import pylock, requirements
from envforge.export.source import Exported, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One export format. ``file_name`` is the name that its tool expects; ``whole`` exports all platforms to one file.

    ``installs_envforge`` means that the file installs envforge, or contains the command for it.
    """

    render: Callable[[Source], Exported]
    file_name: str
    whole: bool = False
    installs_envforge: bool = False


FORMATS = {
    "explicit": Format(render=explicit, file_name="conda-lock.explicit.txt"),
    "requirements": Format(render=requirements, file_name="requirements.txt"),
    "pylock": Format(render=pylock, file_name="pylock.toml"),
    "pixi": Format(render=pixi, file_name="pixi.toml", whole=True),
    "dockerfile": Format(render=dockerfile, file_name="Dockerfile", whole=True, installs_envforge=True),
    "slurm": Format(render=slurm, file_name="verify.sbatch", whole=True),
    "skypilot": Format(render=skypilot, file_name="verify.sky.yaml", whole=True, installs_envforge=True),
    "kubernetes": Format(render=kubernetes, file_name="verify.k8s.yaml", whole=True, installs_envforge=True),
    "environment": Format(render=environment, file_name="environment.lock.yml"),
}
