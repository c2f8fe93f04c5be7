"""Define the models: a small residual network for images of 8 by 8 or more, a small ViT, or a model of a library."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .config import Config
from .engine.errors import ProjectError, library
from .layers import Block as Attention


class Block(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.activation = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.activation(self.body(images) + self.shortcut(images)))


class ResNet(nn.Module):
    """A stem, three stages, of which two halve the image and double the channels, the mean, and a linear layer."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2))
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stages(self.stem(images)).mean(dim=(2, 3))
        return cast(Tensor, self.head(features))


class ViT(nn.Module):
    """Embedded patches, learned position embeddings, Transformer blocks, the mean, and a linear layer.

    The blocks start as identities and the mean ignores positions, so position embeddings start as large as patches.
    """

    def __init__(self, channels: int, classes: int, width: int, *, size: int, patch: int, depth: int) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(channels * patch * patch, width)
        self.places = nn.Parameter(0.5 * torch.randn(1, (size // patch) ** 2, width))
        self.layers = nn.Sequential(*(Attention(width, width // 32) for _ in range(depth)))
        for name, parameter in self.layers.named_parameters():
            if name.endswith(("project.weight", "narrow.weight")):
                nn.init.zeros_(parameter)  # each block starts as an identity, which learns sooner
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        cut = (4 * images - 2).unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        patches = self.embed(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        return cast(Tensor, self.head(self.layers(patches + self.places).mean(dim=1)))


class Normalized(nn.Module):
    """A model of a library, with the normalization that its weights require."""

    def __init__(self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network((images - self.mean) / self.deviation))


def make_model(config: Config, about: dict[str, Any]) -> nn.Module:
    """Create the configured model for square images; ``about`` has their size, channels, and classes."""
    size, channels, classes = about["size"], about["channels"], len(about["classes"])
    if config.model == "resnet":
        return ResNet(channels, classes, config.width)
    if config.model == "vit":
        patch = config.patch or (2 if size < 32 else 8 if size < 128 else 16)
        if size % patch:
            raise ProjectError(
                f"the image size {size} is not a multiple of the patch size {patch}",
                hint=f"to scale the images, pass `--image-size {(size // patch + 1) * patch}`",
            )
        return ViT(channels, classes, 4 * config.width, size=size, patch=patch, depth=config.depth)
    source, _, name = config.model.partition(":")
    try:
        make = _torchvision if source == "torchvision" else _timm
        model, wanted = make(name, classes, pretrained=config.pretrained)
    except (OSError, RuntimeError) as error:
        if not config.pretrained:
            raise
        raise ProjectError(
            f"cannot get the weights of `--model {config.model}`: {str(error).splitlines()[0]}",
            hint="they are downloaded at the first use; to start with random weights, omit `--pretrained`",
        ) from error
    if wanted not in (0, size):
        raise ProjectError(
            f"`--model {config.model}` requires images of {wanted} pixels, found {size}",
            hint=f"to scale your images, pass `--image-size {wanted}`"
            if config.data
            else f"to scale your images, pass `--data DIR --image-size {wanted}`",
        )
    return model


def example_inputs(config: Config, about: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return inputs for an export."""
    return (torch.rand(4, about["channels"], about["size"], about["size"]),)


def is_convolutional(model: nn.Module) -> bool:
    """Return whether channels_last speeds up the model; a library's ViT has one convolution, for its patches."""
    return sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1


def _torchvision(name: str, classes: int, *, pretrained: bool) -> tuple[nn.Module, int]:
    """Return the model, and the only image size that it accepts, or 0 for any."""
    models = _library("torchvision").models
    _refuse_unknown("torchvision.models", name, models.list_models(module=models))
    # with auxiliary heads, these two return a tuple in training
    plain = {"aux_logits": False} if name in ("googlenet", "inception_v3") and not pretrained else {}
    if not pretrained:
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **plain)
        return Normalized(model, [0.0] * 3, [1.0] * 3), int(cast(Any, getattr(model, "image_size", 0)))
    weights = models.get_model_weights(name).DEFAULT
    model = models.get_model(name, weights=weights)
    _replace_head(model, classes)
    steps = weights.transforms()
    return Normalized(model, steps.mean, steps.std), int(cast(Any, getattr(model, "image_size", 0)))


def _replace_head(model: nn.Module, classes: int) -> None:
    """Replace the last layer, which has the classes that the weights were trained on."""
    name, last = [(name, each) for name, each in model.named_modules() if isinstance(each, (nn.Linear, nn.Conv2d))][-1]
    parent, _, child = name.rpartition(".")
    head = (
        nn.Linear(last.in_features, classes)
        if isinstance(last, nn.Linear)
        else nn.Conv2d(last.in_channels, classes, last.kernel_size)  # type: ignore[arg-type]
    )
    setattr(model.get_submodule(parent), child, head)


def _timm(name: str, classes: int, *, pretrained: bool) -> tuple[nn.Module, int]:
    timm = _library("timm")
    _refuse_unknown("timm", name.split(".")[0], timm.list_models())
    model: Any = timm.create_model(name, pretrained=pretrained, num_classes=classes)
    about = model.pretrained_cfg
    mean, deviation = (about["mean"], about["std"]) if pretrained else ([0.0] * 3, [1.0] * 3)
    return Normalized(model, mean, deviation), about["input_size"][-1] if about.get("fixed_input_size") else 0


def _library(name: str) -> Any:
    hint = (
        "to install the locked environment, run `envforge install`"
        if name == "torchvision"
        else f"to add `{name}` to the environment, run `envforge add --pip {name} && envforge install`",
        "to use a model of this project, pass `--model resnet`",
    )
    return library(name, f"`--model {name}:NAME`", hint=hint)


def _refuse_unknown(place: str, name: str, known: list[str]) -> None:
    if name not in known:
        source = place.split(".")[0]
        near = difflib.get_close_matches(name, known, n=3)
        ways = [f"to use the similar name `{each}`, pass `--model {source}:{each}`" for each in near]
        every = f'python -c "import {place}; print({place}.list_models())"'
        raise ProjectError(f"`{source}` has no model `{name}`", hint=ways or [f"to list its models, run `{every}`"])
