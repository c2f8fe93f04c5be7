"""Find image files in directories and read them as tensors of bytes."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from .engine.errors import ProjectError
from .engine.loader import UnreadableError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
TRAINING = ("train", "training")
VALIDATION = ("val", "valid", "validation", "dev", "test", "testing")


def training_and_validation(folder: Path, *, holds: str) -> tuple[Path, Path] | None:
    """Return the directories of the names above if there are both, in any case and preferring the first, else None."""
    if not folder.is_dir():
        raise ProjectError(
            f"`--data {folder}` is not a directory", hint=f"to use a directory with {holds}, pass `--data DIR`"
        )
    there = {path.name.lower(): path for path in subfolders(folder)}
    train, validation = (
        next((there[name] for name in names if name in there), None) for names in (TRAINING, VALIDATION)
    )
    return None if train is None or validation is None else (train, validation)


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path, pattern: str = "**/*") -> list[Path]:
    """Return the images, without hidden ones, such as the ``._photo.jpg`` of macOS, which are none."""
    found = (path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def named_files(paths: list[Path]) -> list[Path]:
    """Return the given files, and the images in the given directories."""
    found = [each for path in paths for each in (image_files(path) if path.is_dir() else [path])]
    if not found:
        raise ProjectError(f"`{paths[0]}` has no images", hint=f"add files with a suffix of {' '.join(SUFFIXES)}")
    return found


def decode(path: Path, mode: str = "") -> Image.Image:
    """Decode an image, turned as its EXIF data require, and convert it to ``mode`` if one is given."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if mode and image.mode[0] in "IF":  # convert() would cut off 16-bit values at 255, and fractions at 0
                values = numpy.nan_to_num(numpy.asarray(image).astype(numpy.float64))
                scale = 1 / 257 if values.max() > 255 else 255 if image.mode == "F" and values.max() <= 1 else 1
                image = Image.fromarray((values * scale).round().clip(0, 255).astype(numpy.uint8))
            return image.convert(mode) if mode else image.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        hint = (
            "remove or replace it",
            "to skip more of them in the training, pass `--max-corrupt COUNT`",
        )
        raise UnreadableError(f"cannot read the image `{path}`: {error}", hint=hint) from error


def decode_each(paths: list[Path], mode: str) -> Iterator[tuple[Path, Image.Image]]:
    """Yield the images with their paths; report the others, and raise after the last one if there were any."""
    failed = 0
    for path in paths:
        try:
            image = decode(path, mode)
        except UnreadableError as error:
            failed += 1
            print(f"skipped: {error.args[0]}", file=sys.stderr)
            continue
        yield path, image
    if failed:
        raise ProjectError(f"cannot read {failed} of {len(paths)} files", hint="remove or replace them")


def square(image: Image.Image, size: int, *, mixing: bool = True) -> Tensor:
    """Return (bands, size, size) as bytes: scale the shorter side to ``size``, and crop the center.

    Without ``mixing``, scaling creates no new pixel values.
    """
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC if mixing else Image.Resampling.NEAREST)
    return pixels(fitted)


def pixels(image: Image.Image) -> Tensor:
    """Return (bands, height, width) as bytes."""
    content = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return content.view(image.height, image.width, -1).permute(2, 0, 1).contiguous()


def random_box(width: int, height: int, *, least: float = 0.5) -> tuple[int, int, int, int]:
    """Return left, top, right, and bottom of a random part of ``least`` or more of the area, nearly square."""
    area = width * height * (least + (1 - least) * float(torch.rand(())))
    ratio = math.exp((2 * float(torch.rand(())) - 1) * math.log(4 / 3))
    wide, high = min(width, round(math.sqrt(area * ratio))), min(height, round(math.sqrt(area / ratio)))
    left, top = int(torch.randint(width - wide + 1, ())), int(torch.randint(height - high + 1, ()))
    return left, top, left + wide, top + high


def as_float(images: Tensor) -> Tensor:
    """Return bytes as values in [0, 1]; other values stay as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def mirror(*tensors: Tensor, axis: int) -> tuple[Tensor, ...]:
    """Mirror half of the samples, the same ones in each tensor; uses torch's global random generator."""
    chosen = torch.rand(len(tensors[0])) < 0.5
    mirrored = []
    for tensor in tensors:
        mask = chosen.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
        mirrored.append(torch.where(mask, tensor.flip(axis), tensor))
    return tuple(mirrored)
