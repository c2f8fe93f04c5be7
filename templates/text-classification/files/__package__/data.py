"""Load texts and labels: pieces of Python's standard library, or a CSV, TSV, or JSONL file."""

from __future__ import annotations

import ast
import functools
import io
import json
import math
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .config import Config
from .engine import distributed
from .engine.errors import ProjectError
from .engine.loader import Data, by_chance, fingerprint
from .model import PAD
from .tables import csv_lines, read_text
from .texts import HUGGING_FACE, from_hugging_face, open_tokenizer, tokenizer_block

PYTHON_KINDS = ("code", "comment", "docstring", "message")
PER_FILE = 60  # at most this many pieces of a kind from one file, so that many authors contribute
Rows = list[tuple[str, str]]  # text and label


class Texts(Dataset[tuple[Tensor, Tensor]]):
    """Token numbers of texts, and labels; a batch is padded to its longest text."""

    draws_random_numbers = False

    def __init__(self, tokens: list[list[int]], labels: list[int], pad: int) -> None:
        self.tokens, self.labels, self.pad = tokens, torch.tensor(labels), pad

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.tokens[index]), self.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return pad_batch([self.tokens[index] for index in indices], self.pad), self.labels[indices]


def pad_batch(rows: list[list[int]], pad: int) -> Tensor:
    """Return the rows filled up to a multiple of 16: few different lengths, which suit the tensor cores."""
    length = -(-max(map(len, rows), default=1) // 16) * 16
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows], dtype=torch.long).view(-1, length)


def load_data(config: Config) -> Data:
    """Load the configured data. Any ``Dataset`` of tokens and labels works here, with ``about`` as below."""
    train, validation = python_pieces() if config.data is None else _split(_read(config.data, config), config)
    classes = sorted({label for _, label in train})
    block = _hugging_face(config) if config.model.startswith(HUGGING_FACE) else tokenizer_block(config.tokenizer)
    about: dict[str, Any] = {"classes": classes, "tokenizer": block, "context": config.context}
    about |= {"pad": block.get("pad", PAD), "vocabulary": block["size"] + ("pad" not in block)}
    about |= {"text_column": config.text_column, "encoding": config.encoding}
    encode = encoder(about)
    sides = []
    for rows in (train, validation):
        tokens = [encode(text) for text, _ in rows]
        sides.append(Texts(tokens, [classes.index(label) for _, label in rows], about["pad"]))
    about["counts"] = torch.bincount(sides[0].labels, minlength=len(classes)).tolist()
    _warn_about_cuts(config, [text for rows in (train, validation) for text, _ in rows], sides)
    return Data(
        train=sides[0], validation=sides[1], about=about, lazy=False, fingerprint=fingerprint([train, validation])
    )


def encoder(about: dict[str, Any]) -> Callable[[str], list[int]]:
    """Return the function from a text to at most ``context`` token numbers."""
    block, context = about["tokenizer"], about["context"]
    if "pad" in block:
        tokenizer = from_hugging_face("AutoTokenizer", block["name"], option="--model")
        return lambda text: list(tokenizer(text, truncation=True, max_length=context)["input_ids"])
    own = open_tokenizer(block)
    longest = 64 * context  # no token is longer than that: encoding the rest of a book would be in vain
    return lambda text: [number + 1 for number in own.encode(text[:longest])[:context]]


def _hugging_face(config: Config) -> dict[str, Any]:
    tokenizer = from_hugging_face("AutoTokenizer", config.model, option="--model")
    if tokenizer.pad_token_id is None:
        raise ProjectError(
            f"the tokenizer of `--model {config.model}` has no padding token",
            hint="to use a model with a padding token, pass `--model hf:distilbert-base-uncased`",
        )
    return {"name": config.model, "pad": int(tokenizer.pad_token_id), "size": len(tokenizer)}


def _warn_about_cuts(config: Config, texts: list[str], sides: list[Texts]) -> None:
    """Report how many texts fill the context; a text of bytes that is exactly as long isn't cut."""
    full = sum(len(row) == config.context for side in sides for row in side.tokens)
    if full and config.tokenizer == "bytes" and not config.model.startswith(HUGGING_FACE):
        full = sum(len(text.encode("utf-8", "surrogatepass")) > config.context for text in texts)
    if full and distributed.rank() == 0:
        texts_are = "text that is" if full == 1 else "texts that are"
        print(f"warning: cut the end of {full} {texts_are} longer than `--context {config.context}`", file=sys.stderr)


def _read(path: Path, config: Config) -> Rows:
    """Return the rows with a text and a label; report all others, and raise if there are too many."""
    rows: Rows = []
    bad = 0
    columns = (config.text_column, config.label_column)
    hint = "to select the columns, pass `--text-column NAME --label-column NAME`"
    for place, record in records(path, config.encoding, columns, hint=hint):
        text, label = (as_text(record[column]) or "" for column in columns)
        if text and label:
            rows.append((text, label))
            continue
        bad += 1
        missing = f"`{path}`, {place}: {'label' if text else 'text'} is empty, or not a text"
        if bad > config.max_bad_rows:
            raise ProjectError(missing, hint="fix it, or, to skip such rows, pass `--max-bad-rows COUNT`")
        print(f"skipped: {missing}", file=sys.stderr)
    if not rows:
        raise ProjectError(f"`{path}` has no rows", hint="add one row for each text after the header")
    return rows


def records(path: Path, encoding: str, columns: Sequence[str], *, hint: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every record with its position in the file; raise if one lacks a column."""
    reader = _json_records if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_records
    for place, record in reader(path, encoding):
        for column in columns:
            if column not in record:
                found = ", ".join(f"`{name}`" for name in record)
                raise ProjectError(f"`{path}`, {place} has no `{column}`; found {found}", hint=hint)
        yield place, record


def _csv_records(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    names: list[str] = []
    for number, cells in csv_lines(path, encoding):
        if names:
            yield f"line {number}", dict(zip_longest(names, cells))
        names = names or cells


def _json_records(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ProjectError(
                    f"`{path}`, line {number} is not JSON: {error}", hint="write one object per line"
                ) from error
            if not isinstance(record, dict):
                raise ProjectError(
                    f"`{path}`, line {number} is not an object",
                    hint='write objects such as {"text": "…", "label": "…"}',
                )
            yield f"line {number}", record


def as_text(value: Any) -> str | None:
    """Return a string, number, or boolean as text; None for null, NaN, and lists."""
    if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    text = str(value).strip()
    return None if text.lower() == "nan" else text


def _split(rows: Rows, config: Config) -> tuple[Rows, Rows]:
    """Split each class at random; a duplicated text is on one side only."""
    by_class: dict[str, list[str]] = {}
    for text, label in dict(reversed(rows)).items():
        by_class.setdefault(label, []).append(text)
    _check_classes(Counter(label for _, label in rows), by_class)
    held_back: set[str] = set()
    for texts in by_class.values():
        order = by_chance(len(texts)).tolist()
        held_back.update(texts[index] for index in order[: max(1, round(len(texts) * config.val_fraction))])
    train = [row for row in rows if row[0] not in held_back]
    lost = sorted({label for _, label in rows} - {label for _, label in train})
    if lost:
        raise ProjectError(
            f"no text of class `{lost[0]}` is left for training",
            hint="to validate on fewer texts, pass `--val-fraction FRACTION`",
        )
    return train, [row for row in rows if row[0] in held_back]


def _check_classes(counts: Counter[str], by_class: dict[str, list[str]]) -> None:
    if len(counts) == 1:
        raise ProjectError(
            f"all rows have the class `{next(iter(counts))}`", hint="add texts of at least one more class"
        )
    if len(counts) > 20 and 2 * len(counts) > sum(counts.values()):
        raise ProjectError(
            f"found {len(counts)} different labels in {sum(counts.values())} rows",
            hint="to select another column for the labels, pass `--label-column NAME`",
        )
    few = sorted(label for label in counts if len(by_class.get(label, ())) < 2)
    if few:
        raise ProjectError(
            f"class `{few[0]}` has fewer than 2 different texts, one for training and one for validation",
            hint="add texts to the class, or merge or remove it",
        )


@functools.cache
def python_pieces(train_each: int = 1000, validation_each: int = 200) -> tuple[Rows, Rows]:
    """Collect code, comments, docstrings, and messages in equal numbers, with separate files for validation."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    order = by_chance(len(files)).tolist()
    sides: list[Rows] = []
    seen: set[str] = set()
    for half, each in ((order[len(order) // 4 :], train_each), (order[: len(order) // 4], validation_each)):
        rows: Rows = []
        missing = Counter(dict.fromkeys(PYTHON_KINDS, each))
        for index in half:
            here = Counter(dict.fromkeys(PYTHON_KINDS, PER_FILE))
            for kind, text in _pieces(files[index]) if missing.total() else ():
                if missing[kind] and here[kind] and len(text) >= 20 and text not in seen:
                    missing[kind] -= 1
                    here[kind] -= 1
                    seen.add(text)
                    rows.append((text, kind))
        if missing.total():
            raise ProjectError(
                f"the sources of the standard library are incomplete: {missing.total()} texts are missing",
                hint="to use your own file, pass `--data FILE`",
            )
        sides.append(rows)
    return sides[0], sides[1]


def _pieces(path: Path) -> Iterator[tuple[str, str]]:
    """Yield kind and text of the pieces of a source file, with normalized whitespace."""
    comment: list[str] = []
    line: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            comment.append(token.string.lstrip("#!: "))
        elif token.type == tokenize.NEWLINE:
            yield from ((kind, " ".join(text.split())) for kind, text in _line_pieces(line))
            line = []
        elif token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            if comment:
                yield "comment", " ".join(" ".join(comment).split())
                comment = []
            line.append(token)


def _line_pieces(line: list[tokenize.TokenInfo]) -> Iterator[tuple[str, str]]:
    strings = [token.string for token in line if token.type == tokenize.STRING]
    texts = [str(ast.literal_eval(string)) for string in strings if string[0] in "\"'"]
    if len(line) == 1 and strings:
        yield from (("docstring", text) for text in texts)
    elif line:
        yield "code", line[0].line
        yield from (("message", text) for text in texts if text.count(" ") >= 2)
