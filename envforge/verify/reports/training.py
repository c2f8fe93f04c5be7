"""The numbers of a training as charts: AMP against fp32 on each device, and the loss over the steps. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from envforge.verify.record import Record
from envforge.verify.reports.charts import Chart


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number of a training that two machines can compare; ``shown`` is it in words."""

    name: str
    value: float
    shown: str


def measures(_record: Record) -> tuple[Measure, ...]:
    """The speeds of a record: lower and higher are both worth a look."""
    return ()


def charts(_record: Record) -> tuple[Chart, ...]:
    """What can be drawn of a record; nothing where it did not train."""
    return ()
