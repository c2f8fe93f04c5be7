"""Load images and labels: scikit-learn's handwritten digits, or a directory with one subdirectory per class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .config import Config
from .errors import Hint, ProjectError
from .images import SUFFIXES, Corrupt, image_files, mirror, read_image, subfolders, training_and_validation
from .library import library
from .samples import Files, Samples
from .split import split


@dataclass(frozen=True)
class Data:
    """``train[[3, 1, 4]]`` returns pixels in [0, 1] as (3, channels, size, size), and 3 labels."""

    train: Samples
    validation: Samples
    classes: tuple[str, ...]
    channels: int
    size: int


def load_data(config: Config) -> Data:
    """Load the configured data, with shuffled training labels for the control."""
    data = _digits(config) if config.data is None else _folder(config.data, config)
    if config.shuffle_labels:
        data.train.shuffle(config.seed)
    return data


def _digits(config: Config) -> Data:
    """Load 1797 real digits of 8 by 8 pixels in 10 classes (UCI, in scikit-learn)."""
    hint = (
        Hint("to install the locked environment", command="envforge install"),
        Hint("to use your own images", option="--data DIR"),
    )
    digits = library("sklearn.datasets", "the built-in data", hint=hint).load_digits()
    images = torch.tensor(digits.images.tolist(), dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target.tolist())
    held_back, kept = split(len(labels), config.validation_part)
    return Data(
        train=Samples(images[kept], answers=labels[kept]),
        validation=Samples(images[held_back], answers=labels[held_back]),
        classes=tuple(str(name) for name in digits.target_names),
        channels=1,
        size=8,
    )


def _folder(folder: Path, config: Config) -> Data:
    """Use ``train`` and ``val`` (or ``validation``, ``test``) if the directory contains both, else split at random."""
    parts = training_and_validation(folder, holds="one subdirectory of images per class")
    if parts:
        classes = _classes(parts[0])
        train, validation = (_list_images(part, classes, config) for part in parts)
    else:
        classes = _classes(folder)
        found = _list_images(folder, classes, config)
        held_back, kept = split(len(found), config.validation_part)
        train, validation = [found[index] for index in kept], [found[index] for index in held_back]
    return Data(
        train=_from_files(train, config),
        validation=_from_files(validation, config),
        classes=classes,
        channels=3,
        size=config.image_size,
    )


def _from_files(found: list[tuple[Path, int]], config: Config) -> Samples:
    files = Files([path for path, _ in found], read_image, config.image_size)
    return Samples(files, answers=torch.tensor([label for _, label in found]))


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in subfolders(folder))
    if not names:
        raise ProjectError(f"`{folder}` has no subdirectories", hint="put the images of each class into a subdirectory")
    if len(names) == 1:
        raise ProjectError(
            f"`{folder}` has only one class, `{names[0]}`", hint="add a subdirectory for at least one more class"
        )
    return names


def _list_images(folder: Path, classes: tuple[str, ...], config: Config) -> list[tuple[Path, int]]:
    """Return every readable image with its label; report unreadable ones, and raise if there are too many."""
    found: list[tuple[Path, int]] = []
    corrupt = Corrupt("images", config.max_corrupt)
    for label, name in enumerate(classes):
        before = len(found)
        for path in image_files(folder / name, "**/*"):
            with corrupt:
                read_image(path, 8)
                found.append((path, label))
        if len(found) == before:
            raise ProjectError(
                f"the class directory `{folder / name}` has no readable image",
                hint=f"add files with one of the suffixes {' '.join(SUFFIXES)}, or remove the directory",
            )
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
