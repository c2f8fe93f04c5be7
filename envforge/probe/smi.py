"""Query ``nvidia-smi`` if NVML didn't respond: its XML first, then its plain table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from envforge.machine.nvidia_text import (
    SmiReport,
    TextFormatError,
    clean,
    parse_compute_capabilities,
    parse_smi_table,
    parse_smi_xml,
    smi_failure,
)
from envforge.probe.world import ProgramResult, World

_PROGRAMS = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")  # WSL's directory isn't always on PATH
_QUERY_CAPABILITY = ("--query-gpu=index,compute_cap", "--format=csv,noheader")


@dataclass(frozen=True, kw_only=True, slots=True)
class SmiAnswer:
    """A report and the command that produced it, or the failure as a keyword with the output."""

    source: str
    report: SmiReport | None = None
    failure: str | None = None
    text: str = ""


def ask_smi(world: World) -> SmiAnswer:
    """Query ``nvidia-smi`` for the driver and the GPUs."""
    for program in _PROGRAMS:
        xml = world.run((program, "-q", "-x"))
        if xml is not None:
            return _answer(world, program, xml)
    return SmiAnswer(source="nvidia-smi", failure="not-installed", text="`nvidia-smi` isn't installed")


def _answer(world: World, program: str, xml: ProgramResult) -> SmiAnswer:
    if xml.exit_code is None:
        return SmiAnswer(source="nvidia-smi -q -x", failure="hung", text="no response in time")
    failure = smi_failure(xml.exit_code, xml.stdout + xml.stderr)
    if failure is None:
        try:
            return SmiAnswer(
                source="nvidia-smi -q -x", report=_with_capabilities(world, program, parse_smi_xml(xml.stdout))
            )
        except TextFormatError:
            failure = "unknown-format"
    table = world.run((program,))
    if table is not None and table.exit_code == 0:
        try:
            return SmiAnswer(
                source="nvidia-smi", report=_with_capabilities(world, program, parse_smi_table(table.stdout))
            )
        except TextFormatError:
            failure = "unknown-format"
    said = (xml.stdout.strip() or xml.stderr.strip()).partition("\n")[0]
    return SmiAnswer(source="nvidia-smi", failure=failure, text=clean(said)[:200])


def _with_capabilities(world: World, program: str, report: SmiReport) -> SmiReport:
    if not report.gpus:
        return report
    result = world.run((program, *_QUERY_CAPABILITY))
    known = parse_compute_capabilities(result.stdout) if result is not None and result.exit_code == 0 else {}
    gpus = tuple(dataclasses.replace(gpu, compute_capability=known.get(gpu.index)) for gpu in report.gpus)
    return dataclasses.replace(report, gpus=gpus)
