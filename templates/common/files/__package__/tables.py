"""Read CSV and Parquet files, and report the line of an error."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy

from .engine.errors import Hint, ProjectError, library

EMPTY = ("", "na", "nan", "null", "none")  # in lowercase
ROWS_AT_ONCE = 20_000
Numbers = Any  # a numpy array of float64, with NaN for empty cells


@dataclass(frozen=True)
class Table:
    """``columns`` are numbers if all cells are numbers or empty, else the cells; ``first_line`` is that of row 0."""

    source: str
    columns: dict[str, Numbers | list[str]]
    first_line: int = 2

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def cells(self, name: str) -> list[str]:
        """Return the cells of a column as text: whole numbers without a point, and an empty cell as ``""``."""
        column = self.columns[name]
        if isinstance(column, list):
            return column
        return [_text(value) for value in column.tolist()]

    def numbers(self, name: str, *, hint: Sequence[Hint]) -> Numbers:
        """Return the numbers of a column; raise if a cell is neither a number nor empty."""
        column = self.columns[name]
        if not isinstance(column, list):
            return column
        values = [float("nan") if is_empty(cell) else number(cell) for cell in column]
        if None in values:
            row = values.index(None)
            raise ProjectError(f"{self.place(name, row)}: expected a number, found `{column[row][:40]}`", hint=hint)
        return numpy.array(values, dtype=numpy.float64)

    def place(self, name: str, row: int) -> str:
        return f"column `{name}`, line {row + self.first_line} of `{self.source}`"


def _text(value: float) -> str:
    if value != value:
        return ""
    return str(int(value)) if value == int(value) else repr(value)


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
        raise ProjectError(f"`{path}` is not a file", hint="to use a CSV or Parquet file", option="--data FILE")
    table = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path, encoding)
    if not table.rows:
        raise ProjectError(f"`{path}` has no rows", hint="add a header with the column names, and one line per row")
    return table


def _read_csv(path: Path, encoding: str) -> Table:
    """Read numbers as numbers; a column with another cell anywhere is read again as text."""
    texts: set[str] = set()
    while True:
        names, columns = [], {}  # type: ignore[var-annotated]
        before = len(texts)
        for names, rows in _chunks(path, encoding):
            for name, cells in zip(names, zip(*rows)):
                column = columns.setdefault(name, [] if name in texts else array("d"))
                if name in texts or not _extend(column, cells):
                    texts.add(name)
                    if isinstance(column, list):
                        column.extend(cells)
        if len(texts) == before:
            found = {name: columns.get(name, []) for name in names}
            return Table(
                str(path), {name: each if name in texts else numpy.array(each) for name, each in found.items()}
            )


def _extend(column: array[float], cells: Sequence[str]) -> bool:
    """Append the cells as numbers, with NaN for empty ones; return False if one is no finite number."""
    try:
        values = array("d", map(float, cells))
    except ValueError:
        read = [float("nan") if is_empty(cell) else number(cell) for cell in cells]
        if None in read:
            return False
        values = array("d", read)  # type: ignore[arg-type]
    if numpy.isinf(numpy.frombuffer(values)).any():
        return False
    column.extend(values)
    return True


def _chunks(path: Path, encoding: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield the column names with many rows at once."""
    lines = csv_lines(path, encoding)
    names = next(lines, (0, []))[1]
    yield names, []
    while chunk := list(islice(lines, ROWS_AT_ONCE)):
        short = next((line for line in chunk if len(line[1]) < len(names)), None)
        if short:
            raise ProjectError(
                f"`{path}`, line {short[0]}: expected {len(names)} cells as in the header, found {len(short[1])}",
                hint="complete or remove that line",
            )
        yield names, [cells for _, cells in chunk]


def _read_parquet(path: Path) -> Table:
    pyarrow = library("pyarrow", "a Parquet file")
    parquet = library("pyarrow.parquet", "a Parquet file")
    try:
        read = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ProjectError(f"cannot read `{path}` as Parquet: {error}", hint="save the table as CSV") from error
    columns = {name: _from_arrow(read.column(name), pyarrow.types) for name in read.column_names}
    return Table(str(path), columns, first_line=1)


def _from_arrow(column: Any, types: Any) -> Numbers | list[str]:
    if types.is_integer(column.type) or types.is_floating(column.type):
        return column.cast("float64").to_numpy(zero_copy_only=False)
    return ["" if cell is None else str(cell) for cell in column.to_pylist()]


def csv_lines(path: Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not empty; the cells of the first one are the column names.

    The separator is a comma, semicolon, or tab, whichever is most frequent in the first line.
    """
    text = read_text(path, encoding)
    csv.field_size_limit(2**31 - 1)
    separator = max(",;\t", key=text.partition("\n")[0].count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] = []
    try:
        for cells in lines:
            if not names:
                cells = names = [name.strip() for name in cells]
                _refuse_repeated(path, names)
            if len(cells) > len(names):
                raise ProjectError(
                    f"`{path}`, line {lines.line_num}: expected {len(names)} cells as in the header, "
                    f"found {len(cells)}",
                    hint='quote cells that contain the separator: "a, b"',
                )
            if cells:
                yield lines.line_num, cells
    except csv.Error as error:
        raise ProjectError(f"`{path}`, line {lines.line_num} is not CSV: {error}", hint="fix that line") from error


def _refuse_repeated(path: Path, names: list[str]) -> None:
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ProjectError(f"`{path}` has two columns named `{min(repeated)}`", hint="rename one of them")


def read_text(path: Path, encoding: str) -> str:
    try:
        return path.read_bytes().decode(encoding)
    except LookupError as error:
        raise ProjectError(
            f"unknown encoding `--encoding {encoding}`",
            hint=(
                Hint("to read UTF-8", option="--encoding utf-8-sig"),
                Hint("to read Western European text", option="--encoding latin-1"),
            ),
        ) from error
    except UnicodeError as error:
        raise ProjectError(
            f"cannot decode `{path}` as {encoding}: {error}",
            hint="to set its encoding, for example for Western European text",
            option="--encoding latin-1",
        ) from error
    except OSError as error:
        raise ProjectError(
            f"cannot read `{path}`: {error}", hint="to read another file", option="--data FILE"
        ) from error
