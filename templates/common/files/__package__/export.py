"""Export a trained model for other programs: ``python -m PACKAGE.export runs/default --format onnx``.

The outputs of the exported model are compared with the original before the command reports success.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import Config
from .engine import compat
from .engine.checkpoint import restore, write_aside
from .engine.errors import ProjectError, exit_code, library
from .engine.options import Parser
from .model import example_inputs, make_model
from .output import output_file

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
TOLERANCE = 1e-3  # largest difference of an output, relative to the largest output
Inputs = tuple[Tensor, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(program=f"python -m {__package__}.export", description="Export a trained model and compare it.")
    parser.add_argument("run", type=Path, metavar="RUN", help="The directory of a run, or a model.pt.")
    parser.add_argument("--format", choices=tuple(SUFFIXES), default="torch", help="Write this format.")
    parser.add_argument("--output", type=output_file, metavar="FILE", help="Write this file; by default into the run.")
    options = parser.parse_args(arguments)
    model, config, about = restore(options.run, Config, make_model)
    folder = options.run if options.run.is_dir() else options.run.parent
    path: Path = options.output or folder / f"model{SUFFIXES[options.format]}"
    inputs = example_inputs(config, about)
    write = {"onnx": to_onnx, "torch": to_torch, "safetensors": to_safetensors}[options.format]
    with torch.no_grad():
        exported = write(model, inputs, path, lambda: make_model(config, about))
        for size in (1, len(inputs[0])):
            batch = tuple(each[:size] for each in inputs)
            check(model(*batch), exported(*batch), path)
    print(f"wrote {path}: its outputs differ from the model's by less than {TOLERANCE:g} of the largest one")
    return 0


def check(expected: Tensor, found: Tensor, path: Path) -> None:
    """Raise if the outputs of the exported model are not those of the original."""
    difference = float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference < TOLERANCE:
        path.unlink(missing_ok=True)
        message = f"expected a difference of at most {TOLERANCE:g}, found {difference:g}"
        raise ProjectError(f"the exported model returns other outputs: {message}")


def to_torch(model: nn.Module, inputs: Inputs, path: Path, _: Callable[[], nn.Module]) -> Callable[..., Tensor]:
    """Write a program for ``torch.export.load``, which needs none of this project's code."""
    if compat.TORCH < (2, 5):
        raise ProjectError(f"`--format torch` requires torch 2.5 or later, found {torch.__version__}")
    batch = torch.export.Dim("batch", max=1 << 16)
    program = torch.export.export(model, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    write_aside(path, lambda file: torch.export.save(program, file))
    loaded: Callable[..., Tensor] = torch.export.load(path).module()
    return loaded


def to_onnx(model: nn.Module, inputs: Inputs, path: Path, _: Callable[[], nn.Module]) -> Callable[..., Tensor]:
    """Write an ONNX file, and run it with onnxruntime."""
    for name in ("onnx", "onnxscript"):
        library(name, "`--format onnx`")
    runtime = library("onnxruntime", "`--format onnx`")
    batch = torch.export.Dim("batch", max=1 << 16)
    shapes = tuple({0: batch} for _ in inputs)
    names = [f"input{number}" for number in range(len(inputs))]
    torch.onnx.export(
        model, inputs, str(path), dynamo=True, dynamic_shapes=shapes, input_names=names, external_data=False
    )
    session = runtime.InferenceSession(str(path))

    def call(*batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: each.numpy() for name, each in zip(names, batch)})[0])

    return call


def to_safetensors(model: nn.Module, _: Inputs, path: Path, make: Callable[[], nn.Module]) -> Callable[..., Tensor]:
    """Write the weights only; the model is made by ``model.py``."""
    files = library("safetensors.torch", "`--format safetensors`")
    content = files.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    write_aside(path, lambda file: file.write(content))
    again = make().eval()
    again.load_state_dict(files.load_file(path))
    return again


if __name__ == "__main__":
    sys.exit(exit_code(main))
