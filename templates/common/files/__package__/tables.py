"""Read CSV and Parquet files, and report the line of an error."""

from __future__ import annotations

import csv
import io
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import numpy

from .engine.errors import Hint, ProjectError, library

EMPTY = ("", "na", "nan", "null", "none")  # in lowercase
ROWS_AT_ONCE = 20_000
LARGEST = 1e30
SEPARATORS = ",;\t|"
UNNAMED = "column "  # and its number, for a column without a name
Numbers = Any  # a numpy array of float64, with NaN for empty cells


@dataclass(frozen=True)
class Table:
    """``columns`` are numbers if all cells are numbers, dates (in days), or empty, else the cells.

    ``first_line`` is the line of row 0.
    """

    source: str
    columns: dict[str, Numbers | list[str]]
    first_line: int = 2

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def cells(self, name: str) -> list[str]:
        """Return the stripped cells of a column: whole numbers without a point, and an empty cell as ``""``."""
        column = self.columns[name]
        if isinstance(column, list):
            return [cell.strip() for cell in column]
        return [_text(value) for value in column.tolist()]

    def numbers(self, name: str, *, hint: Sequence[Hint]) -> Numbers:
        """Return the numbers of a column; raise if a cell is neither empty nor a number that fits into 32 bits."""
        column = self.columns[name]
        if not isinstance(column, list):
            if (large := numpy.abs(column) > LARGEST).any():
                row = int(large.argmax())
                raise ProjectError(
                    f"{self.place(name, row)}: expected a smaller number, found `{column[row]:g}`", hint=hint
                )
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


def _days(cells: list[str]) -> Numbers | None:
    """Return dates such as 2024-12-31 or 2024-12-31T23:59 in days since 1970; None if a cell is no date."""
    days = []
    try:
        for cell in cells:
            if is_empty(cell):
                days.append(float("nan"))
                continue
            moment = datetime.fromisoformat(cell.strip().replace("Z", "+00:00"))
            days.append(moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp() / 86400)
    except ValueError:
        return None
    return numpy.array(days, dtype=numpy.float64)


def read_table(path: Path, encoding: str) -> Table:
    if not path.is_file():
        raise ProjectError(f"`{path}` is not a file", hint="to use a CSV or Parquet file", option="--data FILE")
    table = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path, encoding)
    for name, column in list(table.columns.items()):
        if isinstance(column, list) and (days := _days(column)) is not None:
            table.columns[name] = days
        elif name.startswith(UNNAMED) and not isinstance(column, list) and numpy.isnan(column).all():
            del table.columns[name]  # a separator at the end of each line
    if found := next((name for name in table.columns if "." in name and number(name) is not None), None):
        print(
            f"warning: the first line of `{path}` is read as column names, one of which is `{found}`", file=sys.stderr
        )
    if not table.rows:
        raise ProjectError(f"`{path}` has no rows", hint="add a header with the column names, and one line per row")
    return table


def _read_csv(path: Path, encoding: str) -> Table:
    """Read numbers as numbers; a column with another cell anywhere is read again as text."""
    texts: set[str] = set()
    text = read_text(path, encoding)
    comma = _separator(text) == ";"  # the separator of languages with a decimal comma
    while True:
        names, columns = [], {}  # type: ignore[var-annotated]
        before = len(texts)
        for names, rows in _chunks(text, path, encoding):
            for name, cells in zip(names, zip(*rows)):
                column = columns.setdefault(name, [] if name in texts else array("d"))
                if name in texts or not _extend(column, cells, decimal_comma=comma):
                    texts.add(name)
                    if isinstance(column, list):
                        column.extend(cells)
        if len(texts) == before:
            found = {name: columns.get(name, []) for name in names}
            return Table(
                str(path), {name: each if name in texts else numpy.array(each) for name, each in found.items()}
            )


def _extend(column: array[float], cells: Sequence[str], *, decimal_comma: bool) -> bool:
    """Append the cells as numbers, with NaN for empty ones; return False if one is no finite number."""
    try:
        values = array("d", map(float, cells))
    except ValueError:
        if decimal_comma:
            cells = [cell.replace(".", "").replace(",", ".") if "," in cell else cell for cell in cells]
        read = [float("nan") if is_empty(cell) else number(cell) for cell in cells]
        if None in read:
            return False
        values = array("d", read)  # type: ignore[arg-type]
    if numpy.isinf(numpy.frombuffer(values)).any():
        return False
    column.extend(values)
    return True


def _chunks(text: str, path: Path, encoding: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield the column names with many rows at once; without checks of single rows, which would double the time."""
    lines, names = _open(text, path)
    yield names, []
    try:
        while chunk := list(islice(lines, ROWS_AT_ONCE)):
            rows = chunk if all(chunk) else list(filter(None, chunk))
            if set(map(len, rows)) - {len(names)}:
                raise _invalid_line(path, encoding)
            yield names, rows
    except csv.Error as error:
        raise _invalid_line(path, encoding) from error


def _invalid_line(path: Path, encoding: str) -> ProjectError:
    """Return the error for the first line that is invalid or too short."""
    lines = csv_lines(path, encoding)
    try:
        width = len(next(lines)[1])
        number, cells = next((number, cells) for number, cells in lines if len(cells) < width)
    except ProjectError as error:
        return error
    return ProjectError(
        f"`{path}`, line {number}: expected {width} cells as in the header, found {len(cells)}",
        hint="complete or remove that line",
    )


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
    if types.is_integer(column.type) or types.is_floating(column.type) or types.is_decimal(column.type):
        return column.cast("float64").to_numpy(zero_copy_only=False)
    return ["" if cell is None else str(cell) for cell in column.to_pylist()]


def csv_lines(path: Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not empty; the cells of the first one are the column names.

    The separator is a comma, semicolon, tab, or bar, whichever is most frequent in the first line; Excel names it in a
    line before that, such as ``sep=;``.
    """
    text = read_text(path, encoding)
    lines, names = _open(text, path)
    if names:
        yield lines.line_num, names
    try:
        for cells in lines:
            if len(cells) > len(names):
                raise ProjectError(
                    f"`{path}`, line {lines.line_num}: expected {len(names)} cells as in the header, "
                    f"found {len(cells)}",
                    hint='quote cells that contain the separator: "a, b"',
                )
            if cells:
                yield lines.line_num, cells
    except csv.Error as error:
        raise _not_csv(path, lines, error) from error


def _open(text: str, path: Path) -> tuple[Any, list[str]]:
    """Return a reader of the lines after the header, and the column names."""
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    try:
        for cells in lines:
            if cells and not (lines.line_num == 1 and text.startswith("sep=")):
                stripped = [name.strip() for name in cells]
                names = [name or f"{UNNAMED}{place}" for place, name in enumerate(stripped, start=1)]
                _refuse_repeated(path, names)
                return lines, names
    except csv.Error as error:
        raise _not_csv(path, lines, error) from error
    return lines, []


def _not_csv(path: Path, lines: Any, error: csv.Error) -> ProjectError:
    return ProjectError(f"`{path}`, line {lines.line_num} is not CSV: {error}", hint="fix that line")


def _separator(text: str) -> str:
    line = text.partition("\n")[0]
    return line[4:5] if line.startswith("sep=") and line[4:5] in SEPARATORS else max(SEPARATORS, key=line.count)


def _refuse_repeated(path: Path, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ProjectError(f"`{path}` has two columns named `{name}`", hint="rename one of them")
        seen.add(name)


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
        is_utf16 = path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise ProjectError(
            f"cannot decode `{path}` as {encoding}: {error}",
            hint="to read UTF-16" if is_utf16 else "to set its encoding, for example for Western European text",
            option="--encoding utf-16" if is_utf16 else "--encoding latin-1",
        ) from error
    except OSError as error:
        raise ProjectError(
            f"cannot read `{path}`: {error}", hint="to read another file", option="--data FILE"
        ) from error
