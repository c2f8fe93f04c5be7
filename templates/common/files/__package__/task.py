"""Define the interface between a project's own modules and the shared ones: task, metric, and smoke test limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from .amp import Amp, Batch


@dataclass(frozen=True)
class Metric:
    """The value of an evaluation that selects the best checkpoint and decides the smoke test."""

    name: str
    higher_is_better: bool = True

    def reaches(self, value: float, bound: float) -> bool:
        """Return whether ``value`` is at least as good as ``bound``; NaN never is."""
        return value >= bound if self.higher_is_better else value <= bound

    def stays_short(self, value: float, bound: float) -> bool:
        """Return whether ``value`` is no better than ``bound``."""
        return value <= bound if self.higher_is_better else value >= bound

    def in_words(self, *, reach: bool) -> str:
        return "at least" if self.higher_is_better == reach else "at most"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model, its data, its loss, and its evaluation.

    ``train_data[indices]`` returns a batch: a tuple of tensors whose first dimension is the samples.
    ``loss(model, batch)`` is the mean loss over that dimension. ``evaluate(model, amp)`` is called without gradients
    and in evaluation mode, on every rank; it uses ``distributed.share`` and ``distributed.total``.
    ``show(model, amp, run_dir)`` is called once at the end, on the first rank: it writes pictures or samples into the
    directory and returns lines to print. Speed is shown in ``unit`` per second; a sample has ``units_per_sample``.
    ``fsdp_blocks`` names the modules that FSDP2 shards one at a time; if it is empty, the model is not sharded.
    """

    model: nn.Module
    train_data: Dataset[Any]
    train_size: int
    loss: Callable[[nn.Module, Batch], Tensor]
    evaluate: Callable[[nn.Module, Amp], dict[str, float]]
    metric: Metric = Metric("loss", higher_is_better=False)
    show: Callable[[nn.Module, Amp, Path], Sequence[str]] | None = None
    unit: str = "samples"
    units_per_sample: int = 1
    in_memory: bool = True
    channels_last: bool = False
    fsdp_blocks: Sequence[nn.Module] = ()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of the smoke test.

    The metric must reach ``reach`` on real data, and must not be better than ``control`` in the control, which trains
    on shuffled ``shuffled``. The loss must fall to ``1 / loss_ratio``, with at most ``skips`` skipped updates.
    """

    reach: float
    control: float
    loss_ratio: float = 5.0
    skips: int = 8
    shuffled: str = "labels"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a run; ``stopped_by`` is the name of the signal that stopped it, if one did."""

    losses: tuple[float, ...]
    evaluation: dict[str, float]
    updates: int
    skipped: int
    state_hash: str
    stopped_by: str = ""
