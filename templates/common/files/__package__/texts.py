"""Convert text to token numbers and back, by bytes or by the tokenizer of an installed library.

A tokenizer is ``bytes``, ``tiktoken:NAME``, the path of a ``tokenizer.json``, or ``hf:NAME`` (a Hugging Face model or a
directory).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import Hint, ProjectError
from .library import library

BYTES, TIKTOKEN, HUGGING_FACE = "bytes", "tiktoken:", "hf:"


@dataclass(frozen=True)
class Tokenizer:
    """Token numbers are below ``size``; ``size`` itself marks the end of a document, or is padding."""

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
    """Call ``transformers.<kind>.from_pretrained``; raise ``ProjectError`` if library or model is missing."""
    transformers = _library("transformers", f"{option} {name}")
    try:
        return getattr(transformers, kind).from_pretrained(name[len(HUGGING_FACE) :], **settings)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ProjectError(
            f"cannot load `{option} {name}`: {reason}",
            hint=(
                Hint("to use a model of huggingface.co", option=f"{option} {HUGGING_FACE}NAME"),
                Hint("to use a directory written by save_pretrained()", option=f"{option} {HUGGING_FACE}./DIR"),
            ),
        ) from error


def _library(module: str, wish: str) -> Any:
    ways = (
        Hint(f"to add `{module}` to the environment", command=f"envforge add --pip {module} && envforge install"),
        Hint(f"to use the default, omit `{wish.split()[0]}`"),
    )
    return library(module, f"`{wish}`", hint=ways)


def _to_bytes(text: str) -> list[int]:
    return list(text.encode("utf-8", "surrogatepass"))


def _plain(tokenizer: Any, text: str) -> Any:
    """Return the tokens without special ones, and without a warning about the model's length limit."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _tiktoken(name: str) -> Tokenizer:
    tiktoken = _library("tiktoken", f"--tokenizer {name}")
    try:
        encoding = tiktoken.get_encoding(name[len(TIKTOKEN) :])
    except Exception as error:  # an unknown name, or any error of its download
        raise ProjectError(
            f"cannot load `--tokenizer {name}`: {str(error).splitlines()[0]}",
            hint=(
                Hint(f"known names are {', '.join(tiktoken.list_encoding_names())}"),
                Hint("the first use of a name downloads its table, which requires a network connection"),
            ),
        ) from error
    return Tokenizer(encoding.n_vocab, encoding.encode_ordinary, encoding.decode)


def _file(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ProjectError(
            f"`--tokenizer {path}` is neither a known name nor a file",
            hint=(
                Hint("to use bytes", option=f"--tokenizer {BYTES}"),
                Hint("to use a tokenizer of tiktoken", option=f"--tokenizer {TIKTOKEN}gpt2"),
                Hint("to use a file of the library tokenizers", option="--tokenizer DIR/tokenizer.json"),
            ),
        )
    tokenizers = _library("tokenizers", f"--tokenizer {path}")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ProjectError(
            f"cannot read `--tokenizer {path}`: {error}",
            hint="to use a file of the library tokenizers",
            option="--tokenizer DIR/tokenizer.json",
        ) from error
    size = tokenizer.get_vocab_size()
    return Tokenizer(size, lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids), tokenizer.decode)
