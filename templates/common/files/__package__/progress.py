"""What people see of a run: the bar, a line for each epoch, ``metrics.jsonl``, and TensorBoard where it is installed.

Only the first rank shows anything; the others measure and stay silent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from . import distributed
from .metrics import Metrics, tensorboard
from .training import Training


class Progress:
    """Measures ``training`` and writes it down. ``losses`` are the readings so far."""

    def __init__(self, training: Training, *, resumed_at: int | None, say: Callable[[str], None]) -> None:
        self.losses: list[float] = []
        self._training = training
        self._say = say
        self._metrics: Metrics | None = None
        self._board: Any = None
        first = distributed.rank() == 0
        if first:
            self._metrics = Metrics(training.config.run_dir / "metrics.jsonl", resumed_at=resumed_at)
            self._board = tensorboard(training.config.run_dir / "tensorboard", resumed_at=resumed_at)
        total = training.total_updates
        self._bar = tqdm(
            total=total, initial=training.update, unit="update", disable=None if first else True, file=sys.stderr
        )
        self._samples, self._time = training.samples, time.perf_counter()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._metrics is not None:
            self._metrics.close()
        if self._board is not None:
            self._board.close()

    def log(self) -> None:
        """One line of measurements; the only place in the loop that waits for the device."""
        training = self._training
        loss, speed, unit = training.mean_loss.read(), self._speed(), training.task.unit
        self.losses.append(loss)
        values: dict[str, float] = {
            "loss": loss,
            "learning_rate": training.optimizer.param_groups[0]["lr"],
            "scale": training.amp.check_scale(),
            "skipped": training.amp.skipped,
            f"{unit}_per_second": round(speed, 1),
        }
        shown: dict[str, Any] = {"loss": f"{loss:.4f}", f"{unit}/s": f"{speed:,.0f}"}
        if training.device.type == "cuda":
            values["peak_memory_bytes"] = torch.cuda.max_memory_allocated(training.device)
            shown["peak"] = f"{values['peak_memory_bytes'] / 2**30:.2f} GiB"
        self._write("train", values)
        self._bar.update(training.update - self._bar.n)
        self._bar.set_postfix(shown, refresh=False)

    def evaluated(self, evaluation: dict[str, float]) -> None:
        training = self._training
        self._write("evaluation", evaluation)
        numbers = {"loss": self.losses[-1]} if self.losses else {}
        numbers.update({f"validation {name}": value for name, value in evaluation.items()})
        told = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        self._bar.clear()
        self._say(f"epoch {training.order.epoch + 1}/{training.config.epochs}  update {training.update}  {told}")
        self._time = time.perf_counter()  # evaluation is not training time

    def finished(self, state_hash: str) -> None:
        if self._metrics is not None:
            training = self._training
            self._metrics.write("finished", training.update, state_hash=state_hash, skipped=training.amp.skipped)

    def _write(self, event: str, values: dict[str, float]) -> None:
        training = self._training
        if self._metrics is not None:
            self._metrics.write(event, training.update, epoch=training.order.epoch, **values)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{event}/{name}", value, training.update)

    def _speed(self) -> float:
        """Units per second since the last reading, over all ranks."""
        now = time.perf_counter()
        units = (self._training.samples - self._samples) * self._training.task.units_per_sample
        speed = units / (now - self._time)
        self._samples, self._time = self._training.samples, now
        return speed
