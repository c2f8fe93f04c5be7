"""Look up the speed below which a GPU model isn't healthy (``data/gpu_speeds.toml``)."""

from __future__ import annotations

import importlib.resources
import re
import sys
from functools import cache

from envforge.errors import EnvforgeError
from envforge.fields import Document, Fields, WrongValue, read_text
from envforge.verify.training.facts import SpeedFloor
from envforge.verify.values import Signal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SLICE = re.compile(r"MIG (\d)g\.")
_SLICES = 7


class SpeedTableError(EnvforgeError):
    """The table of speeds is invalid."""


def floor_of(name: str) -> Signal[SpeedFloor]:
    """Return the row for a GPU by the name that the driver reports; a MIG slice gets its share of the speed."""
    source = "data/gpu_speeds.toml"
    row = next((row for pattern, row in speed_table() if pattern.search(name)), None)
    if row is None:
        return Signal(source=source, unreadable=f"the table has no row for `{name}`")
    part = _SLICE.search(name)
    if part is None:
        return Signal(value=row, source=source)
    share = int(part[1]) / _SLICES
    return Signal(
        value=SpeedFloor(
            model=f"{row.model}, MIG slice of {part[1]}/{_SLICES}",
            reference_tflops=row.reference_tflops * share,
            floor_tflops=row.floor_tflops * share,
            source=row.source,
            checked=row.checked,
        ),
        source=source,
    )


@cache
def speed_table() -> tuple[tuple[re.Pattern[str], SpeedFloor], ...]:
    """Return each row and the pattern of GPU names that it is for, the most specific first."""
    file = importlib.resources.files("envforge") / "data" / "gpu_speeds.toml"
    document = Document(
        damaged=f"invalid data file `{file}`",
        error=SpeedTableError,
        code="speed-table-damaged",
        hint="install envforge again",
        mapping="a table",
    )
    top = Fields(document, "", tomllib.loads(file.read_text(encoding="utf-8")))
    sources = top.inner("sources")
    return tuple(_row(row, sources) for row in top.items("gpu"))


def _row(row: Fields, sources: Fields) -> tuple[re.Pattern[str], SpeedFloor]:
    reference, share = row.need("reference_tflops", _read_number), row.need("floor_share", _read_number)
    floor = SpeedFloor(
        model=row.need("model", read_text),
        reference_tflops=reference,
        floor_tflops=round(reference * share, 1),
        source=sources.need(row.need("source", read_text), read_text),
        checked=row.need("checked", read_text),
    )
    return re.compile(row.need("name", read_text)), floor


def _read_number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise WrongValue("a number above 0")
    return float(value)
