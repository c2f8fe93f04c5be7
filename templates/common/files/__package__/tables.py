"""Read CSV and Parquet files, and report the line of an error."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import numpy

from .engine.errors import ProjectError, library

EMPTY = ("", "na", "nan", "null", "none")  # in lowercase
ROWS_AT_ONCE = 20_000
SHOWN = 1000  # cells of a column that are enough to see whether it has decimal commas
SAMPLE = 100_000  # characters that decide on the separator
LARGEST = 1e30
SEPARATORS = ";\t|,"
UNNAMED = "column "  # and its number, for a column without a name
TEXT, DATE, POINT, COMMA, UNKNOWN_MARK = "text", "date", ".", ",", ""  # kinds of columns; for numbers, the decimal mark
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")  # 1,234.5
SWAPPED = str.maketrans(",.", ".,")
Numbers = Any  # a numpy array of float64, with NaN for empty cells


@dataclass(frozen=True)
class Table:
    """``columns`` are numbers if all cells are numbers, dates (in days), or empty, else the cells.

    ``kinds`` has how each column was read. If that isn't known of numbers, such as of `1.234`, they are cells.
    """

    source: str
    columns: dict[str, Numbers | list[str]]
    kinds: dict[str, str] = field(default_factory=dict)
    separator: str = ""
    encoding: str = ""  # of a CSV file

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def cells(self, name: str) -> list[str]:
        """Return the stripped cells of a column: whole numbers without a point, and an empty cell as ``""``."""
        column = self.columns[name]
        if isinstance(column, list):
            return [cell.strip() for cell in column]
        return [_text(value) for value in column.tolist()]

    def numbers(self, name: str, *, hint: str | Sequence[str]) -> Numbers:
        """Return the numbers of a column; raise if a cell is neither empty nor a number that fits into 32 bits."""
        column, kind = self.columns[name], self.kinds.get(name, UNKNOWN_MARK)
        if isinstance(column, list):
            if kind == TEXT:
                kind = min((POINT, COMMA), key=lambda mark: sum(_value(cell, mark) is None for cell in set(column)))
            failing = ((row, cell) for row, cell in enumerate(column) if _value(cell, kind) is None)
            row, cell = next(failing, (0, column[0]))
            readings = [f"{value:.15g}" for mark in (COMMA, POINT) if (value := number(cell, mark)) is not None]
            found = f"found `{cell[:40]}`" + f", which is {' or '.join(readings)}" * (len(readings) > 1)
            wanted = "a date" if kind == DATE else "a number"
            raise ProjectError(f"{self.place(name, row)}: expected {wanted}, {found}", hint=hint)
        if (large := numpy.abs(column) > LARGEST).any():
            row = int(large.argmax())
            raise ProjectError(
                f"{self.place(name, row)}: expected a smaller number, found `{column[row]:g}`", hint=hint
            )
        return column

    def place(self, name: str, row: int) -> str:
        if not self.encoding:
            return f"column `{name}`, row {row + 1} of `{self.source}`"
        line, _ = next(islice(csv_lines(Path(self.source), self.encoding), row + 1, None))
        return f"column `{name}`, line {line} of `{self.source}`"


def _text(value: float) -> str:
    if value != value:
        return ""
    return str(int(value)) if value == int(value) else repr(value)


def is_empty(cell: str) -> bool:
    return cell.strip().lower() in EMPTY


def number(cell: str, mark: str = UNKNOWN_MARK) -> float | None:
    """Return the cell as a number with this decimal mark, perhaps with the other one between thousands.

    Return None if it is not a finite number, or if the mark is unknown and changes the number.
    """
    if mark == UNKNOWN_MARK:
        readings = {value for each in (POINT, COMMA) if (value := number(cell, each)) is not None}
        return readings.pop() if len(readings) == 1 else None
    text = cell.strip().translate(SWAPPED) if mark == COMMA else cell.strip()
    try:
        value = float(text.replace(",", "") if GROUPED.fullmatch(text) else text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def is_number(cell: str) -> bool:
    """Return whether the cell is a number with either decimal mark."""
    return number(cell, POINT) is not None or number(cell, COMMA) is not None


def _days(cell: str) -> float | None:
    """Return a date such as 2024-12-31 or 2024-12-31T23:59 in days since 1970; None if the cell is no date."""
    try:
        moment = datetime.fromisoformat(cell.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp() / 86400


def _value(cell: str, kind: str) -> float | None:
    if is_empty(cell):
        return float("nan")
    return _days(cell) if kind == DATE else number(cell, kind)


def _values(cells: Sequence[str], kind: str) -> Numbers | None:
    """Return the cells as numbers; None if one is none."""
    values: dict[str, Any] = {}
    for cell in set(cells):
        if (value := _value(cell, kind)) is None:
            return None
        values[cell] = value
    return numpy.array([values[cell] for cell in cells], dtype=numpy.float64)


def read_table(
    path: Path, encoding: str, *, kinds: Mapping[str, str] | None = None, separator: str = "", decimal: str = ""
) -> Table:
    """Read a CSV or Parquet file.

    ``kinds`` are those of columns in another file, whose numbers had marks that went with its ``separator``. For all
    others, the cells decide. ``decimal`` is the mark of all numbers, if it is known.
    """
    if not path.is_file():
        raise ProjectError(f"`{path}` is not a file", hint="to use a CSV or Parquet file, pass `--data FILE`")
    given = dict(kinds or {})
    if path.suffix.lower() in (".parquet", ".pq"):
        table = _read_parquet(path, given)
    else:
        text = read_text(path, encoding)
        if _separator(text) != separator:
            given = {name: kind for name, kind in given.items() if kind in (TEXT, DATE)}
        table = _read_csv(path, text, given, encoding=encoding, decimal=decimal)
    _interpret(table, given, decimal)
    if found := next((name for name in table.columns if "." in name and number(name) is not None), None):
        print(
            f"warning: the first line of `{path}` is read as column names, one of which is `{found}`", file=sys.stderr
        )
    if not table.rows:
        raise ProjectError(f"`{path}` has no rows", hint="add a header with the column names, and one line per row")
    return table


def _interpret(table: Table, given: Mapping[str, str], decimal: str) -> None:
    """Convert columns of cells that are all numbers or dates, and set the kind of each column.

    In a file, all numbers have the same mark: columns that show it decide for the others. If none does, or some show
    another, it is a point in Parquet files and between commas.
    """
    columns, kinds = table.columns, table.kinds
    for name, column in columns.items():
        may_have_commas = given.get(name, decimal) in (COMMA, UNKNOWN_MARK) and isinstance(column, list)
        if may_have_commas and (values := _with_commas(column)) is not None:
            columns[name], kinds[name] = values, COMMA
        elif name in given:
            kinds[name] = given[name]
        elif isinstance(column, list):
            kinds[name] = _kind_of(column, decimal)
        else:
            kinds[name] = POINT if (column != numpy.floor(column))[~numpy.isnan(column)].any() else UNKNOWN_MARK
    shown = {POINT, COMMA} & set(kinds.values())
    usual = POINT if table.separator in ("", ",") else UNKNOWN_MARK
    mark = decimal or (shown.pop() if len(shown) == 1 else usual)
    for name, column in columns.items():
        if kinds[name] == UNKNOWN_MARK and name not in given:
            kinds[name] = mark
        if isinstance(column, list) and kinds[name] != TEXT and (values := _values(column, kinds[name])) is not None:
            columns[name] = values


def _kind_of(column: Sequence[str], decimal: str) -> str:
    """Return the kind of a column by its cells."""
    cells = set(column)
    marks = [mark for mark in decimal or (POINT, COMMA) if all(_value(cell, mark) is not None for cell in cells)]
    if marks:
        return marks[0] if len(marks) == 1 else UNKNOWN_MARK
    return DATE if all(_value(cell, DATE) is not None for cell in cells) else TEXT


def _read_csv(path: Path, text: str, given: Mapping[str, str], *, encoding: str, decimal: str) -> Table:
    """Read numbers as numbers; a column with another cell anywhere is read again as text.

    Unless commas separate the cells, the same is done with columns in which a point may be between thousands.
    """
    names = _open(text[:SAMPLE], path)[2] if decimal == COMMA else ()
    texts = {*names, *(name for name, kind in given.items() if kind in (TEXT, DATE, COMMA))}
    columns, separator = _read_columns(path, text, texts, encoding), _separator(text)
    if separator != "," and not decimal and "." in text:
        is_point = any(not isinstance(column, list) and _shows_point(column) for column in columns.values())
        has_comma = any(
            isinstance(column, list) and _kind_of(column[:SHOWN], "") == COMMA for column in columns.values()
        )
        open_ones = {name for name in columns if name not in texts and given.get(name) != POINT}
        unclear = {name for name in open_ones if has_comma or not is_point if not _shows_point(columns[name])}
        columns = _read_columns(path, text, texts | unclear, encoding) if unclear else columns
    return Table(str(path), columns, separator=separator, encoding=encoding)


def _shows_point(column: Numbers) -> bool:
    """Return whether a number has a point that can't be between thousands, as in 1.234."""
    sizes = numpy.abs(column[~numpy.isnan(column)])
    return bool(((sizes % 1 != 0) & ((sizes < 1) | (sizes >= 1000) | (numpy.round(sizes, 3) != sizes))).any())


def _with_commas(cells: Sequence[str]) -> Numbers | None:
    """Return numbers with decimal commas, in a tenth of the time of ``_values``; None if there is anything else."""
    text = "\n".join(cells)
    if "." in text or "," not in text:
        return None
    try:
        values = numpy.array(list(map(float, text.replace(",", ".").split("\n"))))
    except ValueError:
        return None
    return values if len(values) == len(cells) and numpy.isfinite(values).all() and _shows_point(values) else None


def _read_columns(path: Path, text: str, texts: set[str], encoding: str) -> dict[str, Any]:
    """Return the columns in ``texts`` as cells and the others as numbers; adds names to ``texts``."""
    is_complete = False
    while not is_complete:
        names: list[str] = []
        columns: dict[str, Any] = {}
        is_complete = True
        for names, chunk in _chunks(text, path, encoding, texts):
            for name, cells in zip(names, chunk):
                column = columns.setdefault(name, [] if name in texts else array("d"))
                if name not in texts and not _extend(column, cells):
                    texts.add(name)
                    is_complete = is_complete and not column and isinstance(cells[0], str)  # no cell became a number
                    column = columns[name] = []
                if name in texts:
                    column.extend(cells)
    found = {name: columns.get(name, []) for name in names}
    return {name: each if name in texts else numpy.array(each) for name, each in found.items()}


def _extend(column: array[float], cells: Any) -> bool:
    """Append cells or numbers as numbers, with NaN for empty cells; return False if one is no finite number."""
    try:
        values = array("d", cells.tobytes() if isinstance(cells, numpy.ndarray) else map(float, cells))
    except ValueError:
        try:
            meaning = {cell: float("nan") if is_empty(cell) else float(cell) for cell in set(cells)}
        except ValueError:
            return False
        values = array("d", [meaning[cell] for cell in cells])
    if numpy.isinf(numpy.frombuffer(values)).any():
        return False
    column.extend(values)
    return True


def _chunks(text: str, path: Path, encoding: str, texts: set[str]) -> Iterator[tuple[list[str], list[Any]]]:
    """Yield the column names with the columns of many rows; without checks of single rows, which would double the time.

    ``texts`` are columns to read as text. numpy reads lines in a fifth of the time of ``csv``, but not the end of a
    line in quotes, and not all quotes that ``csv`` reports as errors.
    """
    lines, _, names = _open(text, path)
    yield names, []
    separator = _separator(text)
    kinds: list[type] = [object if name in texts else float for name in names]
    quoted = re.compile(rf'"(?<=[{separator}\n]")[^"\n]*(?:""[^"\n]*)*"(?=[{separator}\r\n])')
    try:
        while chunk := _whole_rows(lines):
            columns = None
            if '"' not in quoted.sub("", "\n".join(["", *chunk, ""])):
                columns = _columns([line for line in chunk if line.rstrip("\r\n")], separator, kinds)
            if columns is None:
                rows = list(filter(None, csv.reader(chunk, delimiter=separator, strict=True)))
                if set(map(len, rows)) - {len(names)}:
                    raise _invalid_line(path, encoding)
                columns = list(zip(*rows))
            yield names, columns
    except csv.Error as error:
        raise _invalid_line(path, encoding) from error


def _whole_rows(lines: Iterator[str]) -> list[str]:
    """Return the next lines, up to one that doesn't end within quotes."""
    chunk = list(islice(lines, ROWS_AT_ONCE))
    quotes = sum(line.count('"') for line in chunk)
    while quotes % 2 and (line := next(lines, None)) is not None:
        chunk.append(line)
        quotes += line.count('"')
    return chunk


def _columns(lines: list[str], separator: str, kinds: list[type]) -> list[Any] | None:
    """Return each column as an array of numbers, or as a list of cells if one is no number; None if numpy fails.

    ``kinds`` remembers which columns are ``object`` because of such a cell.
    """
    for _ in range(2 if lines else 0):
        try:
            types = [(str(number), kind) for number, kind in enumerate(kinds)]
            table = numpy.loadtxt(lines, delimiter=separator, comments=None, quotechar='"', dtype=types, ndmin=1)
        except ValueError:
            columns = zip(*csv.reader(lines, delimiter=separator))
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


def _read_parquet(path: Path, given: Mapping[str, str]) -> Table:
    pyarrow = library("pyarrow", "a Parquet file")
    parquet = library("pyarrow.parquet", "a Parquet file")
    try:
        read = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ProjectError(f"cannot read `{path}` as Parquet: {error}", hint="save the table as CSV") from error
    columns: dict[str, Any] = {}
    for name in read.column_names:
        column, is_type = read.column(name), pyarrow.types
        is_numeric = any(test(column.type) for test in (is_type.is_integer, is_type.is_floating, is_type.is_decimal))
        if is_numeric and given.get(name) not in (TEXT, DATE):
            columns[name] = column.cast("float64").to_numpy(zero_copy_only=False)
        else:
            columns[name] = ["" if cell is None else str(cell) for cell in column.to_pylist()]
    return Table(str(path), columns)


def csv_lines(path: Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the cells of each row that is not empty; the first cells are the column names."""
    text = read_text(path, encoding)
    _, reader, names = _open(text, path)
    if names:
        yield reader.line_num, names
    line = reader.line_num + 1
    try:
        for cells in reader:
            if len(cells) > len(names):
                raise ProjectError(
                    f"`{path}`, line {line}: expected {len(names)} cells as in the header, found {len(cells)}",
                    hint='quote cells that contain the separator: "a, b"',
                )
            if cells:
                yield line, cells
            line = reader.line_num + 1
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
    """Return the separator of a CSV file, which Excel names in a line before the header, such as ``sep=;``.

    It is the first one by which the rows at the start of the file have the same number of cells, or else the one by
    which the header has the most.
    """
    if text.startswith("sep=") and text[4:5] in SEPARATORS:
        return text[4:5]
    widths = {separator: _widths(text, separator) for separator in SEPARATORS}
    regular = [separator for separator, counts in widths.items() if {1} != set(counts) == {counts[0]}]
    best = regular[0] if regular else max(SEPARATORS, key=lambda separator: widths[separator][0])
    return best if widths[best][0] > 1 else ","


def _widths(text: str, separator: str) -> list[int]:
    """Return the numbers of cells of the header and the rows after it."""
    widths: list[int] = []
    with contextlib.suppress(csv.Error):  # reported when the file is read
        widths += map(len, csv.reader(io.StringIO(text[:SAMPLE], newline=""), delimiter=separator))
    return list(filter(None, widths[:-1] if len(text) > SAMPLE else widths)) or [1]


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
