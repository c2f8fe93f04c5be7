"""Write measurements to ``metrics.jsonl``, and draw them as ``curves.png``.

A resumed run continues the file without a gap and without repeated lines.
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
    """Append one line per event; ``step`` is the update after which it was measured."""

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
    """The mean loss since the last reading, without skipped updates. Nothing is computed before it is read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        self._losses.append(loss)

    def read(self) -> float:
        """Return the mean and start again. Waits for the device."""
        losses = self.state()
        self._losses = []
        return float(losses[torch.isfinite(losses)].mean())

    def peek(self, otherwise: float) -> float:
        """Return the mean and keep the losses; ``otherwise`` if there are none. Waits for the device."""
        losses = self.state()
        return float(losses[torch.isfinite(losses)].mean()) if len(losses) else otherwise

    def state(self) -> Tensor:
        return torch.stack(self._losses).cpu() if self._losses else torch.zeros(0)

    def load_state(self, state: Tensor) -> None:
        self._losses = list(state.to(self._device))


def tensorboard(folder: Path, *, resumed_at: int | None) -> Any:
    """Return a writer for TensorBoard, or None if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=None if resumed_at is None else resumed_at + 1)


def read(path: Path) -> list[dict[str, Any]]:
    """Return all lines, without a last line that a crash cut off."""
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
    """Draw loss, evaluation, learning rate, and loss scale over the updates. Return False without matplotlib."""
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
    """Return the curves of each panel: the losses share one, every other measurement has its own."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {"loss": {}}
    for line in lines:
        measured = set(line) - {"event", "step", "epoch"}
        names = {"train": measured & {"loss", "learning_rate", "scale"}, "evaluation": measured}
        for name in sorted(names.get(line["event"], ())):
            if not (name == "scale" and line[name] == 1.0):
                curves = panels.setdefault(name.replace("_", " "), {})
                curves.setdefault(line["event"], []).append((line["step"], line[name]))
    return {title: curves for title, curves in panels.items() if curves} or {"loss": {}}
