"""Find image files in directories and read them as tensors with values in [0, 1].

Corrupt files are reported and skipped; more than ``--max-corrupt`` of them are an error.
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
    """A file is not an image, or is corrupt."""


class Corrupt:
    """While entered, report and skip an unreadable file; raise if there are more than ``limit``."""

    def __init__(self, things: str, limit: int) -> None:
        self._things, self._limit = things, limit
        self._count = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> bool:
        if not isinstance(error, UnreadableError):
            return False
        self._count += 1
        print(f"skipped: {error.args[0]}", file=sys.stderr)
        if self._count > self._limit:
            raise ProjectError(
                f"cannot read more than {self._limit} {self._things}; the last error: {error.args[0]}",
                hint="remove them, or, to skip more of them",
                option="--max-corrupt COUNT",
            ) from error
        return True


def training_and_validation(folder: Path, *, holds: str) -> tuple[Path, Path] | None:
    """Return ``train`` and ``val`` (or ``validation``, ``test``) if the directory contains both, else None."""
    if not folder.is_dir():
        raise ProjectError(
            f"`--data {folder}` is not a directory", hint=f"to use a directory with {holds}", option="--data DIR"
        )
    for name in ("val", "validation", "test"):
        if (folder / "train").is_dir() and (folder / name).is_dir():
            return folder / "train", folder / name
    return None


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)


def decode(path: Path, mode: str = "") -> Image.Image:
    """Decode the complete image, and convert it to ``mode`` if one is given."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert(mode) if mode else image.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"cannot read the image `{path}`: {error}", hint="remove or replace it") from error


def square(image: Image.Image, size: int, *, mixing: bool = True) -> Tensor:
    """Return (size, size, bands) as bytes: scale the shorter side to ``size``, and crop the center.

    Without ``mixing``, scaling creates no new pixel values.
    """
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC if mixing else Image.Resampling.NEAREST)
    return torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8).view(size, size, -1)


def read_image(path: Path, size: int) -> Tensor:
    """Return the colors as (3, size, size)."""
    return square(decode(path, "RGB"), size).permute(2, 0, 1).float() / 255


def mirror(*tensors: Tensor, axis: int) -> tuple[Tensor, ...]:
    """Mirror half of the samples, the same ones in each tensor; uses torch's global random generator."""
    chosen = torch.rand(len(tensors[0])) < 0.5
    mirrored = []
    for tensor in tensors:
        mask = chosen.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
        mirrored.append(torch.where(mask, tensor.flip(axis), tensor))
    return tuple(mirrored)
