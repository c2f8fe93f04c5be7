"""Write what ``predict`` and ``export`` make."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .engine.checkpoint import make_run_dir
from .engine.log import to_json


def output_file(text: str) -> Path:
    """Return the path of ``--output``, in a directory that exists or is created."""
    make_run_dir(Path(text).parent, kind="directory", option="--output FILE")
    return Path(text)


def write_rows(rows: Iterable[dict[str, Any]], path: Path | None, *, as_json: bool) -> None:
    """Write rows as CSV, or as JSON lines (also for ``.jsonl``), as they come."""
    as_json = as_json or (path is not None and path.suffix in (".jsonl", ".json"))
    with contextlib.nullcontext(sys.stdout) if path is None else path.open("w", encoding="utf-8", newline="") as file:
        writer: Any = None
        for row in rows:
            if as_json:
                file.write(to_json(row, ensure_ascii=False) + "\n")
                continue
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
