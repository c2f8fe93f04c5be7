"""Describe a report for people: its verdict, its findings, the facts of its record, and charts.

All formats render one ``Presentation``. Its strings are printable, so a renderer escapes only the markup of its format.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from envforge import errors
from envforge.base.redact import change_texts
from envforge.machine.values import Machine, driver_text
from envforge.verify.environment.facts import EnvironmentFacts
from envforge.verify.machine.facts import MachineFacts
from envforge.verify.record import Record
from envforge.verify.reports.charts import Chart, charts
from envforge.verify.training.facts import TrainingFacts
from envforge.verify.values import QUESTIONS, Finding, Question, Report, Verdict

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One group of facts. A terminal shows only ``short``; ``compared`` is whether machines should agree."""

    title: str
    rows: Rows
    short: Rows = ()
    compared: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Presentation:
    """A report in words; ``remark`` is the reason why a run without a failure fails, ``counts`` has no zeros."""

    outcome: str
    headline: str
    remark: str
    strict: bool
    counts: tuple[tuple[Verdict, int, str], ...]
    findings: tuple[Finding, ...]
    sections: tuple[Section, ...]
    charts: tuple[Chart, ...]
    project: str
    envforge: str
    created_at: datetime
    seconds: Mapping[str, float]

    @property
    def summary(self) -> str:
        """The counts, such as ``2 failed, 1 warned, 40 passed``."""
        return ", ".join(f"{count} {word}" for _, count, word in self.counts) or "nothing was checked"

    @property
    def worst_first(self) -> tuple[Finding, ...]:
        """The findings that fail the run first; within a verdict, in the order of the checks."""
        order = list(COUNTED)
        return tuple(sorted(self.findings, key=lambda finding: (not finding.fails, order.index(finding.verdict))))

    def of(self, *verdicts: Verdict) -> tuple[Finding, ...]:
        """Return the findings with one of these verdicts, worst first."""
        return tuple(finding for finding in self.worst_first if finding.verdict in verdicts)

    @property
    def by_question(self) -> Mapping[Question, Sequence[Finding]]:
        """The findings of each question that has some, in the order of the checks."""
        found = {question: [each for each in self.findings if each.question == question] for question in QUESTIONS}
        return {question: findings for question, findings in found.items() if findings}

    def fails(self, finding: Finding) -> bool:
        """Return whether a finding fails the run."""
        return finding.fails or (self.strict and finding.verdict is Verdict.WARN)


def present(report: Report, *, strict: bool = False) -> Presentation:
    """Return the shown of a report, with printable strings."""
    record = report.record
    project = record.project.name if record.project is not None else None
    shown = Presentation(
        outcome=outcome(report, strict=strict),
        headline=_headline(report, strict=strict),
        remark="--strict: warnings fail the run" if report.passed() and not report.passed(strict=strict) else "",
        strict=strict,
        counts=tuple(
            (verdict, report.counts[verdict], word) for verdict, word in COUNTED.items() if report.counts[verdict]
        ),
        findings=report.findings,
        sections=facts(record),
        charts=charts(record),
        project=project or "",
        envforge=record.envforge,
        created_at=record.created_at,
        seconds={item.what: item.seconds for item in record.observed},
    )
    return change_texts(shown, printable)


def printable(text: str) -> str:
    """Escape control characters, which a terminal or a page would interpret; line breaks and tabs become spaces."""
    return errors.printable(re.sub(r"\r\n|[\n\t]", " ", text)).strip()


def outcome(report: Report, *, strict: bool) -> str:
    """Return ``PASS``, ``FAIL``, or ``WARN`` if nothing fails but something warns."""
    if not report.passed(strict=strict):
        return "FAIL"
    return "WARN" if report.counts[Verdict.WARN] else "PASS"


def _headline(report: Report, *, strict: bool) -> str:
    """Return the result in one sentence, which names the questions that it is about."""
    word = outcome(report, strict=strict)
    if report.record.asked.machine:
        return f"The lockfile {'does not fit' if word == 'FAIL' else 'fits'} {report.record.asked.machine}"
    failing = {
        finding.question for finding in report.findings if finding.fails or (strict and finding.verdict is Verdict.WARN)
    }
    observed = {item.what for item in report.record.observed}
    subject = _listed([name for name in QUESTIONS if name in (failing or observed)])
    if not subject:
        return "Nothing could be observed"
    if word == "FAIL":
        return f"{subject} checks failed"
    return f"{subject} checks passed" + (" with warnings" if word == "WARN" else "")


def _listed(words: list[str]) -> str:
    """Return ``Machine``, ``Machine and environment``, or ``Machine, environment, and training``."""
    comma = "," if len(words) > 2 else ""
    text = f"{comma} and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return text[:1].upper() + text[1:]


def facts(record: Record) -> tuple[Section, ...]:
    """Return the sections of a record that have rows."""
    return tuple(section for section in _sections(record) if section.rows)


def _sections(record: Record) -> Iterator[Section]:
    yield _project(record)
    if record.machine is not None:
        yield _machine(record.machine)
    if record.environment is not None:
        yield _environment(record.environment)
    if record.training is not None:
        yield _training(record.training)
    yield _run(record)


def _project(record: Record) -> Section:
    project = record.project
    if project is None:
        return Section(title="Project", rows=())
    rows = (
        ("project", project.name or ""),
        ("template", project.template or ""),
        ("variant", project.variant or ""),
        ("lockfile", project.lock_file or ""),
        ("lockfile sha256", project.lock_sha256 or ""),
        ("platforms", ", ".join(project.lock_platforms)),
        ("requires", project.lock_needs or ""),
    )
    short = (
        f"{project.lock_file}, sha256 {project.lock_sha256[:12]}" if project.lock_sha256 else project.lock_file or ""
    )
    return Section(title="Project and lockfile", rows=_present(rows), short=_present((("lockfile", short),)))


def _machine(facts: MachineFacts) -> Section:
    machine, driver, system = facts.machine, facts.machine.driver, facts.system
    share = system.processors.value
    rows = (
        ("platform", machine.platform),
        ("GPUs", _gpus(machine)),
        ("driver", driver_text(driver.version) if driver and driver.version else "none"),
        ("newest CUDA", str(driver.cuda) if driver and driver.cuda else ""),
        ("glibc", str(machine.glibc or "")),
        ("container", machine.container or ""),
        ("WSL", "yes" if machine.is_wsl else ""),
        ("CPU", system.cpu.value.model if system.cpu.value else ""),
        ("CPUs", str(share.processors) if share else ""),
        ("memory", gibibytes(system.memory_bytes.value)),
        ("conditions", ", ".join(condition.code for condition in machine.conditions)),
    )
    driver_words = f", driver {dict(rows)['driver']}" if machine.has_nvidia else ""
    return Section(title="Machine", rows=_present(rows), short=(("machine", f"{_gpus(machine)}{driver_words}"),))


def _gpus(machine: Machine) -> str:
    counted = Counter(
        f"{gpu.name} (compute capability {gpu.compute_capability or 'unknown'}"
        + (f", {gibibytes(gpu.memory_bytes)})" if gpu.memory_bytes else ")")
        for gpu in machine.gpus
    )
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counted.items()) or "no NVIDIA GPU"


def _environment(facts: EnvironmentFacts) -> Section:
    audit, python, torch = facts.audit.value, facts.python.value, facts.torch.value
    rows = (
        ("digest", f"sha256:{audit.digest}" if audit else ""),
        ("packages", str(audit.packages) if audit else ""),
        ("differences from the lockfile", str(audit.drift_count) if audit else ""),
        ("Python", python.version if python else ""),
        ("torch", torch.version if torch else ""),
        ("CUDA of torch", torch.cuda or "none" if torch else ""),
        ("cuDNN", torch.cudnn or "" if torch else ""),
        ("NCCL", torch.nccl or "" if torch else ""),
        ("kernels for", " ".join(torch.arch_list) if torch else ""),
        ("NumPy", facts.numpy.value.version if facts.numpy.value else ""),
    )
    short = f"torch {torch.version}, Python {python.version}" if torch and python else ""
    digest = (("digest", f"sha256:{audit.digest}"),) if audit else ()
    return Section(title="Environment", rows=_present(rows), short=(*_present((("torch", short),)), *digest))


def _training(facts: TrainingFacts) -> Section:
    rows: Rows = (("package", facts.package or ""),)
    for device in facts.devices:
        words = [device.name, f"compute capability {device.capability}" if device.capability else ""]
        words += [f"low precision {device.low}" if device.low else "", device.process.in_words]
        rows += ((device.device, ", ".join(filter(None, words[:-1]))), (f"{device.device}, process", words[-1]))
    if (together := facts.collective.value) is not None:
        rows += (("all-reduce", f"{together.backend} over {together.ranks} processes"),)
    return Section(title="Training", rows=_present(rows), compared=False)


def gibibytes(amount: int | None) -> str:
    """Return a size such as ``15.6 GiB``, or an empty string if it is unknown."""
    return "" if amount is None else f"{amount / 2**30:.1f} GiB"


def _run(record: Record) -> Section:
    times = ", ".join(f"{item.what} {item.seconds:.1f} s" for item in record.observed)
    rows = (
        ("envforge", record.envforge),
        ("observed at", record.created_at.isoformat(timespec="seconds")),
        ("took", times),
        ("machine", record.asked.machine),
        ("depth", record.asked.depth),
        ("only", ", ".join(record.asked.only)),
        ("skipped", ", ".join(record.asked.skip)),
        ("redacted", "yes: user, host, serial numbers and identifiers" if record.redacted else "no"),
    )
    return Section(title="This run", rows=_present(rows), compared=False)


def _present(rows: Rows) -> Rows:
    return tuple((label, value) for label, value in rows if value)
