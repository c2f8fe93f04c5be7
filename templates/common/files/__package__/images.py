"""Images in folders: found, decoded whole, left out where they are corrupt, made tensors.

Enters: paths. Leaves: pixels in [0, 1]. A file that is no image is named; more than ``--max-corrupt`` end the run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import ProjectError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


class UnreadableError(ProjectError):
    """A file that is no image, or a broken one."""


class Corrupt:
    """While entered, what cannot be read is named and left out; more than ``limit`` of them are an error."""

    def __init__(self, things: str, limit: int) -> None:
        self._things, self._limit = things, limit
        self._count = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> bool:
        if not isinstance(error, UnreadableError):
            return False
        self._count += 1
        print(f"left out: {error.args[0]}", file=sys.stderr)
        if self._count > self._limit:
            raise ProjectError(
                f"{self._count} {self._things} cannot be read, the last: {error.args[0]}",
                hint="remove them, or raise --max-corrupt",
            ) from error
        return True


def training_and_validation(folder: Path, *, holds: str) -> tuple[Path, Path] | None:
    """`train` and `val` (or `validation`, `test`) where the folder is split so already."""
    if not folder.is_dir():
        raise ProjectError(f"--data `{folder}` is not a folder", hint=f"name a folder with {holds}")
    for name in ("val", "validation", "test"):
        if (folder / "train").is_dir() and (folder / name).is_dir():
            return folder / "train", folder / name
    return None


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)


def decode(path: Path, mode: str = "") -> Image.Image:
    """The whole image, converted to ``mode`` where one is given."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert(mode) if mode else image.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"image `{path}` cannot be read: {error}", hint="remove or replace it") from error


def square(image: Image.Image, size: int, *, mixing: bool = True) -> Tensor:
    """(size, size, bands) as bytes: the shorter side scaled to ``size``, the middle cut out.

    Without ``mixing``, every pixel has a value that was there before.
    """
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC if mixing else Image.Resampling.NEAREST)
    return torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8).view(size, size, -1)


def read_image(path: Path, size: int) -> Tensor:
    """Colours as (3, size, size)."""
    return square(decode(path, "RGB"), size).permute(2, 0, 1).float() / 255


def mirror(*tensors: Tensor, axis: int) -> tuple[Tensor, ...]:
    """Mirror half of the samples, the same in each tensor; the random numbers are torch's global ones."""
    chosen = torch.rand(len(tensors[0])) < 0.5
    mirrored = []
    for tensor in tensors:
        mask = chosen.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
        mirrored.append(torch.where(mask, tensor.flip(axis), tensor))
    return tuple(mirrored)
