"""Convert text to token numbers and back, by bytes or by the tokenizer of an installed library.

A tokenizer is ``bytes``, ``tiktoken:NAME``, the path of a ``tokenizer.json``, or ``hf:NAME`` (a Hugging Face model or a
directory). Its ``block`` in ``about`` is all that ``predict`` needs to make it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engine.errors import ProjectError, library

BYTES, TIKTOKEN, HUGGING_FACE = "bytes", "tiktoken:", "hf:"
PROBE = "The 3 naïve tests (a_b) passed!\n"


@dataclass(frozen=True)
class Tokenizer:
    """Token numbers are below ``size``; ``size`` itself marks the end of a document, or is padding."""

    size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


def tokenizer_block(name: str) -> dict[str, Any]:
    """Return the description of a tokenizer as plain values, with the content of its file and a probe."""
    is_file = name != BYTES and not name.startswith((TIKTOKEN, HUGGING_FACE))
    content = _read(Path(name)) if is_file else ""
    made = _make(name, content)
    return {"name": name, "content": content, "size": made.size, "probe": made.encode(PROBE)}


def open_tokenizer(block: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of a description; raise if it isn't the one that the model was trained with."""
    made = _make(block["name"], block["content"])
    if made.encode(PROBE) != block["probe"] or made.size != block["size"]:
        raise ProjectError(
            f"the tokenizer `{block['name']}` returns other numbers than in the training",
            hint="install the version of its library that the model was trained with",
        )
    return made


def _make(name: str, content: str) -> Tokenizer:
    if name == BYTES:
        return Tokenizer(256, _to_bytes, lambda numbers: bytes(numbers).decode(errors="replace"))
    if name.startswith(TIKTOKEN):
        return _tiktoken(name)
    if name.startswith(HUGGING_FACE):
        tokenizer = from_hugging_face("AutoTokenizer", name, option="--tokenizer")
        return Tokenizer(len(tokenizer), lambda text: list(_plain(tokenizer, text)), tokenizer.decode)
    tokenizers = _library("tokenizers", f"--tokenizer {name}")
    try:
        made = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ProjectError(
            f"cannot read `--tokenizer {name}`: {error}",
            hint="to use a file of the library tokenizers, pass `--tokenizer DIR/tokenizer.json`",
        ) from error
    return Tokenizer(
        made.get_vocab_size(), lambda text: list(made.encode(text, add_special_tokens=False).ids), made.decode
    )


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
                f"to use a model of huggingface.co, pass `{option} {HUGGING_FACE}NAME`",
                f"to use a directory written by save_pretrained(), pass `{option} {HUGGING_FACE}./DIR`",
            ),
        ) from error


def _library(module: str, wish: str) -> Any:
    ways = (
        f"to add `{module}` to the environment, run `envforge add --pip {module} && envforge install`",
        f"to use the default, omit `{wish.split()[0]}`",
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
                f"known names are {', '.join(tiktoken.list_encoding_names())}",
                "the first use of a name downloads its table, which requires a network connection",
            ),
        ) from error
    return Tokenizer(encoding.n_vocab, encoding.encode_ordinary, encoding.decode)


def _read(path: Path) -> str:
    if not path.is_file():
        raise ProjectError(
            f"`--tokenizer {path}` is neither a known name nor a file",
            hint=(
                f"to use bytes, pass `--tokenizer {BYTES}`",
                f"to use a tokenizer of tiktoken, pass `--tokenizer {TIKTOKEN}gpt2`",
                "to use a file of the library tokenizers, pass `--tokenizer DIR/tokenizer.json`",
            ),
        )
    return path.read_text(encoding="utf-8")
