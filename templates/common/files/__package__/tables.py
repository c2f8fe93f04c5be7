"""Read the lines of a CSV file, and report the line of an error."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from .errors import Hint, ProjectError


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
            f"cannot read `--data {path}`: {error}", hint="to read another file", option="--data FILE"
        ) from error


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
