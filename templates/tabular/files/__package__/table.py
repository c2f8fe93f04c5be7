"""A table as text: named columns of cells, from a CSV or Parquet file. ``data.py`` decides what a cell means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .csvfile import csv_lines
from .errors import ProjectError
from .library import library

EMPTY = ("", "na", "nan", "null", "none")  # in small letters


@dataclass(frozen=True)
class Table:
    """``columns`` has the cells of each column, ``first_line`` is where the first row stands in the file."""

    source: str
    columns: dict[str, list[str]]
    first_line: int = 2

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def place(self, name: str, row: int) -> str:
        return f"column `{name}`, line {row + self.first_line} of `{self.source}`"

    def not_a_number(self, name: str, row: int, *, hint: str) -> ProjectError:
        cell = self.columns[name][row]
        return ProjectError(f"{self.place(name, row)}: wanted a number, found `{cell[:40]}`", hint=hint)


def is_empty(cell: str) -> bool:
    return cell.strip().lower() in EMPTY


def number(cell: str) -> float | None:
    """The cell as a number; None where it is none, or not a finite one."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def read_table(path: Path, encoding: str) -> Table:
    if not path.is_file():
        raise ProjectError(f"--data `{path}` is not a file", hint="name a CSV or Parquet file")
    table = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path, encoding)
    if not table.rows:
        raise ProjectError(f"`{path}` has no rows", hint="a first line of names and a line for each row are needed")
    return table


def _read_csv(path: Path, encoding: str) -> Table:
    lines = dict(csv_lines(path, encoding))
    names, *rows = lines.values() or ([],)
    for number_of_line, row in lines.items():
        if len(row) < len(names):
            raise ProjectError(
                f"`{path}`, line {number_of_line} has {len(row)} cells, the first line names {len(names)}",
                hint="fill it up, or remove it",
            )
    return Table(str(path), {name: [row[place] for row in rows] for place, name in enumerate(names)})


def _read_parquet(path: Path) -> Table:
    pyarrow = library("pyarrow", "a Parquet file", hint="add `pyarrow` to environment.yml, or save the table as CSV")
    parquet = library("pyarrow.parquet", "a Parquet file", hint="install pyarrow anew")
    try:
        read = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ProjectError(f"`{path}` cannot be read: {error}", hint="is it a Parquet file?") from error
    columns = {
        name: ["" if cell is None else str(cell) for cell in read.column(name).to_pylist()]
        for name in read.column_names
    }
    return Table(str(path), columns, first_line=1)


def tumours() -> Table:
    """569 real tumours with 30 measurements each, benign or malignant (UCI, in scikit-learn)."""
    hint = "install the locked environment, or name a table with --data FILE"
    bunch = library("sklearn.datasets", "the built-in data", hint=hint).load_breast_cancer()
    columns = {str(name): [str(x) for x in column] for name, column in zip(bunch.feature_names, bunch.data.T.tolist())}
    kinds = [str(bunch.target_names[kind]) for kind in bunch.target.tolist()]
    return Table("breast_cancer of scikit-learn", {**columns, "kind": kinds}, first_line=1)
