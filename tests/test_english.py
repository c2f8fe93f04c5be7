"""Test that docs, help, and messages are plain technical English: no rejected words, and few long sentences."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from envforge.cli import COMMANDS, cli

ROOT = Path(__file__).parent.parent
LONG_SENTENCE = 25  # words
LONG_SHARE = 0.05

# what is never right, and what to write
WORDS = {
    r"anew|made again": "again; re-create, regenerate",
    r"somebody|anybody|nobody|whoever": "you, another user, anyone",
    r"mend(?:s|ed|ing)?|put(?:s|ting)? right": "fix, repair, recover",
    r"half[- ]done|half[- ]written": "incomplete, interrupted",
    r"remarks?": "comment",
    r"beside": "next to, in addition to",
    r"folders?": "directory",
    r"faults?": "error, problem, invalid value",
    r"says|tells": "reports, shows, prints, documents",
    r"refuse[sd]?": "reject, exit with an error",
    r"wanted": "expected",
    r"damaged": "invalid (parsing), corrupt (bytes)",
    r"comes? with envforge|comes? along": "built-in, included",
    r"small letters|line ends|time of change": "lowercase letters, line endings, modification time",
    r"python registry": "package index",
    r"to the same bits": "bit-identical",
    r"the (?:conda|wheel) half|half of the wheels": "conda packages; wheels",
    r"all or nothing|both or neither|whole or not at all": "atomically, in one transaction",
    r"(?:written|moved|built) aside": "written to a temporary file and renamed",
    r"the outside world": "an external failure",
    r"asks? for|asked for": "requires, requests, specifies",
    r"(?:stands?|lies?) in": "is in",
    r"ours|we": "envforge, or you",
    r"simply|just|easily": "nothing",
    r"enters:|leaves:": "one sentence that says what the module does",
    r"\w+\(s\)|\(effects\)": "singular or plural",
}
_WORDS = re.compile("|".join(rf"(?<![\w-])(?:{pattern})(?![\w-])" for pattern in WORDS), re.IGNORECASE)
# right after all
_RIGHT = re.compile(r"`[^`]*`|http\(s\)|\]\([^)]*\)|https?://\S+", re.IGNORECASE)


def documents() -> list[Path]:
    """Pages that are written by hand; docs/reference.md is generated from the help."""
    pages = [
        path for path in (ROOT / "docs").rglob("*.md") if path.name != "reference.md" and "decisions" not in path.parts
    ]
    return sorted([ROOT / "README.md", *pages, *(ROOT / "templates").rglob("README.md.jinja")])


def prose_of(path: Path) -> str:
    """Return a page without code, front matter, and template statements."""
    text = re.sub(r"^(```|~~~).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\{%.*?%\}|\{#.*?#\}|<!--.*?-->", "", text, flags=re.DOTALL)


def words_in(text: str) -> list[str]:
    return [found[0] for found in _WORDS.finditer(_RIGHT.sub("X", text))]


def sentences_of(text: str) -> list[str]:
    """Return the sentences of paragraphs and list items, without headings and tables."""
    blocks = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.)\s+", text, flags=re.MULTILINE)
    paragraphs = [" ".join(block.split()) for block in blocks if not block.lstrip().startswith(("#", "|"))]
    return [part for text in paragraphs for part in re.split(r"(?<=[.!?:])\s+(?=[A-Z`*\"])", text) if part]


def is_long(sentence: str) -> bool:
    return len(re.sub(r"`[^`]*`", "X", sentence).split()) > LONG_SENTENCE


@cache
def messages(path: Path) -> tuple[tuple[int, str], ...]:
    """Return the literal texts of a module that people read, each with its line: of errors, hints, and ``echo``."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and re.search(r"(?:Error|Hint|echo|Finding)$", ast.unparse(node.func)):
            arguments = [*node.args, *(each.value for each in node.keywords if each.arg in _SHOWN)]
            found += [(node.lineno, text) for argument in arguments for text in _texts(argument)]
    return tuple(found)


_SHOWN = {"hint", "purpose", "message", "observed", "wanted", "why", "title"}


def _texts(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in value.values)
    elif isinstance(value, ast.BinOp):
        yield from (text for side in (value.left, value.right) for text in _texts(side))
    elif isinstance(value, ast.IfExp):
        yield from (text for side in (value.body, value.orelse) for text in _texts(side))


def modules() -> list[Path]:
    return sorted((ROOT / "envforge").rglob("*.py"))


def helps() -> Iterator[tuple[str, str]]:
    """Return each text of the command line's help with the command that shows it."""
    context = click.Context(cli, info_name="envforge", **cli.context_settings)
    waiting = [(name, cli.get_command(context, name)) for name in COMMANDS]
    yield "envforge", " ".join([cli.help or "", *(entry.short_help for entry in COMMANDS.values())])
    while waiting:
        path, command = waiting.pop()
        assert command is not None
        yield path, command.help or ""
        yield from ((path, each.help or "") for each in command.params if isinstance(each, click.Option))
        if isinstance(command, click.Group):
            waiting += [(f"{path} {name}", each) for name, each in command.commands.items()]


def hits() -> dict[str, list[str]]:
    """Return the words to replace, by page, module, or command."""
    found: dict[str, list[str]] = {}
    for page in documents():
        found[str(page.relative_to(ROOT))] = words_in(prose_of(page))
    for module in modules():
        texts = [f"{word} (line {line})" for line, text in messages(module) for word in words_in(text)]
        found[str(module.relative_to(ROOT))] = texts
    for command, text in helps():
        found.setdefault(f"help:{command.replace(' ', '-')}", []).extend(words_in(text))
    return {place: words for place, words in found.items() if words}


def test_no_word_of_the_list_is_used() -> None:
    assert hits() == {}


def long_sentences() -> dict[str, list[str]]:
    found = {}
    for page in documents():
        sentences = sentences_of(prose_of(page))
        long = [sentence for sentence in sentences if is_long(sentence)]
        if len(long) > max(1, LONG_SHARE * len(sentences)):
            found[str(page.relative_to(ROOT))] = long
    return found


def test_few_sentences_are_long() -> None:
    assert long_sentences() == {}


@pytest.mark.parametrize(
    "text", ["lock it anew", "Somebody mended it", "a folder", "wanted `a`, found `b`", "1 file(s)", "we refuse that"]
)
def test_words_are_found(text: str) -> None:
    assert words_in(text)


@pytest.mark.parametrize(
    "text",
    ["run `mend anew`", "expected `a`, found `b`", "the amendment was adjusted", "a bare machine", "lists (and sets)"],
)
def test_other_words_are_not_found(text: str) -> None:
    assert words_in(text) == []


def test_sentences_are_counted_without_code_tables_and_headings() -> None:
    text = (
        "# A heading "
        + "x " * 40
        + "\n\n| a |"
        + " b |" * 40
        + "\n\nOne sentence. Another `"
        + "x " * 40
        + "`.\n\n- an item\n"
    )
    assert [is_long(sentence) for sentence in sentences_of(text)] == [False, False, False]
    assert is_long("word " * 26)
