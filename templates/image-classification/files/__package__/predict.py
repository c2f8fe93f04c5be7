"""Classify images with a trained model: ``python -m PACKAGE.predict runs/default photo.jpg DIR``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import Config
from .engine.checkpoint import restore
from .engine.device import choose_device
from .engine.errors import exit_code
from .engine.options import Parser
from .images import as_float, decode_each, named_files, square
from .model import make_model
from .output import output_file, write_rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(program=f"python -m {__package__}.predict", description="Classify images with a trained model.")
    parser.add_argument("run", type=Path, metavar="RUN", help="The directory of a run, or a model.pt.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="Images, or directories of images.")
    parser.add_argument("--top-k", type=int, default=1, help="List this many classes for each image.")
    parser.add_argument(
        "--output", type=output_file, metavar="FILE", help="Write this CSV or JSONL file; stdout by default."
    )
    parser.add_argument("--json", action="store_true", help="Write JSON lines instead of CSV.")
    parser.add_argument("--device", default="auto", help="Compute on auto, cpu, cuda, cuda:1, or mps.")
    options = parser.parse_args(arguments)
    model, _, about = restore(options.run, Config, make_model)
    top_k = min(max(options.top_k, 1), len(about["classes"]))
    rows = predict(model.to(choose_device(options.device)), about, named_files(options.files), top_k)
    write_rows(rows, options.output, as_json=options.json)
    return 0


@torch.no_grad()
def predict(model: nn.Module, about: dict[str, Any], files: list[Path], top_k: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each file: its likeliest classes and their probabilities."""
    device = next(model.parameters()).device
    for path, image in decode_each(files, "RGB" if about["channels"] == 3 else "L"):
        pixels = square(image, about["size"])
        best = model(as_float(pixels[None]).to(device)).float().softmax(dim=1)[0].topk(top_k)
        row: dict[str, Any] = {"file": str(path)}
        for place, (chance, number) in enumerate(zip(best.values.tolist(), best.indices.tolist()), start=1):
            suffix = "" if place == 1 else f"_{place}"
            row |= {f"label{suffix}": about["classes"][number], f"probability{suffix}": round(chance, 6)}
        yield row


if __name__ == "__main__":
    sys.exit(exit_code(main))
