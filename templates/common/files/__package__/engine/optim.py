"""Create the optimizer, its learning rate, and the moving average of the weights; initialize and freeze a model."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from . import checkpoint, compat, distributed
from .errors import ProjectError
from .options import TrainOptions


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
    has_fused = device.type == "cuda" or (device.type == "cpu" and compat.TORCH >= (2, 4))
    fused = has_fused and not distributed.is_sharded(model)
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
    head, parameters, count = head_of(model), dict(model.named_parameters()), 0
    for part in parts:
        backbone = [name for name in parameters if not name.startswith(head)]
        names = backbone if part == "backbone" else [name for name in parameters if f".{part}." in f".{name}."]
        if not names:
            known = ", ".join(sorted({name.partition(".")[0] for name in parameters if "." in name}))
            hint = f"its parts are {known}; to train only the head, pass `--freeze backbone`"
            raise ProjectError(f"`--freeze {part}` matches no part of the model", hint=hint)
        for name in names:
            count += parameters[name].numel() if parameters[name].requires_grad else 0
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        hint = "to train the head, pass `--freeze backbone`"
        raise ProjectError("`--freeze` leaves nothing to train", hint=hint)
    return count


def train_mode(model: nn.Module) -> None:
    """Put the model into training mode, except BatchNorm layers with frozen weights, which keep their statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and not module.weight.requires_grad:
            module.eval()


class Ema:
    """A copy of the model for evaluation, with averages of all weights and of BatchNorm's statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        if distributed.is_sharded(model):
            raise ProjectError("`--ema-decay` requires complete weights, but they are sharded over several ranks")
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay
        own, averages = ([*each.parameters(), *each.buffers()] for each in (model, self.model))
        self._pairs = [pair for pair in zip(averages, own) if pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, applied: int, skipped: Tensor) -> None:
        """Follow the model, faster at first. A skipped step has no weight, which the device decides."""
        decay = min(self.decay, (1 + applied) / (10 + applied))
        weight = torch.where(skipped, 0.0, 1.0 - decay)
        for average, own in self._pairs:
            average.lerp_(own, weight.to(average.dtype))

    def state(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.model.state_dict().items() if tensor.is_floating_point()}
