"""Describe a report for people: its verdict, its findings, the facts of its record, and charts.

All formats render one ``Presentation``. Its strings are printable, so a renderer escapes only the markup of its format.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from msgspec import Struct

from envforge import errors
from envforge.base.redact import change_texts
from envforge.machine.values import Machine, driver_text
from envforge.verify.environment.facts import EnvironmentFacts
from envforge.verify.machine.facts import MachineFacts
from envforge.verify.record import ProjectFacts, Record
from envforge.verify.training.facts import TrainingFacts
from envforge.verify.values import QUESTIONS, Finding, Question, Report, Verdict

if TYPE_CHECKING:
    from envforge.verify.reports.charts import Chart

# each verdict in the order of reports, with the word for its count
COUNTED = {
    Verdict.FAIL: "failed",
    Verdict.UNKNOWN: "unknown",
    Verdict.WARN: "warned",
    Verdict.INFO: "info",
    Verdict.PASS: "passed",
    Verdict.SKIP: "skipped",
}
PROBLEMS = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)

Rows = tuple[tuple[str, str], ...]


class FactSection(Struct, frozen=True, kw_only=True):
    """One group of facts. A terminal shows only ``short``; ``compared`` is whether machines should agree."""

    title: str
    rows: Rows
    short: Rows = ()
    compared: bool = True


class Presentation(Struct, frozen=True, kw_only=True):
    """A report with printable strings, in words; with ``strict``, warnings fail the run."""

    report: Report
    strict: bool

    @property
    def outcome(self) -> str:
        """``PASS``, ``FAIL``, or ``WARN`` if nothing fails but something warns."""
        if not self.report.passed(strict=self.strict):
            return "FAIL"
        return "WARN" if self.report.counts[Verdict.WARN] else "PASS"

    @property
    def headline(self) -> str:
        """The result in one sentence, which names the questions that it is about."""
        record = self.report.record
        if record.asked.machine:
            return f"The lockfile {'does not fit' if self.outcome == 'FAIL' else 'fits'} {record.asked.machine}"
        failing = {finding.question for finding in self.report.findings if self.fails(finding)}
        # a failure names only the questions that failed, so that the sentence is the answer
        named = failing or {item.what for item in record.observed}
        names: list[str] = [name for name in QUESTIONS if name in named]
        if not names:
            return "Nothing could be observed"
        *others, last = names
        subject = f"{', '.join(others)}{',' * (len(others) > 1)} and {last}" if others else last
        verb = {"FAIL": "failed", "WARN": "passed with warnings", "PASS": "passed"}[self.outcome]
        return f"{subject.capitalize()} checks {verb}"

    @property
    def remark(self) -> str:
        """The reason why a run without a failure fails."""
        is_strictness = self.outcome == "FAIL" and self.report.passed()
        return "--strict: warnings fail the run" if is_strictness else ""

    @property
    def project(self) -> str:
        """The name of the project, or an empty string."""
        project = self.report.record.project
        return project.name or "" if project else ""

    @property
    def counts(self) -> tuple[tuple[Verdict, int, str], ...]:
        """Each verdict with its number of findings and the word for it, without zeros."""
        numbers = self.report.counts
        return tuple((verdict, numbers[verdict], word) for verdict, word in COUNTED.items() if numbers[verdict])

    @property
    def summary(self) -> str:
        """The counts, such as ``2 failed, 1 warned, 40 passed``."""
        return ", ".join(f"{count} {word}" for _, count, word in self.counts) or "nothing was checked"

    @property
    def worst_first(self) -> tuple[Finding, ...]:
        """The findings that fail the run first; within a verdict, in the order of the checks."""
        order = list(COUNTED)
        return tuple(
            sorted(self.report.findings, key=lambda finding: (not finding.fails, order.index(finding.verdict)))
        )

    def of(self, *verdicts: Verdict) -> tuple[Finding, ...]:
        """Return the findings with one of these verdicts, worst first."""
        return tuple(finding for finding in self.worst_first if finding.verdict in verdicts)

    @property
    def by_question(self) -> Mapping[Question, Sequence[Finding]]:
        """The findings of each question that has some, in the order of the checks."""
        findings = sorted(self.report.findings, key=lambda finding: QUESTIONS.index(finding.question))
        return {question: list(found) for question, found in groupby(findings, lambda finding: finding.question)}

    def fails(self, finding: Finding) -> bool:
        """Return whether a finding fails the run."""
        return finding.fails or (self.strict and finding.verdict is Verdict.WARN)

    @property
    def sections(self) -> tuple[FactSection, ...]:
        """The facts of the record."""
        return facts(self.report.record)

    @property
    def charts(self) -> tuple[Chart, ...]:
        """The charts of the training."""
        from envforge.verify.reports.charts import charts  # noqa: PLC0415 - only pages need it

        return charts(self.report.record)


def present(report: Report, *, strict: bool = False) -> Presentation:
    """Return the presentation of a report."""
    return Presentation(report=change_texts(report, printable), strict=strict)


def printable(text: str) -> str:
    """Escape control characters, which a terminal or a page would interpret; line breaks and tabs become spaces."""
    return errors.printable(re.sub(r"\r\n|[\n\t]", " ", text)).strip()


def facts(record: Record) -> tuple[FactSection, ...]:
    """Return the facts of a record, in sections that have rows."""
    return tuple(section for section in _sections(record) if section.rows)


def _sections(record: Record) -> Iterator[FactSection]:
    if record.project is not None:
        yield _project(record.project)
    if record.machine is not None:
        yield _machine(record.machine)
    if record.environment is not None:
        yield _environment(record.environment)
    if record.training is not None:
        yield _training(record.training)
    yield _run(record)


def _project(project: ProjectFacts) -> FactSection:
    rows = _rows(
        ("project", project.name),
        ("template", project.template),
        ("variant", project.variant),
        ("lockfile", project.lock_file),
        ("lockfile sha256", project.lock_sha256),
        ("platforms", ", ".join(project.lock_platforms)),
        ("requires", project.lock_needs),
    )
    digest = f", sha256 {project.lock_sha256[:12]}" if project.lock_sha256 else ""
    short = f"{project.lock_file}{digest}" if project.lock_file else ""
    return FactSection(title="Project and lockfile", rows=rows, short=_rows(("lockfile", short)))


def _machine(facts: MachineFacts) -> FactSection:
    machine, cpu, share = facts.machine, facts.system.cpu.value, facts.system.processors.value
    driver = machine.driver
    version = driver_text(driver.version) if driver and driver.version else "none"
    rows = _rows(
        ("platform", machine.platform),
        ("GPUs", _gpus(machine)),
        ("driver", version),
        ("newest CUDA", driver.cuda if driver else None),
        ("glibc", machine.glibc),
        ("container", machine.container),
        ("WSL", "yes" if machine.is_wsl else ""),
        ("CPU", cpu.model if cpu else None),
        ("CPUs", share.processors if share else None),
        ("memory", _gibibytes(facts.system.memory_bytes.value)),
        ("conditions", ", ".join(condition.code for condition in machine.conditions)),
    )
    short = f"{_gpus(machine)}, driver {version}" if machine.has_nvidia else _gpus(machine)
    return FactSection(title="Machine", rows=rows, short=_rows(("machine", short)))


def _gpus(machine: Machine) -> str:
    counted = Counter(
        f"{gpu.name} (compute capability {gpu.compute_capability or 'unknown'}"
        + (f", {_gibibytes(gpu.memory_bytes)})" if gpu.memory_bytes else ")")
        for gpu in machine.gpus
    )
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counted.items()) or "no NVIDIA GPU"


def _gibibytes(amount: int | None) -> str:
    return "" if amount is None else f"{amount / 2**30:.1f} GiB"


def _environment(facts: EnvironmentFacts) -> FactSection:
    audit, python, torch, numpy = facts.audit.value, facts.python.value, facts.torch.value, facts.numpy.value
    digest = ("digest", f"sha256:{audit.digest}" if audit else None)
    rows = _rows(
        digest,
        ("packages", audit.packages if audit else None),
        ("differences from the lockfile", audit.drift_count if audit else None),
        ("Python", python.version if python else None),
        ("torch", torch.version if torch else None),
        ("CUDA of torch", torch.cuda or "none" if torch else None),  # a CPU build is a fact, not a gap
        ("cuDNN", torch.cudnn if torch else None),
        ("NCCL", torch.nccl if torch else None),
        ("kernels for", " ".join(torch.arch_list) if torch else None),
        ("NumPy", numpy.version if numpy else None),
    )
    short = f"torch {torch.version}, Python {python.version}" if torch and python else None
    return FactSection(title="Environment", rows=rows, short=_rows(("torch", short), digest))


def _training(facts: TrainingFacts) -> FactSection:
    rows: list[tuple[str, str | None]] = [("package", facts.package)]
    for device in facts.devices:
        capability = f"compute capability {device.capability}" if device.capability else ""
        low = f"low precision {device.low}" if device.low else ""
        rows.append((device.device, ", ".join(filter(None, (device.name, capability, low)))))
        # durations differ in each run, so this section isn't compared
        rows.append((f"{device.device}, process", device.process.in_words))
    if (together := facts.collective.value) is not None:
        rows.append(("all-reduce", f"{together.backend} over {together.ranks} processes"))
    return FactSection(title="Training", rows=_rows(*rows), compared=False)


def _run(record: Record) -> FactSection:
    rows = _rows(
        ("envforge", record.envforge),
        ("observed at", record.created_at.isoformat(timespec="seconds")),
        ("took", ", ".join(f"{item.what} {item.seconds:.1f} s" for item in record.observed)),
        ("machine", record.asked.machine),
        ("depth", record.asked.depth),
        ("only", ", ".join(record.asked.only)),
        ("skipped", ", ".join(record.asked.skip)),
        ("redacted", "yes: user, host, serial numbers and identifiers" if record.redacted else "no"),
    )
    return FactSection(title="This run", rows=rows, compared=False)


def _rows(*rows: tuple[str, object]) -> Rows:
    """Return the rows that have a value."""
    return tuple((label, str(value)) for label, value in rows if value not in (None, ""))  # zero is a value
