"""A table as text: named columns of cells, from a CSV or Parquet file. ``data.py`` decides what a cell means."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from .errors import ProjectError

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


def is_empty(cell: str) -> bool:
    return cell.strip().lower() in EMPTY


def number(cell: str) -> float | None:
    """The cell as a number; None where it is none, or not a finite one."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def read_table(path: Path) -> Table:
    if not path.is_file():
        raise ProjectError(f"--data `{path}` is not a file", hint="name a CSV or Parquet file")
    table = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path)
    if not table.rows:
        raise ProjectError(f"`{path}` has no rows", hint="a first line of names and a line for each row are needed")
    return table


def _read_csv(path: Path) -> Table:
    """Comma, semicolon or tab, as the first line says; UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            separator = max(",;\t", key=head.count)
            lines = csv.reader(file, delimiter=separator, strict=True)
            names = [name.strip() for name in next(lines, [])]
            rows = []
            for row in lines:
                if row and len(row) != len(names):
                    raise ProjectError(
                        f"line {lines.line_num} of `{path}` has {len(row)} cells, the first line names {len(names)}",
                        hint="quote cells that hold the separator",
                    )
                if row:
                    rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ProjectError(f"`{path}` cannot be read: {error}", hint="save it as CSV in UTF-8") from error
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ProjectError(f"`{path}` has two columns named `{min(repeated)}`", hint="give each its own name")
    return Table(str(path), {name: [row[place] for row in rows] for place, name in enumerate(names)})


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise ProjectError(
            "Parquet files are read with pyarrow, which is not installed",
            hint="add `pyarrow` to environment.yml, or save the table as CSV",
        ) from error
    try:
        read = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise ProjectError(f"`{path}` cannot be read: {error}", hint="is it a Parquet file?") from error
    columns = {
        name: ["" if cell is None else str(cell) for cell in read.column(name).to_pylist()]
        for name in read.column_names
    }
    return Table(str(path), columns, first_line=1)


def tumours() -> Table:
    """569 real tumours with 30 measurements each, benign or malignant (UCI, in scikit-learn)."""
    try:
        from sklearn.datasets import load_breast_cancer
    except ModuleNotFoundError as error:
        raise ProjectError(
            f"the tumours come with scikit-learn, which cannot be imported: {error}",
            hint="install the locked environment, or name a table with --data FILE",
        ) from error
    bunch = load_breast_cancer()
    columns = {str(name): [str(x) for x in column] for name, column in zip(bunch.feature_names, bunch.data.T.tolist())}
    kinds = [str(bunch.target_names[kind]) for kind in bunch.target.tolist()]
    return Table("breast_cancer of scikit-learn", {**columns, "kind": kinds}, first_line=1)
