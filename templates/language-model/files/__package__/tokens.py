"""Text to token numbers and back: bytes, or a tokenizer where `tiktoken` or `tokenizers` is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import BYTES, TIKTOKEN
from .errors import ProjectError
from .library import library


@dataclass(frozen=True)
class Tokenizer:
    """Numbers below ``size``; ``size`` itself marks the end of a document."""

    size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]

    @property
    def end(self) -> int:
        return self.size


def make_tokenizer(name: str) -> Tokenizer:
    if name == BYTES:
        return Tokenizer(256, lambda text: list(text.encode()), lambda numbers: bytes(numbers).decode(errors="replace"))
    return _tiktoken(name[len(TIKTOKEN) :]) if name.startswith(TIKTOKEN) else _file(Path(name))


def _library(module: str, tokenizer: str) -> Any:
    hint = f"add {module} to environment.yml and lock anew, or take --tokenizer {BYTES}"
    return library(module, f"--tokenizer {tokenizer}", hint=hint)


def _tiktoken(name: str) -> Tokenizer:
    tiktoken = _library("tiktoken", f"{TIKTOKEN}{name}")
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as error:  # an unknown name, or whatever its download raises
        raise ProjectError(
            f"--tokenizer {TIKTOKEN}{name} cannot be loaded: {str(error).splitlines()[0]}",
            hint=f"names: {', '.join(tiktoken.list_encoding_names())}; the first use downloads its table",
        ) from error
    return Tokenizer(encoding.n_vocab, encoding.encode_ordinary, encoding.decode)


def _file(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ProjectError(
            f"--tokenizer `{path}` is not a file", hint=f"{BYTES}, {TIKTOKEN}gpt2, or the path of a tokenizer.json"
        )
    tokenizers = _library("tokenizers", str(path))
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ProjectError(f"--tokenizer `{path}` cannot be read: {error}", hint="a file of `tokenizers`") from error
    size = tokenizer.get_vocab_size()
    return Tokenizer(size, lambda text: list(tokenizer.encode(text).ids), tokenizer.decode)
