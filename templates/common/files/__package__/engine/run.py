"""Hold the objects of a training, and do what the loop in ``train.py`` needs besides its steps.

A ``Training`` has model, optimizer, and data order, and the complete state of a run. A ``Run`` resumes, logs,
evaluates, saves, and stops.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, schedule
from tqdm import tqdm

from . import checkpoint, compat, distributed, log, optim
from .amp import Amp, Batch
from .checkpoint import OTHER_RUN, Checkpoints, random_state, seed_everything, set_random_state
from .device import Precision, nvidia_signs, usable_cpus
from .errors import Hint, ProjectError
from .loader import Control, Data, Order, in_order, make_loader, read
from .metrics import Metric
from .options import TrainOptions, as_option, config_text, echo, names_of, words

Say = Callable[[str], None]
LINE_EVERY_S = 10.0
GIB = 2**30


class Task:
    """What a project learns; ``task.py`` extends it.

    ``loss(model, batch)`` is the mean loss over what counts in a batch, and ``weight(batch)`` how much that is:
    samples, or the pixels or tokens that are not ignored. ``evaluate(model, batches)`` is called without gradients, in
    evaluation mode and autocast, on every rank with its share; ``distributed.total`` adds up the shares. ``show`` is
    called once at the end, on the first rank with its share: it writes pictures into the directory, and returns lines
    to print.
    """

    metric = Metric.named("loss")
    unit = "samples"
    units_per_sample = 1
    channels_last = False

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        raise NotImplementedError

    def weight(self, batch: Batch) -> float | Tensor:
        return len(batch[0])

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        raise NotImplementedError

    def show(self, model: nn.Module, batches: Iterable[Batch], run_dir: Path) -> Sequence[str]:
        return ()

    def place(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Return the model on its device, in the memory format that it computes in."""
        channels_last = self.channels_last and device.type != "mps"
        memory_format = torch.channels_last if channels_last else torch.preserve_format
        return cast(nn.Module, cast(Any, model).to(device=device, memory_format=memory_format))


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
        self.train_data: Any = Control(data.train, config.seed) if config.control else data.train
        if config.init_from:
            self.initialized = init_from(model, config.init_from)
        self.frozen = optim.freeze(model, words(config.freeze))
        self.model = task.place(model, device, precision)
        wrapped = distributed.wrap(self.model, device, find_unused=config.find_unused_parameters)
        self.without_sync = lambda: distributed.without_sync(wrapped)
        self.parallel = compat.compiled(wrapped, device.type) if config.compile else wrapped
        self.optimizer = optim.make_optimizer(self.model, config, device)
        self.amp = Amp(
            self.model,
            self.optimizer,
            precision,
            clip_grad=config.clip_grad,
            max_skips=config.max_skips,
            init_scale=config.init_scale,
            growth_interval=config.growth_interval,
        )
        if config.ema_decay and distributed.is_sharded(self.model):
            raise ProjectError("`--ema-decay` requires complete weights, but they are sharded over several ranks")
        self.ema = optim.Ema(self.model, config.ema_decay) if config.ema_decay else None
        self.best: float | None = None
        self.worse = 0  # evaluations since the best one
        self.step = 0
        self.samples = 0  # of all ranks, since the start of this process
        self.order = make_order(config, len(cast(Sized, self.train_data)))
        workers = config.workers if config.workers >= 0 else (min(8, max(1, usable_cpus() - 1)) if data.lazy else 0)
        self.loader = make_loader(data, self.train_data, self.order, device, workers)
        draws = in_order(len(cast(Sized, data.validation)), config.batch_size)
        self.validation_loader = make_loader(data, data.validation, draws, device, workers)
        self.mean_loss = log.MeanLoss(device)
        seed_everything(config.seed + distributed.rank())  # the models are equal; from here on, each rank draws its own

    @property
    def total_steps(self) -> int:
        """The steps of the complete run: those that are done, and those that are left with these options."""
        if self.config.max_steps:
            return self.config.max_steps
        accumulate = self.config.grad_accum_steps
        in_epoch, left = (-(-count // accumulate) for count in (self.order.in_epoch(), self.order.left()))
        return self.step + left + (self.config.epochs - self.order.epoch - 1) * in_epoch

    def groups(self) -> Iterator[list[Batch]]:
        """Yield the rest of the epoch, ``grad_accum_steps`` micro-batches at a time; the last group may be smaller."""
        group: list[Batch] = []
        for batch in read(self.loader):
            group.append(self.on_device(batch))
            if len(group) == self.config.grad_accum_steps:
                yield group
                group = []
        if group:
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
        """Return the task's measurements of the current model on the validation data."""
        with self._evaluating():
            return self.task.evaluate(self.model, (self.on_device(batch) for batch in read(self.validation_loader)))

    def show(self) -> Sequence[str]:
        """Let the task write its pictures or samples into the run directory; return lines to print."""
        if distributed.is_sharded(self.model):
            return ("no pictures or samples: the weights are sharded over several ranks",)
        with self._evaluating():
            batches = (self.on_device(batch) for batch in read(self.validation_loader))
            return self.task.show(self.model, batches, self.config.run_dir)

    def is_best(self, evaluation: dict[str, float]) -> bool:
        """Return whether this is the best evaluation so far, and remember it if it is."""
        if self.metric.name not in evaluation:
            raise ProjectError(
                f"the evaluation has no value `{self.metric.name}`; it has {', '.join(evaluation)}",
                hint="to select the best checkpoint by another value",
                option="--eval-metric NAME",
            )
        value = evaluation[self.metric.name]
        is_best = math.isfinite(value) and (self.best is None or not self.metric.stays_short(value, self.best))
        self.best = value if is_best else self.best
        self.worse = 0 if is_best else self.worse + 1
        return is_best

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint. Every rank must call this, as each has its own random generators."""
        model, optimizer = distributed.state(self.model, self.optimizer)
        return {
            "model": model,
            "optimizer": optimizer,
            "amp": self.amp.state(),
            "precision": self.amp.precision.name,
            "random": distributed.gather(random_state()),
            "epoch": self.order.epoch,
            "position": self.order.position,
            "step": self.step,
            "mean_loss": self.mean_loss.state(),
            "ema": self.ema.state() if self.ema is not None else {},
            "best": self.best,
            "worse": self.worse,
            "config": echo(self.config),
            "about": self.data.about,
            "fingerprint": self.data.fingerprint,
        }

    def load_state(self, state: dict[str, Any], say: Say = lambda line: None) -> None:
        """Continue exactly where ``state`` was taken; raise if it belongs to another run, report what differs."""
        self._compare(state, say)
        try:
            distributed.load_state(self.model, self.optimizer, state["model"], state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ProjectError(f"the checkpoint is of another model: {error}", hint=[OTHER_RUN]) from error
        self.amp.load_state(state["amp"])
        self.order.epoch, self.order.position = state["epoch"], state["position"]
        self.step, self.best, self.worse = state["step"], state["best"], state["worse"]
        self.mean_loss.load_state(state["mean_loss"])
        if self.ema is not None:
            self.ema.load_state(state["ema"] or dict(self.model.state_dict()))
        if len(state["random"]) == distributed.ranks():
            set_random_state(state["random"][distributed.rank()])
        else:
            seed_everything(self.config.seed + 1_000_003 * (self.step + 1) + distributed.rank())

    def _compare(self, state: dict[str, Any], say: Say) -> None:
        if state["fingerprint"] != self.data.fingerprint:
            raise ProjectError(
                "the data have changed since the checkpoint, so validation samples could get into the training",
                hint="to train on the new data from the weights of the run in DIR",
                option="--init-from DIR --run-dir runs/NAME",
            )
        then, now = state["config"], echo(self.config)
        differs = {name: then.get(name) for name in now if then.get(name) != now[name]}
        refused = [name for name in names_of(self.config, "same") if name in differs]
        if refused:
            found = ", ".join(f"`{name}` is `{now[name]}`, in the checkpoint `{then.get(name)}`" for name in refused)
            options = " ".join(as_option(name, then.get(name)) for name in refused).strip()
            raise ProjectError(
                f"cannot resume with other options: {found}",
                hint=(Hint("to resume it", option=options) if options else Hint("to resume it, omit them"), OTHER_RUN),
            )
        changes = [
            f"{name} {differs[name]} → {now[name]}" for name in names_of(self.config, "changes") if name in differs
        ]
        for name, before, after in (
            ("precision", state["precision"], self.amp.precision.name),
            ("processes", len(state["random"]), distributed.ranks()),
        ):
            changes += [f"{name} {before} → {after}"] if before != after else []
        if changes:
            say(f"no longer bit-identical to the run before: {', '.join(changes)}")

    def state_hash(self) -> str:
        """Return the SHA-256 of weights and buffers, which is equal for bit-identical runs."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            content = distributed.whole(tensor).detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(content.numpy().data)
        return digest.hexdigest()

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """While entered: evaluation mode, autocast, no gradients, and the averaged weights if there are any."""
        self.model.eval()
        try:
            with (
                torch.no_grad(),
                self.ema.in_place() if self.ema is not None else contextlib.nullcontext(),
                self.amp.autocast(),
            ):
                yield
        finally:
            optim.train_mode(self.model)

    def on_device(self, batch: Any) -> Any:
        """Move every tensor of a batch to the device."""
        if isinstance(batch, Tensor):
            moved = batch.to(self.device, non_blocking=True)
            if self.task.channels_last and moved.dim() == 4 and self.device.type != "mps":
                return moved.contiguous(memory_format=torch.channels_last)
            return moved
        if isinstance(batch, dict):
            return {name: self.on_device(value) for name, value in batch.items()}
        return tuple(map(self.on_device, batch)) if isinstance(batch, (tuple, list)) else batch


class Run:
    """While entered, a training that was resumed if requested, and that stops after a signal."""

    def __init__(self, training: Training, say: Say = distributed.say) -> None:
        self.training, self.config, self.say = training, training.config, say
        self.losses: list[float] = []
        self.evaluation: dict[str, float] = {}
        self._checkpoints = Checkpoints(self.config.run_dir / "checkpoints", keep=self.config.keep)
        self._signal = Signal()
        self._evaluated_at = self._saved_at = -1

    def __enter__(self) -> Run:
        training, config = self.training, self.config
        is_first = distributed.rank() == 0
        if training.device.type != "cuda" and (signs := nvidia_signs()):
            print(
                f"warning: training on {training.device}, although the machine has {'; '.join(signs)}", file=sys.stderr
            )
        if config.init_from:
            self.say(training.initialized)
        if training.frozen:
            self.say(f"frozen: {training.frozen:,} parameters")
        resumed_at = self._resume()
        self._metrics = None
        if is_first:
            self._metrics = log.Metrics(config.run_dir, resumed_at=resumed_at, report_to=words(config.report_to))
            checkpoint.write_aside(
                config.run_dir / "config.yaml", lambda file: file.write(config_text(config).encode())
            )
        self._write_run_json()
        self._total = training.total_steps
        self._bar = tqdm(
            total=self._total, initial=training.step, unit="step", disable=None if is_first else True, file=sys.stderr
        )
        self._prints_lines = is_first and self._bar.disable
        self._first_step, self._samples = training.step, training.samples
        self._start = self._time = self._last_line = time.perf_counter()
        self._trace = Trace(config.profile, config.run_dir / f"trace{distributed.suffix()}.json")
        self._trace.__enter__()
        self._signal.__enter__()
        optim.train_mode(training.model)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._signal.__exit__()
        self._trace.__exit__(kind, error, traceback)
        self._bar.close()
        if self._metrics is not None:
            self._metrics.close()
        if isinstance(error, compat.OUT_OF_MEMORY):
            raise out_of_memory(self.training, error) from error
        if isinstance(error, RuntimeError) and "Expected to have finished reduction" in str(error):
            raise ProjectError(
                "the loss doesn't depend on all parameters of the model, which several processes must agree on",
                hint="to allow parameters without a gradient",
                option="--find-unused-parameters",
            ) from error

    @property
    def stopping(self) -> bool:
        """Whether the loop must end: all steps are done, a signal arrived, or no better value for ``--patience``."""
        training = self.training
        return bool(self._signal.received) or self._is_out_of_patience() or training.step >= training.total_steps

    def due(self, every: int) -> bool:
        """Return whether something that happens each ``every`` steps must happen now; 0 is never."""
        return every > 0 and self.training.step % every == 0

    def stepped(self, loss: Tensor) -> None:
        """Log the step that was made, where due; all ranks agree on a signal."""
        training = self.training
        training.mean_loss.add(loss)
        self._signal.agree()
        self._trace.step()
        if training.step == self._total or self.due(self.config.log_every):
            self._log()
        elif self._prints_lines and time.perf_counter() - self._last_line >= LINE_EVERY_S:
            self._print_line()

    def evaluate(self) -> bool:
        """Evaluate the model, and return whether it is the best so far."""
        training = self.training
        self.evaluation = training.evaluate()
        self._evaluated_at = training.step
        self._write("val", self.evaluation)
        numbers = {"loss": self.losses[-1]} if self.losses else {}
        numbers.update({f"val {name}": value for name, value in self.evaluation.items()})
        told = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        self._bar.clear()
        self.say(f"epoch {training.order.epoch + 1}/{self._epochs()}  step {training.step}/{self._total}  {told}")
        self._time = time.perf_counter()  # evaluation is not training time
        return training.is_best(self.evaluation)

    def save(self, *, is_best: bool = False) -> None:
        """Collect the state from all ranks; the first one writes it, and the model if it is the best so far."""
        state = self.training.state()
        self._saved_at = self.training.step
        if distributed.rank() != 0:
            return
        path = self._checkpoints.save(state, self.training.step)
        if is_best:
            self._checkpoints.keep_as(path, checkpoint.BEST)
            names = ("config", "about", "step")
            content = {"format": checkpoint.FORMAT, **{name: state[name] for name in names}, "metrics": self.evaluation}
            content["model"] = {**state["model"], **state["ema"]}
            checkpoint.write_aside(self.config.run_dir / checkpoint.MODEL, lambda file: torch.save(content, file))

    def end_epoch(self) -> None:
        """Evaluate where due, go to the next epoch if this one is complete, and save. After a signal, only save."""
        training = self.training
        if self._signal.received:
            self.save()
            return
        is_best = False
        if (self.config.eval_every == 0 or self.stopping) and self._evaluated_at != training.step:
            is_best = self.evaluate()
        if not training.order.left():
            training.order.next_epoch()
        self.save(is_best=is_best)

    def finish(self, *, draw: bool = True) -> Outcome:
        """Write the result of the run, and return it. Call this while the run is entered."""
        training, signal_name = self.training, self._signal.received
        state_hash = training.state_hash()
        if not signal_name:
            self.evaluation = self.evaluation or training.evaluate()
            if self._metrics is not None:
                self._metrics.write("finished", training.step, state_hash=state_hash, skipped=training.amp.skipped)
            self._write_run_json(state_hash=state_hash, evaluation=self.evaluation)
        if self._trace.written:
            self.say(f"trace: {self._trace.path} (to view it, open it at https://ui.perfetto.dev)")
        if signal_name:
            self.say(f"{signal_name}: saved after step {training.step}; to continue, pass `--resume`")
        elif draw and distributed.rank() == 0:
            for line in training.show():
                self.say(line)
            is_drawn = log.draw_curves(self.config.run_dir)
            self.say(
                f"curves: {self.config.run_dir / 'curves.png'}" if is_drawn else "no curves: matplotlib is missing"
            )
        patience = "patience" if self._is_out_of_patience() else ""
        if patience and not signal_name:
            self.say(
                f"stopped: no better {training.metric.name} than {training.best:.4f} in {training.worse} evaluations"
            )
        return Outcome(
            losses=tuple(self.losses),
            evaluation=self.evaluation,
            steps=training.step,
            skipped=training.amp.skipped,
            state_hash=state_hash,
            stopped_by=signal_name or patience,
        )

    def _is_out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.training.worse

    def _epochs(self) -> str:
        in_epoch = -(-self.training.order.in_epoch() // self.config.grad_accum_steps)
        return str(-(-self.config.max_steps // in_epoch) if self.config.max_steps else self.config.epochs)

    def _resume(self) -> int | None:
        """Return the step after which the run continues, or None for a new run."""
        run_dir, request = self.config.run_dir, self.config.resume
        if not request:
            if self._checkpoints.complete():
                hint = (Hint("to continue it", option="--resume"), OTHER_RUN)
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
            raise ProjectError(
                f"`{request}` has the weights of a run, but not its state",
                hint="to start a new run from its weights",
                option="--init-from FILE",
            )
        training = self.training
        training.load_state(state, self.say)
        is_done = training.step >= training.total_steps
        where = "the last one: nothing is left to train" if is_done else f"epoch {training.order.epoch + 1}"
        self.say(f"resumed after step {training.step} ({where})")
        return training.step

    def _print_line(self) -> None:
        """Print the progress where there is no bar. This waits for the device."""
        training, now = self.training, time.perf_counter()
        self._last_line = now
        done, left = training.step - self._first_step, self._total - training.step
        loss = training.mean_loss.peek(self.losses[-1] if self.losses else float("nan"))
        time_left = f"about {duration((now - self._start) / done * left)} left"
        line = f"step {training.step}/{self._total} (epoch {training.order.epoch + 1}/{self._epochs()})"
        print(f"{line}  loss {loss:.4f}  {time_left}", file=sys.stderr, flush=True)

    def _log(self) -> None:
        """Record one line of measurements; this waits for the device."""
        training, now = self.training, time.perf_counter()
        loss, unit = training.mean_loss.read(), training.task.unit
        speed = (training.samples - self._samples) * training.task.units_per_sample / (now - self._time)
        self._samples, self._time = training.samples, now
        self.losses.append(loss)
        values: dict[str, float] = {
            "loss": loss,
            "lr": max(group["lr"] for group in training.optimizer.param_groups),
            "scale": training.amp.check_scale(),
            "skipped": training.amp.skipped,
            f"{unit}_per_second": round(speed, 1),
        }
        shown: dict[str, Any] = {"loss": f"{loss:.4f}", f"{unit}/s": f"{speed:,.0f}"}
        if training.device.type == "cuda":
            values["peak_memory_bytes"] = torch.cuda.max_memory_allocated(training.device)
            shown["peak"] = f"{values['peak_memory_bytes'] / GIB:.2f} GiB"
        self._write("train", values)
        self._bar.update(training.step - self._bar.n)
        self._bar.set_postfix(shown, refresh=False)
        if self._prints_lines and now - self._last_line >= LINE_EVERY_S and training.step < self._total:
            self._print_line()

    def _write(self, event: str, values: dict[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write(event, self.training.step, epoch=self.training.order.epoch, **values)

    def _write_run_json(self, **ending: Any) -> None:
        if distributed.rank() == 0:
            training = self.training
            about = {"config": echo(self.config), "precision": training.amp.precision.name}
            log.write_run_json(self.config.run_dir, {**about, **log.environment(training.device), **ending})


class Signal:
    """While entered, remember the first SIGTERM, SIGINT, or SIGUSR1; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signal:
        for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
            if hasattr(signal, name):  # Windows has no SIGUSR1
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self) -> None:
        """Let a signal to one rank stop all ranks after the same step."""
        number = distributed.largest(signal.Signals[self.received].value if self.received else 0)
        self.received = signal.Signals(number).name if number else ""

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name


class Trace:
    """While entered, record ``steps`` steps for Perfetto after the first few, while caches fill (``--profile N``)."""

    WARM = 3

    def __init__(self, steps: int, path: Path) -> None:
        self.path = path
        self.written = False
        self._profiler: Any = contextlib.nullcontext()
        if steps:
            self._profiler = profile(
                activities=[ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else []),
                schedule=schedule(wait=self.WARM - 1, warmup=1, active=steps, repeat=1),
                on_trace_ready=self._write,
            )
        self.step: Callable[[], None] = self._profiler.step if steps else lambda: None

    def __enter__(self) -> Trace:
        self._profiler.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profiler.__exit__(*error)

    def _write(self, profiler: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.path))
        self.written = True


def make_order(config: TrainOptions, size: int) -> Order:
    """Return this rank's order of the samples; raise if a batch is larger than the data."""
    order = Order(size, config.batch_size, config.seed, rank=distributed.rank(), ranks=distributed.ranks())
    if order.whole > size:
        raise ProjectError(
            f"a batch of {order.whole} samples is larger than the training data ({size} samples)",
            hint="to use smaller batches",
            option=f"--batch-size {max(1, size // (2 * order.ranks))}",
        )
    return order


def init_from(model: nn.Module, path: Path) -> str:
    """Load the weights of another run that fit by name and shape, and return what was loaded as a line to print."""
    content = checkpoint.load_model(path)["model"]
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in content.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise ProjectError(f"no weight of `--init-from {path}` fits this model", hint="use a run of the same model")
    model.load_state_dict(fitting, strict=False)
    others = sorted(set(own) - set(fitting))
    return f"initialized from {path}: {len(fitting)} of {len(own)} tensors" + (
        f"; new are {', '.join(others[:4])}{', …' if len(others) > 4 else ''}" if others else ""
    )


def out_of_memory(training: Training, error: BaseException) -> ProjectError:
    """Return an error with the used memory and the ways to use less."""
    config, device, used = training.config, training.device, ""
    if device.type == "cuda":
        peak, size = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        used = f" at a peak of {peak / GIB:.2f} GiB out of {size / GIB:.2f} GiB"
    ways = []
    if config.batch_size % 2 == 0:
        smaller = f"--batch-size {config.batch_size // 2} --grad-accum-steps {config.grad_accum_steps * 2}"
        ways.append(Hint("to make the same step from smaller batches", option=smaller))
    if config.precision in ("fp32", "tf32"):
        ways.append(Hint("to compute in 16 bits if the device supports it", option="--precision auto"))
    ways.append(Hint("use a smaller model or smaller inputs"))
    reason = str(error).splitlines()[0]
    return ProjectError(f"out of memory{used}, with `--batch-size {config.batch_size}`: {reason}", hint=ways)


def duration(seconds: float) -> str:
    """Return a rounded duration, such as ``40 s``, ``12 min``, or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
