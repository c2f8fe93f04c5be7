"""Hold the model, optimizer, and data order of a run; make one update; evaluate; save and load the complete state."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import compat, distributed, fp8, parallel
from .amp import Amp, Batch
from .checkpoint import random_state, seed_everything, set_random_state
from .device import Precision
from .ema import Ema
from .errors import Hint, ProjectError
from .metrics import MeanLoss
from .options import as_option, echo, fixed_values
from .order import Order, make_loader, whole_batches, worker_count
from .schedule import learning_rate, set_learning_rate
from .settings import LoopConfig
from .task import Task

OTHER_RUN = Hint("to start another run", option="--run-dir runs/NAME")


class Training:
    """The objects of a run, and the state that a checkpoint must contain."""

    def __init__(self, config: LoopConfig, task: Task, device: torch.device, precision: Precision) -> None:
        self.config = config
        self.task = task
        self.device = device
        self.channels_last = task.channels_last and device.type != "mps"
        memory_format = torch.channels_last if self.channels_last else torch.preserve_format
        self.model: nn.Module = cast(Any, task.model).to(device=device, memory_format=memory_format)
        if precision.name == "fp8":
            fp8.convert(self.model)
        if task.fsdp_blocks:
            parallel.shard(self.model, task.fsdp_blocks, precision)
        self._wrapped = parallel.wrap(self.model, device)
        self.parallel = compat.compiled(self._wrapped, device.type) if config.compile else self._wrapped
        self.optimizer = make_optimizer(self.model, config, device)
        self.amp = Amp(
            self.model,
            self.optimizer,
            precision,
            clip_norm=config.clip_norm,
            max_skips=config.max_skips,
            init_scale=config.init_scale,
            growth_interval=config.growth_interval,
        )
        if config.ema and task.fsdp_blocks:
            raise ProjectError(
                "`--ema` requires complete weights, but `--fsdp` shards them", hint="omit either `--ema` or `--fsdp`"
            )
        self.ema = Ema(self.model, config.ema) if config.ema else None
        self.best: float | None = None
        self.order = make_order(config, task.train_size)
        self.loader = make_loader(
            task.train_data, self.order, device, worker_count(config.workers, in_memory=task.in_memory)
        )
        self.mean_loss = MeanLoss(device)
        self.update = 0
        self.samples = 0  # of all ranks, since the start of this process
        seed_everything(
            config.seed + distributed.rank()
        )  # the models are equal; from here on, each rank draws its own numbers

    @property
    def total_updates(self) -> int:
        in_epochs = self.config.epochs * -(-len(self.order) // self.config.accumulate)
        return min(in_epochs, self.config.max_updates or in_epochs)

    def groups(self) -> Iterator[list[Batch]]:
        """Yield the rest of the epoch, ``accumulate`` micro-batches at a time; the last group may be smaller."""
        group: list[Batch] = []
        for batch in whole_batches(self.loader):
            group.append(self.on_device(batch))
            if len(group) == self.config.accumulate:
                yield group
                group = []
        if group:
            yield group

    def train_step(self, group: list[Batch]) -> Tensor:
        """Make one update and return its mean loss, still on the device."""
        warmup = round(self.config.warmup * self.total_updates)
        peak = self.config.learning_rate
        rate = learning_rate(self.amp.applied, peak=peak, warmup=warmup, total=self.total_updates)
        set_learning_rate(self.optimizer, rate)
        samples = self._samples(group)
        loss = self.amp.update(
            lambda batch: self.task.loss(self.parallel, batch),
            group,
            samples=samples,
            without_sync=lambda: parallel.without_sync(self._wrapped),
        )
        if self.ema is not None:
            self.ema.update(self.amp.applied, self.amp.newest_skipped)
        self.order.position += len(group)
        self.samples += samples
        self.update += 1
        return loss

    def evaluate(self) -> dict[str, float]:
        """Return the task's measurements of the current model."""
        with self._evaluating():
            return self.task.evaluate(self.model, self.amp)

    def is_best(self, evaluation: dict[str, float]) -> bool:
        """Return whether this is the best evaluation so far, and remember it if it is."""
        metric = self.task.metric
        value = evaluation[metric.name]
        is_best = math.isfinite(value) and (self.best is None or not metric.stays_short(value, self.best))
        if is_best:
            self.best = value
        return is_best

    def show(self) -> Sequence[str]:
        """Let the task write its pictures or samples into the run directory; return lines to print."""
        if self.task.show is None:
            return ()
        if self.task.fsdp_blocks:
            return ("no pictures or samples: the weights are sharded over several ranks",)
        with self._evaluating():
            return self.task.show(self.model, self.amp, self.config.run_dir)

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint. Every rank must call this, as each has its own random generators."""
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        if parallel.is_sharded(self.model):
            model, optimizer = parallel.state(self.model, self.optimizer)
        return {
            "model": model,
            "optimizer": optimizer,
            "amp": self.amp.state(),
            "precision": self.amp.precision.name,
            "random": distributed.gather(random_state()),
            "epoch": self.order.epoch,
            "position": self.order.position,
            "update": self.update,
            "mean_loss": self.mean_loss.state(),
            "ema": self.ema.state() if self.ema is not None else {},
            "best": self.best,
            "config": echo(self.config),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken; raise if it belongs to another run."""
        now = {"processes": distributed.ranks(), "precision": self.amp.precision.name, **fixed_values(self.config)}
        then = {**state["config"], "precision": state["precision"], "processes": len(state["random"])}
        for name, value in now.items():
            if then.get(name) != value:
                raise ProjectError(
                    f"cannot resume with another `{name}`: expected `{then.get(name)}` (checkpoint), found `{value}`",
                    hint=(_resume_hint(name, then.get(name)), OTHER_RUN),
                )
        try:
            if parallel.is_sharded(self.model):
                parallel.load_state(self.model, self.optimizer, state["model"], state["optimizer"])
            else:
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ProjectError(f"the checkpoint is of another model: {error}", hint=[OTHER_RUN]) from error
        self.amp.load_state(state["amp"])
        self.order.epoch, self.order.position = state["epoch"], state["position"]
        self.update = state["update"]
        self.mean_loss.load_state(state["mean_loss"])
        if self.ema is not None:
            self.ema.load_state(state["ema"])
        self.best = state["best"]
        set_random_state(state["random"][distributed.rank()])

    def state_hash(self) -> str:
        """Return the SHA-256 of weights and buffers, which is equal for bit-identical runs."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            content = parallel.whole(tensor).detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(content.numpy().data)
        return digest.hexdigest()

    def _samples(self, group: list[Batch]) -> int:
        """Return the number of samples of all ranks in this update, which each rank can compute by itself."""
        if self.order.ranks == 1:
            return sum(len(batch[0]) for batch in group)
        return sum(self.order.samples(self.order.position + number) for number in range(len(group)))

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """While entered: evaluation mode, no gradients, and the averaged weights if there are any."""
        self.model.eval()
        try:
            with torch.no_grad(), self.ema.in_place() if self.ema is not None else contextlib.nullcontext():
                yield
        finally:
            self.model.train()

    def on_device(self, batch: Sequence[Tensor]) -> Batch:
        return tuple(self._move(tensor) for tensor in batch)

    def _move(self, tensor: Tensor) -> Tensor:
        moved = tensor.to(self.device, non_blocking=True)
        if self.channels_last and moved.dim() == 4:
            return moved.contiguous(memory_format=torch.channels_last)
        return moved


def _resume_hint(name: str, value: Any) -> Hint:
    """Return how to resume with the ``value`` of the checkpoint."""
    if name == "processes":
        start = "python" if value == 1 else f"torchrun --nproc-per-node {value}"
        command = f"{start} -m {__package__}.train {shlex.join(sys.argv[1:])}".strip()
        return Hint(f"to resume it with {value} {'process' if value == 1 else 'processes'}", command=command)
    if option := as_option(name, value):
        return Hint("to resume it", option=option)
    return Hint(f"to resume it, omit `--{name.replace('_', '-')}`")


def make_order(config: LoopConfig, size: int) -> Order:
    """Return this rank's order of the samples; raise if a batch is larger than the data."""
    order = Order(size, config.batch_size, config.seed, rank=distributed.rank(), ranks=distributed.ranks())
    if order.whole > size:
        raise ProjectError(
            f"a batch of {order.whole} samples is larger than the training data ({size} samples)",
            hint="to use smaller batches",
            option=f"--batch-size {max(1, size // (2 * order.ranks))}",
        )
    return order


def make_optimizer(model: nn.Module, config: LoopConfig, device: torch.device) -> torch.optim.Optimizer:
    """Return AdamW, fused if this torch has it, without decay of biases and norms."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    fused = compat.fused_optimizer(device.type) and not parallel.is_sharded(model)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
