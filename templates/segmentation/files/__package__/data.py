"""Load images and masks: scikit-image's coins, or a directory with ``images/`` and ``masks/``.

Each pixel of a mask is a class number, or ``IGNORED`` for pixels that training and evaluation ignore.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .config import IGNORED, Config
from .errors import Hint, ProjectError
from .images import SUFFIXES, Corrupt, decode, image_files, mirror, read_image, square, training_and_validation
from .library import library
from .samples import Files, Samples
from .split import split

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Data:
    """``train[[3, 1]]`` returns pixels in [0, 1] as (2, channels, size, size), and masks as (2, size, size)."""

    train: Samples
    validation: Samples
    channels: int


def load_data(config: Config) -> Data:
    """Load the configured data, with the masks of other images for the control."""
    data = _coins(config) if config.data is None else _folder(config.data, config)
    if config.shuffle_labels:
        data.train.shuffle(config.seed)
    return data


def _coins(config: Config) -> Data:
    """Load crops of 24 real coins on an uneven background; the right of the picture is for validation.

    The mask is computed from the picture's edges with a watershed, as in scikit-image's segmentation guide.
    """
    hint = (
        Hint("to install the locked environment", command="envforge install"),
        Hint("to use your own images", option="--data DIR"),
    )
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
            f"`--crop {config.crop}` is larger than a part of the coins ({border} and {image.shape[1] - border} "
            "pixels wide)",
            hint="to use the default crop and split, omit `--crop` and `--validation-part`",
        )
    return Data(
        train=_crops(image[:, :border], mask[:, :border], config.crop, config.crop // 3),
        validation=_crops(image[:, border:], mask[:, border:], config.crop, config.crop),
        channels=1,
    )


def _crops(image: Tensor, mask: Tensor, size: int, stride: int) -> Samples:
    """Cut squares of ``size``, ``stride`` pixels apart."""
    cut = [part.unfold(0, size, stride).unfold(1, size, stride).reshape(-1, size, size) for part in (image, mask)]
    return Samples(cut[0].unsqueeze(1), answers=cut[1])


def _folder(folder: Path, config: Config) -> Data:
    """Use ``train`` and ``val`` (or ``validation``, ``test``) if the directory contains both, else split at random."""
    parts = training_and_validation(folder, holds="images/ and masks/")
    if parts:
        train, validation = (_list_pairs(part, config) for part in parts)
    else:
        found = _list_pairs(folder, config)
        held_back, kept = split(len(found), config.validation_part)
        train, validation = [found[index] for index in kept], [found[index] for index in held_back]
    return Data(train=_from_files(train, config.crop), validation=_from_files(validation, config.crop), channels=3)


def _from_files(pairs: list[tuple[Path, Path]], size: int) -> Samples:
    images, masks = zip(*pairs)
    return Samples(Files(images, read_image, size), answers=Files(masks, read_mask, size))


def _list_pairs(folder: Path, config: Config) -> list[tuple[Path, Path]]:
    """Return every image with the mask of the same name; report unreadable pairs, and raise if there are too many."""
    images, masks = folder / "images", folder / "masks"
    for part in (images, masks):
        if not part.is_dir():
            raise ProjectError(
                f"`{folder}` has no directory `{part.name}`",
                hint="put images into images/, and a mask of the same name for each into masks/",
            )
    by_name = {path.stem: path for path in image_files(masks, "*")}
    pairs: list[tuple[Path, Path]] = []
    corrupt = Corrupt("pairs", config.max_corrupt)
    seen: set[int] = set()
    for image in image_files(images, "*"):
        with corrupt:
            pairs.append((image, _check_pair(image, by_name.get(image.stem), len(config.class_names), seen)))
    if not pairs:
        raise ProjectError(
            f"`{images}` has no readable image", hint=f"add files with one of the suffixes {' '.join(SUFFIXES)}"
        )
    if len(seen) == 1:
        raise ProjectError(
            f"all masks in `{masks}` have only one class, {seen.pop()}",
            hint="number the classes from 0 in the masks",
        )
    return pairs


def _check_pair(image: Path, mask: Path | None, classes: int, seen: set[int]) -> Path:
    """Return the mask if its size and classes are valid; add the classes to ``seen``."""
    if mask is None:
        raise ProjectError(f"the image `{image}` has no mask", hint=f"add masks/{image.stem}.png, or remove the image")
    opened = _open_mask(mask)
    sizes = decode(image).size, opened.size
    if sizes[0] != sizes[1]:
        width, height = sizes[0]
        raise ProjectError(
            f"the mask `{mask}` has another size than its image: expected {width} x {height}, "
            f"found {sizes[1][0]} x {sizes[1][1]}",
            hint="scale the mask without interpolation",
        )
    values = set(opened.tobytes())
    unknown = {value for value in values if value >= classes and value != IGNORED}
    if unknown:
        raise ProjectError(
            f"the mask `{mask}` contains the class {min(unknown)}, but `--classes` has {classes} names",
            hint=(
                Hint("to name all classes", option="--classes NAME0,NAME1,NAME2"),
                Hint(f"to ignore pixels, set them to {IGNORED} in the mask"),
            ),
        )
    seen |= values - {IGNORED}
    return mask


def _open_mask(path: Path) -> Image.Image:
    image = decode(path)
    if image.mode not in ("L", "P", "1"):
        raise ProjectError(
            f"the mask `{path}` has the mode {image.mode}, expected L or P (one number in each pixel)",
            hint="save it as an 8-bit grayscale or palette PNG whose values are the classes",
        )
    return image.convert("L") if image.mode == "1" else image


def read_mask(path: Path, size: int) -> Tensor:
    """Read and scale a mask without mixing classes."""
    return square(_open_mask(path), size, mixing=False).squeeze(2).long()


def augment(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror half of the pairs in each direction."""
    for axis in (-1, -2):
        images, masks = mirror(images, masks, axis=axis)
    return images, masks
