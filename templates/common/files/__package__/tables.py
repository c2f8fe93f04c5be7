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

from .engine.errors import ProjectError, library

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

    def numbers(self, name: str, *, hint: str) -> Numbers:
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
        raise ProjectError(f"`{path}` is not a file", hint="to use a CSV or Parquet file, pass `--data FILE`")
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
    is_complete = False
    while not is_complete:
        names: list[str] = []
        columns: dict[str, Any] = {}
        is_complete = True
        for names, chunk in _chunks(text, path, encoding, texts):
            for name, cells in zip(names, chunk):
                column = columns.setdefault(name, [] if name in texts else array("d"))
                if name not in texts and not _extend(column, cells, decimal_comma=comma):
                    texts.add(name)
                    is_complete = is_complete and not column and isinstance(cells[0], str)  # no cell became a number
                    column = columns[name] = []
                if name in texts:
                    column.extend(cells)
    found = {name: columns.get(name, []) for name in names}
    return Table(str(path), {name: each if name in texts else numpy.array(each) for name, each in found.items()})


def _extend(column: array[float], cells: Any, *, decimal_comma: bool) -> bool:
    """Append cells or numbers as numbers, with NaN for empty cells; return False if one is no finite number."""
    try:
        values = array("d", cells.tobytes() if isinstance(cells, numpy.ndarray) else map(float, cells))
    except ValueError:
        if decimal_comma:
            cells = [cell.replace(".", "").replace(",", ".") if "," in cell else cell for cell in cells]
        meaning = {cell: float("nan") if is_empty(cell) else number(cell) for cell in set(cells)}
        if None in meaning.values():
            return False
        values = array("d", [meaning[cell] for cell in cells])  # type: ignore[misc]
    if numpy.isinf(numpy.frombuffer(values)).any():
        return False
    column.extend(values)
    return True


def _chunks(text: str, path: Path, encoding: str, texts: set[str]) -> Iterator[tuple[list[str], list[Any]]]:
    """Yield the column names with the columns of many rows; without checks of single rows, which would double the time.

    ``texts`` are columns to read as text. Lines without quotes are read by numpy, in a fifth of the time of ``csv``.
    """
    lines, reader, names = _open(text, path)
    yield names, []
    separator, is_plain = _separator(text), '"' not in text
    kinds: list[type] = [object if name in texts else float for name in names]
    try:
        while chunk := list(islice(lines if is_plain else reader, ROWS_AT_ONCE)):
            if is_plain and (columns := _columns(list(filter(None, chunk)), separator, kinds)) is not None:
                yield names, columns
                continue
            rows = list(filter(None, csv.reader(chunk, delimiter=separator, strict=True) if is_plain else chunk))
            if set(map(len, rows)) - {len(names)}:
                raise _invalid_line(path, encoding)
            yield names, list(zip(*rows))
    except csv.Error as error:
        raise _invalid_line(path, encoding) from error


def _columns(lines: list[str], separator: str, kinds: list[type]) -> list[Any] | None:
    """Return each column as an array of numbers, or as a list of cells if one is no number; None if numpy fails.

    ``kinds`` remembers which columns are ``object`` because of such a cell.
    """
    for _ in range(2 if lines else 0):
        try:
            types = [(str(number), kind) for number, kind in enumerate(kinds)]
            table = numpy.loadtxt(lines, delimiter=separator, comments=None, dtype=types, ndmin=1)
        except ValueError:
            columns = zip(*(line.split(separator) for line in lines))
            kinds[:] = [kind if _are_numbers(cells) else object for kind, cells in zip(kinds, columns)]
        else:
            return [table[name] if kind is float else table[name].tolist() for name, kind in types]
    return None if lines else []


def _are_numbers(cells: Sequence[str]) -> bool:
    try:
        return len(list(map(float, cells))) > 0
    except ValueError:
        return False


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
    _, reader, names = _open(text, path)
    if names:
        yield reader.line_num, names
    try:
        for cells in reader:
            if len(cells) > len(names):
                raise ProjectError(
                    f"`{path}`, line {reader.line_num}: expected {len(names)} cells as in the header, "
                    f"found {len(cells)}",
                    hint='quote cells that contain the separator: "a, b"',
                )
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise _not_csv(path, reader, error) from error


def _open(text: str, path: Path) -> tuple[Iterator[str], Any, list[str]]:
    """Return the lines after the header, a reader of their cells, and the column names."""
    csv.field_size_limit(2**31 - 1)
    if '"' in text:  # a cell may contain the end of a line
        lines: Iterator[str] = io.StringIO(text, newline="")
    else:
        lines = iter((text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text).split("\n"))
    reader = csv.reader(lines, delimiter=_separator(text), strict=True)
    try:
        for cells in reader:
            if cells and not (reader.line_num == 1 and text.startswith("sep=")):
                stripped = [name.strip() for name in cells]
                names = [name or f"{UNNAMED}{place}" for place, name in enumerate(stripped, start=1)]
                _refuse_repeated(path, names)
                return lines, reader, names
    except csv.Error as error:
        raise _not_csv(path, reader, error) from error
    return lines, reader, []


def _not_csv(path: Path, lines: Any, error: csv.Error) -> ProjectError:
    return ProjectError(f"`{path}`, line {lines.line_num} is not CSV: {error}", hint="fix that line")


def _separator(text: str) -> str:
    line = text[: text.find("\n")] if "\n" in text else text
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
                "to read UTF-8, pass `--encoding utf-8-sig`",
                "to read Western European text, pass `--encoding latin-1`",
            ),
        ) from error
    except UnicodeError as error:
        is_utf16 = path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise ProjectError(
            f"cannot decode `{path}` as {encoding}: {error}",
            hint="to read UTF-16, pass `--encoding utf-16`"
            if is_utf16
            else "to set its encoding, for example for Western European text, pass `--encoding latin-1`",
        ) from error
    except OSError as error:
        raise ProjectError(f"cannot read `{path}`: {error}", hint="to read another file, pass `--data FILE`") from error
