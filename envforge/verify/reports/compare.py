"""Compare reports of machines, and find those that differ from the others.

Facts are compared with the majority, numbers with the median and a tolerance. Of two machines, neither is an outlier.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Literal

from msgspec import Struct

from envforge.base.redact import change_texts
from envforge.verify.reports.charts import Measure, measures
from envforge.verify.reports.presentation import PROBLEMS, facts, printable
from envforge.verify.values import Finding, Report, Verdict

FEW = 3  # the fewest machines for a majority or a median
_COLUMNS = 8  # a table for more machines has no column for each
_NAMED = 20  # more machines are counted, not named


class Cell(Struct, frozen=True, kw_only=True):
    """The value of one machine; ``text`` is None if it wasn't observed. ``note`` is its distance from the others."""

    text: str | None
    is_odd: bool = False
    note: str = ""

    @property
    def shown(self) -> str:
        """The value, or that there is none."""
        return "not observed" if self.text is None else self.text


class FleetRow(Struct, frozen=True, kw_only=True):
    """One fact, speed, or finding of all machines, in their order."""

    kind: Literal["fact", "speed", "finding"]
    group: str
    name: str
    cells: tuple[Cell, ...]
    differs: bool


class SameValue(Struct, frozen=True, kw_only=True):
    """The machines that have one value; many are counted, not named."""

    value: str
    machines: str
    is_odd: bool


class FleetComparison(Struct, frozen=True, kw_only=True):
    """All rows, facts first. ``tolerance`` is the share by which speeds may differ, 0.1 for 10 %."""

    machines: tuple[str, ...]
    rows: tuple[FleetRow, ...]
    tolerance: float

    @property
    def different(self) -> tuple[FleetRow, ...]:
        """The rows in which machines differ."""
        return tuple(row for row in self.rows if row.differs)

    @property
    def equal(self) -> tuple[FleetRow, ...]:
        """The rows in which they don't differ."""
        return tuple(row for row in self.rows if not row.differs)

    @property
    def outliers(self) -> tuple[tuple[str, tuple[FleetRow, ...]], ...]:
        """Each machine that differs from the others, with the rows in which it does."""
        odd = (tuple(row for row in self.rows if row.cells[at].is_odd) for at in range(len(self.machines)))
        return tuple((name, rows) for name, rows in zip(self.machines, odd, strict=True) if rows)

    @property
    def has_many(self) -> bool:
        """Whether there are too many machines for a table with a column for each."""
        return len(self.machines) > _COLUMNS

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        count, different = len(self.machines), len(self.different)
        if not different:
            return f"{count} machines match"
        odd = [name for name, _ in self.outliers]
        named = f"; different from the majority: {_some(odd)}" if odd else ""
        return f"{count} machines differ in {different} value{'s' * (different != 1)}{named}"

    def grouped(self, row: FleetRow) -> tuple[SameValue, ...]:
        """Group the machines of a row by their value, the value of most machines last if there are many."""
        found: dict[tuple[str, bool], list[str]] = {}
        for cell, name in zip(row.cells, self.machines, strict=True):
            note = f" ({cell.note})" if cell.note else ""
            # the note is part of the key, because two failures of a check can have different reasons
            found.setdefault((cell.shown + note, cell.is_odd), []).append(name)
        groups = list(found.items())
        most = max(map(len, found.values()))
        if most > _NAMED:  # the machines that matter come first, the others are only counted
            groups.sort(key=lambda group: len(group[1]) == most)
        return tuple(
            SameValue(value=value, is_odd=is_odd, machines=self._names(having, is_last=position == len(groups)))
            for position, ((value, is_odd), having) in enumerate(groups, start=1)
        )

    def _names(self, names: Sequence[str], *, is_last: bool) -> str:
        if len(names) > _NAMED and len(names) == len(self.machines):
            return f"all {len(names)}"
        return f"{len(names)} others" if len(names) > _NAMED and is_last else _some(names)


def _some(names: Sequence[str]) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])}, and {len(names) - _NAMED} others"


def compare(reports: Mapping[str, Report], *, tolerance: float) -> FleetComparison:
    """Compare the reports of at least two machines by their names; the strings of the result are printable."""
    found = tuple(reports.values())
    rows = (*_fact_rows(found), *_speed_rows(found, tolerance), *_finding_rows(found))
    return change_texts(FleetComparison(machines=tuple(reports), rows=rows, tolerance=tolerance), printable)


def _fact_rows(reports: Sequence[Report]) -> Iterator[FleetRow]:
    # the facts that machines should have in common
    tables = [
        {(each.title, label): value for each in facts(report.record) if each.compared for label, value in each.rows}
        for report in reports
    ]
    for group, name in dict.fromkeys(key for table in tables for key in table):
        cells = _by_majority([table.get((group, name)) for table in tables])
        yield FleetRow(kind="fact", group=group, name=name, cells=cells, differs=_differ(cells))


def _by_majority(texts: Sequence[str | None]) -> tuple[Cell, ...]:
    counted = Counter(text for text in texts if text is not None)
    usual = None
    # between two machines, nothing tells which one is right
    if counted.total() >= FEW:
        text, count = counted.most_common(1)[0]
        usual = text if 2 * count > counted.total() else None
    return tuple(Cell(text=text, is_odd=usual is not None and text not in (None, usual)) for text in texts)


def _differ(cells: Sequence[Cell]) -> bool:
    # what wasn't observed on one machine is no difference
    return len({cell.text for cell in cells if cell.text is not None}) > 1


def _speed_rows(reports: Sequence[Report], tolerance: float) -> Iterator[FleetRow]:
    tables = [{measure.name: measure for measure in measures(report.record)} for report in reports]
    for name in dict.fromkeys(name for table in tables for name in table):
        found = [table.get(name) for table in tables]
        values = [measure.value for measure in found if measure is not None and math.isfinite(measure.value)]
        far_apart = bool(values) and min(values) > 0 and max(values) / min(values) - 1 > tolerance
        # the median of two values is between them, so both would be equally far off
        if len(values) >= FEW:
            cells = tuple(_against_median(measure, median(values), tolerance) for measure in found)
            differs = any(cell.is_odd for cell in cells)
        else:
            cells = tuple(_against_best(measure, min(values) if far_apart else None) for measure in found)
            differs = far_apart
        yield FleetRow(kind="speed", group="Speed", name=name, cells=cells, differs=differs)


def _against_median(measure: Measure | None, middle: float, tolerance: float) -> Cell:
    if measure is None:
        return Cell(text=None)
    # a value that is far too good is suspicious, too
    off = measure.value / middle - 1 if middle and math.isfinite(measure.value) else 0.0
    odd = abs(off) > tolerance
    return Cell(text=measure.shown, is_odd=odd, note=f"{off:+.0%} off the median" if odd else "")


def _against_best(measure: Measure | None, lowest: float | None) -> Cell:
    if measure is None:
        return Cell(text=None)
    note = "" if lowest is None or measure.value == lowest else f"{measure.value / lowest - 1:+.0%}"
    return Cell(text=measure.shown, note=note)


def _finding_rows(reports: Sequence[Report]) -> Iterator[FleetRow]:
    """Yield a row for each check; it differs only if the verdicts differ and one of them is bad."""
    tables = [_worst(report) for report in reports]
    for check in dict.fromkeys(name for table in tables for name in table):
        findings = [table.get(check) for table in tables]
        cells = _by_majority([finding.verdict.value if finding else None for finding in findings])
        bad = any(finding is not None and finding.verdict in PROBLEMS for finding in findings)
        noted = tuple(
            Cell(text=cell.text, is_odd=cell.is_odd and bad, note=finding.observed if finding and bad else "")
            for cell, finding in zip(cells, findings, strict=True)
        )
        yield FleetRow(kind="finding", group="Findings", name=check, cells=noted, differs=bad and _differ(cells))


def _worst(report: Report) -> dict[str, Finding]:
    """Return the worst finding of each check over all GPUs."""
    order = (*PROBLEMS, Verdict.INFO, Verdict.SKIP, Verdict.PASS)
    found: dict[str, Finding] = {}
    for finding in report.findings:
        worst = found.setdefault(finding.check, finding)
        found[finding.check] = min(worst, finding, key=lambda each: order.index(each.verdict))
    return found
