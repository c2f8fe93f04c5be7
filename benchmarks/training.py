"""Compare the step time of a generated project with hand-written loops for the same model, data, and precision.

    python benchmarks/training.py [--template image-classification] [--rounds 30] [--updates 10] [--device cpu]

``envforge``  the project's own ``train_step``, with the work of its ``Run`` (mean loss, signals, a log line)
``bare``      the minimum that trains: forward, backward, clip, step
``timm``      a loop like timm's train.py: scheduler stepped per update, loss averaged on the log interval
``nanoGPT``   a loop like nanoGPT's train.py: GradScaler that is off, learning rate set by hand, micro-steps

All train on the same sequence of batch sizes, including a short last one of the epoch, with the same clipping, gradient
clearing, augmentation, optimizer, and precision. ``control`` is ``bare`` a second time: the distance of its ratio from
1 is the error of the measurement. On the CPU, the loops take turns after each update, in a rotating order, so that
other load affects all of them alike. On a GPU, whose queue a turn must not cut short, they take turns after each round
of updates. They train the same model, because two models of one kind differ by up to 2 % in speed, by their place in
memory; only ``timm`` has its own, because a scheduler changes the optimizer. Prints the medians of wall-clock and CPU
time, and the ratio of the first quartile of turns to that of ``bare``. Needs torch and the packages of the template.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PACKAGE = "digits"  # the name that tests/templates gives the project
LOG_EVERY = 10

Update = Callable[[], None]


class Turn(Struct, frozen=True):
    """Seconds of one update in a turn, wall-clock and CPU."""

    seconds: float
    cpu_seconds: float


def render(template: str, folder: Path) -> None:
    """Write the project into ``folder`` and make it importable."""
    from tests.templates.conftest import write_project  # noqa: PLC0415 - torch is not needed for --help

    write_project(folder, template)
    sys.path.insert(0, str(folder))


def silent(_: str) -> None:
    """Discard a message."""


def build(arguments: argparse.Namespace, run_dir: Path) -> Any:
    """Build a training of the project, with the same weights and samples each time."""
    train, config = (importlib.import_module(f"{PACKAGE}.{name}") for name in ("train", "config"))
    settings = config.Config(
        device=arguments.device,
        precision=arguments.precision,
        run_dir=run_dir,
        batch_size=arguments.batch_size,
        epochs=10_000,
        workers=0,
    )
    return train.build(settings, *train.prepare(settings, silent))


def batches(training: Any) -> Iterator[Any]:
    """Yield endless groups of micro-batches."""
    while True:
        yield from training.groups()
        training.order.next_epoch()


def plain_batches(training: Any) -> Iterator[Any]:
    """Yield endless micro-batches without a loader: shuffled indices into the data, as many as ``envforge`` gets."""
    import torch  # noqa: PLC0415

    size, count = training.config.batch_size, len(training.train_data)
    while True:
        indices = torch.randperm(count).tolist()
        for start in range(0, count, size):
            yield training.on_device(training.train_data.__getitems__(indices[start : start + size]))


def ours(training: Any) -> Update:
    """Return the project's own update, with the work of its loop."""
    train_step = importlib.import_module(f"{PACKAGE}.train").train_step
    run = importlib.import_module(f"{PACKAGE}.engine.run").Run(training, silent)
    run.__enter__()
    groups = batches(training)

    def update() -> None:
        run.stepped(train_step(training, next(groups)))

    return update


def bare(training: Any) -> Update:
    """Return the minimal update of the same model."""
    import torch  # noqa: PLC0415

    source = plain_batches(training)
    model, optimizer = training.model, training.optimizer
    parameters = list(model.parameters())

    def update() -> None:
        batch = next(source)
        optimizer.zero_grad(set_to_none=True)
        with training.amp.autocast():
            loss = training.task.loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return update


def timm_style(training: Any) -> Update:
    """Return an update like timm's: a scheduler object, gradients cleared before backward, a running mean."""
    import torch  # noqa: PLC0415

    source = plain_batches(training)
    model, optimizer = training.model, training.optimizer
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100_000)
    count = total = samples = 0.0

    def update() -> None:
        nonlocal count, total, samples
        batch = next(source)
        with training.amp.autocast():
            loss = training.task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        count += 1
        if count % LOG_EVERY == 0:
            total += loss.item() * len(batch[0])
            samples += len(batch[0])

    return update


def nanogpt_style(training: Any) -> Update:
    """Return an update like nanoGPT's: a scaler that may be off, the learning rate set by hand."""
    import torch  # noqa: PLC0415

    source = plain_batches(training)
    model, optimizer = training.model, training.optimizer
    scaler = torch.amp.GradScaler(training.device.type, enabled=False)
    count = 0

    def update() -> None:
        nonlocal count
        rate = 2e-3 * 0.5 * (1 + math.cos(math.pi * count / 100_000))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = next(source)
        with training.amp.autocast():
            loss = training.task.loss(model, batch)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        count += 1
        if count % LOG_EVERY == 0:
            float(loss.item())

    return update


LOOPS: dict[str, Callable[[Any], Update]] = {
    "bare": bare,
    "control": bare,
    "envforge": ours,
    "timm": timm_style,
    "nanoGPT": nanogpt_style,
}


def measure(update: Update, updates: int, finish: Update) -> Turn:
    """Measure one turn; ``finish`` waits for the device."""
    finish()
    began, cpu_began = time.perf_counter(), time.process_time()
    for _ in range(updates):
        update()
    finish()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    return Turn(seconds / updates, cpu_seconds / updates)


def take_turns(arguments: argparse.Namespace, folder: Path) -> dict[str, list[Turn]]:
    """Return the measured turns of each loop, which follow one unmeasured round."""
    import torch  # noqa: PLC0415

    shared = build(arguments, folder / "shared")
    loops = {name: make(build(arguments, folder / name) if name == "timm" else shared) for name, make in LOOPS.items()}
    gc.disable()  # it would run in the turn of any loop
    finish: Update = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    in_turn = arguments.updates if torch.cuda.is_available() else 1
    turns: dict[str, list[Turn]] = {name: [] for name in loops}
    names = list(loops)
    for number in range(-1, arguments.rounds):
        gc.collect()
        for turn in range(0, arguments.updates, in_turn):
            first = (number + turn) % len(names)
            for name in names[first:] + names[:first]:
                shared.optimizer.zero_grad(set_to_none=True)  # some loops do this at their start, others at their end
                measured = measure(loops[name], in_turn, finish)
                turns[name] += [measured] if number >= 0 else []
    return turns


def table(turns: dict[str, list[Turn]]) -> str:
    """Return the medians, and the ratios of the first quartiles, as a Markdown table.

    Other programs only add time. Of the estimators that were tried, this one is the most stable on a busy machine.
    """
    lines = ["| loop | update, ms | CPU, ms | to bare, wall | to bare, CPU |", "|---|---|---|---|---|"]
    walls = {name: sorted(turn.seconds for turn in mine) for name, mine in turns.items()}
    cpus = {name: sorted(turn.cpu_seconds for turn in mine) for name, mine in turns.items()}
    for name in turns:
        wall, cpu = (statistics.median(times[name]) for times in (walls, cpus))
        ratio, cpu_ratio = (_quartile(times[name]) / _quartile(times["bare"]) for times in (walls, cpus))
        lines.append(f"| {name} | {wall * 1e3:.2f} | {cpu * 1e3:.2f} | {ratio:.3f} | {cpu_ratio:.3f} |")
    return "\n".join(lines)


def _quartile(times: list[float]) -> float:
    return times[len(times) // 4]


def main() -> None:
    """Render the template, let the loops take turns, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else "", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--template", default="image-classification", help="what to train")
    parser.add_argument("--rounds", type=int, default=30, help="rounds that count")
    parser.add_argument("--updates", type=int, default=10, help="updates of each loop in a round")
    parser.add_argument("--batch-size", type=int, default=64, help="samples in an update")
    parser.add_argument("--device", default="auto", help="where to train")
    parser.add_argument("--precision", default="fp32", help="what to compute in")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        render(arguments.template, Path(folder))
        turns = take_turns(arguments, Path(folder) / "runs")
    sys.stdout.write(f"{table(turns)}\n\n{len(turns['bare'])} turns of each\n")
    if sys.platform != "win32":
        sys.stdout.write(f"load of the machine: {', '.join(f'{each:.1f}' for each in os.getloadavg())}\n")


if __name__ == "__main__":
    main()
