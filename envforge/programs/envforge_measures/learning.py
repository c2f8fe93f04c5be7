"""Train the project: on true labels, where it must learn; on shuffled labels; with a GradScaler; and again bit by bit.

The first update is observed: the dtypes of its operations, and autocast in the forward and backward pass.
"""

# ruff: noqa: BLE001, ICN001, PLC0415 - any error of a project is a result; numpy is optional
from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .context import Context, Weights, batches, finite, quiet, words

_LOOK_AT = 3
_HALF = 4  # updates of a repeated run before and after its checkpoint
_TELL_EVERY_S = 2.0
_HEAVY = ("mm", "addmm", "bmm", "baddbmm", "convolution", "attention")
_LOW = ("bfloat16", "float16")
_CLEAN, _OVERFLOW = 2.0**8, 2.0**60  # scales of the GradScaler
_UPDATES = 3


def project(context: Context) -> dict[str, Any]:
    """Import the package, which all other measurements of the project need."""
    found = context.project
    return {"package": found.package, "file": str(found.train.__file__)}


def learning(context: Context) -> dict[str, Any]:
    """Train the smoke configuration in low precision on true labels, and observe its first update."""
    training = context.project.training(context.low)
    return train(context, training, watched=True)


def control(context: Context) -> dict[str, Any]:
    """Train the same configuration on shuffled labels, which shows the score without learning."""
    return train(context, context.project.training(context.low, shuffled=True), watched=False)


def train(context: Context, training: Any, *, watched: bool) -> dict[str, Any]:
    """Run all updates of a training; record an error of the project and stop there."""
    weights = Weights(training.model)
    facts: dict[str, Any] = {"precision": training.amp.precision.name, **context.project.bounds(training)}
    losses: list[Any] = []
    error = None
    total = training.total_updates
    started = told = time.monotonic()
    try:
        for number, group in enumerate(batches(training, total), start=1):
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                context.say({"event": "update", "number": number, "of": total})
            if watched and number == 1:
                seen = watched_update(training, group)
                losses.append(seen.pop("loss"))
                facts.update(seen)
            else:
                losses.append(training.train_step(group))
            if watched and number == _LOOK_AT:  # a scaler can skip the first updates
                facts.update(gradients(training.model))
    except Exception as problem:
        error = words(problem, most=1500)
        if watched and "parameters" not in facts:
            facts.update(gradients(training.model))
    context.synchronize()
    facts["seconds"] = round(time.monotonic() - started, 3)
    evaluation = training.evaluate() if error is None else {}
    return {
        **facts,
        "updates": len(losses),
        "losses": finite(losses),
        "evaluation": {name: finite([value])[0] for name, value in evaluation.items()},
        "skipped": int(training.amp.skipped),
        "error": error,
        "weights": len(weights.before),
        "weights_moved": weights.moved(),
        "weights_wild": weights.wild(),
    }


def guard(context: Context) -> dict[str, Any]:
    """Inject NaN into the model's output for one update; weights and running statistics must not change."""
    training = context.project.training(context.low)
    groups = batches(training, 2)
    training.train_step(next(groups))  # the optimizer creates its state
    before = {name: tensor.detach().clone() for name, tensor in training.model.state_dict().items()}
    planted: list[bool] = []

    def spoil(module: Any, inputs: Any, output: Any) -> Any:  # noqa: ARG001 - the signature of a hook
        if isinstance(output, torch.Tensor):
            planted.append(True)
            return output * float("nan")
        return output

    handle = training.model.register_forward_hook(spoil)  # the loss and all gradients become NaN
    error = None
    try:
        training.train_step(next(groups))
    except Exception as problem:
        error = words(problem)
    finally:
        handle.remove()
    after = training.model.state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    wild = [name for name in changed if not bool(torch.isfinite(after[name].float()).all())]
    return {"planted": bool(planted), "error": error, "changed": changed, "wild": wild}


class Operations(TorchDispatchMode):
    """Count matrix products and convolutions by the dtype of their result, after the casts of autocast."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        parts = str(function).split(".")
        if any(word in parts[min(1, len(parts) - 1)] for word in _HEAVY):
            first = result[0] if isinstance(result, (tuple, list)) else result
            if isinstance(first, torch.Tensor):
                self.dtypes[str(first.dtype).replace("torch.", "")] += 1
        return result


class Passes:
    """Hooks on the model that record whether autocast is on in the forward and backward pass."""

    def __init__(self, model: torch.nn.Module, kind: str) -> None:
        self.kind = kind
        self.forward: bool | None = None
        self.forward_dtype: str | None = None
        self.backward: bool | None = None
        self._handles = [model.register_forward_pre_hook(self._at_forward)]
        first = next((p for p in model.parameters() if p.requires_grad), None)
        if first is not None:
            self._handles.append(first.register_hook(self._at_gradient))  # type: ignore[no-untyped-call]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _at_forward(self, module: Any, inputs: Any) -> None:
        self.forward = autocast_is_on(self.kind)
        self.forward_dtype = autocast_dtype(self.kind) if self.forward else None

    def _at_gradient(self, gradient: Any) -> None:
        self.backward = autocast_is_on(self.kind)


def autocast_is_on(kind: str) -> bool:
    """Return whether autocast is on for a device type in this thread; torch 2.4 changed the function."""
    if kind == "cpu" and not _takes_kind():
        return bool(torch.is_autocast_cpu_enabled())
    return bool(torch.is_autocast_enabled(kind) if _takes_kind() else torch.is_autocast_enabled())


def autocast_dtype(kind: str) -> str:
    """Return the dtype that autocast casts to."""
    if _takes_kind():
        return str(torch.get_autocast_dtype(kind)).replace("torch.", "")
    found = torch.get_autocast_cpu_dtype() if kind == "cpu" else torch.get_autocast_gpu_dtype()
    return str(found).replace("torch.", "")


def _takes_kind() -> bool:
    return hasattr(torch, "get_autocast_dtype")


def watched_update(training: Any, group: Any) -> dict[str, Any]:
    """Run one update and return what was observed; its loss is a tensor under ``loss``."""
    passes, operations = Passes(training.model, training.device.type), Operations()
    try:
        with operations:
            loss = training.train_step(group)
    finally:
        passes.remove()
    return {
        "loss": loss,
        "heavy": sum(operations.dtypes.values()),
        "low": sum(operations.dtypes[name] for name in _LOW),
        "dtypes": dict(operations.dtypes),
        "autocast_forward": passes.forward,
        "autocast_dtype": passes.forward_dtype,
        "autocast_backward": passes.backward,
    }


def gradients(model: torch.nn.Module) -> dict[str, Any]:
    """Return the norm of the last update's gradients, and which are missing, zero, or not finite."""
    without: list[str] = []
    zero: list[str] = []
    wild: list[str] = []
    squares = 0.0
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, parameter in named:
        if parameter.grad is None:
            without.append(name)
            continue
        size = float(parameter.grad.detach().double().norm())
        if size - size != 0:  # inf or nan
            wild.append(name)
        elif size == 0.0:
            zero.append(name)
        else:
            squares += size * size
    return {
        "parameters": len(named),
        "without_gradient": without,
        "zero_gradient": zero,
        "wild_gradient": wild,
        "gradient_norm": squares**0.5,
    }


def scaler(context: Context) -> dict[str, Any]:
    """Run three clean updates, and three updates with a scale that is far too large."""
    return {**_gradients_by_scaler(context), "clean": _scaled(context, _CLEAN), "overflow": _scaled(context, _OVERFLOW)}


def _gradients_by_scaler(context: Context) -> dict[str, Any]:
    """Compare the gradients of the first update, after unscaling and clipping, with those in fp32."""
    found: list[torch.Tensor | None] = []
    for precision in ("fp16", "fp32"):
        training = context.project.training(precision, init_scale=_CLEAN)
        try:
            training.train_step(next(iter(batches(training, 1))))
        except Exception as problem:
            return {"gradient_error": None, "gradient_problem": words(problem)}
        parts = [p.grad.detach().double().reshape(-1).cpu() for p in training.model.parameters() if p.grad is not None]
        found.append(torch.cat(parts) if parts else None)
    low, full = found
    if low is None or full is None or low.shape != full.shape or not float(full.norm()):
        return {"gradient_error": None, "gradient_problem": "there are no gradients to compare"}
    error = finite([(low - full).norm() / full.norm()])[0]
    ratio = finite([low.norm() / full.norm()])[0]
    return {"gradient_error": error, "gradient_ratio": ratio, "gradient_problem": None}


def _scaled(context: Context, scale: float) -> dict[str, Any]:
    training = context.project.training("fp16", init_scale=scale)
    weights = Weights(training.model)
    scales = [float(training.amp.scale())]
    losses: list[Any] = []
    error = None
    try:
        for group in batches(training, _UPDATES):
            losses.append(training.train_step(group))
            scales.append(float(training.amp.scale()))
    except Exception as problem:
        error = words(problem)
    context.synchronize()
    return {
        "wanted_scale": scale,
        "scales": scales,
        "losses": finite(losses),
        "moved": weights.moved(),
        "weights": len(weights.before),
        "wild": weights.wild(),
        "error": error,
    }


def repeat(context: Context) -> dict[str, Any]:
    """Run twice, and resume from a checkpoint in the middle of the first run, all deterministic."""
    try:
        checkpoints = context.project.checkpoints()
        first = context.project.training(context.low, deterministic=True)
        losses = _losses(first, _HALF)
        checkpoints.save(first.state(), _HALF)
        randomness = _randomness()
        losses += _losses(first, _HALF)
        second = context.project.training(context.low, deterministic=True)
        again = _losses(second, 2 * _HALF)
        resumed, resumed_randomness = _resume(context, checkpoints)
        late = _losses(resumed, _HALF)
    finally:
        torch.use_deterministic_algorithms(False)
    return {
        "updates": 2 * _HALF,
        "losses": finite(losses),
        "second_losses": finite(again),
        "resumed_losses": finite(late),
        "state": _state_hash(first),
        "second_state": _state_hash(second),
        "resumed_state": _state_hash(resumed),
        "optimizer": _optimizer_hash(first),
        "resumed_optimizer": _optimizer_hash(resumed),
        "lost_generators": sorted(name for name, digest in randomness.items() if resumed_randomness[name] != digest),
    }


def _losses(training: Any, updates: int) -> list[float]:
    return [float(training.train_step(group)) for group in batches(training, updates)]


def _resume(context: Context, checkpoints: Any) -> tuple[Any, dict[str, str]]:
    """Return a new training with the state of the checkpoint."""
    training = context.project.training(context.low, deterministic=True)
    _scramble()  # generators that the checkpoint doesn't restore will differ
    training.load_state(checkpoints.newest(quiet))
    return training, _randomness()


def _scramble() -> None:
    random.seed(98765)
    torch.manual_seed(98765)
    try:
        import numpy
    except ImportError:
        return
    numpy.random.seed(98765)


def _randomness() -> dict[str, str]:
    """Return a digest of the state of each global generator."""
    states = {"python": repr(random.getstate()).encode(), "torch": bytes(torch.get_rng_state().tolist())}
    if torch.cuda.is_available():
        states["cuda"] = bytes(torch.cuda.get_rng_state().tolist())
    try:
        import numpy
    except ImportError:
        pass
    else:
        states["numpy"] = repr([str(part) for part in numpy.random.get_state()]).encode()
    return {name: hashlib.sha256(state).hexdigest() for name, state in states.items()}


def _state_hash(training: Any) -> str:
    """Return the SHA-256 of weights and buffers."""
    return _hash(sorted(training.model.state_dict().items()))


def _optimizer_hash(training: Any) -> str:
    state = training.optimizer.state_dict()["state"]
    return _hash(sorted((f"{k}.{name}", value) for k, entry in state.items() for name, value in entry.items()))


def _hash(named: Any) -> str:
    digest = hashlib.sha256()
    for name, value in named:
        digest.update(str(name).encode())
        tensor = value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
