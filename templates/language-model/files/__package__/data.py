"""Load text as packed windows: Python's own documentation, or text files, which are memory-mapped.

No validation text is used for training: duplicate documents are removed, and the rest is split before it is packed.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .config import LEAST_CONTEXT, Config
from .engine import distributed
from .engine.checkpoint import write_aside
from .engine.errors import ProjectError, library
from .engine.loader import Data, by_chance, fingerprint
from .texts import BYTES, Tokenizer, open_tokenizer, tokenizer_block

Document = Any  # a numpy array of bytes, usually memory-mapped
PIECE = 1 << 20  # bytes to tokenize at once


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Tokens and their successors, ``context`` of each. Windows don't overlap; ``count`` of them are spread evenly."""

    draws_random_numbers = False

    def __init__(self, parts: list[Tensor], context: int, count: int = 0) -> None:
        self.parts = parts
        self.ends = list(accumulate(len(part) for part in parts))
        self.tokens = sum(len(part) for part in parts)
        self.context = context
        self.available = max(0, self.tokens - 1) // context
        self.count = min(count, self.available) if count else self.available

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self.available // self.count * self.context
        row = self.cut(start, self.context + 1)
        return row[:-1], row[1:]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        tokens, successors = zip(*(self[index] for index in indices))
        return torch.stack(tokens), torch.stack(successors)

    def cut(self, start: int, length: int) -> Tensor:
        """Return ``length`` tokens from ``start`` of the concatenated parts."""
        pieces: list[Tensor] = []
        number = bisect_right(self.ends, start)
        while length:
            part, end = self.parts[number], self.ends[number]
            piece = part[start - end + len(part) :][:length].long()
            pieces.append(piece)
            start, length, number = start + len(piece), length - len(piece), number + 1
        return torch.cat(pieces)


def load_data(config: Config) -> Data:
    """Load the configured text. Any ``Dataset`` of tokens and successors works here, with ``about`` as below."""
    documents = _python_documentation() if config.data is None else _documents(config.data, config)
    block = tokenizer_block(config.tokenizer)
    tokenizer = open_tokenizer(block)
    train, validation = _split(documents, config.val_fraction)
    parts = [_pack(texts, tokenizer, config) for texts in (train, validation)]
    windows = [Windows(parts[0], config.context), Windows(parts[1], config.context, config.val_windows)]
    for name, each in zip(("training", "validation"), windows):
        if not len(each):
            shorter = [f"to use shorter windows, pass `--context {each.tokens - 1}`"] * (each.tokens > LEAST_CONTEXT)
            raise ProjectError(
                f"the {name} text has {each.tokens} tokens, but `--context {config.context}` requires at least "
                f"{config.context + 1}",
                hint=(*shorter, "add more text"),
            )
    size = sum(len(text) + 1 for text in validation)  # the end of a document is one byte
    return Data(
        train=windows[0],
        validation=windows[1],
        about={
            "tokenizer": block,
            "vocabulary": block["size"] + 1,
            "end": block["size"],
            "context": config.context,
            "bytes_per_token": size / windows[1].tokens,
            "prompt": windows[1].cut(0, min(24, windows[1].tokens)).tolist(),
        },
        lazy=False,
        fingerprint=fingerprint([hashlib.sha256(document).digest() for document in documents]),
    )


def _python_documentation() -> list[Document]:
    """Load the topics of Python's ``help()``: 79 documents, 0.4 MB, without repeated paragraphs."""
    hint = ["to use your own text, pass `--data FILE`"]
    topics = library("pydoc_data.topics", "the built-in data", hint=hint).topics
    seen: set[str] = set()
    documents: list[Document] = []
    for name in sorted(topics):
        paragraphs = dict.fromkeys(text.strip("\n") for text in topics[name].split("\n\n"))
        new = [text for text in paragraphs if text.strip() and text not in seen]
        seen.update(new)
        if new:
            documents.append(numpy.frombuffer(bytearray("\n\n".join(new).encode()), dtype=numpy.uint8))
    return documents


def _documents(path: Path, config: Config) -> list[Document]:
    """Map each file into memory, sorted by name, without empty files and duplicates."""
    suffixes = tuple(config.suffixes.lower().split(","))
    if path.is_dir():
        paths = [each for each in sorted(path.rglob("*")) if each.is_file() and each.suffix.lower() in suffixes]
    elif path.is_file():
        paths = [path]
    else:
        raise ProjectError(
            f"`--data {path}` is neither a file nor a directory",
            hint="to use a text file or a directory of text files, pass `--data PATH`",
        )
    sizes = Counter(size for each in paths if (size := each.stat().st_size))
    seen: set[bytes] = set()
    documents: list[Document] = []
    for each in paths:
        if not (size := each.stat().st_size):
            continue
        document: Document = numpy.memmap(each, dtype=numpy.uint8, mode="c")
        digest = hashlib.sha256(document).digest() if sizes[size] > 1 else b""
        if digest not in seen:
            documents.append(document)
        seen.update({digest} - {b""})
    if not documents:
        found = f"found {len(paths)} files with the suffixes {config.suffixes}, and none with content"
        raise ProjectError(
            f"`{path}` contains no text: {found}",
            hint="to read files with other suffixes, pass `--suffixes .txt,.log`",
        )
    return documents


def _split(documents: list[Document], part: float) -> tuple[list[Document], list[Document]]:
    """Hold back complete random documents, or the end of each if they are too few or too unequal."""
    wanted = part * sum(map(len, documents))
    chosen: set[int] = set()
    held = 0
    for number in by_chance(len(documents)).tolist():
        if held + len(documents[number]) <= wanted:
            chosen.add(number)
            held += len(documents[number])
    if held >= wanted / 2:
        kept = [document for number, document in enumerate(documents) if number not in chosen]
        return kept, [documents[number] for number in sorted(chosen)]
    cuts = [_line_end(document, round(len(document) * (1 - part))) for document in documents]
    heads = [document[:cut] for document, cut in zip(documents, cuts)]
    return heads, [document[cut:] for document, cut in zip(documents, cuts) if cut < len(document)]


def _line_end(document: Document, near: int) -> int:
    """Return the position after the first line ending from ``near`` on, or ``near`` if the line is very long."""
    found = bytes(document[near : near + PIECE]).find(b"\n")
    return near if found < 0 else near + found + 1


def _pack(documents: list[Document], tokenizer: Tokenizer, config: Config) -> list[Tensor]:
    """Return all documents as tokens, with a mark after each."""
    end = torch.tensor([tokenizer.size])
    if config.tokenizer == BYTES:
        return [part for document in documents for part in (torch.from_numpy(document), end)]
    digest = hashlib.sha256(config.tokenizer.encode())
    for document in documents:
        digest.update(hashlib.sha256(document).digest())
    path = config.run_dir / f"tokens-{digest.hexdigest()[:16]}.bin"
    if distributed.rank() == 0 and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, lambda file: [file.write(piece) for piece in _encoded(documents, tokenizer)])
    distributed.from_first(None)  # all wait for the first
    return [torch.from_numpy(numpy.memmap(path, dtype=numpy.int32, mode="c"))]


def _encoded(documents: list[Document], tokenizer: Tokenizer) -> Iterator[bytes]:
    for document in documents:
        start = 0
        while start < len(document):
            stop = _line_end(document, min(start + PIECE, len(document)))
            text = bytes(document[start:stop]).decode("utf-8", errors="replace")
            yield numpy.array(tokenizer.encode(text), dtype=numpy.int32).tobytes()
            start = stop
        yield numpy.array([tokenizer.size], dtype=numpy.int32).tobytes()
