"""Load images and masks: scikit-image's coins, or a directory with ``images/`` and ``masks/``.

Each pixel of a mask is a class number, or ``IGNORED`` for pixels that training and evaluation ignore.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .config import IGNORED, Config
from .engine import distributed
from .engine.errors import ProjectError, library
from .engine.loader import Data, Tensors, UnreadableError, fingerprint, split
from .images import SUFFIXES, decode, image_files, mirror, pixels, random_box, square, training_and_validation

if TYPE_CHECKING:
    from PIL import Image

Pairs = list[tuple[Path, Path]]  # images with their masks
CHECKED = 50  # masks that are read before the training; the others are read when it needs them
COLORS = [[0, 0, 0], [230, 60, 60], [70, 160, 70], [60, 90, 220], [240, 190, 40], [160, 70, 200], [70, 200, 220]]


def load_data(config: Config) -> Data:
    """Load the configured data. Any ``Dataset`` of images and masks works here, with ``about`` as below."""
    return _coins(config) if config.data is None else _folder(config.data, config)


def about(config: Config, counts: Tensor, channels: int) -> dict[str, object]:
    """Return what the model, the loss, and ``predict`` must know of the data; ``counts`` are pixels of each class."""
    names = list(config.class_names)
    colors = [COLORS[number % len(COLORS)] for number in range(len(names))]
    sizes = {"channels": channels, "crop": config.crop, "ignored": IGNORED}
    return {"classes": names, "colors": colors, "counts": counts.tolist(), **sizes}


def _coins(config: Config) -> Data:
    """Load crops of 24 real coins on an uneven background; the right of the picture is for validation.

    The mask is computed from the picture's edges with a watershed, as in scikit-image's segmentation guide.
    """
    image, mask = coins()
    border = round(image.shape[1] * (1 - config.val_fraction))
    if not config.crop <= min(border, image.shape[1] - border):
        raise ProjectError(
            f"`--crop {config.crop}` is larger than a part of the coins ({border} and {image.shape[1] - border} "
            "pixels wide)",
            hint="to use the default crop and split, omit `--crop` and `--val-fraction`",
        )
    train = _crops(image[:, :border], mask[:, :border], config.crop, config.crop // 3)
    return Data(
        train=train,
        validation=_crops(image[:, border:], mask[:, border:], config.crop, config.crop),
        about=about(config, pixel_counts([train.tensors[1]], len(config.class_names)), 1),
        lazy=False,
        fingerprint=fingerprint([image, mask]),
    )


def coins() -> tuple[Tensor, Tensor]:
    """Return the picture, with values in [0, 1], and its mask."""
    hint = (
        "to install the locked environment, run `envforge install`",
        "to use your own images, pass `--data DIR`",
    )
    data, filters, segmentation = (
        library(f"skimage.{name}", "the built-in data", hint=hint) for name in ("data", "filters", "segmentation")
    )
    fill = library("scipy.ndimage", "the built-in data", hint=hint).binary_fill_holes
    picture = data.coins()
    sure = (picture < 30) * 1 + (picture > 150) * 2
    found = fill(segmentation.watershed(filters.sobel(picture), sure) - 1)
    return torch.tensor(picture.tolist(), dtype=torch.float32) / 255, torch.tensor(found.tolist(), dtype=torch.long)


def _crops(image: Tensor, mask: Tensor, size: int, stride: int) -> Tensors:
    """Cut squares of ``size``, ``stride`` pixels apart."""
    cut = [part.unfold(0, size, stride).unfold(1, size, stride).reshape(-1, size, size) for part in (image, mask)]
    return Tensors(cut[0].unsqueeze(1), cut[1])


def pixel_counts(masks: Iterable[Tensor], classes: int) -> Tensor:
    """Return the number of pixels of each class."""
    counts = (torch.bincount(mask.flatten()[mask.flatten() != IGNORED], minlength=classes) for mask in masks)
    return sum(counts, start=torch.zeros(classes, dtype=torch.long))


class ImagePairs(Dataset[tuple[Tensor, Tensor]]):
    """Images (3, size, size) as bytes, and masks (size, size); read by the processes that load data."""

    def __init__(self, pairs: Pairs, values: dict[int, int], size: int, *, random_crop: bool) -> None:
        self.pairs, self.values, self.size, self.random_crop = pairs, values, size, random_crop
        self.draws_random_numbers = random_crop

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = decode(self.pairs[index][0], "RGB"), read_mask(self.pairs[index][1], self.values)
        if not self.random_crop:
            return square(image, self.size), square(mask, self.size, mixing=False)[0].long()
        box, shape = random_box(*image.size, least=0.25), (self.size, self.size)
        cut = mask.resize(shape, resample=0, box=box)  # nearest: no class between two others
        return pixels(image.resize(shape, box=box)), pixels(cut)[0].long()


def _folder(folder: Path, config: Config) -> Data:
    """Use ``train`` and ``val`` (or ``validation``, ``test``) if the directory contains both, else split at random."""
    UnreadableError.limit = config.max_corrupt
    classes = len(config.class_names)
    parts = training_and_validation(folder, holds="images/ and masks/")
    if parts:
        train, validation = map(_list_pairs, parts)
    else:
        found = _list_pairs(folder)
        held_back, kept = split(len(found), config.val_fraction)
        train, validation = [found[index] for index in kept], [found[index] for index in held_back]
    values = _values([mask for _, mask in train[:CHECKED] + validation[:CHECKED]], config.class_names)
    masks = (pixels(mask) for mask in _readable([mask for _, mask in train], values))
    counts = pixel_counts(masks, classes) if config.class_weights else torch.ones(classes)
    files = [path for pair in train + validation for path in pair]
    return Data(
        train=ImagePairs(train, values, config.crop, random_crop=config.random_crop),
        validation=ImagePairs(validation, values, config.crop, random_crop=False),
        about=about(config, counts, 3),
        fingerprint=fingerprint([(str(path.relative_to(folder)), path.stat().st_size) for path in files]),
    )


def _list_pairs(folder: Path) -> Pairs:
    """Return every image with the mask of the same name, both of the same size."""
    images, masks = folder / "images", folder / "masks"
    for part in (images, masks):
        if not part.is_dir():
            raise ProjectError(
                f"`{folder}` has no directory `{part.name}`",
                hint="put images into images/, and a mask of the same name for each into masks/",
            )
    by_name = {path.stem: path for path in image_files(masks, "*")}
    pairs = [(image, _mask_of(image, by_name)) for image in image_files(images, "*")]
    if not pairs:
        raise ProjectError(f"`{images}` has no images", hint=f"add files with one of the suffixes {' '.join(SUFFIXES)}")
    return pairs


def _values(masks: Sequence[Path], names: Sequence[str]) -> dict[int, int]:
    """Return the class of each value of the masks; 255 is the second of two classes if the given masks have no 1."""
    values = {number: number for number in range(len(names))} | {IGNORED: IGNORED}
    seen: set[int] = set()
    for mask in _readable(masks, values):
        seen |= set(mask.tobytes())
    if seen == {0, IGNORED} and len(names) == 2:
        distributed.say(f"the masks have the values 0 and 255: 255 is read as `{names[1]}`")
        return {0: 0, IGNORED: 1}
    if len(seen - {IGNORED}) == 1:
        raise ProjectError(
            f"all masks in `{masks[0].parent}` have only one class, {min(seen)}",
            hint="number the classes from 0 in the masks",
        )
    return values


def _readable(paths: Sequence[Path], values: dict[int, int]) -> Iterator[Image.Image]:
    """Yield the masks that can be read; the others are reported when the training needs them."""
    for path in paths:
        with contextlib.suppress(UnreadableError):
            yield read_mask(path, values)


def _mask_of(image: Path, masks: dict[str, Path]) -> Path:
    """Return the mask of an image; raise if there is none or its size differs."""
    mask = masks.get(image.stem)
    if mask is None:
        raise ProjectError(f"the image `{image}` has no mask", hint=f"add masks/{image.stem}.png, or remove the image")
    (width, height), found = _size(image), _size(mask)
    if (width, height) != found and 0 not in (width, found[0]):
        raise ProjectError(
            f"the mask `{mask}` has another size than its image: expected {width} x {height}, "
            f"found {found[0]} x {found[1]}",
            hint="scale the mask without interpolation",
        )
    return mask


def _size(path: Path) -> tuple[int, int]:
    """Return width and height from the head of the file; 0 if it can't be read, which is reported when it is needed."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # the tag of the orientation
            return (image.height, image.width) if turned else image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0, 0


def read_mask(path: Path, values: dict[int, int]) -> Image.Image:
    """Read a mask, and replace its values by the classes that ``values`` has; raise for any other value."""
    from PIL import Image

    image = decode(path)
    numbers = numpy.asarray(image)  # of mode 1, it has truth values; of mode P, the places in the palette
    if image.mode not in ("L", "P", "1") and (not image.mode.startswith("I") or numbers.max() > 255):
        raise ProjectError(
            f"the mask `{path}` has the mode {image.mode}, expected L or P (one number in each pixel)",
            hint="save it as an 8-bit grayscale or palette PNG whose values are the classes",
        )
    own = {0: 0, 1: 1} if image.mode == "1" else values
    table = numpy.full(256, -1)
    table[list(own)] = list(own.values())
    found = table[numbers.astype(numpy.uint8)]
    if found.min() < 0:
        unknown = int(numbers[found < 0].min())
        raise ProjectError(
            f"the mask `{path}` contains the class {unknown}, but `--classes` has {len(values) - 1} names",
            hint=(
                "to name all classes, pass `--classes NAME0,NAME1,NAME2`",
                f"to ignore pixels, set them to {IGNORED} in the mask",
            ),
        )
    return Image.fromarray(found.astype(numpy.uint8))


def augment(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror half of the pairs in each direction."""
    for axis in (-1, -2):
        images, masks = mirror(images, masks, axis=axis)
    return images, masks
