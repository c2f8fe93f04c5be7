"""Show and record the progress of a run: a bar or plain lines, ``metrics.jsonl``, and TensorBoard if it is installed.

On a terminal, a bar shows the progress. Elsewhere, a line does so every few seconds, without control characters. Only
the first rank shows and writes anything.
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

LINE_EVERY_S = 5.0


class Progress:
    """Measure ``training`` and record the measurements. ``losses`` are the readings so far."""

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
        self._lines = first and self._bar.disable
        self._first_update, self._start = training.update, self._time
        self._last_line = self._time

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._metrics is not None:
            self._metrics.close()
        if self._board is not None:
            self._board.close()

    def updated(self) -> None:
        """Print a line every few seconds if there is no bar. This waits for the device."""
        training, now = self._training, time.perf_counter()
        done, left = training.update - self._first_update, training.total_updates - training.update
        if not self._lines or now - self._last_line < LINE_EVERY_S or not left:
            return
        self._last_line = now
        loss = training.mean_loss.peek(self.losses[-1] if self.losses else float("nan"))
        epoch = f"epoch {training.order.epoch + 1}/{training.config.epochs}"
        time_left = f"about {duration((now - self._start) / done * left)} left"
        print(
            f"update {training.update}/{training.total_updates} ({epoch})  loss {loss:.4f}  {time_left}",
            file=sys.stderr,
            flush=True,
        )

    def log(self) -> None:
        """Record one line of measurements; this waits for the device."""
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
        """Return units per second since the last reading, over all ranks."""
        now = time.perf_counter()
        units = (self._training.samples - self._samples) * self._training.task.units_per_sample
        speed = units / (now - self._time)
        self._samples, self._time = self._training.samples, now
        return speed


def duration(seconds: float) -> str:
    """Return a rounded duration, such as ``40 s``, ``12 min``, or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
