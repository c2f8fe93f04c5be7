"""What is measured just now, for people who wait. Enters: what a measuring process says. Leaves: lines of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

WORDS = {
    "device": "what the device says of itself",
    "matmul": "matrix products against float64",
    "convolution": "convolutions against float64",
    "attention": "attention against float64",
    "project": "importing the project",
    "learning": "training on the true labels",
    "guard": "an update with NaN planted",
    "control": "training on shuffled labels",
    "scaler": "the GradScaler, with an overflow planted",
    "compare": "AMP against fp32",
    "throughput": "full load, with clocks and throttle reasons",
    "transfer": "copies to the GPU and back",
    "same_bits": "one kernel again and again",
    "repeat": "a second run, and a resumed one",
    "compiled": "torch.compile",
    "models": "models of the size of ResNet-50 and ViT-B",
}


def teller(device: str, measures: Sequence[str], say: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    """Hears a process's lines, and says of each measure that it begins, and of one that failed that it did."""

    def hear(line: dict[str, Any]) -> None:
        name = str(line.get("measure", ""))
        if line.get("event") == "start" and name in measures:
            count = f" {measures.index(name) + 1}/{len(measures)}" if len(measures) > 1 else ""
            say(f"{device}{count}: {WORDS.get(name, name)}")
        elif line.get("event") == "raised":
            say(f"{device}: {WORDS.get(name, name)} failed")

    return hear
