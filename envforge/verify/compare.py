"""Compare reports of machines, and find those that differ from the others.

Facts are compared with the majority, numbers with the median and a tolerance. Of two machines, neither is an outlier.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from envforge.verify.reports.charts import Measure, measures
from envforge.verify.reports.facts import facts
from envforge.verify.values import Finding, Report, Verdict

FEW = 3  # the fewest machines for a majority or a median
_BAD = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)
_ORDER = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.INFO, Verdict.SKIP, Verdict.PASS)

Kind = Literal["fact", "speed", "finding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One report, and the name of its machine in the comparison."""

    name: str
    report: Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The value of one machine; ``text`` is None if it wasn't observed. ``note`` is its distance from the others."""

    text: str | None
    is_odd: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One fact, speed, or finding of all machines, in their order."""

    kind: Kind
    group: str
    name: str
    cells: tuple[Cell, ...]
    differs: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All rows, facts first. ``tolerance`` is the share by which speeds may differ, 0.1 for 10 %."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    tolerance: float

    @property
    def different(self) -> tuple[Row, ...]:
        """The rows in which machines differ."""
        return tuple(row for row in self.rows if row.differs)

    @property
    def outliers(self) -> tuple[tuple[str, tuple[Row, ...]], ...]:
        """Each machine that differs from the others, with the rows in which it does."""
        found = []
        for position, name in enumerate(self.names):
            rows = tuple(row for row in self.rows if row.cells[position].is_odd)
            if rows:
                found.append((name, rows))
        return tuple(found)


def compare(machines: Sequence[Machine], *, tolerance: float) -> Comparison:
    """Compare at least two machines."""
    reports = [machine.report for machine in machines]
    rows = (*_fact_rows(reports), *_speed_rows(reports, tolerance), *_finding_rows(reports))
    return Comparison(names=tuple(machine.name for machine in machines), rows=rows, tolerance=tolerance)


def _fact_rows(reports: Sequence[Report]) -> Iterator[Row]:
    tables = [_facts(report) for report in reports]
    for group, name in dict.fromkeys(key for table in tables for key in table):
        cells = _by_majority([table.get((group, name)) for table in tables])
        yield Row(kind="fact", group=group, name=name, cells=cells, differs=_differ(cells))


def _facts(report: Report) -> dict[tuple[str, str], str]:
    """Return the facts that machines should have in common."""
    return {
        (section.title, label): value
        for section in facts(report.record)
        if section.compared
        for label, value in section.rows
    }


def _by_majority(texts: Sequence[str | None]) -> tuple[Cell, ...]:
    counted = Counter(text for text in texts if text is not None)
    usual = None
    if counted and sum(counted.values()) >= FEW:
        text, count = counted.most_common(1)[0]
        usual = text if 2 * count > sum(counted.values()) else None
    return tuple(Cell(text=text, is_odd=usual is not None and text not in (None, usual)) for text in texts)


def _differ(cells: Sequence[Cell]) -> bool:
    return len({cell.text for cell in cells if cell.text is not None}) > 1


def _speed_rows(reports: Sequence[Report], tolerance: float) -> Iterator[Row]:
    tables = [{measure.name: measure for measure in measures(report.record)} for report in reports]
    for name in dict.fromkeys(name for table in tables for name in table):
        cells, differs = _by_median([table.get(name) for table in tables], tolerance)
        yield Row(kind="speed", group="Speed", name=name, cells=cells, differs=differs)


def _by_median(found: Sequence[Measure | None], tolerance: float) -> tuple[tuple[Cell, ...], bool]:
    values = [measure.value for measure in found if measure is not None and math.isfinite(measure.value)]
    middle = median(values) if values else 0.0
    cells = []
    for measure in found:
        off = _off(measure, middle)
        odd = off is not None and abs(off) > tolerance and len(values) >= FEW
        note = f"{off:+.0%} off the median" if odd and off is not None else ""
        cells.append(Cell(text=measure.shown if measure else None, is_odd=odd, note=note))
    far_apart = bool(values) and min(values) > 0 and max(values) / min(values) - 1 > tolerance
    differs = any(cell.is_odd for cell in cells) if len(values) >= FEW else far_apart
    if far_apart and len(values) < FEW:
        cells = [_against_best(cell, measure, min(values)) for cell, measure in zip(cells, found, strict=True)]
    return tuple(cells), differs


def _off(measure: Measure | None, middle: float) -> float | None:
    if measure is None or not math.isfinite(measure.value) or middle == 0:
        return None
    return measure.value / middle - 1


def _against_best(cell: Cell, measure: Measure | None, lowest: float) -> Cell:
    if measure is None or measure.value == lowest:
        return cell
    return Cell(text=cell.text, note=f"{measure.value / lowest - 1:+.0%}")


def _finding_rows(reports: Sequence[Report]) -> Iterator[Row]:
    """Yield a row for each check; it differs only if the verdicts differ and one of them is bad."""
    tables = [_worst(report) for report in reports]
    for check in dict.fromkeys(name for table in tables for name in table):
        verdicts = [table.get(check) for table in tables]
        cells = _by_majority([finding.verdict.value if finding else None for finding in verdicts])
        bad = any(finding is not None and finding.verdict in _BAD for finding in verdicts)
        noted = tuple(
            Cell(text=cell.text, is_odd=cell.is_odd and bad, note=finding.observed if finding and bad else "")
            for cell, finding in zip(cells, verdicts, strict=True)
        )
        yield Row(kind="finding", group="Findings", name=check, cells=noted, differs=bad and _differ(cells))


def _worst(report: Report) -> dict[str, Finding]:
    """Return the worst finding of each check over all GPUs."""
    found: dict[str, Finding] = {}
    for finding in report.findings:
        before = found.get(finding.check)
        if before is None or _ORDER.index(finding.verdict) < _ORDER.index(before.verdict):
            found[finding.check] = finding
    return found
