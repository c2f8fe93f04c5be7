"""Write text with a trained model: ``python -m PACKAGE.sample --prompt "The import system"``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from . import compat
from .checkpoint import Checkpoints
from .config import Config
from .device import PRECISIONS
from .errors import ProjectError, exit_code
from .model import GPT
from .options import option, parse, require
from .settings import LoopConfig
from .start import prepare
from .tokens import make_tokenizer


@dataclass(frozen=True, kw_only=True)
class Options:
    run_dir: Path = option(Path("runs/default"), "Use the newest checkpoint of the run in this directory.")
    prompt: str = option("\n", "Continue this text.")
    tokens: int = option(300, "Write up to this many tokens.")
    temperature: float = option(0.8, "Lower values select likelier tokens; 0 always selects the likeliest.")
    top_k: int = option(50, "Choose among this many of the likeliest tokens.")
    seed: int = option(0, "Seed the random choices with this number.")
    device: str = option("auto", "Compute on auto, cpu, cuda, cuda:1, or mps.")
    precision: str = option("auto", "Compute in this precision; auto depends on the device.", choices=PRECISIONS)

    def __post_init__(self) -> None:
        require(bool(self.prompt), "--prompt must not be empty")
        require(self.tokens >= 1 and self.top_k >= 1, "--tokens and --top-k must be at least 1")
        require(self.temperature >= 0, f"--temperature must not be negative, got {self.temperature}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(
        Options, arguments, program=f"python -m {__package__}.sample", description="Write text with a trained model."
    )
    state = Checkpoints(options.run_dir / "checkpoints", keep=1).newest(lambda line: print(line, file=sys.stderr))
    if state is None:
        raise ProjectError(
            f"no checkpoint in `{options.run_dir}`",
            hint="to train a model",
            command=f"python -m {__package__}.train --run-dir {shlex.quote(str(options.run_dir))}",
        )
    then = state["config"]
    config = Config(size=then["size"], context=then["context"], tokenizer=then["tokenizer"])
    settings = LoopConfig(device=options.device, precision=options.precision, seed=options.seed)
    device, precision = prepare(settings, lambda line: print(line, file=sys.stderr))
    tokenizer = make_tokenizer(config.tokenizer)
    model = GPT(tokenizer.size + 1, config).to(device).eval()
    model.load_state_dict({**state["model"], **state.get("ema", {})})  # averaged weights, if the run kept them
    with compat.autocast(device.type, precision.dtype):
        numbers = generate(model, tokenizer.encode(options.prompt), options, size=tokenizer.size)
    print(options.prompt + tokenizer.decode(numbers))
    return 0


@torch.no_grad()
def generate(model: GPT, prompt: Sequence[int], options: Options, *, size: int) -> list[int]:
    """Return up to ``options.tokens`` numbers after ``prompt``; ``size`` marks the end of a document."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(options.seed)
    numbers = list(prompt)
    for _ in range(options.tokens):
        seen = torch.tensor([numbers[-model.context :]], device=device)
        scores = model(seen)[0, -1, : size + 1].float().cpu()
        best, places = scores.topk(min(options.top_k, len(scores)))
        choice = 0
        if options.temperature > 0:
            chances = torch.softmax(best / options.temperature, dim=0)
            choice = int(torch.multinomial(chances, 1, generator=generator))
        number = int(places[choice])
        if number == size:
            break
        numbers.append(number)
    return numbers[len(prompt) :]


if __name__ == "__main__":
    sys.exit(exit_code(main))
