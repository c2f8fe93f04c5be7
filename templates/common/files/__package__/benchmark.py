"""Compare the speed of all precisions on this device: ``python -m PACKAGE.benchmark``.

It accepts the options of ``train``, prints a table, and writes ``benchmark.json`` and ``benchmark.png`` into the run
directory: time of an update, time to load its data, peak memory, and the metric at the end.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from . import train
from .checkpoint import make_run_dir, write_aside
from .config import Config
from .drawing import pyplot, save
from .errors import UnsupportedError, exit_code
from .options import Parser, add_options, config_of
from .start import prepare

BASE = "fp32"
VARIANTS = (BASE, "tf32", "bf16", "fp16", "compile")
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Row:
    """Medians over the updates of one precision; ``absent`` is the reason if the device doesn't support it."""

    name: str
    step_ms: float = 0.0
    data_ms: float = 0.0
    peak_mib: float | None = None
    metric: float = 0.0
    absent: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(
        program=f"python -m {__package__}.benchmark",
        description="Train in each precision and compare time, memory, and metric.",
    )
    parser.add_argument("--updates", type=int, default=40, help="Updates to measure in each precision.")
    parser.add_argument("--warm", type=int, default=5, help="Updates before the measurement.")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="Precisions to measure.")
    add_options(parser, Config)
    parser.set_defaults(run_dir=Path("runs/benchmark"))
    options = vars(parser.parse_args(arguments))
    updates, warm, only = (options.pop(name) for name in ("updates", "warm", "only"))
    if updates < 1 or warm < 0:
        parser.error(f"--updates must be at least 1 and --warm at least 0, got {updates} and {warm}")
    config = config_of(Config, options, parser)
    make_run_dir(config.run_dir)
    rows = []
    for name in only:
        rows.append(measure(config, name, warm, updates))
        print(_line(rows[-1]) if len(rows) > 1 else f"{_head(config)}\n{_line(rows[-1])}", flush=True)
    sentence = verdict(rows)
    print(sentence)
    _write(config.run_dir, rows, sentence)
    return 0


def measure(config: Config, name: str, warm: int, updates: int) -> Row:
    """Train for ``warm + updates`` updates, and return the medians of the last ``updates``."""
    precision = config.precision if name == "compile" else name
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        changed = dataclasses.replace(
            config,
            precision=precision,
            compile=name == "compile",
            run_dir=Path(folder),
            max_updates=warm + updates,
            epochs=max(config.epochs, warm + updates),
        )
        try:
            training = train.build(changed, *prepare(changed, lambda line: None))
        except UnsupportedError as error:
            return Row(name=name, absent=str(error.args[0]))
    cuda = training.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(training.device)
    steps, waits = [], []
    training.model.train()
    while training.update < warm + updates:
        groups = training.groups()
        while training.update < warm + updates:
            began = time.perf_counter()
            group = next(groups, None)
            if group is None:
                training.order.next_epoch()
                break
            loaded = time.perf_counter()
            training.train_step(group)
            if cuda:
                torch.cuda.synchronize(training.device)
            waits.append(loaded - began)
            steps.append(time.perf_counter() - loaded)
    evaluation = training.evaluate()
    return Row(
        name=f"compile ({training.amp.precision.name})" if name == "compile" else name,
        step_ms=1e3 * statistics.median(steps[warm:]),
        data_ms=1e3 * statistics.median(waits[warm:]),
        peak_mib=torch.cuda.max_memory_allocated(training.device) / MIB if cuda else None,
        metric=evaluation[training.task.metric.name],
    )


def verdict(rows: Sequence[Row]) -> str:
    """Return a sentence with the speedup of the fastest precision over fp32, or that there is none."""
    base = next((row for row in rows if row.name == BASE and not row.absent), None)
    others = [row for row in rows if row.name != BASE and not row.absent]
    if base is None or not others:
        return "Nothing to compare: the comparison requires fp32 and another precision."
    best = min(others, key=lambda row: row.step_ms)
    ratio = base.step_ms / best.step_ms
    if ratio < 1.05:
        slower = best.step_ms / base.step_ms
        return (
            f"No speedup: {best.name} takes {slower:.2f} times as long as fp32 (ieee). Small models are limited by "
            "kernel launches, and some devices compute only in fp32."
        )
    memory = ""
    if base.peak_mib and best.peak_mib:
        memory = f" and uses {best.peak_mib / base.peak_mib:.2f} of its peak memory"
    data = ""
    if best.data_ms > best.step_ms:
        data = " Loading the data takes longer than the update, so it limits the speed."
    return f"{best.name} is {ratio:.2f} times as fast as fp32 (ieee){memory}.{data}"


def _head(config: Config) -> str:
    what = f"batch {config.batch_size} x {config.accumulate}, torch {torch.__version__}"
    return f"{what}\n{'':16} {'update ms':>10} {'data ms':>9} {'peak MiB':>9} {'metric':>8}"


def _line(row: Row) -> str:
    if row.absent:
        return f"{row.name:16} not supported: {row.absent}"
    peak = f"{row.peak_mib:9.0f}" if row.peak_mib is not None else f"{'-':>9}"
    return f"{row.name:16} {row.step_ms:10.2f} {row.data_ms:9.2f} {peak} {row.metric:8.4f}"


def _write(folder: Path, rows: Sequence[Row], sentence: str) -> None:
    content = {"schema": 1, "torch": torch.__version__, "rows": [asdict(row) for row in rows], "verdict": sentence}
    write_aside(folder / "benchmark.json", lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))
    plot = pyplot()
    if plot is None:
        print("no chart: matplotlib is not installed")
        return
    there = [row for row in rows if not row.absent]
    names = [row.name for row in there]
    panels: dict[str, list[Any]] = {"update, ms": [row.step_ms for row in there]}
    if all(row.peak_mib is not None for row in there):
        panels["peak memory, MiB"] = [row.peak_mib for row in there]
    figure, axes = plot.subplots(1, len(panels), figsize=(5 * len(panels), 3), squeeze=False)
    for axis, (title, values) in zip(axes[0], panels.items()):
        axis.bar(names, values)
        axis.set_title(title)
    save(figure, folder / "benchmark.png")
    print(f"wrote {folder / 'benchmark.json'} and {folder / 'benchmark.png'}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
