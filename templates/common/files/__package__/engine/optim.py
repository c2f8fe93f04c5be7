"""Create the optimizer, its learning rate, and the moving average of the weights; initialize and freeze a model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from . import checkpoint, compat, distributed
from .errors import Hint, ProjectError
from .options import TrainOptions

BACKBONE = "backbone"


def learning_rate(applied: int, *, peak: float, warmup: int, total: int, floor: float = 0.01) -> float:
    """Return the rate: linear warm-up over ``warmup`` steps, then a cosine down to ``floor * peak`` at ``total``.

    It depends on the number of applied steps only, so a checkpoint needs no scheduler state.
    """
    if applied < warmup:
        return peak * (applied + 1) / warmup
    progress = min(1.0, (applied - warmup) / max(1, total - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, multiplied by the group's own ``scale``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def make_optimizer(model: nn.Module, config: TrainOptions, device: torch.device) -> torch.optim.Optimizer:
    """Return AdamW, fused if this torch has it, without decay of biases and norms."""
    head = head_of(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.dim() > 1 else 0.0
            scale = 1.0 if name.startswith(head) else config.backbone_lr_scale
            groups.setdefault((decay, scale), []).append(parameter)
    fused = compat.fused_optimizer(device.type) and not distributed.is_sharded(model)
    settings = [{"params": each, "weight_decay": decay, "scale": scale} for (decay, scale), each in groups.items()]
    return torch.optim.AdamW(settings, lr=config.lr, fused=fused)


def init_from(model: nn.Module, path: Path) -> str:
    """Load the weights of another run that fit by name and shape, and return what was loaded as a line to print."""
    content, own = checkpoint.load_model(path)["model"], model.state_dict()
    fitting = {name: tensor for name, tensor in content.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise ProjectError(f"no weight of `--init-from {path}` fits this model", hint="use a run of the same model")
    model.load_state_dict(fitting, strict=False)
    others = sorted(set(own) - set(fitting))
    new = f"; new are {', '.join(others[:4])}{', …' if len(others) > 4 else ''}" if others else ""
    return f"initialized from {path}: {len(fitting)} of {len(own)} tensors{new}"


def head_of(model: nn.Module) -> str:
    """Return the prefix of the parameters of the head: the last part of the model below any wrappers."""
    names = [name.split(".") for name, _ in model.named_parameters()]
    depth = 0
    while all(len(name) > depth + 2 and name[depth] == names[0][depth] for name in names):
        depth += 1
    return ".".join(names[-1][: depth + 1]) + "."


def freeze(model: nn.Module, parts: Sequence[str]) -> int:
    """Exclude the named parts from training, and return how many parameters that are.

    A part is ``backbone``, or consecutive components of a name: ``stages.0`` matches ``network.stages.0.weight``.
    """
    head, parameters = head_of(model), dict(model.named_parameters())
    frozen: set[str] = set()
    for part in parts:
        names = {
            name
            for name in parameters
            if (not name.startswith(head) if part == BACKBONE else f".{part}." in f".{name}.")
        }
        if not names:
            known = ", ".join(sorted({name.partition(".")[0] for name in parameters if "." in name}))
            hint = Hint(f"its parts are {known}; to train only the head", option="--freeze backbone")
            raise ProjectError(f"`--freeze {part}` matches no part of the model", hint=[hint])
        frozen |= names
    if len(frozen) == len(parameters):
        raise ProjectError("`--freeze` leaves nothing to train", hint="to train the head", option="--freeze backbone")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return sum(parameters[name].numel() for name in frozen)


def train_mode(model: nn.Module) -> None:
    """Put the model into training mode, except BatchNorm layers with frozen weights, which keep their statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and not module.weight.requires_grad:
            module.eval()


class Ema:
    """Averages of all weights and of BatchNorm's statistics, multiplied by ``decay`` at each step."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        if distributed.is_sharded(model):
            raise ProjectError("`--ema-decay` requires complete weights, but they are sharded over several ranks")
        self.decay = decay
        named = (*model.named_parameters(), *model.named_buffers())
        self._live = {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}
        self._averages = {name: tensor.clone() for name, tensor in self._live.items()}

    def update(self, applied: int, skipped: Tensor) -> None:
        """Follow the model, faster at first. A skipped step has no weight, which the device decides."""
        decay = min(self.decay, (1 + applied) / (10 + applied))
        weight = torch.where(skipped, 0.0, 1.0 - decay)
        for name, average in self._averages.items():
            average.lerp_(self._live[name], weight.to(average.dtype))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While entered, replace the model's weights by the averages."""
        own = {name: tensor.clone() for name, tensor in self._live.items()}
        _copy(self._averages, self._live)
        try:
            yield
        finally:
            _copy(own, self._live)

    def state(self) -> dict[str, Tensor]:
        return dict(self._averages)

    def load_state(self, state: dict[str, Tensor]) -> None:
        _copy(state, self._averages)


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
