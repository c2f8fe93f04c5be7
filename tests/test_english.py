"""What people read is plain technical English: no word that is never right here, and few long sentences.

Files that still have to be rewritten are listed; a file without a hit may not be in the list.
"""

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

# not yet rewritten: remove a file from the list when it is
TO_REWRITE: frozenset[str] = frozenset(
    {
        "docs/audit.md",
        "docs/bundle.md",
        "docs/catalogue.md",
        "docs/daily.md",
        "docs/detect.md",
        "docs/diff.md",
        "docs/export.md",
        "docs/fleets.md",
        "docs/install.md",
        "docs/lock.md",
        "docs/new.md",
        "docs/select.md",
        "docs/sharing.md",
        "docs/solver.md",
        "docs/templates.md",
        "docs/training.md",
        "docs/update.md",
        "docs/variants.md",
        "docs/verify-machine.md",
        "docs/verify-training.md",
        "docs/verify.md",
        "envforge/audit/hashes.py",
        "envforge/audit/records.py",
        "envforge/bundle.py",
        "envforge/cli/audit.py",
        "envforge/cli/compare.py",
        "envforge/cli/install.py",
        "envforge/cli/new.py",
        "envforge/cli/update.py",
        "envforge/cli/update_report.py",
        "envforge/daily/activation.py",
        "envforge/daily/kernel.py",
        "envforge/daily/prefix.py",
        "envforge/environment_file.py",
        "envforge/export/docker.py",
        "envforge/export/write.py",
        "envforge/install/archive.py",
        "envforge/install/downloads.py",
        "envforge/install/engine.py",
        "envforge/install/explicit.py",
        "envforge/install/link.py",
        "envforge/install/named.py",
        "envforge/install/space.py",
        "envforge/install/transfer.py",
        "envforge/install/wheels.py",
        "envforge/lock/download.py",
        "envforge/lock/index.py",
        "envforge/lock/inputs.py",
        "envforge/lock/locking.py",
        "envforge/lock/together.py",
        "envforge/lock/virtual.py",
        "envforge/machine/nvidia_text.py",
        "envforge/machine/overrides.py",
        "envforge/machine/record.py",
        "envforge/probe/world.py",
        "envforge/project/answers.py",
        "envforge/project/baseline.py",
        "envforge/project/names.py",
        "envforge/project/opened.py",
        "envforge/project/place.py",
        "envforge/project/record.py",
        "envforge/project/sources.py",
        "envforge/project/starter.py",
        "envforge/project/templates.py",
        "envforge/python_index.py",
        "envforge/revision.py",
        "envforge/sharing/address.py",
        "envforge/sharing/git.py",
        "envforge/sharing/objects.py",
        "envforge/sharing/publish.py",
        "envforge/sharing/settings.py",
        "envforge/sharing/signing.py",
        "envforge/sharing/web.py",
        "envforge/solver/installed.py",
        "envforge/spec.py",
        "envforge/verify/checks.py",
        "envforge/verify/record.py",
        "help:add",
        "help:audit",
        "help:clean",
        "help:detect",
        "help:export",
        "help:info",
        "help:install",
        "help:kernel",
        "help:lock",
        "help:lockfiles",
        "help:lockfiles-list",
        "help:lockfiles-publish",
        "help:lockfiles-pull",
        "help:lockfiles-show",
        "help:lockfiles-verify",
        "help:new",
        "help:remove",
        "help:run",
        "help:shell",
        "help:templates-new",
        "help:templates-show",
        "help:templates-test",
        "help:update",
        "help:verify",
        "templates/image-classification/files/README.md.jinja",
        "templates/language-model/files/README.md.jinja",
        "templates/segmentation/files/README.md.jinja",
        "templates/tabular/files/README.md.jinja",
        "templates/text-classification/files/README.md.jinja",
    }
)
TO_SHORTEN: frozenset[str] = frozenset(
    {
        "docs/audit.md",
        "docs/bundle.md",
        "docs/catalogue.md",
        "docs/daily.md",
        "docs/detect.md",
        "docs/diff.md",
        "docs/export.md",
        "docs/fleets.md",
        "docs/install.md",
        "docs/lock.md",
        "docs/new.md",
        "docs/select.md",
        "docs/sharing.md",
        "docs/solver.md",
        "docs/templates.md",
        "docs/training.md",
        "docs/update.md",
        "docs/variants.md",
        "docs/verify-machine.md",
        "docs/verify-training.md",
        "docs/verify.md",
        "templates/image-classification/files/README.md.jinja",
        "templates/language-model/files/README.md.jinja",
        "templates/segmentation/files/README.md.jinja",
        "templates/tabular/files/README.md.jinja",
        "templates/text-classification/files/README.md.jinja",
    }
)


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
    context = click.Context(cli, info_name="envforge")
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
    assert {place: words for place, words in hits().items() if place not in TO_REWRITE} == {}


def test_list_of_places_to_rewrite_is_up_to_date() -> None:
    assert TO_REWRITE - set(hits()) == set(), "rewritten: remove these from TO_REWRITE"


def long_sentences() -> dict[str, list[str]]:
    found = {}
    for page in documents():
        sentences = sentences_of(prose_of(page))
        long = [sentence for sentence in sentences if is_long(sentence)]
        if len(long) > max(1, LONG_SHARE * len(sentences)):
            found[str(page.relative_to(ROOT))] = long
    return found


def test_few_sentences_are_long() -> None:
    assert {page: long for page, long in long_sentences().items() if page not in TO_SHORTEN} == {}


def test_list_of_pages_to_shorten_is_up_to_date() -> None:
    assert TO_SHORTEN - set(long_sentences()) == set(), "shortened: remove these from TO_SHORTEN"


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
