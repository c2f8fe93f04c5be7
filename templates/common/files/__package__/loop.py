"""Run the training loop, with checkpoints, ``metrics.jsonl``, and ``curves.png``. **Start reading here.**

``training.py`` has one update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import distributed
from .checkpoint import Checkpoints
from .errors import Hint, ProjectError
from .interrupt import Interrupt
from .manifest import write_manifest
from .metrics import draw_curves
from .progress import Progress
from .task import Outcome
from .trace import Trace
from .training import Training

Say = Callable[[str], None]


def fit(training: Training, say: Say = distributed.say, *, draw: bool = True) -> Outcome:
    """Train to the end or until a signal arrives; resume first if ``--resume`` was passed."""
    checkpoints = Checkpoints(training.config.run_dir / "checkpoints", keep=training.config.keep)
    resumed_at = _resume(training, checkpoints, say)
    _write_manifest(training)
    trace = Trace(training.config.profile, training.config.run_dir / f"trace{distributed.suffix()}.json")
    with Progress(training, resumed_at=resumed_at, say=say) as progress, Interrupt() as interrupt, trace:
        outcome = _epochs(training, checkpoints, progress, interrupt, trace)
    if trace.written:
        say(f"trace: {trace.path} (to view it, open it at https://ui.perfetto.dev)")
    if outcome.stopped_by:
        say(f"{outcome.stopped_by}: saved after update {outcome.updates}; to continue, pass `--resume`")
    elif draw and distributed.rank() == 0:
        _show(training, say)
    return outcome


def _epochs(
    training: Training, checkpoints: Checkpoints, progress: Progress, interrupt: Interrupt, trace: Trace
) -> Outcome:
    config, total = training.config, training.total_updates
    evaluation: dict[str, float] = {}
    is_best = False
    training.model.train()
    while training.update < total and not interrupt.received:
        for group in training.groups():
            training.mean_loss.add(training.train_step(group))
            interrupt.agree()
            trace.step()
            progress.updated()
            last = training.update == total
            if last or training.update % config.log_every == 0:
                progress.log()
            if last or interrupt.received:
                break
            if training.update % config.save_every == 0:
                _save(training, checkpoints)
        if not interrupt.received:
            evaluation = training.evaluate()
            is_best = training.is_best(evaluation)
            progress.evaluated(evaluation)
            training.order.next_epoch()
        _save(training, checkpoints, is_best=is_best and not interrupt.received)
    state_hash = training.state_hash()
    if not interrupt.received:
        evaluation = evaluation or training.evaluate()
        progress.finished(state_hash)
        _write_manifest(training, state_hash=state_hash, evaluation=evaluation)
    return Outcome(
        losses=tuple(progress.losses),
        evaluation=evaluation,
        updates=training.update,
        skipped=training.amp.skipped,
        state_hash=state_hash,
        stopped_by=interrupt.received,
    )


def _write_manifest(training: Training, **ending: Any) -> None:
    if distributed.rank() == 0:
        write_manifest(training, **ending)


def _save(training: Training, checkpoints: Checkpoints, *, is_best: bool = False) -> None:
    """Collect the state from all ranks; the first one writes it."""
    state = training.state()
    if distributed.rank() == 0:
        path = checkpoints.save(state, training.update)
        if is_best:
            checkpoints.keep_as_best(path)


def _resume(training: Training, checkpoints: Checkpoints, say: Say) -> int | None:
    """Return the update after which the run continues, or None for a new run."""
    run_dir = training.config.run_dir
    if not training.config.resume:
        if checkpoints.complete():
            raise ProjectError(
                f"`{run_dir}` already contains a run",
                hint=(
                    Hint("to continue it", option="--resume"),
                    Hint("to start another run", option="--run-dir runs/NAME"),
                ),
            )
        return None
    state = distributed.from_first(checkpoints.newest(say) if distributed.rank() == 0 else None)
    if state is None:
        say(f"no checkpoint in `{checkpoints.folder}`: starting from the beginning")
        return None
    training.load_state(state)
    is_done = training.update >= training.total_updates
    where = "the last one: nothing is left to train" if is_done else f"epoch {training.order.epoch + 1}"
    say(f"resumed after update {training.update} ({where})")
    return training.update


def _show(training: Training, say: Say) -> None:
    run_dir = training.config.run_dir
    for line in training.show():
        say(line)
    if draw_curves(run_dir / "metrics.jsonl", run_dir / "curves.png"):
        say(f"curves: {run_dir / 'curves.png'}")
    else:
        say("no curves: matplotlib is not installed")
