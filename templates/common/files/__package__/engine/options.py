"""Turn the fields of a frozen dataclass into options of the command line and of a configuration file."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import shlex
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from .errors import Hint

Config = TypeVar("Config")
Resume = Literal["same", "changes", "free"]


def option(
    default: Any, help: str, *, choices: Sequence[str] = (), resume: Resume = "changes", also: Sequence[str] = ()
) -> Any:
    """Return a field with its help text; ``also`` are other names of the option.

    ``resume`` is what a resumed run may do: ``same``, it must have the same value; ``changes``, another value makes it
    another run, which is reported; ``free``, the value doesn't change what the model learns.
    """
    metadata = {"help": help, "choices": tuple(choices), "resume": resume, "also": tuple(also)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of every training; a project's ``Config`` adds its own."""

    run_dir: Path = option(
        Path("runs/default"), "Write checkpoints, metrics, and curves into this directory.", resume="free"
    )
    resume: str = option("", "Continue from this checkpoint, or without a value from the newest.", resume="free")
    init_from: Path | None = option(None, "Start with the weights of this run or file.", resume="free")
    freeze: str = option("", "Don't train these parts, such as stem,stages.0; backbone for all but the head.")
    backbone_lr_scale: float = option(1.0, "Multiply the learning rate of all but the head by this.")
    epochs: int = option(10, "Train for this many passes over the training data.")
    max_steps: int = option(0, "Train for this many steps instead of --epochs; 0 for no limit.")
    batch_size: int = option(64, "Put this many samples into a micro-batch, on each GPU.")
    grad_accum_steps: int = option(1, "Accumulate the gradients of this many micro-batches in a step.")
    lr: float = option(2e-3, "Set the peak learning rate of AdamW.", also=["--learning-rate"])
    warmup: float = option(0.1, "Increase the learning rate during this fraction of the steps.")
    weight_decay: float = option(0.05, "Decay weights, but not biases and norms.")
    clip_grad: float = option(1.0, "Clip gradients to this norm; 0 for no clipping.")
    ema_decay: float = option(0.0, "Evaluate a moving average of the weights with this decay, such as 0.999; 0: none.")
    eval_every: int = option(0, "Evaluate after this many steps; 0 for the end of each epoch.")
    eval_metric: str = option("", "Select the best checkpoint by this value of the evaluation.")
    patience: int = option(0, "Stop after this many evaluations without a better value; 0 for never.")
    device: str = option("auto", "Train on auto, cpu, cuda, cuda:1, or mps.", resume="free")
    precision: str = option(
        "auto",
        "Compute in this precision; auto depends on the device.",
        choices=("auto", "fp32", "tf32", "bf16", "fp16"),
        resume="free",
    )
    init_scale: float = option(2.0**16, "Start with this loss scale (fp16 only).")
    growth_interval: int = option(2000, "Double the loss scale after this many steps without overflow (fp16 only).")
    max_skips: int = option(20, "Stop after this many consecutive steps that are not finite.", resume="free")
    detect_anomaly: bool = option(False, "Report the operation whose gradient is NaN first (slow).", resume="free")
    compile: bool = option(False, "Use torch.compile, which takes a minute or more and requires a C++ compiler.")
    find_unused_parameters: bool = option(False, "Allow parameters without a gradient on several GPUs.", resume="free")
    profile: int = option(0, "Record this many steps into trace.json.", resume="free")
    seed: int = option(0, "Seed every random generator with this number.")
    deterministic: bool = option(False, "Use only kernels with bit-identical results (slower).")
    threads: int = option(0, "Compute with this many CPU threads; 0 for as many as are usable.")
    workers: int = option(-1, "Load data in this many processes; -1 for automatic.", resume="free")
    log_every: int = option(10, "Write a line to metrics.jsonl after this many steps.", resume="free")
    save_every: int = option(500, "Save a checkpoint after this many steps, and after each epoch.", resume="free")
    keep: int = option(3, "Keep this many checkpoints in addition to the best one.", resume="free")
    report_to: str = option("", "Also report to tensorboard, wandb, or both: a,b.", resume="free")
    control: bool = option(False, "Train on shuffled answers, as the control that must not learn.", resume="same")

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "grad_accum_steps", "log_every", "save_every", "keep", "max_skips")
        for name in (*counts, "growth_interval"):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("max_steps", "eval_every", "patience", "profile", "threads", "clip_grad", "backbone_lr_scale"):
            value = getattr(self, name)
            require(value >= 0, f"--{name.replace('_', '-')} must not be negative, got {value}")
        require(self.lr > 0, f"--lr must be above 0, got {self.lr}")
        require(0 <= self.warmup < 1, f"--warmup must be at least 0 and below 1, got {self.warmup}")
        require(0 <= self.ema_decay < 1, f"--ema-decay must be at least 0 and below 1, got {self.ema_decay}")
        require(self.init_scale >= 1, f"--init-scale must be at least 1, got {self.init_scale}")
        unknown = set(words(self.report_to)) - {"tensorboard", "wandb"}
        require(not unknown, f"--report-to must be tensorboard, wandb, or both, got {self.report_to}")


def default(name: str, value: Any) -> Any:
    """Return the field ``name`` of ``TrainOptions`` with another default."""
    metadata = next(field.metadata for field in dataclasses.fields(TrainOptions) if field.name == name)
    return dataclasses.field(default=value, metadata=metadata)


def require(condition: bool, message: str) -> None:
    """Raise if a configuration is invalid, in its ``__post_init__``."""
    if not condition:
        raise ValueError(message)


def words(text: str) -> list[str]:
    """Return the parts of ``a,b``."""
    return [word.strip() for word in text.split(",") if word.strip()]


class Parser(argparse.ArgumentParser):
    """Report a usage error as one line and a hint, without the list of all options."""

    def __init__(self, *, program: str, description: str) -> None:
        super().__init__(prog=program, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def error(self, message: str, hint: Hint | None = None) -> NoReturn:
        hint = hint or Hint("to list the options", option="--help")
        self.exit(2, f"error: {message}\n\nhint: {hint}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse ignores errors of the file

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Raise for the first unknown argument, with the most similar option as a hint."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = unknown[0].partition("=")[0]
            near = _similar(option, list(self._option_string_actions)) if option.startswith("-") else None
            kind = "option" if option.startswith("-") else "argument"
            self.error(f"unknown {kind} `{option}`", Hint(f"did you mean `{near}`?") if near else None)
        return found, unknown


def _similar(option: str, known: Sequence[str]) -> str | None:
    """Return the option that ``option`` abbreviates by its initials, is part of, or resembles."""
    word = option.strip("-").replace("_", "-")
    names = {name.strip("-"): name for name in known}
    found = [name for name in names if "".join(part[:1] for part in name.split("-")) == word.replace("-", "")]
    found += [name for name in names if min(len(word), len(name)) > 2 and (word in name or name in word)]
    found += difflib.get_close_matches(word, names, n=1)
    return names[found[0]] if found else None


def parse(config: type[Config], arguments: Sequence[str] | None, *, program: str, description: str) -> Config:
    """Build ``config`` from the command line and ``--config FILE``; an invalid value exits with code 2."""
    parser = Parser(program=program, description=description)
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="Read options from this file; others win.")
    add_options(parser, config)
    arguments = sys.argv[1:] if arguments is None else arguments
    if file := parser.parse_args(arguments).config:
        arguments = [*read_config(file, config, parser), *arguments]
    values = vars(parser.parse_args(arguments))
    del values["config"]
    return config_of(config, values, parser)


def config_of(config: type[Config], values: dict[str, Any], parser: argparse.ArgumentParser) -> Config:
    """Build ``config`` from parsed values; an invalid value exits like an error of ``parser``."""
    try:
        return config(**values)
    except ValueError as error:
        parser.error(str(error))


def add_options(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    """Add one option per field of ``config``; ``run_dir`` becomes ``--run-dir``."""
    kinds = kinds_of(config)
    for field in dataclasses.fields(config):
        flags = ["--" + field.name.replace("_", "-"), *field.metadata["also"]]
        details: dict[str, Any] = {"default": field.default, "help": field.metadata["help"], "dest": field.name}
        if kinds[field.name] is bool:
            parser.add_argument(*flags, action=argparse.BooleanOptionalAction, **details)
            continue
        choices = field.metadata["choices"]
        details["metavar"] = f"{{{','.join(choices)}}}" if choices else field.name.rsplit("_", 1)[-1].upper()
        if field.name == "resume":
            details |= {"nargs": "?", "const": "newest"}
        parser.add_argument(*flags, type=_reader(kinds[field.name], choices), **details)


def read_config(path: Path, config: type[Any], parser: argparse.ArgumentParser) -> list[str]:
    """Return the options in a file of lines ``name: value``, which is YAML without nesting, as arguments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        parser.error(f"cannot read `--config {path}`: {error}")
    kinds = kinds_of(config)
    arguments = []
    for number, line in enumerate(lines, start=1):
        name, colon, text = (part.strip() for part in line.partition(":"))
        name = name.replace("-", "_")
        if not name or name.startswith("#"):
            continue
        if not colon or line[:1].isspace():
            parser.error(f"`{path}`, line {number}: expected `name: value`, found `{line.strip()}`")
        if name not in kinds:
            near = _similar(name, [known.replace("_", "-") for known in kinds])
            meant = f"; did you mean `{near.replace('-', '_')}`?" if near else ""
            parser.error(f"`{path}`, line {number}: unknown option `{name}`{meant}")
        value, flag = _scalar(text), name.replace("_", "-")
        if kinds[name] is bool and not isinstance(value, bool):
            parser.error(f"`{path}`, line {number}: expected true or false for `{name}`, found `{text}`")
        if kinds[name] is bool:
            arguments.append(as_option(name, value))
        elif value is not None:
            arguments.append(f"--{flag}={value}")
    return arguments


def _scalar(text: str) -> str | bool | None:
    """Return the value of a YAML scalar; argparse converts numbers."""
    if text[:1] == '"':
        return str(json.JSONDecoder().raw_decode(text)[0])
    if text[:1] == "'":
        return text[1:].partition("'")[0]
    text = text.partition(" #")[0].strip()
    return {"true": True, "false": False, "null": None, "~": None, "": None}.get(text.lower(), text)


def config_text(config: Any) -> str:
    """Return the configuration as the text of a file for ``--config``, without what names this run."""
    values = {name: value for name, value in echo(config).items() if name not in ("run_dir", "resume")}
    return "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())


def echo(config: Any) -> dict[str, str | int | float | bool | None]:
    """Return the configuration as plain values, for the log and the checkpoint."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def from_echo(config: type[Config], values: dict[str, Any], **changes: Any) -> Config:
    """Return the configuration that ``echo`` turned into ``values``, with other values for some fields."""
    kinds = kinds_of(config)
    known = {name: value if value is None else kinds[name](value) for name, value in values.items() if name in kinds}
    return config(**{**known, **changes})


def as_option(name: str, value: Any) -> str:
    """Return how the command line sets a field; empty for None, which no option can state."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return "" if value is None else f"--{flag} {shlex.quote(str(value))}"


def kinds_of(config: type[Any]) -> dict[str, Any]:
    """Return the type of each field; ``Path`` for ``Path | None``, because an option always has a value."""
    return {name: (*typing.get_args(hint), hint)[0] for name, hint in typing.get_type_hints(config).items()}


def _reader(kind: Callable[[str], Any], choices: Sequence[str]) -> Callable[[str], Any]:
    """Return a function that converts a value, and rejects it in the words of the other errors."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            expected = {int: "an integer", float: "a number"}.get(kind, "another value")  # type: ignore[call-overload]
            raise argparse.ArgumentTypeError(f"expected {expected}, got `{text}`") from None
        if choices and value not in choices:
            raise argparse.ArgumentTypeError(f"expected one of {', '.join(choices)}; got `{text}`")
        return value

    return read
