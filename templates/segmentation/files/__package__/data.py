"""Images and their masks: scikit-image's coins, or a folder with ``images/`` and ``masks/``.

Enters: a ``Config``. Leaves: ``Data``, whose datasets give a whole batch for a list of indices. A mask has the number
of a class in each pixel; ``IGNORED`` marks pixels that teach and count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .config import IGNORED, Config
from .errors import ProjectError
from .images import SUFFIXES, Corrupt, decode, image_files, mirror, read_image, square, training_and_validation
from .library import library
from .split import shuffled, split

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Data:
    train: Pairs
    validation: Pairs
    channels: int


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """``pairs[[3, 1]]`` gives pixels in [0, 1] as (2, channels, size, size) and masks as (2, size, size)."""

    in_memory = False

    def __init__(self, count: int) -> None:
        self.mask_of = torch.arange(count)  # which mask belongs to an image; shuffled for the control

    def __len__(self) -> int:
        return len(self.mask_of)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.pixels(indices), self.masks(self.mask_of[indices].tolist())

    def pixels(self, indices: list[int]) -> Tensor:
        raise NotImplementedError

    def masks(self, indices: list[int]) -> Tensor:
        raise NotImplementedError


class MemoryPairs(Pairs):
    """Crops that are one tensor already."""

    in_memory = True

    def __init__(self, images: Tensor, masks: Tensor) -> None:
        super().__init__(len(images))
        self._images, self._masks = images, masks

    def pixels(self, indices: list[int]) -> Tensor:
        return self._images[indices]

    def masks(self, indices: list[int]) -> Tensor:
        return self._masks[indices]


class FolderPairs(Pairs):
    """Pairs that are read when they are needed: shorter side scaled to ``size``, the middle cut out."""

    def __init__(self, paths: list[tuple[Path, Path]], size: int) -> None:
        super().__init__(len(paths))
        self._paths, self._size = paths, size

    def pixels(self, indices: list[int]) -> Tensor:
        return torch.stack([read_image(self._paths[index][0], self._size) for index in indices])

    def masks(self, indices: list[int]) -> Tensor:
        return torch.stack([read_mask(self._paths[index][1], self._size) for index in indices])


def load_data(config: Config) -> Data:
    """The data that the configuration asks for; training masks of other images for the control."""
    data = _coins(config) if config.data is None else _folder(config.data, config)
    if config.shuffle_labels:
        data.train.mask_of = shuffled(len(data.train), config.seed)
    return data


def _coins(config: Config) -> Data:
    """24 real coins on an uneven background, as crops; the right of the picture is held back for validation.

    The mask is made from the picture by its edges and a watershed, as scikit-image's guide to segmentation does.
    """
    hint = "install the locked environment, or name a folder with --data DIR"
    data, filters, segmentation = (
        library(f"skimage.{name}", "the built-in data", hint=hint) for name in ("data", "filters", "segmentation")
    )
    fill = library("scipy.ndimage", "the built-in data", hint=hint).binary_fill_holes
    picture = data.coins()
    sure = (picture < 30) * 1 + (picture > 150) * 2
    found = fill(segmentation.watershed(filters.sobel(picture), sure) - 1)
    image = torch.tensor(picture.tolist(), dtype=torch.float32) / 255
    mask = torch.tensor(found.tolist(), dtype=torch.long)
    border = round(image.shape[1] * (1 - config.validation_part))
    if not config.crop <= min(border, image.shape[1] - border):
        raise ProjectError(
            f"--crop {config.crop} does not fit into both parts of the coins, {border} and {image.shape[1] - border} "
            "pixels wide",
            hint="take a smaller --crop, or another --validation-part",
        )
    return Data(
        train=MemoryPairs(*_crops(image[:, :border], mask[:, :border], config.crop, config.crop // 3)),
        validation=MemoryPairs(*_crops(image[:, border:], mask[:, border:], config.crop, config.crop)),
        channels=1,
    )


def _crops(image: Tensor, mask: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Squares of ``size``, ``stride`` apart: (count, 1, size, size) and (count, size, size)."""
    cut = [part.unfold(0, size, stride).unfold(1, size, stride).reshape(-1, size, size) for part in (image, mask)]
    return cut[0].unsqueeze(1), cut[1]


def _folder(folder: Path, config: Config) -> Data:
    """Split by chance, or as the folder says where it holds `train` and `val` (or `validation`, `test`)."""
    parts = training_and_validation(folder, holds="images/ and masks/")
    if parts:
        train, validation = (_list_pairs(part, config) for part in parts)
    else:
        found = _list_pairs(folder, config)
        held_back, kept = split(len(found), config.validation_part)
        train, validation = [found[index] for index in kept], [found[index] for index in held_back]
    return Data(train=FolderPairs(train, config.crop), validation=FolderPairs(validation, config.crop), channels=3)


def _list_pairs(folder: Path, config: Config) -> list[tuple[Path, Path]]:
    """Every image with its mask, of the same name. Unreadable pairs are named, and too many are an error."""
    images, masks = folder / "images", folder / "masks"
    for part in (images, masks):
        if not part.is_dir():
            raise ProjectError(f"`{folder}` has no folder `{part.name}`", hint="each image needs a mask of its name")
    by_name = {path.stem: path for path in image_files(masks, "*")}
    pairs: list[tuple[Path, Path]] = []
    corrupt = Corrupt("pairs", config.max_corrupt)
    seen: set[int] = set()
    for image in image_files(images, "*"):
        with corrupt:
            pairs.append((image, _check_pair(image, by_name.get(image.stem), len(config.class_names), seen)))
    if not pairs:
        raise ProjectError(f"`{images}` has no readable image", hint=f"known suffixes: {' '.join(SUFFIXES)}")
    if len(seen) == 1:
        raise ProjectError(
            f"all masks in `{masks}` have one class only, {seen.pop()}", hint="at least two classes are needed"
        )
    return pairs


def _check_pair(image: Path, mask: Path | None, classes: int, seen: set[int]) -> Path:
    """The mask, which must be as large as its image and hold known classes; those are added to ``seen``."""
    if mask is None:
        raise ProjectError(f"image `{image}` has no mask", hint=f"put `{image.stem}.png` into masks/")
    opened = _open_mask(mask)
    sizes = decode(image).size, opened.size
    if sizes[0] != sizes[1]:
        raise ProjectError(f"`{image}` is {sizes[0]} large, its mask {sizes[1]}", hint="they must be equally large")
    values = set(opened.tobytes())
    unknown = {value for value in values if value >= classes and value != IGNORED}
    if unknown:
        raise ProjectError(
            f"mask `{mask}` holds the class {min(unknown)}, but --classes names {classes}",
            hint=f"name all classes with --classes, or mark pixels to leave out with {IGNORED}",
        )
    seen |= values - {IGNORED}
    return mask


def _open_mask(path: Path) -> Image.Image:
    image = decode(path)
    if image.mode not in ("L", "P", "1"):
        raise ProjectError(
            f"mask `{path}` has the mode {image.mode}: wanted one number in each pixel",
            hint="save it as an 8-bit greyscale or palette PNG whose values are the classes",
        )
    return image.convert("L") if image.mode == "1" else image


def read_mask(path: Path, size: int) -> Tensor:
    """Scaled without mixing classes."""
    return square(_open_mask(path), size, mixing=False).squeeze(2).long()


def augment(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror half of the pairs in each direction."""
    for axis in (-1, -2):
        images, masks = mirror(images, masks, axis=axis)
    return images, masks
