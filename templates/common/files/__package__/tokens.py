"""Text to token numbers and back: bytes, or the tokenizer of a library that is installed.

`tiktoken:NAME`, the path of a `tokenizer.json`, or `hf:NAME`, a name or folder of Hugging Face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ProjectError
from .library import library

BYTES, TIKTOKEN, HUGGING_FACE = "bytes", "tiktoken:", "hf:"


@dataclass(frozen=True)
class Tokenizer:
    """Numbers below ``size``; ``size`` itself marks the end of a document, or fills up."""

    size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]


def make_tokenizer(name: str) -> Tokenizer:
    if name == BYTES:
        return Tokenizer(256, _to_bytes, lambda numbers: bytes(numbers).decode(errors="replace"))
    if name.startswith(TIKTOKEN):
        return _tiktoken(name)
    if name.startswith(HUGGING_FACE):
        tokenizer = from_hugging_face("AutoTokenizer", name, option="--tokenizer")
        return Tokenizer(len(tokenizer), lambda text: list(_plain(tokenizer, text)), tokenizer.decode)
    return _file(Path(name))


def from_hugging_face(kind: str, name: str, *, option: str, **settings: Any) -> Any:
    """``transformers.<kind>.from_pretrained``; what is missing becomes a message with a hint."""
    transformers = _library("transformers", f"{option} {name}")
    try:
        return getattr(transformers, kind).from_pretrained(name[len(HUGGING_FACE) :], **settings)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ProjectError(
            f"{option} {name} cannot be loaded: {reason}",
            hint="the name of a model on huggingface.co, or a folder that `save_pretrained` wrote (./FOLDER)",
        ) from error


def _library(module: str, wish: str) -> Any:
    hint = f"add {module} to environment.yml and lock anew, or leave {wish.split()[0]} out"
    return library(module, wish, hint=hint)


def _to_bytes(text: str) -> list[int]:
    return list(text.encode("utf-8", "surrogatepass"))


def _plain(tokenizer: Any, text: str) -> Any:
    """Without marks at its ends, and without a warning that a model takes less."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _tiktoken(name: str) -> Tokenizer:
    tiktoken = _library("tiktoken", f"--tokenizer {name}")
    try:
        encoding = tiktoken.get_encoding(name[len(TIKTOKEN) :])
    except Exception as error:  # an unknown name, or whatever its download raises
        raise ProjectError(
            f"--tokenizer {name} cannot be loaded: {str(error).splitlines()[0]}",
            hint=f"names: {', '.join(tiktoken.list_encoding_names())}; the first use downloads its table",
        ) from error
    return Tokenizer(encoding.n_vocab, encoding.encode_ordinary, encoding.decode)


def _file(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ProjectError(
            f"--tokenizer `{path}` is not a file",
            hint=f"{BYTES}, {TIKTOKEN}gpt2, {HUGGING_FACE}NAME, or the path of a tokenizer.json",
        )
    tokenizers = _library("tokenizers", f"--tokenizer {path}")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ProjectError(f"--tokenizer `{path}` cannot be read: {error}", hint="a file of `tokenizers`") from error
    size = tokenizer.get_vocab_size()
    return Tokenizer(size, lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids), tokenizer.decode)
