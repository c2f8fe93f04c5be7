"""Measurements as lines of JSON, and their curves as a picture.

Enters: numbers by name. Leaves: ``metrics.jsonl``, which a resumed run continues without a gap or a repeat, and
``curves.png``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import write_aside
from .drawing import pyplot, save


class Metrics:
    """Appends one line for each event; ``step`` is the update after which it was measured."""

    def __init__(self, path: Path, *, resumed_at: int | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read(path) if line["step"] <= resumed_at] if resumed_at is not None else []
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_aside(path, lambda file: file.write(text.encode()))
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, step: int, **values: Any) -> None:
        self._file.write(json.dumps({"event": event, "step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class MeanLoss:
    """The mean loss since the last reading; updates that were skipped do not count. Nothing is computed until then."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        self._losses.append(loss)

    def read(self) -> float:
        """The mean, and a new start. Waits for the device."""
        losses = self.state()
        self._losses = []
        return float(losses[torch.isfinite(losses)].mean())

    def state(self) -> Tensor:
        return torch.stack(self._losses).cpu() if self._losses else torch.zeros(0)

    def load_state(self, state: Tensor) -> None:
        self._losses = list(state.to(self._device))


def tensorboard(folder: Path, *, resumed_at: int | None) -> Any:
    """A writer for TensorBoard, ``None`` where that is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=None if resumed_at is None else resumed_at + 1)


def read(path: Path) -> list[dict[str, Any]]:
    """All lines; a last line that was cut off by a crash is left out."""
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def draw_curves(metrics: Path, picture: Path) -> bool:
    """Loss, evaluation, learning rate and loss scale over the updates. False where matplotlib is not installed."""
    plot = pyplot()
    if plot is None:
        return False
    lines = read(metrics)
    panels = _panels(lines)
    figure, axes = plot.subplots(len(panels), 1, figsize=(8, 2.4 * len(panels)), sharex=True, squeeze=False)
    for axis, (title, curves) in zip(axes[:, 0], panels.items()):
        for name, points in curves.items():
            axis.plot([step for step, _ in points], [value for _, value in points], marker=".", label=name)
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        axis.legend(loc="best")
    axes[-1, 0].set_xlabel("update")
    save(figure, picture)
    return True


def _panels(lines: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Curves by panel: losses together, every other measurement of the evaluation by itself."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {"loss": {}}
    for line in lines:
        measured = set(line) - {"event", "step", "epoch"}
        names = {"train": measured & {"loss", "learning_rate", "scale"}, "evaluation": measured}
        for name in sorted(names.get(line["event"], ())):
            if not (name == "scale" and line[name] == 1.0):
                curves = panels.setdefault(name.replace("_", " "), {})
                curves.setdefault(line["event"], []).append((line["step"], line[name]))
    return {title: curves for title, curves in panels.items() if curves} or {"loss": {}}
