"""Turn the fields of a frozen dataclass into options of the command line and of a configuration file."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import difflib
import json
import re
import shlex
import sys
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

Config = TypeVar("Config")
Resume = Literal["same", "changes", "free"]
PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    choices: Sequence[str] = (),
    resume: Resume = "changes",
    also: Sequence[str] = (),
) -> Any:
    """Return a field with its help text and its least value; ``also`` are other names of the option.

    ``resume`` is what a resumed run may do: ``same``, it must have the same value; ``changes``, another value makes it
    another run, which is reported; ``free``, the value doesn't change what the model learns.
    """
    metadata = {"help": help, "least": least, "choices": choices, "resume": resume, "also": also}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of every training; a project's ``Config`` adds its own."""

    run_dir: Path = option(Path("runs/default"), "Write checkpoints, metrics, and curves here.", resume="free")
    resume: str = option("", "Continue from this checkpoint, or without a value from the newest.", resume="free")
    init_from: Path | None = option(None, "Start with the weights of this run or file.", resume="free")
    freeze: str = option("", "Don't train these parts, such as stem,stages.0; backbone for all but the head.")
    backbone_lr_scale: float = option(1.0, "Multiply the learning rate of all but the head by this.", least=0)
    epochs: int = option(10, "Train for this many passes over the training data.", least=1)
    max_steps: int = option(0, "Train for this many steps instead of --epochs; 0 for no limit.", least=0)
    batch_size: int = option(64, "Put this many samples into a micro-batch, on each GPU.", least=1)
    grad_accum_steps: int = option(1, "Accumulate the gradients of this many micro-batches in a step.", least=1)
    lr: float = option(2e-3, "Set the peak learning rate of AdamW.", also=["--learning-rate"])
    warmup: float = option(0.1, "Increase the learning rate during this fraction of the steps.", least=0)
    weight_decay: float = option(0.05, "Decay weights, but not biases and norms.")
    clip_grad: float = option(1.0, "Clip gradients to this norm; 0 for no clipping.", least=0)
    ema_decay: float = option(
        0.0, "Evaluate averages of the weights with this decay, such as 0.999; 0 for none.", least=0
    )
    eval_every: int = option(0, "Evaluate after this many steps; 0 for the end of each epoch.", least=0)
    eval_metric: str = option("", "Select the best checkpoint by this value of the evaluation.")
    patience: int = option(0, "Stop after this many evaluations without a better value; 0 for never.", least=0)
    device: str = option("auto", "Train on auto, cpu, cuda, cuda:1, or mps.", resume="free")
    precision: str = option("auto", "Compute in this precision.", choices=PRECISIONS, resume="free")
    init_scale: float = option(2.0**16, "Start with this loss scale (fp16 only).", least=1)
    growth_interval: int = option(
        2000, "Double the loss scale after this many steps of finite gradients (fp16).", least=1
    )
    max_skips: int = option(20, "Stop after this many consecutive steps that are not finite.", resume="free", least=1)
    detect_anomaly: bool = option(False, "Report the operation whose gradient is NaN first (slow).", resume="free")
    compile: bool = option(False, "Use torch.compile, which takes a minute or more and requires a C++ compiler.")
    find_unused_parameters: bool = option(False, "Allow parameters without a gradient on several GPUs.", resume="free")
    profile: int = option(0, "Record this many steps into trace.json.", resume="free", least=0)
    seed: int = option(0, "Seed every random generator with this number.")
    deterministic: bool = option(False, "Use only kernels with bit-identical results (slower).")
    threads: int = option(0, "Compute with this many CPU threads; 0 for as many as are usable.", least=0)
    workers: int = option(-1, "Load data in this many processes; -1 for automatic.", resume="free")
    log_every: int = option(10, "Write a line to metrics.jsonl after this many steps.", resume="free", least=1)
    save_every: int = option(500, "Save a checkpoint after this many steps, and each epoch.", resume="free", least=1)
    keep: int = option(3, "Keep this many checkpoints in addition to the best one.", resume="free", least=1)
    report_to: str = option("", "Also report to tensorboard, wandb, or both: a,b.", resume="free")
    control: bool = option(False, "Train on shuffled answers, as the control that must not learn.", resume="same")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least, value = field.metadata["least"], getattr(self, field.name)
            is_valid = least is None or value >= least
            require(is_valid, f"--{field.name.replace('_', '-')} must be at least {least}, got {value}")
        require(self.lr > 0, f"--lr must be above 0, got {self.lr}")
        require(self.warmup < 1, f"--warmup must be below 1, got {self.warmup}")
        require(self.ema_decay < 1, f"--ema-decay must be below 1, got {self.ema_decay}")
        unknown = set(words(self.report_to)) - {"tensorboard", "wandb"}
        require(not unknown, f"--report-to must be tensorboard, wandb, or both, got {self.report_to}")


def default(name: str, value: Any) -> Any:
    """Return the field ``name`` of ``TrainOptions`` with another default."""
    return dataclasses.field(default=value, metadata=TrainOptions.__dataclass_fields__[name].metadata)


def require(condition: bool, message: str) -> None:
    """Raise if a configuration is invalid, in its ``__post_init__``."""
    if not condition:
        raise ValueError(message)


def words(text: str) -> list[str]:
    """Return the parts of ``a,b``; one with a comma is in quotes."""
    return [word.strip() for line in csv.reader([text], skipinitialspace=True) for word in line if word.strip()]


class Parser(argparse.ArgumentParser):
    """Report a usage error as one line and a hint, without the list of all options."""

    def __init__(self, *, program: str, description: str) -> None:
        super().__init__(prog=program, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def error(self, message: str, hint: str = "") -> NoReturn:
        self.exit(2, f"error: {message}\n\nhint: {hint or 'to list the options, pass `--help`'}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse ignores errors of the file

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Raise for the first unknown argument, with the most similar option as a hint."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = unknown[0].partition("=")[0]
            kind = "option" if option.startswith("-") else "argument"
            self.error(f"unknown {kind} `{option}`", _similar(option, self._option_string_actions))
        return found, unknown


def _similar(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"did you mean `{near[0]}`?" if near else ""


def parse(config: type[Config], arguments: Sequence[str] | None, *, program: str, description: str) -> Config:
    """Build ``config`` from the command line and ``--config FILE``; an invalid value exits with code 2."""
    parser = Parser(program=program, description=description)
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="Read options from this file; others win.")
    add_options(parser, config)
    arguments = sys.argv[1:] if arguments is None else arguments
    if file := parser.parse_args(arguments).config:
        arguments = [*read_config(file, config, parser), *arguments]
    values = vars(parser.parse_args(arguments))
    return config_of(config, {name: value for name, value in values.items() if name != "config"}, parser)


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
        flags, choices = ["--" + field.name.replace("_", "-"), *field.metadata["also"]], field.metadata["choices"]
        details: dict[str, Any] = {"default": field.default, "help": field.metadata["help"], "dest": field.name}
        if kinds[field.name] is bool:
            details["action"] = argparse.BooleanOptionalAction
        elif choices:
            details["choices"] = choices
        else:
            details |= {"type": kinds[field.name], "metavar": field.name.rsplit("_", 1)[-1].upper()}
        if field.name == "resume":
            details |= {"nargs": "?", "const": "newest"}
        parser.add_argument(*flags, **details)


def read_config(path: Path, config: type[Any], parser: Parser) -> list[str]:
    """Return the options in a file of lines ``name: value``, which is YAML without nesting, as arguments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        parser.error(f"cannot read `--config {path}`: {error}")
    kinds, arguments = kinds_of(config), []
    for number, line in enumerate(lines, start=1):
        if not line.partition("#")[0].strip():
            continue
        place = f"`{path}`, line {number}"
        found = re.fullmatch(r"""([\w-]+)\s*:\s*("(?:[^"\\]|\\["\\nrt])*"|'[^']*'|[^"'\s].*?|)\s*(?:\s#.*)?""", line)
        if not found:
            parser.error(f"{place}: expected `name: value`, found `{line.strip()}`")
        name, value = found[1].replace("-", "_"), found[2]
        if name not in kinds:
            parser.error(f"{place}: unknown option `{name}`", _similar(name, kinds))
        if kinds[name] is bool:
            if value.lower() not in ("true", "false"):
                parser.error(f"{place}: expected true or false for `{name}`, found `{value}`")
            arguments.append(as_option(name, value.lower() == "true"))
        elif value.lower() not in ("", "null", "~"):
            plain = json.loads(value) if value.startswith('"') else value.strip("'")
            arguments.append(f"--{name.replace('_', '-')}={plain}")
    return arguments


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
