"""Predict which PyTorch build uv, pip, and conda would install, and judge whether it would run.

``envforge/data/other-tools.toml`` and ``matrix.json`` have the rules of these tools, each with its source. None of the
tools is run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace
from packaging.version import Version

from envforge.base.data_files import read_data
from envforge.base.documents import NonEmpty
from envforge.base.terms import CPU, ComputeCapability, WheelTag
from envforge.machine.values import Machine
from envforge.pytorch.fit import MachineLimits, Misfit, fit, missing_limits, read_limits
from envforge.pytorch.matrix import Build, Grade, Matrix, PipDefault, Request

ToolVerdict = Literal["runs", "unverified", "cpu-only", "fails"]
UV, PIP, CONDA = "uv --torch-backend=auto", "pip install torch", "conda-forge pytorch"


class _ToolRow(Struct, frozen=True, kw_only=True):
    source: NonEmpty
    checked: dt.date


class _UvRow(_ToolRow, frozen=True, kw_only=True):
    """The oldest driver for which uv uses the index of a tag."""

    tag: WheelTag
    linux: Version
    windows: Version


class _CondaRow(_ToolRow, frozen=True, kw_only=True):
    """A build of conda-forge; ``cuda`` is None for the CPU build."""

    torch: Version
    platforms: tuple[str, ...]
    cuda: Version | None = None
    capabilities: tuple[ComputeCapability, ...] = ()
    ptx: tuple[ComputeCapability, ...] = ()
    glibc: Version | None = None
    pythons: tuple[Version, ...]


class OtherTools(Struct, frozen=True, kw_only=True):
    """``other-tools.toml``; the rows are in the order of preference."""

    uv: tuple[_UvRow, ...]
    conda_forge: tuple[_CondaRow, ...]


class ToolBuild(Struct, frozen=True, kw_only=True):
    """What a tool would install on a platform, and whether it would run there.

    ``build`` is empty if the tool finds none, or if it is unverified which one. ``grade`` is set if the build runs.
    """

    tool: str
    platform: str
    build: str
    verdict: ToolVerdict
    grade: Grade | None = None
    reason: str
    source: str
    checked: dt.date


def load_other_tools() -> OtherTools:
    """Read the rules of the other tools."""
    return read_data("other-tools.toml", OtherTools)


def compare_tools(
    machine: Machine, request: Request, python: Version, matrix: Matrix, tools: OtherTools
) -> tuple[ToolBuild, ...]:
    """Return what each tool would install for a platform and a Python, if the requested torch is passed to it."""
    facts = read_limits(machine, request.platform or machine.platform)
    there = _There(
        facts=facts,
        driver=machine.driver.version if machine.driver and facts.is_known else None,
        driver_cuda=machine.driver.cuda if machine.driver else None,
        torch=request.torch,
        python=python,
        matrix=matrix,
    )
    return _uv(there, tools.uv), _pip(there, matrix.pip_defaults), _conda(there, tools.conda_forge)


class _There(Struct, frozen=True, kw_only=True):
    """The platform that the tools install for."""

    facts: MachineLimits
    driver: Version | None
    driver_cuda: Version | None
    torch: Version | None
    python: Version
    matrix: Matrix

    def newest(self, builds: Iterable[Build]) -> Build | None:
        """Return the newest build whose wheel an installer accepts: for the platform, the Python, and the glibc."""
        facts = self.facts
        fitting = [
            build
            for build in builds
            if build.platform == facts.platform
            and self.python in build.pythons
            and self.torch in (None, build.torch)
            and not (build.glibc is not None and facts.glibc is not None and facts.glibc < build.glibc)
        ]
        return max(fitting, key=lambda build: build.torch, default=None)

    @property
    def wanted(self) -> str:
        """What an installer looks for, in words."""
        torch = f"torch {self.torch}" if self.torch is not None else "torch"
        return f"{torch} for {self.facts.platform} and Python {self.python}"

    def judge(
        self, tool: str, build: Build | None, row: _ToolRow | PipDefault, *, name: str = "", missing: str = ""
    ) -> ToolBuild:
        """Return the choice of a tool with its verdict; ``missing`` is the reason if it finds no build."""
        verdict, reason, grade = self._verdict(build, missing)
        return ToolBuild(
            tool=tool,
            platform=self.facts.platform,
            build=name or ("" if build is None else f"{build.torch}+{build.tag}"),
            verdict=verdict,
            grade=grade,
            reason=reason,
            source=row.source,
            checked=row.checked,
        )

    def _verdict(self, build: Build | None, missing: str) -> tuple[ToolVerdict, str, Grade | None]:
        if build is None:
            return "fails", missing, None
        found = fit(build, self.facts, self.matrix)
        if isinstance(found, Misfit):
            return "fails", found.reason, None
        if not build.tag.is_cpu and self.facts.is_known and not self.facts.has_nvidia:
            return "runs", "it is a CUDA build, of which a machine without an NVIDIA GPU uses only the CPU", None
        # it installs and trains, so nobody notices that the GPU is idle
        if build.tag.is_cpu and self.facts.has_nvidia:
            return "cpu-only", "it is the CPU build, which doesn't use the GPU", found
        if found is Grade.UNVERIFIED:
            return "unverified", f"it is not known {next(missing_limits(build, self.facts, self.matrix))}", found
        return "runs", "", found


def _uv(there: _There, rows: Sequence[_UvRow]) -> ToolBuild:
    """Return the newest torch on the first index whose driver is old enough; uv compares nothing but the driver."""
    if reason := _unpredicted(there):
        return ToolBuild(
            tool=UV,
            platform=there.facts.platform,
            build="",
            verdict="unverified",
            reason=f"it is not known {reason}",
            source=rows[0].source,
            checked=rows[0].checked,
        )
    tags = {build.tag for build in there.matrix.builds}
    row = next((row for row in rows if row.tag in tags and _accepts(row, there)), None)
    # uv falls back to the index of CPU builds if no row fits the driver
    tag = CPU if row is None else row.tag
    found = there.newest(build for build in there.matrix.builds if build.tag == tag)
    missing = f"the index of {tag}, the first for this driver, has no {there.wanted}"
    return there.judge(UV, found, row or rows[0], missing=missing)


def _unpredicted(there: _There) -> str:
    """Return what about the machine decides which index uv uses, but isn't known; an empty string if all is known."""
    if there.facts.other_gpu is not None:
        return "which build uv installs for GPUs of AMD and Intel"
    return "which version the driver has" if there.facts.has_driver and there.driver is None else ""


def _accepts(row: _UvRow, there: _There) -> bool:
    """Return whether uv uses the index; it compares the number of any driver, also of a Jetson's."""
    platform = there.facts.platform
    minimum = row.windows if platform.startswith("win-") else row.linux
    return there.driver is not None and not platform.startswith("osx-") and there.driver >= minimum


def _pip(there: _There, rows: Sequence[PipDefault]) -> ToolBuild:
    """Return the newest build on the package registry, which has one build for each release and platform."""
    mine = sorted((row for row in rows if there.facts.platform in row.platforms), key=lambda row: row.since)

    def row_of(torch: Version) -> PipDefault | None:
        return next((row for row in reversed(mine) if row.since <= torch), None)

    defaults = [b for b in there.matrix.builds if (row := row_of(b.torch)) is not None and row.tag == b.tag]
    found = there.newest(defaults)
    # the row says that the package registry has the build, whatever is known about the PyTorch index
    found = None if found is None else replace(found, confirmed=True)
    row = (None if found is None else row_of(found.torch)) or mine[-1]
    return there.judge(PIP, found, row, missing=f"the package index has no {there.wanted}")


def _conda(there: _There, rows: Sequence[_CondaRow]) -> ToolBuild:
    """Return the first build whose ``__cuda`` and ``__glibc`` rules the machine meets; the last row is for the CPU."""
    mine = [row for row in rows if there.facts.platform in row.platforms]
    chosen = next(row for row in mine if row.cuda is None or _has_cuda(there, row.cuda))
    found = there.newest((_conda_build(chosen, there.facts.platform),))
    name = f"{chosen.torch} ({'CPU' if chosen.cuda is None else f'CUDA {chosen.cuda}'})"
    return there.judge(
        CONDA, found, chosen, name=name if found is not None else "", missing=f"the newest recipe has no {there.wanted}"
    )


def _has_cuda(there: _There, cuda: Version) -> bool:
    """Return whether ``__cuda`` of the machine has at least the same major version."""
    return there.facts.has_driver and there.driver_cuda is not None and there.driver_cuda.major >= cuda.major


def _conda_build(row: _CondaRow, platform: str) -> Build:
    return Build(
        torch=row.torch,
        tag=WheelTag(row.cuda),
        platform=platform,
        glibc=row.glibc,
        pythons=row.pythons,
        capabilities=row.capabilities,
        ptx=row.ptx,
        local_version=False,
    )
