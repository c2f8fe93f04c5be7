"""Read a CSV or Parquet file as named columns of strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .csvfile import csv_lines
from .errors import Hint, ProjectError
from .library import library

EMPTY = ("", "na", "nan", "null", "none")  # in lowercase


@dataclass(frozen=True)
class Table:
    """``columns`` are the cells of each column; ``first_line`` is the line of the first row in the file."""

    source: str
    columns: dict[str, list[str]]
    first_line: int = 2

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def place(self, name: str, row: int) -> str:
        return f"column `{name}`, line {row + self.first_line} of `{self.source}`"

    def not_a_number(self, name: str, row: int, *, hint: Sequence[Hint]) -> ProjectError:
        cell = self.columns[name][row]
        return ProjectError(f"{self.place(name, row)}: expected a number, found `{cell[:40]}`", hint=hint)


def is_empty(cell: str) -> bool:
    return cell.strip().lower() in EMPTY


def number(cell: str) -> float | None:
    """Return the cell as a number; None if it is not a finite number."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def read_table(path: Path, encoding: str) -> Table:
    if not path.is_file():
        raise ProjectError(f"`--data {path}` is not a file", hint="to use a CSV or Parquet file", option="--data FILE")
    table = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path, encoding)
    if not table.rows:
        raise ProjectError(f"`{path}` has no rows", hint="add a header with the column names, and one line per row")
    return table


def _read_csv(path: Path, encoding: str) -> Table:
    lines = dict(csv_lines(path, encoding))
    names, *rows = lines.values() or ([],)
    for number_of_line, row in lines.items():
        if len(row) < len(names):
            raise ProjectError(
                f"`{path}`, line {number_of_line}: expected {len(names)} cells as in the header, found {len(row)}",
                hint="complete or remove that line",
            )
    return Table(str(path), {name: [row[place] for row in rows] for place, name in enumerate(names)})


def _read_parquet(path: Path) -> Table:
    hint = (
        Hint("to add `pyarrow` to the environment", command="envforge add --pip pyarrow && envforge install"),
        Hint("save the table as CSV"),
    )
    pyarrow = library("pyarrow", "a Parquet file", hint=hint)
    parquet = library("pyarrow.parquet", "a Parquet file", hint=hint)
    try:
        read = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ProjectError(f"cannot read `{path}` as Parquet: {error}", hint="save the table as CSV") from error
    columns = {
        name: ["" if cell is None else str(cell) for cell in read.column(name).to_pylist()]
        for name in read.column_names
    }
    return Table(str(path), columns, first_line=1)


def tumours() -> Table:
    """Load 569 real tumors with 30 measurements each, benign or malignant (UCI, in scikit-learn)."""
    hint = (
        Hint("to install the locked environment", command="envforge install"),
        Hint("to use your own table", option="--data FILE"),
    )
    bunch = library("sklearn.datasets", "the built-in data", hint=hint).load_breast_cancer()
    columns = {str(name): [str(x) for x in column] for name, column in zip(bunch.feature_names, bunch.data.T.tolist())}
    kinds = [str(bunch.target_names[kind]) for kind in bunch.target.tolist()]
    return Table("breast_cancer of scikit-learn", {**columns, "kind": kinds}, first_line=1)
