"""Compare the speed of all precisions on this device: ``python -m PACKAGE.benchmark``.

It accepts the options of ``train``. The variants take turns, so that other load affects all of them alike. It prints a
table, and writes ``benchmark.json`` and ``benchmark.png`` into the run directory.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import train
from .config import Config
from .engine.amp import Batch
from .engine.checkpoint import make_run_dir, write_text
from .engine.device import prepare
from .engine.errors import UnsupportedError, exit_code
from .engine.log import pyplot, save_figure, to_json
from .engine.options import Parser, add_options, config_of
from .engine.run import Training

BASE = "fp32"
VARIANTS = (BASE, "tf32", "bf16", "fp16", "compile")
MIB = 2**20
ROUND = 5  # steps of a variant in a turn


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant: median and half of the middle 50 % of the seconds of a step; ``absent``: why there are none."""

    name: str
    step_ms: float = 0.0
    spread_ms: float = 0.0
    data_ms: float = 0.0
    peak_mib: float | None = None
    metric: float = 0.0
    absent: str = ""


@dataclass
class Variant:
    """A training that takes turns with others."""

    name: str
    training: Training
    batches: Iterator[list[Batch]]
    steps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    peak: int = 0

    def turn(self, count: int, *, measured: bool) -> None:
        """Make ``count`` steps."""
        device = self.training.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for _ in range(count):
            began = time.perf_counter()
            batches = next(self.batches)
            loaded = time.perf_counter()
            train.train_step(self.training, batches)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if measured:
                self.waits.append(loaded - began)
                self.steps.append(time.perf_counter() - loaded)
        if device.type == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(device))

    def row(self) -> Row:
        """Return the result, with an evaluation of the model."""
        low, _, high = statistics.quantiles(self.steps, n=4) if len(self.steps) > 1 else [self.steps[0]] * 3
        return Row(
            name=self.name,
            step_ms=1e3 * statistics.median(self.steps),
            spread_ms=1e3 * (high - low) / 2,
            data_ms=1e3 * statistics.median(self.waits),
            peak_mib=self.peak / MIB if self.peak else None,
            metric=self.training.evaluate()[self.training.metric.name],
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(program=f"python -m {__package__}.benchmark", description="Compare the speed of all precisions.")
    parser.add_argument("--steps", type=int, default=40, help="Steps to measure in each precision.")
    parser.add_argument("--warm", type=int, default=5, help="Steps before the measurement.")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="Precisions to measure.")
    add_options(parser, Config)
    parser.set_defaults(run_dir=Path("runs/benchmark"))
    options = vars(parser.parse_args(arguments))
    steps, warm, only = (options.pop(name) for name in ("steps", "warm", "only"))
    if steps < 1 or warm < 0:
        parser.error(f"--steps must be at least 1 and --warm at least 0, got {steps} and {warm}")
    config = config_of(Config, options, parser)
    make_run_dir(config.run_dir)
    rows, metric = measure(config, only, warm, steps)
    lines = [head(config, metric), *map(line, rows), verdict(rows)]
    print("\n".join(lines))
    write(config.run_dir, rows, lines[-1])
    return 0


def measure(config: Config, names: Sequence[str], warm: int, steps: int) -> tuple[list[Row], str]:
    """Let the variants take turns; return a row for each, and the name of the metric."""
    made = [make(config, name, warm + steps) for name in names]
    variants = [each for each in made if isinstance(each, Variant)]
    for each in variants:
        each.turn(warm, measured=False)
    for start in range(0, steps, ROUND):
        for each in variants[start % len(variants) :] + variants[: start % len(variants)]:
            each.turn(min(ROUND, steps - start), measured=True)
    rows = [each.row() if isinstance(each, Variant) else each for each in made]
    return rows, variants[0].training.metric.name if variants else "metric"


def make(config: Config, name: str, steps: int) -> Variant | Row:
    """Build the training of one variant, or return why the device doesn't support it."""
    changed = dataclasses.replace(
        config,
        precision=config.precision if name == "compile" else name,
        compile=name == "compile",
        run_dir=Path(tempfile.mkdtemp(prefix="benchmark-")),
        max_steps=steps,
    )
    try:
        training = train.build(changed, *prepare(changed, lambda line: None))
    except UnsupportedError as error:
        return Row(name=name, absent=str(error.args[0]))
    training.model.train()
    shown = f"compile ({training.amp.precision.name})" if name == "compile" else name
    return Variant(shown, training, endless(training))


def endless(training: Training) -> Iterator[list[Batch]]:
    while True:
        yield from training.groups()
        training.order.next_epoch()


def verdict(rows: Sequence[Row]) -> str:
    """Return a sentence with the speedup of the fastest precision over fp32, or that there is none."""
    base = next((row for row in rows if row.name == BASE and not row.absent), None)
    others = [row for row in rows if row.name != BASE and not row.absent]
    if base is None or not others:
        return "Nothing to compare: the comparison requires fp32 and another precision."
    best = min(others, key=lambda row: row.step_ms)
    if base.step_ms - best.step_ms <= base.spread_ms + best.spread_ms:
        return (
            f"No speedup: {best.name} takes {best.step_ms / base.step_ms:.2f} times as long as fp32 (ieee), within the "
            "spread. Small models are limited by kernel launches, and some devices compute only in fp32."
        )
    memory = ""
    if base.peak_mib and best.peak_mib:
        memory = f" and uses {best.peak_mib / base.peak_mib:.2f} of its peak memory"
    limited = " Loading the data takes longer than the step, so it limits the speed."
    data = limited if best.data_ms > best.step_ms else ""
    return f"{best.name} is {base.step_ms / best.step_ms:.2f} times as fast as fp32 (ieee){memory}.{data}"


def head(config: Config, metric: str) -> str:
    what = f"batch {config.batch_size} x {config.grad_accum_steps}, torch {torch.__version__}; medians of a step"
    return f"{what}\n{'precision':16} {'step ms':>9} {'± ms':>7} {'data ms':>9} {'peak MiB':>9} {metric:>13}"


def line(row: Row) -> str:
    if row.absent:
        return f"{row.name:16} not supported: {row.absent}"
    peak = f"{row.peak_mib:9.0f}" if row.peak_mib is not None else f"{'-':>9}"
    return f"{row.name:16} {row.step_ms:9.2f} {row.spread_ms:7.2f} {row.data_ms:9.2f} {peak} {row.metric:13.4f}"


def write(folder: Path, rows: Sequence[Row], sentence: str) -> None:
    content = {"schema": 2, "torch": torch.__version__, "rows": [asdict(row) for row in rows], "verdict": sentence}
    write_text(folder / "benchmark.json", to_json(content, indent=2) + "\n")
    plot = pyplot()
    there = [row for row in rows if not row.absent]
    if plot is None or not there:
        return
    names = [row.name for row in there]
    panels: dict[str, list[Any]] = {"step, ms": [row.step_ms for row in there]}
    if all(row.peak_mib is not None for row in there):
        panels["peak memory, MiB"] = [row.peak_mib for row in there]
    figure, axes = plot.subplots(1, len(panels), figsize=(5 * len(panels), 3), layout="constrained", squeeze=False)
    for axis, (title, values) in zip(axes[0], panels.items()):
        bars = axis.bar(names, values)
        axis.bar_label(bars, fmt="%.3g")
        axis.set(title=title, xlabel="precision", ylabel=title)
    save_figure(figure, folder / "benchmark.png")
    print(f"wrote {folder / 'benchmark.json'} and {folder / 'benchmark.png'}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
