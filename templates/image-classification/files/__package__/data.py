"""Images and labels: scikit-learn's handwritten digits, or a folder with one subfolder per class.

Enters: a ``Config``. Leaves: ``Data``, whose datasets give a whole batch for a list of indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .config import Config
from .errors import ProjectError
from .images import SUFFIXES, Corrupt, image_files, mirror, read_image, subfolders, training_and_validation
from .library import library
from .split import shuffled, split


@dataclass(frozen=True)
class Data:
    train: Images
    validation: Images
    classes: tuple[str, ...]
    channels: int
    size: int


class Images(Dataset[tuple[Tensor, Tensor]]):
    """``images[[3, 1, 4]]`` gives pixels in [0, 1] as (3, channels, height, width) and 3 labels."""

    in_memory = False

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.pixels(indices), self.labels[indices]

    def pixels(self, indices: list[int]) -> Tensor:
        raise NotImplementedError


class MemoryImages(Images):
    """Images that are one tensor already."""

    in_memory = True

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(labels)
        self.images = images

    def pixels(self, indices: list[int]) -> Tensor:
        return self.images[indices]


class FolderImages(Images):
    """Images that are read when they are needed: RGB, shorter side scaled to ``size``, the middle cut out."""

    def __init__(self, paths: list[Path], labels: Tensor, size: int) -> None:
        super().__init__(labels)
        self.paths = paths
        self.size = size

    def pixels(self, indices: list[int]) -> Tensor:
        return torch.stack([read_image(self.paths[index], self.size) for index in indices])


def load_data(config: Config) -> Data:
    """The data that the configuration asks for; shuffled training labels for the control."""
    data = _digits(config) if config.data is None else _folder(config.data, config)
    if config.shuffle_labels:
        data.train.labels = data.train.labels[shuffled(len(data.train), config.seed)]
    return data


def _digits(config: Config) -> Data:
    """1797 real digits of 8 by 8 pixels, 10 classes (UCI, in scikit-learn)."""
    hint = "install the locked environment, or name a folder of images with --data DIR"
    digits = library("sklearn.datasets", "the built-in data", hint=hint).load_digits()
    images = torch.tensor(digits.images.tolist(), dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target.tolist())
    held_back, kept = split(len(labels), config.validation_part)
    return Data(
        train=MemoryImages(images[kept], labels[kept]),
        validation=MemoryImages(images[held_back], labels[held_back]),
        classes=tuple(str(name) for name in digits.target_names),
        channels=1,
        size=8,
    )


def _folder(folder: Path, config: Config) -> Data:
    """Split by chance, or as the folder says where it holds `train` and `val` (or `validation`, `test`)."""
    parts = training_and_validation(folder, holds="one subfolder per class")
    if parts:
        classes = _classes(parts[0])
        train, validation = (_list_images(part, classes, config) for part in parts)
    else:
        classes = _classes(folder)
        found = _list_images(folder, classes, config)
        held_back, kept = split(len(found), config.validation_part)
        train, validation = [found[index] for index in kept], [found[index] for index in held_back]
    return Data(
        train=_folder_images(train, config),
        validation=_folder_images(validation, config),
        classes=classes,
        channels=3,
        size=config.image_size,
    )


def _folder_images(found: list[tuple[Path, int]], config: Config) -> FolderImages:
    return FolderImages([path for path, _ in found], torch.tensor([label for _, label in found]), config.image_size)


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in subfolders(folder))
    if not names:
        raise ProjectError(f"`{folder}` has no subfolders", hint="put the images of each class into a subfolder")
    if len(names) == 1:
        raise ProjectError(f"`{folder}` has one class only, `{names[0]}`", hint="at least two classes are needed")
    return names


def _list_images(folder: Path, classes: tuple[str, ...], config: Config) -> list[tuple[Path, int]]:
    """Every readable image with its label. Unreadable ones are named, and too many of them are an error."""
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
                f"class folder `{folder / name}` has no readable image", hint=f"known suffixes: {' '.join(SUFFIXES)}"
            )
    return found


def augment(images: Tensor, *, shift: int, flip: bool) -> Tensor:
    """Move each image by up to ``shift`` pixels and mirror half of them; the random numbers are torch's global ones."""
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
    """Blend each image with the one at its place in the reversed batch, or put a box of that into it; and the targets,
    (images, classes), in the same parts. Where both are wanted, each batch draws one. The random numbers are torch's
    global ones."""
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
