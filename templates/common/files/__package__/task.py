"""What a project gives to the modules that all projects share: what is learnt, and what counts as having learnt."""

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
    """The one number of an evaluation by which the best checkpoint is chosen and the smoke test judges."""

    name: str
    higher_is_better: bool = True

    def reaches(self, value: float, bound: float) -> bool:
        """Is ``value`` as good as ``bound``, or better? What is not a number reaches nothing."""
        return value >= bound if self.higher_is_better else value <= bound

    def stays_short(self, value: float, bound: float) -> bool:
        """Is ``value`` no better than ``bound``?"""
        return value <= bound if self.higher_is_better else value >= bound

    def in_words(self, *, reach: bool) -> str:
        return "at least" if self.higher_is_better == reach else "at most"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learnt.

    ``train_data[indices]`` gives a batch: a tuple of tensors whose first dimension is that of the samples.
    ``loss(model, batch)`` is the mean loss over that dimension. ``evaluate(model, amp)`` is called without gradients
    and in evaluation mode, on every rank; it sums over ``distributed.share`` and ``distributed.total``.
    ``show(model, amp, run_dir)`` is called once at the end, on the first rank: it writes pictures or samples into the
    folder and returns lines for people. Speed is told in ``unit`` per second; a sample counts as ``units_per_sample``.
    Where ``fsdp_blocks`` names modules, the model is sharded over the ranks (FSDP2), these modules one at a time.
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
    """What the smoke test demands of the task's metric: real data must reach ``reach``, the control must not pass
    ``control``; ``shuffled`` names what the control learns wrongly. The loss must fall to a part of one in
    ``loss_ratio``, with at most ``skips`` updates skipped."""

    reach: float
    control: float
    loss_ratio: float = 5.0
    skips: int = 8
    shuffled: str = "labels"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended; ``stopped_by`` names the signal that ended it early, if one did."""

    losses: tuple[float, ...]
    evaluation: dict[str, float]
    updates: int
    skipped: int
    state_hash: str
    stopped_by: str = ""
