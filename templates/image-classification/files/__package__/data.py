"""Load images and labels: scikit-learn's handwritten digits, or a directory with one subdirectory per class."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .config import Config
from .engine.errors import ProjectError, library
from .engine.loader import Data, Tensors, UnreadableError, fingerprint, split
from .images import (
    SUFFIXES,
    decode,
    image_files,
    mirror,
    pixels,
    random_box,
    square,
    subfolders,
    training_and_validation,
)

Found = list[tuple[Path, int]]  # files with their labels


def load_data(config: Config) -> Data:
    """Load the configured data. Any ``Dataset`` of images and labels works here, with ``about`` as below."""
    return _digits(config) if config.data is None else _folder(config.data, config)


def about(config: Config, classes: list[str], labels: list[int], size: int, channels: int) -> dict[str, object]:
    """Return what the model, the loss, and ``predict`` must know of the data; ``labels`` are those of the training."""
    counts = torch.bincount(torch.tensor(labels), minlength=len(classes)).tolist()
    return {"classes": classes, "counts": counts, "size": size, "channels": channels}


def _digits(config: Config) -> Data:
    """Load 1797 real digits of 8 by 8 pixels in 10 classes (UCI, in scikit-learn)."""
    hint = (
        "to install the locked environment, run `envforge install`",
        "to use your own images, pass `--data DIR`",
    )
    digits = library("sklearn.datasets", "the built-in data", hint=hint).load_digits()
    images = torch.tensor(digits.images.tolist(), dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target.tolist())
    channels = 3 if ":" in config.model else 1  # models of libraries require colors
    images = images.expand(-1, channels, -1, -1)
    held_back, kept = split(len(labels), config.val_fraction)
    return Data(
        train=Tensors(images[kept], labels[kept]),
        validation=Tensors(images[held_back], labels[held_back]),
        about=about(config, [str(name) for name in digits.target_names], labels[kept].tolist(), 8, channels),
        lazy=False,
        fingerprint=fingerprint([images, labels]),
    )


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Images (3, size, size) as bytes, and labels; read by the processes that load data."""

    def __init__(self, found: Found, size: int, *, random_crop: bool) -> None:
        self.found, self.size, self.random_crop = found, size, random_crop
        self.draws_random_numbers = random_crop

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.found[index]
        image = decode(path, "RGB")
        if self.random_crop:
            return pixels(image.resize((self.size, self.size), box=random_box(*image.size))), label
        return square(image, self.size), label


def _folder(folder: Path, config: Config) -> Data:
    """Use ``train`` and ``val`` (or ``validation``, ``test``) if the directory contains both, else split at random."""
    UnreadableError.limit = config.max_corrupt
    parts = training_and_validation(folder, holds="one subdirectory of images per class")
    if parts:
        classes = _classes(parts[0])
        _compare_classes(classes, parts[1])
        train, validation = (_list_images(part, classes) for part in parts)
    else:
        classes = _classes(folder)
        found = _list_images(folder, classes)
        held_back, kept = split(len(found), config.val_fraction, labels=[classes[label] for _, label in found])
        train, validation = [found[index] for index in kept], [found[index] for index in held_back]
    return Data(
        train=ImageFiles(train, config.image_size, random_crop=config.random_crop),
        validation=ImageFiles(validation, config.image_size, random_crop=False),
        about=about(config, classes, [label for _, label in train], config.image_size, 3),
        fingerprint=fingerprint(
            [(str(path.relative_to(folder)), path.stat().st_size) for path, _ in train + validation]
        ),
    )


def _classes(folder: Path) -> list[str]:
    names = [path.name for path in subfolders(folder)]
    if not names:
        raise ProjectError(f"`{folder}` has no subdirectories", hint="put the images of each class into a subdirectory")
    if len(names) == 1:
        raise ProjectError(
            f"`{folder}` has only one class, `{names[0]}`", hint="add a subdirectory for at least one more class"
        )
    return names


def _compare_classes(classes: list[str], validation: Path) -> None:
    """Raise for a class that only the validation has; warn about classes that it lacks."""
    there = {path.name for path in subfolders(validation)}
    if extra := sorted(there - set(classes)):
        raise ProjectError(
            f"`{validation}` has the class `{extra[0]}`, which the training images lack",
            hint="add training images of that class, or remove it",
        )
    if missing := sorted(set(classes) - there):
        print(f"warning: `{validation}` has no images of {', '.join(missing)}", file=sys.stderr)


def _list_images(folder: Path, classes: list[str]) -> Found:
    """Return every image file with its label."""
    found: Found = []
    for label, name in enumerate(classes):
        paths = image_files(folder / name)
        if not paths and (folder / name).is_dir():
            raise ProjectError(
                f"the class directory `{folder / name}` has no images",
                hint=f"add files with one of the suffixes {' '.join(SUFFIXES)}, or remove the directory",
            )
        found += [(path, label) for path in paths]
    return found


def augment(images: Tensor, *, shift: int, flip: bool) -> Tensor:
    """Shift each image by up to ``shift`` pixels, and mirror half of them; uses torch's global random generator."""
    count, _, height, width = images.shape
    if shift:
        offsets = torch.randint(0, 2 * shift + 1, (2, count, 1)).to(images.device)
        rows = torch.arange(height, device=images.device) + offsets[0]
        columns = torch.arange(width, device=images.device) + offsets[1]
        padded = torch.nn.functional.pad(images, (shift, shift, shift, shift)).permute(0, 2, 3, 1)
        sample = torch.arange(count, device=images.device)[:, None, None]
        images = padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        (images,) = mirror(images, axis=3)
    return images


def mix(images: Tensor, targets: Tensor, *, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Blend each image with the one at its position in the reversed batch, or paste a box of that one into it.

    The targets (images, classes) are blended by the same fractions. If both are enabled, each batch selects one at
    random. Uses torch's global random generator.
    """
    boxes = cutmix > 0 and (mixup == 0 or float(torch.rand(())) < 0.5)
    alpha = torch.tensor(cutmix if boxes else mixup)
    kept = float(torch.distributions.Beta(alpha, alpha).sample())
    others = images.flip(0)
    if boxes:
        height, width = images.shape[2:]
        tall, wide = round(height * math.sqrt(1 - kept)), round(width * math.sqrt(1 - kept))
        top, left = int(torch.randint(height - tall + 1, ())), int(torch.randint(width - wide + 1, ()))
        images = images.clone()
        images[:, :, top : top + tall, left : left + wide] = others[:, :, top : top + tall, left : left + wide]
        kept = 1 - tall * wide / (height * width)
    else:
        images = kept * images + (1 - kept) * others
    return images, kept * targets + (1 - kept) * targets.flip(0)
