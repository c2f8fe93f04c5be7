"""Classify texts with a trained model: ``python -m PACKAGE.predict runs/default texts.txt``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import Config
from .data import as_text, encoder, pad_batch, records
from .engine.checkpoint import restore
from .engine.device import choose_device
from .engine.errors import ProjectError, exit_code
from .engine.options import Parser
from .model import make_model
from .output import output_file, write_rows
from .tables import read_text

TEXTS_AT_ONCE = 256


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(program=f"python -m {__package__}.predict", description="Classify texts with a trained model.")
    parser.add_argument("run", type=Path, metavar="RUN", help="The directory of a run, or a model.pt.")
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="One text in each line, or a CSV or JSONL file; - reads stdin."
    )
    parser.add_argument("--top-k", type=int, default=1, help="List this many classes for each text.")
    parser.add_argument(
        "--output", type=output_file, metavar="FILE", help="Write this CSV or JSONL file; stdout by default."
    )
    parser.add_argument("--json", action="store_true", help="Write JSON lines instead of CSV.")
    parser.add_argument("--device", default="auto", help="Compute on auto, cpu, cuda, cuda:1, or mps.")
    options = parser.parse_args(arguments)
    model, _, about = restore(options.run, Config, make_model)
    top_k = min(max(options.top_k, 1), len(about["classes"]))
    rows = predict(model.to(choose_device(options.device)), about, texts_of(options.file, about), top_k)
    write_rows(rows, options.output, as_json=options.json)
    return 0


def texts_of(path: Path, about: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of a file: its lines, or the text column of a CSV or JSONL file."""
    column = about["text_column"]
    if str(path) == "-":
        yield from (line.rstrip("\n") for line in sys.stdin)
    elif path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".ndjson"):
        for place, record in records(path, about["encoding"], [column], hint=f"name the texts `{column}`"):
            if (text := as_text(record[column])) is None:
                raise ProjectError(f"`{path}`, {place}: `{column}` is no text", hint="complete or remove it")
            yield text
    else:
        yield from read_text(path, about["encoding"]).splitlines()


@torch.no_grad()
def predict(model: nn.Module, about: dict[str, Any], texts: Iterator[str], top_k: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each text: its likeliest classes and their probabilities."""
    device, encode = next(model.parameters()).device, encoder(about)
    while part := list(islice(texts, TEXTS_AT_ONCE)):
        tokens = pad_batch([encode(text) for text in part], about["pad"]).to(device)
        best = model(tokens).float().softmax(dim=1).topk(top_k)
        for text, chances, numbers in zip(part, best.values.tolist(), best.indices.tolist()):
            row: dict[str, Any] = {"text": text}
            for place, (chance, number) in enumerate(zip(chances, numbers), start=1):
                suffix = "" if place == 1 else f"_{place}"
                row |= {f"label{suffix}": about["classes"][number], f"probability{suffix}": round(chance, 6)}
            yield row


if __name__ == "__main__":
    sys.exit(exit_code(main))
