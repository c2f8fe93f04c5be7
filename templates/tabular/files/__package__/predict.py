"""Predict a column of a table with a trained model: ``python -m PACKAGE.predict runs/default new.csv``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import Config
from .data import UNKNOWN, encode
from .engine.checkpoint import restore
from .engine.device import choose_device
from .engine.errors import exit_code
from .engine.options import Parser
from .model import make_model
from .output import output_file, write_rows
from .tables import TEXT, Table, csv_lines, read_table
from .task import average

ROWS_AT_ONCE = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(program=f"python -m {__package__}.predict", description="Add predictions to a table.")
    parser.add_argument("run", type=Path, metavar="RUN", help="The directory of a run, or a model.pt.")
    parser.add_argument("file", type=Path, metavar="FILE", help="A CSV or Parquet file with the same columns.")
    parser.add_argument(
        "--output", type=output_file, metavar="FILE", help="Write this CSV or JSONL file; stdout by default."
    )
    parser.add_argument("--json", action="store_true", help="Write JSON lines instead of CSV.")
    parser.add_argument("--device", default="auto", help="Compute on auto, cpu, cuda, cuda:1, or mps.")
    options = parser.parse_args(arguments)
    model, _, about = restore(options.run, Config, make_model)
    table = read_table(options.file, about["encoding"], kinds=about["kinds"], separator=about["separator"])
    rows = predict(model.to(choose_device(options.device)), about, table, _raw_rows(options.file, table, about))
    write_rows(rows, options.output, as_json=options.json)
    return 0


@torch.no_grad()
def predict(
    model: nn.Module, about: dict[str, Any], table: Table, rows: Iterator[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield each row with its prediction, and the probability of a predicted class."""
    numbers, classes = encode(table, about)
    _count_unknown(about, classes)
    device = next(model.parameters()).device
    for start in range(0, table.rows, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        found = average(model(numbers[part].to(device), classes[part].to(device)), about["labels"]).cpu()
        for row, value in zip(rows, found):
            yield row | _prediction(value, about)


def _prediction(value: Tensor, about: dict[str, Any]) -> dict[str, Any]:
    if not about["labels"]:
        return {"prediction": float(value) * about["deviation"] + about["mean"]}
    best = int(value.argmax())
    return {"prediction": about["labels"][best], "probability": round(float(value[best].exp()), 6)}


def _count_unknown(about: dict[str, Any], classes: Tensor) -> None:
    for place, column in enumerate(about["categorical"]):
        if count := int((classes[:, place] == UNKNOWN).sum()):
            print(f"warning: {count} rows have a `{column['name']}` that no training row had", file=sys.stderr)


def _raw_rows(path: Path, table: Table, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the cells of each row as they are in the file."""
    if path.suffix.lower() in (".parquet", ".pq"):
        columns = read_table(path, about["encoding"], kinds=dict.fromkeys(table.columns, TEXT)).columns
        yield from (dict(zip(columns, cells)) for cells in zip(*columns.values()))
        return
    lines = csv_lines(path, about["encoding"])
    names = next(lines)[1]
    yield from (dict(zip(names, cells)) for _, cells in lines)


if __name__ == "__main__":
    sys.exit(exit_code(main))
