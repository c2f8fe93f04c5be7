"""Train in mixed precision. Only ``Amp`` defines the order: autocast, scale, backward, unscale, clip, step, update.

If the loss or a gradient of a step is not finite, weights, optimizer, and BatchNorm statistics keep their values, and
the step counts as skipped. The host waits for the GPU only to read whether the step before the last one was skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from . import compat, distributed
from .device import Precision
from .errors import ProjectError
from .options import TrainOptions

Batch = tuple[Tensor, ...]
COUNTS = ("started", "skipped", "skipped_in_row")
LOWER_RATE = "to lower the learning rate, pass `--lr RATE`"


class Amp:
    """Apply steps to one model with one optimizer. ``applied`` counts the steps that were not skipped."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision, config: TrainOptions
    ) -> None:
        self.model, self.optimizer, self.precision = model, optimizer, precision
        self.max_skips = config.max_skips
        self.started = self.skipped = self.skipped_in_row = 0
        self.newest_skipped = torch.zeros((), dtype=torch.bool)  # on the device after the first step
        self._clip_grad = config.clip_grad or math.inf
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._device = self._parameters[0].device
        self._statistics = _Statistics(model)
        self._pending: Callable[[], bool] | None = None
        self._scaler = compat.grad_scaler(
            self._device.type,
            enabled=precision.scaled,
            init_scale=config.init_scale,
            growth_interval=config.growth_interval,
        )

    @property
    def applied(self) -> int:
        """How many steps changed the weights, as far as the host knows. The learning rate depends on it."""
        return self.started - self.skipped

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for every forward pass, in training and in evaluation."""
        dtype = self.precision.dtype
        return nullcontext() if dtype is None else torch.autocast(self._device.type, dtype=dtype)

    def update(
        self,
        loss_of: Callable[[Batch], Tensor],
        batches: Sequence[Batch],
        *,
        weight_of: Callable[[Batch], float | Tensor] = lambda batch: len(batch[0]),
        without_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Tensor:
        """Make one step from one or more micro-batches, equal to one from their union; return its mean loss.

        ``loss_of`` returns the mean loss of a micro-batch, and ``weight_of`` the number of samples, pixels, or tokens
        that this is the mean of: the last micro-batch may be short, and those of other ranks may have more that count.
        The loss stays on the device. ``without_sync`` returns a context without gradient exchange between ranks.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self._statistics.remember()
        weights = [weight_of(batch) for batch in batches]
        total = distributed.sum_of(sum(weights), self._device)
        if isinstance(total, Tensor):
            total = total.clamp(min=1e-8)  # a step without anything that counts has the loss 0, not NaN
        mean_loss = torch.zeros((), device=self._device)
        for batch, weight in zip(batches, weights):
            with nullcontext() if batch is batches[-1] else without_sync():
                with self.autocast():
                    loss = loss_of(batch) * (weight * distributed.ranks() / total)
                mean_loss += loss.detach()
                self._scaler.scale(loss).backward()
        distributed.average(mean_loss)
        if self.precision.scaled:
            gradient = next(each.grad for each in self._parameters if each.grad is not None)
            gradient += mean_loss - mean_loss  # NaN if the loss is not finite: the scaler judges only gradients
            self._scaler.unscale_(self.optimizer)
        norm = distributed.whole(nn.utils.clip_grad_norm_(self._parameters, self._clip_grad))
        verdict = mean_loss + norm
        bad = verdict - verdict != 0  # finite: 0; else: NaN. Three small kernels, not isfinite's ten
        self._step_unless(bad)
        self._statistics.put_back_if(bad)
        self._statistics.average()
        self.started += 1
        self.newest_skipped = bad
        self._judge(bad, mean_loss, batches)
        return mean_loss

    def scale(self) -> float:
        """Return the loss scale, 1.0 if there is none; raise if it is smaller. Waits for the device."""
        scale = float(self._scaler.get_scale())
        if scale < 1.0:
            why = f"gradients keep overflowing fp16, and then vanish{self._culprit()}"
            hint = (LOWER_RATE, "to train without loss scaling, pass `--precision fp32`")
            raise ProjectError(f"the loss scale is {scale:g} (below 1) after {self.started} steps: {why}", hint=hint)
        return scale

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as plain values and tensors."""
        counts = {name: getattr(self, name) for name in COUNTS}
        pending = None if self._pending is None else self._pending()
        return {"scaler": self._scaler.state_dict(), "pending": pending, **counts}

    def load_state(self, state: dict[str, Any]) -> None:
        if state["scaler"]:  # empty after a run in another precision
            self._scaler.load_state_dict(state["scaler"])
        for name in COUNTS:
            setattr(self, name, state[name])
        self._pending = None if state["pending"] is None else lambda: bool(state["pending"])

    def _step_unless(self, bad: Tensor) -> None:
        """Step if everything is finite. A fused optimizer decides on the GPU; with others, the host waits."""
        if self.precision.scaled:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        elif bad.is_cuda and getattr(self.optimizer, "_step_supports_amp_scaling", False):
            fused: Any = self.optimizer
            fused.found_inf = bad.float()
            fused.step()
            del fused.found_inf
        elif not bool(bad):
            self.optimizer.step()

    def _judge(self, bad: Tensor, loss: Tensor, batches: Sequence[Batch]) -> None:
        """Count a skip. On CUDA, the host reads the verdict one step later, so that the queue never runs empty."""
        verdict: Callable[[], bool] | None = _verdict(bad)
        if self._device.type == "cuda":
            self._pending, verdict = verdict, self._pending
        if verdict is None:
            return
        is_bad = verdict()
        self.skipped += is_bad
        self.skipped_in_row = self.skipped_in_row + 1 if is_bad else 0
        if self.skipped_in_row >= self.max_skips:
            tensors = (tensor for batch in batches for tensor in batch if isinstance(tensor, Tensor))
            is_sound = all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
            data = "" if is_sound else "; the data contain values that are not finite"
            raise ProjectError(
                f"{self.skipped_in_row} steps in a row were skipped because loss or gradients were not finite; "
                f"at step {self.started} the loss is {float(loss):g}{self._culprit()}{data}",
                hint=(LOWER_RATE, "to compare with full precision, pass `--precision fp32`"),
            )

    def _culprit(self) -> str:
        """Return the name of the first parameter that is not finite, or whose gradient is not."""
        named = list(self.model.named_parameters())
        gradients = [(name, parameter.grad) for name, parameter in named if parameter.grad is not None]
        for what, tensors in (("that", named), ("whose gradient", gradients)):
            for name, tensor in tensors:
                if not torch.isfinite(tensor).all():
                    return f"; the first parameter {what} is not finite is `{name}`"
        return "; all gradients are finite"


def _verdict(bad: Tensor) -> Callable[[], bool]:
    """Return a function that reads ``bad``, without a wait for work that the device queues later."""
    if bad.device.type != "cuda":
        return lambda: bool(bad)
    answer = torch.empty((), dtype=torch.bool, pin_memory=True)
    answer.copy_(bad, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def read() -> bool:
        event.synchronize()
        return bool(answer)

    return read


class _Statistics:
    """The running statistics of all BatchNorm layers, laid out as one tensor for each dtype.

    A forward pass over one bad batch changes them before the loss is known. As views of one tensor, they are saved by
    one copy and restored by one selection, independent of the number of layers.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        places = [(layer, *named) for layer in layers for named in layer.named_buffers(recurse=False)]
        self._flat: list[Tensor] = []
        for dtype in {buffer.dtype for _, _, buffer in places}:
            same = [(layer, name, buffer) for layer, name, buffer in places if buffer.dtype == dtype]
            flat = torch.cat([buffer.reshape(-1) for _, _, buffer in same])
            for (layer, name, buffer), part in zip(same, flat.split([buffer.numel() for _, _, buffer in same])):
                setattr(layer, name, part.view(buffer.shape))
            self._flat.append(flat)
        self._copies = [flat.clone() for flat in self._flat]

    def remember(self) -> None:
        for copy, flat in zip(self._copies, self._flat):
            copy.copy_(flat)

    def put_back_if(self, bad: Tensor) -> None:
        if bad.device.type != "cpu" or bool(bad):  # reading it costs nothing on the CPU
            for copy, flat in zip(self._copies, self._flat):
                flat.copy_(torch.where(bad, copy, flat))

    def average(self) -> None:
        """Give every rank the mean over all ranks; counters are equal on all of them."""
        for flat in self._flat:
            if flat.is_floating_point():
                distributed.average(flat)
