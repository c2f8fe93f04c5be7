"""Report which measurement is running, and estimate the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

WORDS = {
    "device": "properties of the device",
    "matmul": "matrix products compared with float64",
    "convolution": "convolutions compared with float64",
    "attention": "attention compared with float64",
    "project": "import of the project",
    "learning": "training on true labels",
    "guard": "an update with a NaN inserted",
    "control": "training on shuffled labels",
    "scaler": "GradScaler with an overflow",
    "compare": "AMP and fp32",
    "throughput": "full load, with clocks and throttle reasons",
    "transfer": "copies to the GPU and back",
    "same_bits": "repeated runs of one kernel",
    "repeat": "a repeated and a resumed run",
    "compiled": "torch.compile",
    "models": "models of the size of ResNet-50 and ViT-B",
}
# typical relative durations, measured with the smoke test of image-classification; the scale follows from the run
_TYPICAL_S = {
    "device": 3.0, "matmul": 1.0, "convolution": 1.0, "attention": 1.0, "project": 1.0, "learning": 10.0, "guard": 1.0,
    "control": 10.0, "scaler": 2.0, "compare": 8.0, "throughput": 6.0, "transfer": 1.0, "same_bits": 2.0, "repeat": 6.0,
    "compiled": 40.0, "models": 40.0,
}  # fmt: skip
_QUIET_S = 2.0  # until then, the line that names the measurement is recent enough
_ENOUGH_S = 8.0  # of typical durations must pass before the speed of this run is known


@dataclass(kw_only=True, slots=True)
class Progress:
    """The measurements of one process; ``say`` receives one line of text at a time."""

    device: str
    measures: tuple[str, ...]
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _running: str = ""
    _since: float = 0.0
    _share: float = 0.0
    _taken: dict[str, float] = field(default_factory=dict)

    def hear(self, line: dict[str, Any]) -> None:
        """Report a measurement that starts or fails, and note how far it is."""
        event, name = line.get("event"), str(line.get("measure", ""))
        if event == "start" and name in self.measures:
            self._running, self._since, self._share = name, self.clock(), 0.0
            self.say(self._line())
        elif event == "update":
            self._share = line["number"] / max(line["of"], 1)
        elif event in ("value", "raised") and name == self._running:
            self._taken[name] = self.clock() - self._since
            self._running = ""
        if event == "raised":
            self.say(f"{self.device}: {WORDS.get(name, name)}: failed")

    def tick(self, _elapsed_s: float) -> None:
        """Report the measurement that is still running, its time, and the estimate of the time left."""
        elapsed_s = self.clock() - self._since
        if not self._running or elapsed_s < _QUIET_S:
            return
        left_s = self._left(elapsed_s)
        estimate = "" if left_s is None else f", about {_rounded(left_s)} left"
        self.say(f"{self._line()} ({elapsed_s:.0f} s{estimate})")

    def _line(self) -> str:
        words = WORDS.get(self._running, self._running)
        if len(self.measures) == 1:
            return f"{self.device}: {words}"
        return f"{self.device} {self.measures.index(self._running) + 1}/{len(self.measures)}: {words}"

    def _left(self, elapsed_s: float) -> float | None:
        """Return the estimated seconds until the process is done; None while nothing is known."""
        following = self.measures[self.measures.index(self._running) + 1 :]
        typical_s, taken_s = sum(_TYPICAL_S.get(name, 5.0) for name in self._taken), sum(self._taken.values())
        current_typical_s = _TYPICAL_S.get(self._running, 5.0)
        if self._share > 0:
            current_s = elapsed_s / self._share
            scale = (taken_s + current_s) / (typical_s + current_typical_s)
        elif typical_s >= _ENOUGH_S:
            scale = taken_s / typical_s
            current_s = scale * current_typical_s
        else:
            return None
        return max(current_s - elapsed_s, 0.0) + scale * sum(_TYPICAL_S.get(name, 5.0) for name in following)


def _rounded(seconds: float) -> str:
    if seconds >= 90:
        return f"{round(seconds / 60)} min"
    return f"{max(5, 5 * round(seconds / 5))} s"
