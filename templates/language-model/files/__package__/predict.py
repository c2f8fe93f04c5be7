"""Write text with a trained model: ``python -m PACKAGE.predict runs/default "The import system"``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from .config import Config
from .engine.checkpoint import restore
from .engine.device import choose_device
from .engine.errors import exit_code
from .engine.options import Parser
from .model import GPT, make_model
from .output import output_file, write_rows
from .texts import open_tokenizer


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(program=f"python -m {__package__}.predict", description="Continue texts with a trained model.")
    parser.add_argument("run", type=Path, metavar="RUN", help="The directory of a run, or a model.pt.")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="Continue these texts.")
    parser.add_argument("--tokens", type=int, default=300, help="Write up to this many tokens.")
    parser.add_argument("--temperature", type=float, default=0.8, help="Lower values select likelier tokens.")
    parser.add_argument("--top-k", type=int, default=50, help="Choose among this many of the likeliest tokens.")
    parser.add_argument("--seed", type=int, default=0, help="Seed the random choices with this number.")
    parser.add_argument(
        "--output", type=output_file, metavar="FILE", help="Write this CSV or JSONL file; stdout by default."
    )
    parser.add_argument("--json", action="store_true", help="Write JSON lines instead of text.")
    parser.add_argument("--device", default="auto", help="Compute on auto, cpu, cuda, cuda:1, or mps.")
    options = parser.parse_args(arguments)
    if options.tokens < 1 or options.top_k < 1 or options.temperature < 0:
        parser.error("--tokens and --top-k must be at least 1, and --temperature at least 0")
    model, _, about = restore(options.run, Config, make_model)
    net = cast(GPT, model.to(choose_device(options.device)))
    how = {name: getattr(options, name) for name in ("tokens", "temperature", "top_k", "seed")}
    rows = predict(net, about, options.prompts, **how)
    if options.json or options.output:
        write_rows(rows, options.output, as_json=options.json)
    else:
        for row in rows:
            print(row["prompt"] + row["text"])
    return 0


def predict(model: GPT, about: dict[str, Any], prompts: Sequence[str], **how: Any) -> Iterator[dict[str, Any]]:
    """Yield a row for each prompt, with the text that continues it."""
    tokenizer = open_tokenizer(about["tokenizer"])
    for prompt in prompts:
        numbers = tokenizer.encode(prompt) or [about["end"]]
        yield {"prompt": prompt, "text": tokenizer.decode(generate(model, numbers, end=about["end"], **how))}


@torch.no_grad()
def generate(
    model: GPT,
    prompt: Sequence[int],
    *,
    end: int,
    tokens: int = 300,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
) -> list[int]:
    """Return up to ``tokens`` numbers after ``prompt``; ``end`` marks the end of a document.

    A temperature of 0 always selects the likeliest.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    numbers = list(prompt)
    for _ in range(tokens):
        seen = torch.tensor([numbers[-model.context :]], device=device)
        scores = model(seen)[0, -1, : end + 1].float().cpu()
        best, places = scores.topk(min(top_k, len(scores)))
        choice = 0
        if temperature > 0:
            choice = int(torch.multinomial(torch.softmax(best / temperature, dim=0), 1, generator=generator))
        number = int(places[choice])
        if number == end:
            break
        numbers.append(number)
    return numbers[len(prompt) :]


if __name__ == "__main__":
    sys.exit(exit_code(main))
