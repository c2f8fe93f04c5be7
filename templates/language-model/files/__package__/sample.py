"""Let a trained model write: ``python -m PACKAGE.sample --prompt "The import system"``."""

from __future__ import annotations

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
    run_dir: Path = option(Path("runs/default"), "folder of the run whose newest checkpoint is used")
    prompt: str = option("\n", "text to go on from")
    tokens: int = option(300, "tokens to write")
    temperature: float = option(0.8, "below 1 for likelier text, 0 for the likeliest")
    top_k: int = option(50, "choose among so many of the likeliest tokens")
    seed: int = option(0, "seed of the choices")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: str = option("auto", "what to compute in", choices=PRECISIONS)

    def __post_init__(self) -> None:
        require(bool(self.prompt), "--prompt must not be empty")
        require(self.tokens >= 1 and self.top_k >= 1, "--tokens and --top-k must be at least 1")
        require(self.temperature >= 0, f"--temperature must not be negative, got {self.temperature}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(Options, arguments, program=f"python -m {__package__}.sample", description="write text")
    state = Checkpoints(options.run_dir / "checkpoints", keep=1).newest(lambda line: print(line, file=sys.stderr))
    if state is None:
        raise ProjectError(f"there is no checkpoint in `{options.run_dir}`", hint=f"python -m {__package__}.train")
    then = state["config"]
    config = Config(size=then["size"], context=then["context"], tokenizer=then["tokenizer"])
    settings = LoopConfig(device=options.device, precision=options.precision, seed=options.seed)
    device, precision = prepare(settings, lambda line: print(line, file=sys.stderr))
    tokenizer = make_tokenizer(config.tokenizer)
    model = GPT(tokenizer.size + 1, config).to(device).eval()
    model.load_state_dict({**state["model"], **state.get("ema", {})})  # averaged weights where the run kept some
    with compat.autocast(device.type, precision.dtype):
        numbers = generate(model, tokenizer.encode(options.prompt), options, size=tokenizer.size)
    print(options.prompt + tokenizer.decode(numbers))
    return 0


@torch.no_grad()
def generate(model: GPT, prompt: Sequence[int], options: Options, *, size: int) -> list[int]:
    """Up to ``options.tokens`` numbers below ``size`` after ``prompt``; ``size``, the document's end, ends them."""
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
