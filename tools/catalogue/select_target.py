"""Select the build of each catalogue target, and render the two files that its lockfile is solved from.

Tests use the same function to find lockfiles whose input has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from packaging.version import Version

from envforge.base import toml
from envforge.base.terms import ComputeCapability, WheelTag
from envforge.lock.environment_spec import EnvironmentTexts, render_texts
from envforge.machine.values import Driver, Gpu, Machine
from envforge.project.templates import load_template
from envforge.pytorch.matrix import Matrix, Request, Selection
from envforge.pytorch.select import select

HERE = Path(__file__).parent


class Target(Struct, frozen=True, kw_only=True):
    """One lockfile of the catalogue; ``torch`` is ``None`` for the release that envforge selects."""

    template: str
    tag: WheelTag
    platform: str
    torch: Version | None
    why: str

    @property
    def name(self) -> str:
        """The variant and platform, for example ``cu118-linux-64``."""
        return f"{self.tag}-{self.platform}"

    @property
    def file(self) -> str:
        """The path of the lockfile in the catalogue."""
        return f"{self.template}/{self.name}.conda-lock.yml"


class Plan(Struct, frozen=True, kw_only=True):
    """A target with its selection and rendered files."""

    target: Target
    selection: Selection
    texts: EnvironmentTexts


def read_targets() -> tuple[Target, ...]:
    """Read the targets, by template, then in the order of the file."""
    table = toml.loads((HERE / "targets.toml").read_text(encoding="utf-8"))
    return tuple(_target(template, row) for template in table["templates"] for row in table["target"])


def plan(target: Target, matrix: Matrix, templates: Path) -> Plan:
    """Return what ``envforge new TEMPLATE --cuda TAG --platform PLATFORM [--torch VERSION]`` would lock."""
    request = Request(cuda=target.tag, torch=target.torch, platform=target.platform)
    selection = select(_machine(target.platform), request, matrix)
    needs = load_template(templates, target.template).needs
    return Plan(target=target, selection=selection, texts=render_texts((selection,), needs, templates))


def _target(template: str, row: Mapping[str, Any]) -> Target:
    return Target(
        template=template,
        tag=WheelTag.parse(row["cuda"]),
        platform=row["platform"],
        torch=Version(row["torch"]) if "torch" in row else None,
        why=row.get("why", ""),
    )


_GPUS = {"linux-64": ("NVIDIA A100", 8), "linux-aarch64": ("NVIDIA GH200", 9)}


def _machine(platform: str) -> Machine:
    """Return a machine that every variant fits; the rendered files don't depend on it."""
    if platform not in _GPUS:
        return Machine(platform=platform, python=Version("3.12"))
    name, major = _GPUS[platform]
    gpu = Gpu(index=0, name=name, compute_capability=ComputeCapability(major, 0))
    driver = Driver(kernel_version=Version("580.95.05"), user_version=Version("580.95.05"), cuda=Version("13.0"))
    return Machine(platform=platform, python=Version("3.12"), glibc=Version("2.39"), driver=driver, gpus=(gpu,))
