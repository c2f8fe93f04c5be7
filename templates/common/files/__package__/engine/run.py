"""Hold the objects of a training, and do what the loop in ``train.py`` needs besides its steps.

A ``Training`` has model, optimizer, and data order, and the complete state of a run. A ``Run`` resumes, logs,
evaluates, saves, and stops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, schedule
from tqdm import tqdm

from . import checkpoint, compat, distributed, log, optim
from .amp import Amp, Batch
from .checkpoint import OTHER_RUN, Checkpoints, random_state, seed_everything, set_random_state
from .device import Precision, nvidia_signs, usable_cpus
from .errors import ProjectError
from .loader import Control, Data, Order, in_order, make_loader, read
from .options import TrainOptions, as_option, config_text, echo, words

Say = Callable[[str], None]
LINE_EVERY_S = 10.0
GIB = 2**30
LOWER_IS_BETTER = ("loss", "rmse", "bits_per_byte")


@dataclass(frozen=True)
class Metric:
    """The value of an evaluation that selects the best checkpoint and decides the smoke test."""

    name: str
    higher_is_better: bool = True

    @classmethod
    def named(cls, name: str) -> Metric:
        return cls(name, name not in LOWER_IS_BETTER)

    def reaches(self, value: float, bound: float) -> bool:
        """Return whether ``value`` is at least as good as ``bound``; NaN never is."""
        return value >= bound if self.higher_is_better else value <= bound

    def stays_short(self, value: float, bound: float) -> bool:
        """Return whether ``value`` is no better than ``bound``."""
        return value <= bound if self.higher_is_better else value >= bound

    def in_words(self, *, reach: bool) -> str:
        return "at least" if self.higher_is_better == reach else "at most"


class Task:
    """What a project learns; ``task.py`` extends it.

    ``loss`` is the mean over what counts in a batch, and ``weight`` how much that is: samples, or the pixels or tokens
    that are not ignored. ``evaluate`` is called without gradients, in evaluation mode and autocast, on every rank with
    its share; ``distributed.total`` adds up the shares. ``show`` is called once at the end on the first rank: it writes
    pictures into the directory, and returns lines to print.
    """

    metric = Metric.named("loss")
    unit = "samples"
    units_per_sample = 1
    channels_last = False

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        raise NotImplementedError

    def weight(self, batch: Batch) -> float | Tensor:
        return len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        raise NotImplementedError

    def show(self, model: nn.Module, batches: Iterable[Batch], run_dir: Path) -> Sequence[str]:
        return ()

    def place(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Return the model on its device, in the memory format that it computes in."""
        self.channels_last = self.channels_last and device.type != "mps"
        memory_format = torch.channels_last if self.channels_last else torch.preserve_format
        return cast(nn.Module, cast(Any, model).to(device=device, memory_format=memory_format))

    def state(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return complete states on the first rank. Every rank must call this."""
        return model.state_dict(), optimizer.state_dict()

    def load_state(self, model: nn.Module, optimizer: torch.optim.Optimizer, of_model: Any, of_optimizer: Any) -> None:
        model.load_state_dict(of_model)
        optimizer.load_state_dict(of_optimizer)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a run; ``stopped_by`` is the signal that stopped it, or ``patience``."""

    losses: tuple[float, ...]
    evaluation: dict[str, float]
    steps: int
    skipped: int
    state_hash: str
    stopped_by: str = ""


class Training:
    """The objects of a run, and the state that a checkpoint must contain."""

    def __init__(
        self, config: TrainOptions, task: Task, data: Data, model: nn.Module, device: torch.device, precision: Precision
    ) -> None:
        self.config, self.task, self.data, self.device = config, task, data, device
        self.metric = Metric.named(config.eval_metric) if config.eval_metric else task.metric
        self.train_data = cast(Any, Control(data.train, config.seed) if config.control else data.train)
        self.notes = [optim.init_from(model, config.init_from)] if config.init_from else []
        if frozen := optim.freeze(model, words(config.freeze)):
            self.notes.append(f"frozen: {frozen:,} parameters")
        self.model = task.place(model, device, precision)
        wrapped = distributed.wrap(self.model, device, find_unused=config.find_unused_parameters)
        self.without_sync = getattr(wrapped, "no_sync", contextlib.nullcontext)  # DDP's, or that of a sharded model
        self.parallel = compat.compiled(wrapped, device.type) if config.compile else wrapped
        self.optimizer = optim.make_optimizer(self.model, config, device)
        self.amp = Amp(self.model, self.optimizer, precision, config)
        self.ema = optim.Ema(self.model, config.ema_decay) if config.ema_decay else None
        self.evaluated = self.ema.model if self.ema is not None else self.model
        self.best: float | None = None
        self.best_loss = math.inf
        self.worse = 0  # evaluations since the last better value
        self.step = 0
        self.samples = 0  # of all ranks, since the start of this process
        rank, ranks = distributed.rank(), distributed.ranks()
        self.order = Order(len(self.train_data), config.batch_size, config.seed, rank=rank, ranks=ranks)
        automatic = min(8, max(1, usable_cpus() - 1)) if data.lazy else 0
        workers = config.workers if config.workers >= 0 else automatic
        self.loader = make_loader(data, self.train_data, self.order, device, workers)
        draws = in_order(len(cast(Any, data.validation)), config.batch_size)
        self.validation_loader = make_loader(data, data.validation, draws, device, workers)
        self.unread: list[Tensor] = []  # the losses of steps since the last line of the log
        seed_everything(config.seed + rank)  # the models are equal; from here on, each rank draws its own

    @property
    def total_steps(self) -> int:
        """The steps of the complete run: those that are done, and those that are left with these options."""
        left = -(-self.order.left() // self.config.grad_accum_steps)
        epochs = self.config.epochs - self.order.epoch - 1
        return self.config.max_steps or self.step + left + epochs * self.steps_in_epoch

    @property
    def steps_in_epoch(self) -> int:
        return -(-self.order.batches(self.order.size) // self.config.grad_accum_steps)

    def groups(self) -> Iterator[list[Batch]]:
        """Yield the rest of the epoch, ``grad_accum_steps`` micro-batches at a time; the last group may be smaller."""
        batches = map(self.on_device, read(self.loader))
        while group := list(itertools.islice(batches, self.config.grad_accum_steps)):
            yield group

    def learning_rate(self) -> float:
        """Return the rate of the next step."""
        total = self.total_steps
        warmup = round(self.config.warmup * total)
        return optim.learning_rate(self.amp.applied, peak=self.config.lr, warmup=warmup, total=total)

    def advance(self, batches: Sequence[Batch]) -> None:
        """Count the step that was made from these micro-batches, and let the averaged weights follow."""
        if self.ema is not None:
            self.ema.update(self.amp.applied, self.amp.newest_skipped)
        self.samples += self.order.advance(len(batches))
        self.step += 1

    def evaluate(self) -> dict[str, float]:
        """Return the task's measurements on the validation data, of the averaged weights if there are any."""
        with self._evaluating() as batches:
            return self.task.evaluate(self.evaluated, batches)

    def show(self) -> Sequence[str]:
        """Let the task write its pictures or samples into the run directory; return lines to print."""
        if distributed.is_sharded(self.model):
            return ("no pictures or samples: the weights are sharded over several ranks",)
        with self._evaluating() as batches:
            return self.task.show(self.evaluated, batches, self.config.run_dir)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[Iterable[Batch]]:
        self.evaluated.eval()
        try:
            with torch.no_grad(), self.amp.autocast():
                yield map(self.on_device, read(self.validation_loader))
        finally:
            optim.train_mode(self.model)

    def on_device(self, batch: Any) -> Any:
        """Move every tensor of a batch to the device."""
        if isinstance(batch, Tensor):
            is_image = self.task.channels_last and batch.dim() == 4
            memory_format = torch.channels_last if is_image else torch.preserve_format
            return batch.to(self.device, non_blocking=True, memory_format=memory_format)
        if isinstance(batch, dict):
            return {name: self.on_device(value) for name, value in batch.items()}
        return tuple(map(self.on_device, batch)) if isinstance(batch, (tuple, list)) else batch

    def is_best(self, evaluation: dict[str, float]) -> bool:
        """Return whether this is the best evaluation so far, and remember it if it is; of equal ones, by the loss."""
        if self.metric.name not in evaluation:
            message = f"the evaluation has no value `{self.metric.name}`; it has {', '.join(evaluation)}"
            raise ProjectError(message, hint="to select the best checkpoint by another, pass `--eval-metric NAME`")
        value, loss = evaluation[self.metric.name], evaluation.get("loss", math.inf)
        is_better = math.isfinite(value) and (self.best is None or not self.metric.stays_short(value, self.best))
        self.worse = 0 if is_better else self.worse + 1
        if is_best := is_better or (value == self.best and loss < self.best_loss):
            self.best, self.best_loss = value, loss if math.isfinite(loss) else math.inf
        return is_best

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint. Every rank must call this, as each has its own random generators."""
        model, optimizer = self.task.state(self.model, self.optimizer)
        return {
            "model": model,
            "optimizer": optimizer,
            "amp": self.amp.state(),
            "precision": self.amp.precision.name,
            "random": distributed.gather(random_state()),
            "epoch": self.order.epoch,
            "position": self.order.position,
            "step": self.step,
            "mean_loss": torch.stack(self.unread).cpu() if self.unread else torch.zeros(0),
            "ema": self.ema.state() if self.ema is not None else {},
            "best": self.best,
            "best_loss": self.best_loss,
            "worse": self.worse,
            "config": echo(self.config),
            "about": self.data.about,
            "fingerprint": self.data.fingerprint,
        }

    def load_state(self, state: dict[str, Any], say: Say = lambda line: None) -> None:
        """Continue exactly where ``state`` was taken; raise if it belongs to another run, report what differs."""
        self._compare(state, say)
        try:
            self.task.load_state(self.model, self.optimizer, state["model"], state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ProjectError(f"the checkpoint is of another model: {error}", hint=OTHER_RUN) from error
        self.amp.load_state(state["amp"])
        self.order.epoch, self.order.position = state["epoch"], state["position"]
        self.step, self.best, self.worse = state["step"], state["best"], state["worse"]
        self.best_loss = state.get("best_loss", math.inf)  # older checkpoints lack it
        self.unread = list(state["mean_loss"].to(self.device))
        if self.ema is not None:
            self.ema.model.load_state_dict({**state["model"], **state["ema"]})
        if len(state["random"]) == distributed.ranks():
            set_random_state(state["random"][distributed.rank()])
        else:
            seed_everything(self.config.seed + 1_000_003 * (self.step + 1) + distributed.rank())

    def _compare(self, state: dict[str, Any], say: Say) -> None:
        """Raise if data or options make the checkpoint that of another run; report options that change the result."""
        if state["fingerprint"] != self.data.fingerprint:
            raise ProjectError(
                "the data have changed since the checkpoint, so validation samples could get into the training",
                hint="to train on the new data from the weights of DIR, pass `--init-from DIR --run-dir runs/NAME`",
            )
        then, now = state["config"], echo(self.config)
        differing = [field for field in dataclasses.fields(self.config) if then.get(field.name) != now[field.name]]
        then = {**then, "precision": state["precision"], "processes": len(state["random"])}
        now = {**now, "precision": self.amp.precision.name, "processes": distributed.ranks()}
        names = [field.name for field in differing if field.metadata["resume"] == "changes"]
        names += [name for name in ("precision", "processes") if then[name] != now[name]]
        if changes := ", ".join(f"{name} {then.get(name)} → {now[name]}" for name in names):
            say(f"no longer bit-identical to the run before: {changes}")
        if names := [field.name for field in differing if field.metadata["resume"] == "same"]:
            found = ", ".join(f"`{name}` is `{now[name]}`, in the checkpoint `{then.get(name)}`" for name in names)
            options = " ".join(as_option(name, then.get(name)) for name in names).strip()
            hint = f"to resume it, pass `{options}`" if options else "to resume it, omit them"
            raise ProjectError(f"cannot resume with other options: {found}", hint=(hint, OTHER_RUN))

    def state_hash(self) -> str:
        """Return the SHA-256 of weights and buffers, which is equal for bit-identical runs."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            content = distributed.whole(tensor).detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(name.encode())
            digest.update(content.numpy().data)
        return digest.hexdigest()


class Run:
    """While entered, a training that was resumed if requested, and that stops after a signal."""

    def __init__(self, training: Training, say: Say = distributed.say) -> None:
        self.training, self.config, self.say = training, training.config, say
        self.losses: list[float] = []
        self.evaluation: dict[str, float] = {}
        self._checkpoints = Checkpoints(self.config.run_dir / "checkpoints", keep=self.config.keep)
        self._open = contextlib.ExitStack()
        self._metrics: log.Metrics | None = None  # of the first rank
        self._evaluated_at = -1

    def __enter__(self) -> Run:
        training, config = self.training, self.config
        if training.device.type != "cuda" and (signs := "; ".join(nvidia_signs())):
            print(f"warning: training on {training.device}, although the machine has {signs}", file=sys.stderr)
        for line in training.notes:
            self.say(line)
        resumed_at, is_first = self._resume(), distributed.rank() == 0
        if is_first:
            metrics = log.Metrics(config.run_dir, resumed_at=resumed_at, report_to=words(config.report_to))
            self._metrics = self._open.enter_context(contextlib.closing(metrics))
            checkpoint.write_text(config.run_dir / "config.yaml", config_text(config))
        self._write_run_json()
        self._first_step, self._samples, self._total = training.step, training.samples, training.total_steps
        bar = tqdm(total=self._total, initial=training.step, unit="step", disable=not is_first or None, file=sys.stderr)
        self._bar = self._open.enter_context(bar)
        self._prints_lines = is_first and bar.disable
        self._trace = self._open.enter_context(self._profiler()) if config.profile else None
        self._signal = self._open.enter_context(contextlib.closing(Signal()))
        self._start = self._time = self._last_line = time.perf_counter()
        optim.train_mode(training.model)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._open.close()
        if isinstance(error, compat.OUT_OF_MEMORY):
            raise out_of_memory(self.training, error) from error
        if isinstance(error, RuntimeError) and "Expected to have finished reduction" in str(error):
            raise ProjectError(
                "the loss doesn't depend on all parameters of the model, which several processes must agree on",
                hint="to allow parameters without a gradient, pass `--find-unused-parameters`",
            ) from error

    @property
    def stopping(self) -> bool:
        """Whether all ranks, which agree here, must end: by the steps, a signal, or ``--patience``."""
        training = self.training
        return bool(self._signal.agree()) or self._is_out_of_patience() or training.step >= training.total_steps

    def due(self, every: int) -> bool:
        """Return whether something that happens each ``every`` steps must happen now; 0 is never."""
        return every > 0 and self.training.step % every == 0

    def stepped(self, loss: Tensor) -> None:
        """Log the step that was made, where due."""
        training = self.training
        training.unread.append(loss)
        if self._trace is not None:
            self._trace.step()
        if training.step == self._total or self.due(self.config.log_every):
            self._log()
        if self._prints_lines and time.perf_counter() - self._last_line >= LINE_EVERY_S and training.step < self._total:
            self._print_line()

    def evaluate(self) -> bool:
        """Evaluate the model, and return whether it is the best so far."""
        training = self.training
        self.evaluation = training.evaluate()
        self._evaluated_at = training.step
        self._write("val", self.evaluation)
        numbers = {"loss": self.losses[-1]} if self.losses else {}
        numbers.update({f"val {name}": value for name, value in self.evaluation.items()})
        self._bar.clear()
        self.say("  ".join([self._place(), *(f"{name} {value:.4f}" for name, value in numbers.items())]))
        self._time = time.perf_counter()  # evaluation is not training time
        return training.is_best(self.evaluation)

    def save(self, *, is_best: bool = False) -> None:
        """Collect the state from all ranks; the first one writes it, and the model if it is the best so far."""
        state = self.training.state()
        if distributed.rank() != 0:
            return
        path = self._checkpoints.save(state, self.training.step)
        if is_best:
            self._checkpoints.keep_as(path, checkpoint.BEST)
            content = {name: state[name] for name in ("config", "about", "step")}
            content |= {"format": checkpoint.FORMAT, "metrics": self.evaluation}
            content["model"] = {**state["model"], **state["ema"]}
            checkpoint.write_aside(self.config.run_dir / checkpoint.MODEL, lambda file: torch.save(content, file))

    def end_epoch(self) -> None:
        """Evaluate where due, go to the next epoch if this one is complete, and save. After a signal, only save."""
        training, is_best = self.training, False
        if not self._signal.agreed:
            if (self.config.eval_every == 0 or self.stopping) and self._evaluated_at != training.step:
                is_best = self.evaluate()
            if not training.order.left():
                training.order.next_epoch()
        self.save(is_best=is_best)

    def finish(self, *, draw: bool = True) -> Outcome:
        """Write the result of the run, and return it. Call this while the run is entered."""
        training, stopped_by = self.training, self._signal.agreed
        state_hash = training.state_hash()
        if stopped_by:
            self.say(f"{stopped_by}: saved after step {training.step}; to continue, pass `--resume`")
        else:
            self.evaluation = self.evaluation or training.evaluate()
            self._write("finished", {"state_hash": state_hash, "skipped": training.amp.skipped})
            self._write_run_json(state_hash=state_hash, evaluation=self.evaluation)
            if draw and distributed.rank() == 0:
                for line in (*training.show(), log.draw_curves(self.config.run_dir)):
                    self.say(line)
            if training.best is None:
                self.say(f"no best model: `{training.metric.name}` was not finite in any evaluation")
            elif self._is_out_of_patience():
                stopped_by, best = "patience", f"{training.metric.name} than {training.best:.4f}"
                self.say(f"stopped: no better {best} in {training.worse} evaluations")
        return Outcome(
            losses=tuple(self.losses),
            evaluation=self.evaluation,
            steps=training.step,
            skipped=training.amp.skipped,
            state_hash=state_hash,
            stopped_by=stopped_by,
        )

    def _is_out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.training.worse

    def _place(self) -> str:
        training, steps = self.training, self.config.max_steps
        epochs = -(-steps // training.steps_in_epoch) if steps else self.config.epochs
        return f"epoch {training.order.epoch + 1}/{epochs}  step {training.step}/{self._total}"

    def _resume(self) -> int | None:
        """Return the step after which the run continues, or None for a new run."""
        run_dir, request, training = self.config.run_dir, self.config.resume, self.training
        if not request:
            if self._checkpoints.complete():
                hint = ("to continue it, pass `--resume`", OTHER_RUN)
                raise ProjectError(f"`{run_dir}` already contains a run", hint=hint)
            return None
        state = None
        if distributed.rank() == 0:
            state = self._checkpoints.newest(self.say) if request == "newest" else checkpoint.load(Path(request))
        state = distributed.from_first(state)
        if state is None:
            self.say(f"no checkpoint in `{self._checkpoints.folder}`: starting from the beginning")
            return None
        if "optimizer" not in state:
            message = f"`{request}` has the weights of a run, but not its state"
            raise ProjectError(message, hint="to start a new run from its weights, pass `--init-from FILE`")
        training.load_state(state, self.say)
        is_done = training.step >= training.total_steps
        where = "the last one: nothing is left to train" if is_done else f"epoch {training.order.epoch + 1}"
        self.say(f"resumed after step {training.step} ({where})")
        return training.step

    def _print_line(self) -> None:
        """Print the progress where there is no bar. This waits for the device."""
        training, now = self.training, time.perf_counter()
        self._last_line = now
        seconds = (now - self._start) / (training.step - self._first_step) * (self._total - training.step)
        loss = log.mean_of(training.unread) if training.unread or not self.losses else self.losses[-1]
        left = tqdm.format_interval(seconds)
        print(f"{self._place()}  loss {loss:.4f}  about {left} left", file=sys.stderr, flush=True)

    def _log(self) -> None:
        """Record one line of measurements; this waits for the device."""
        training, now = self.training, time.perf_counter()
        loss, unit = log.mean_of(training.unread), training.task.unit
        training.unread = []
        speed = (training.samples - self._samples) * training.task.units_per_sample / (now - self._time)
        self._samples, self._time = training.samples, now
        self.losses.append(loss)
        values: dict[str, float] = {
            "loss": loss,
            "lr": max(group["lr"] for group in training.optimizer.param_groups),
            "scale": training.amp.scale(),
            "skipped": training.amp.skipped,
            f"{unit}_per_second": round(speed, 1),
        }
        shown = {"loss": f"{loss:.4f}", f"{unit}/s": f"{speed:,.0f}"}
        if training.device.type == "cuda":
            values["peak_memory_bytes"] = torch.cuda.max_memory_allocated(training.device)
            shown["peak"] = f"{values['peak_memory_bytes'] / GIB:.2f} GiB"
        self._write("train", values)
        self._bar.update(training.step - self._bar.n)
        self._bar.set_postfix(shown, refresh=False)

    def _write(self, event: str, values: dict[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write(event, self.training.step, epoch=self.training.order.epoch, **values)

    def _write_run_json(self, **ending: Any) -> None:
        if distributed.rank() == 0:
            about = {"config": echo(self.config), "precision": self.training.amp.precision.name}
            content = {**about, **log.environment(self.training.device), **ending}
            checkpoint.write_text(self.config.run_dir / "run.json", log.to_json(content, indent=2) + "\n")

    def _profiler(self) -> profile:
        """Return a profiler that records ``--profile`` steps for Perfetto after three others, in which caches fill."""
        rank = distributed.rank()
        path = self.config.run_dir / (f"trace-{rank}.json" if rank else "trace.json")

        def write(profiler: Any) -> None:
            profiler.export_chrome_trace(str(path))
            self.say(f"trace: {path} (to view it, open it at https://ui.perfetto.dev)")

        return profile(
            activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()],
            schedule=schedule(wait=2, warmup=1, active=self.config.profile, repeat=1),
            on_trace_ready=write,
        )


class Signal:
    """Remember the first SIGTERM, SIGINT, or SIGUSR1 until it is closed; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.agreed, self._arrived = "", 0
        names = [name for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]  # not all on Windows
        self._before = [(signal.Signals[name], signal.signal(signal.Signals[name], self._remember)) for name in names]

    def close(self) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def agree(self) -> str:
        """Return the name of a signal that any rank received, the same on all of them, or an empty string."""
        number = distributed.largest(self._arrived)
        self.agreed = signal.Signals(number).name if number else ""
        return self.agreed

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._arrived and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._arrived = self._arrived or number


def out_of_memory(training: Training, error: BaseException) -> ProjectError:
    """Return an error with the used memory and the ways to use less."""
    config, device, used, ways = training.config, training.device, "", ["use a smaller model or smaller inputs"]
    if device.type == "cuda":
        peak, size = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        used = f" at a peak of {peak / GIB:.2f} GiB out of {size / GIB:.2f} GiB"
    if config.precision in ("fp32", "tf32"):
        ways.insert(0, "to compute in 16 bits if the device supports it, pass `--precision auto`")
    if config.batch_size % 2 == 0:
        smaller = f"--batch-size {config.batch_size // 2} --grad-accum-steps {config.grad_accum_steps * 2}"
        ways.insert(0, f"to make the same step from smaller batches, pass `{smaller}`")
    reason = str(error).splitlines()[0]
    return ProjectError(f"out of memory{used}, with `--batch-size {config.batch_size}`: {reason}", hint=ways)
