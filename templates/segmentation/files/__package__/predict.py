"""Label every pixel of images with a trained model: ``python -m PACKAGE.predict runs/default photo.jpg DIR``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from .config import Config
from .engine.checkpoint import make_run_dir, restore
from .engine.device import choose_device
from .engine.errors import exit_code
from .engine.options import Parser
from .images import as_float, decode_each, named_files, pixels
from .model import make_model
from .output import write_rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(program=f"python -m {__package__}.predict", description="Write a mask for each image.")
    parser.add_argument("run", type=Path, metavar="RUN", help="The directory of a run, or a model.pt.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="Images, or directories of images.")
    parser.add_argument("--output", type=Path, default=Path("masks"), metavar="DIR", help="Write PNG files into it.")
    parser.add_argument("--json", action="store_true", help="Print JSON lines instead of CSV.")
    parser.add_argument("--device", default="auto", help="Compute on auto, cpu, cuda, cuda:1, or mps.")
    options = parser.parse_args(arguments)
    make_run_dir(options.output, kind="directory", option="--output DIR")
    model, _, about = restore(options.run, Config, make_model)
    files = named_files(options.files)
    rows = predict(model.to(choose_device(options.device)), about, files, mask_files(files, options.output))
    write_rows(rows, None, as_json=options.json)
    return 0


def mask_files(files: list[Path], folder: Path) -> dict[Path, Path]:
    """Return another mask in ``folder`` for each file, which replaces none of the files; equal names get a number."""
    taken, used = {str(path.resolve()).lower() for path in files}, Counter[str]()
    masks: dict[Path, Path] = {}
    for path in files:
        while path not in masks:
            used[path.stem] += 1
            number = f"-{used[path.stem]}" if used[path.stem] > 1 else ""
            mask = folder / f"{path.stem}{number}.png"
            if (key := str(mask.resolve()).lower()) not in taken:
                masks[path] = mask
                taken.add(key)
    return masks


def predict(
    model: nn.Module, about: dict[str, Any], files: list[Path], masks: dict[Path, Path]
) -> Iterator[dict[str, Any]]:
    """Write the mask of each file as a palette PNG of its size; yield a row with the share of each class."""
    for path, image in decode_each(files, "RGB" if about["channels"] == 3 else "L"):
        mask = label(model, image, about["crop"] if about["channels"] == 3 else 0)
        picture = Image.fromarray(mask.to(torch.uint8).numpy())
        picture.putpalette([value for color in about["colors"] for value in color])
        picture.save(masks[path])
        shares = torch.bincount(mask.flatten(), minlength=len(about["classes"])) / mask.numel()
        named = {name: round(share, 6) for name, share in zip(about["classes"], shares.tolist())}
        yield {"file": str(path), "mask": str(masks[path]), **named}


@torch.no_grad()
def label(model: nn.Module, image: Image.Image, side: int) -> Tensor:
    """Return the classes of an image, whose shorter side is scaled to ``side`` first, as in training; 0: not scaled."""
    factor = side / min(image.size) if side else 1.0
    scaled = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    scores = model(as_float(pixels(scaled)[None]).to(next(model.parameters()).device)).float()
    original = (image.height, image.width)
    return functional.interpolate(scores, size=original, mode="bilinear").argmax(dim=1)[0].cpu()


if __name__ == "__main__":
    sys.exit(exit_code(main))
