"""Lines of a CSV file, with the place of what is wrong in it. What a cell means, others decide."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from .errors import ProjectError


def read_text(path: Path, encoding: str) -> str:
    try:
        return path.read_bytes().decode(encoding)
    except LookupError as error:
        raise ProjectError(f"--encoding {encoding} is not one that Python knows", hint="utf-8, latin-1") from error
    except UnicodeError as error:
        raise ProjectError(
            f"`{path}` is not in the encoding {encoding}: {error}", hint="name its encoding: --encoding latin-1"
        ) from error
    except OSError as error:
        raise ProjectError(f"--data `{path}` is not a file that can be read: {error}", hint="give its path") from error


def csv_lines(path: Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is not empty; the first ones are the names of the columns.

    Comma, semicolon or tab separates, whichever the first line has most of.
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
                    f"`{path}`, line {lines.line_num} has {len(cells)} cells, the first line names {len(names)}",
                    hint='quote cells that hold the separator: "a, b"',
                )
            if cells:
                yield lines.line_num, cells
    except csv.Error as error:
        raise ProjectError(f"`{path}`, line {lines.line_num} is not CSV: {error}", hint="mend that line") from error


def _refuse_repeated(path: Path, names: list[str]) -> None:
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ProjectError(f"`{path}` has two columns named `{min(repeated)}`", hint="give each its own name")
