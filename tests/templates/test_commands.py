"""Test that every command and option in the hints, READMEs, and other files of a rendered project parses."""

from __future__ import annotations

import msgspec

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from envforge.base.distribution import distribution_name, pinned_requirement
from tests.project import builds
from tests.support.commands import OTHER_PROGRAMS, CommandFault, check_command

assert sys.platform != "win32"

from tests.templates.test_groups import GROUPS, TEMPLATES, rendered, write  # noqa: E402 - for mypy, the module is empty on Windows

PACKAGE = "digits"
SELECTIONS = ((builds.CPU_LINUX,), (builds.CU118,), (builds.CPU_MAC,))
PROGRAMS = OTHER_PROGRAMS | {"curl", "cp", "cmp", "python3", "mypy", "ruff"}
MICROMAMBA = ({"create", "--prefix", "--file"}, {"--yes"})  # required and other words, without values
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]\b(?!-\{)")
HINT = re.compile("(run|pass) `([^`]+)`")
INLINE = re.compile(r"(?:envforge|micromamba|pip|pytest|docker|sky|sbatch|python|\S*/python) .*")
# options of git, torchrun, docker, Slurm, SkyPilot, pip, and envforge (whose commands are checked by its own parsers)
FOREIGN = {
    *("--show-toplevel", "--always", "--abbrev", "--dirty", "--exclude"),
    *("--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"),
    *("--ipc", "--gpus", "--num-nodes", "--with", "--pip", "--prefix", "--file", "--variant"),
    # in common modules, but only some templates have them
    *("--max-corrupt", "--val-fraction"),
}

PARSE = """
import argparse, dataclasses, importlib, json, sys

class Parsed(Exception):
    pass

def parse_args(parser, arguments=None, namespace=None):
    known.update(parser._option_string_actions)
    found = original(parser, arguments, namespace)
    raise Parsed

package, cases = json.load(sys.stdin)
original, known, faults = argparse.ArgumentParser.parse_args, set(), []
argparse.ArgumentParser.parse_args = parse_args
for name in ("train", "smoke", "benchmark", "predict", "export"):
    try:
        module = importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError:
        continue
    try:
        module.main({"predict": ["RUN", "FILE"], "export": ["RUN"]}.get(name, []))
    except Parsed:
        pass
for place, name, arguments in cases:
    try:
        importlib.import_module(f"{package}.{name}").main(arguments)
    except Parsed:
        pass
    except SystemExit as end:
        if end.code:
            faults.append(f"{place}: {name} {arguments}")
    except ModuleNotFoundError as error:
        faults.append(f"{place}: {error}")

options, config = (importlib.import_module(f"{package}.{name}") for name in ("engine.options", "config"))
parser = argparse.ArgumentParser()
options.add_options(parser, config.Config)
for field in dataclasses.fields(config.Config):
    values = [True, False] if isinstance(field.default, bool) else [field.default]
    for value in values:
        if text := options.as_option(field.name, value):
            found = vars(original(parser, __import__("shlex").split(text)))[field.name]
            if found != value:
                faults.append(f"as_option: {text} means {found}")
print(json.dumps({"options": sorted(known), "faults": faults}))
"""


@cache
def files_of(template: str) -> dict[str, str]:
    """The files of a project with all groups; those that differ between builds have the build in their name."""
    files: dict[str, str] = {}
    for selections in SELECTIONS:
        for path, text in rendered(template, GROUPS, selections).items():
            if path not in files:
                files[path] = text
            elif files[path] != text:
                files[f"{path} ({selections[0].build.tag}, {selections[0].build.platform})"] = text
    return files


def hints(path: str, text: str) -> Iterator[tuple[str, str, str]]:
    """Each command and option in a literal text: its place, ``run`` or ``pass``, and itself, values as 1."""
    inside = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            whole = "".join(_part(part) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            whole = node.value
        else:
            continue
        yield from ((f"{path}:{node.lineno}", *found) for found in HINT.findall(whole))


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    is_package = isinstance(part, ast.FormattedValue) and getattr(part.value, "id", "") in ("__package__", "PACKAGE")
    return PACKAGE if is_package else "1"


def lines_of(path: str, text: str) -> Iterator[str]:
    """The command lines in the text of a file: indented ones, inline code, steps of workflows and tasks."""
    name = path.partition(" (")[0]
    if name.endswith((".md", ".ipynb")):
        yield from (line.strip() for line in text.splitlines() if line.startswith("    ") and name.endswith(".md"))
        prose = re.sub(r"\n(?=\S)", " ", re.sub("(?m)^    .*$", "", text) if name.endswith(".md") else text)
        yield from (span for span in re.findall("`([^`]+)`", prose) if INLINE.fullmatch(span))
        return
    if name.endswith((".py", ".json", ".toml", ".cfg", ".gitignore", ".dockerignore")) or "conda" in name:
        return
    for line in text.splitlines():
        commented = re.fullmatch(r"\s*#\s{2,}(?:RUN )?(.*)", line)
        if commented and not re.match(r"(FROM|COPY) |[\w~/.-]+:(\s|$)", commented[1]):
            yield commented[1]
    joined = text.replace("\\\n", " ")
    run = re.findall(rf"(?:-m|--module) ({PACKAGE}\.\w+[^\n]*)", re.sub("(?m)^ *#.*$", "", joined))
    yield from ("python -m " + arguments.replace('"$@"', "") for arguments in run)
    yield from re.findall(r"micromamba create [^`\\\n]*", joined)
    yield from steps(yaml.safe_load(text)) if name.endswith((".yml", ".yaml")) else ()


def steps(document: Any) -> Iterator[str]:
    """The one-line steps of a workflow."""
    for job in document.get("jobs", {}).values() if isinstance(document, dict) else ():
        yield from (step["run"] for step in job["steps"] if "\n" not in step.get("run", "\n"))


def check_line(line: str) -> Iterator[tuple[str, list[str]]]:
    """Yield module and arguments of each command that runs a module of the project; raise for unknown programs."""
    words = shlex.split(re.sub(r"\"?\$\([^()]*\)\"?", "1", line), comments=True)
    command: list[str] = []
    for word in [*words, "&&"]:
        if word not in ("&&", "||", "&", ";"):
            command.append(word)
            continue
        while command and re.match(r"[A-Za-z_]+=", command[0]):
            del command[0]
        yield from check_words(command, line)
        command = []


def check_words(words: list[str], line: str) -> Iterator[tuple[str, list[str]]]:
    if not words:
        return
    modules = [i for i, word in enumerate(words) if i and words[i - 1] in ("-m", "--module")]
    if modules and words[modules[-1]].startswith(f"{PACKAGE}."):
        yield words[modules[-1]].partition(".")[2], [_filled(word) for word in words[modules[-1] + 1 :]]
    elif "train.sbatch" in words:  # what follows is handed on to the training
        yield "train", words[words.index("train.sbatch") + 1 :]
    elif words[0] == "envforge" or words[0].endswith("/envforge"):
        check_command(shlex.join(["envforge", *words[1:]]))
    elif words[0].endswith("micromamba"):
        required, others = MICROMAMBA
        used = {word.rstrip('`"') for word in words[1:] if word.startswith("-") or word == "create"}
        if not required <= used <= required | others:
            raise CommandFault(line)
    elif words[0] not in PROGRAMS and "/" not in words[0] and words[0] != "pytest":
        raise CommandFault(f"unknown program `{words[0]}`: {line}")
    if "install" in words and words[words.index("install") - 1].endswith("pip"):
        ours = [word for word in words if "envforge" in word and "/" not in word]
        if ours not in ([], [pinned_requirement()]):
            raise CommandFault(f"another distribution than {distribution_name()}: {line}")


def _filled(word: str) -> str:
    """A placeholder such as ``RATE`` is replaced by a value that every type accepts."""
    return "1" if re.fullmatch(r"[A-Z][A-Z0-9]*", word) else word


def cases_of(template: str) -> tuple[list[tuple[str, str, list[str]]], list[str]]:
    """Every run of a module of the project that a file names, and faults of all other commands."""
    cases: list[tuple[str, str, list[str]]] = []
    faults: list[str] = []
    for path, text in files_of(template).items():
        found = [(path, line) for line in lines_of(path, text)]
        if path.startswith(f"{PACKAGE}/"):
            module = Path(path).stem if Path(path).stem in ("predict", "export", "benchmark", "smoke") else "train"
            for place, kind, hint in hints(path, text):
                if kind == "run" and " " in hint:
                    found.append((place, hint))
                elif kind == "pass" and hint.startswith("--"):
                    cases.append((place, module, [_filled(word) for word in shlex.split(hint)]))
        for place, line in found:
            try:
                cases += [(place, module, arguments) for module, arguments in check_line(line)]
            except (CommandFault, ValueError) as fault:  # noqa: PERF203 - every fault is listed
                faults.append(f"{place}: {fault}: {line}")
    return cases, faults


def parse(template: str, folder: Path, cases: list[tuple[str, str, list[str]]]) -> dict[str, list[str]]:
    """Run the arguments through the parsers of the project, and return their options and the faults."""
    write(folder, files_of(template))
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        cwd=folder,
        input=json.dumps([PACKAGE, cases]),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])  # after what --help prints
    assert not answer["faults"] or done.stderr
    return answer


@pytest.mark.parametrize("template", TEMPLATES)
def test_commands_and_options_of_a_project_parse(template: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    cases, faults = cases_of(template)
    assert faults == []
    for part, least in (("README.md", 6), ("train.sbatch", 2), (f"{PACKAGE}/", 12)):
        assert sum(place.startswith(part) for place, _, _ in cases) >= least
    answer = parse(template, tmp_path, cases)
    assert answer["faults"] == []
    known = {*answer["options"], *FOREIGN}
    unknown = [
        f"{path}: {option}"
        for path, text in files_of(template).items()
        if path == "README.md" or path.startswith(f"{PACKAGE}/") or path.endswith(".ipynb")
        for option in OPTION.findall(text)
        if option not in known
    ]
    assert unknown == []


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_file_runs_envforge_as_a_module(template: str) -> None:
    assert [path for path, text in files_of(template).items() if "-m envforge" in text] == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("envforge instal", "no such command"),
        ("micromamba create --prefix .conda", "micromamba create"),
        ("pip install envforge==0.1.0", "another distribution"),
        ("frobnicate --now", "unknown program"),
    ],
)
def test_a_command_that_would_not_run_is_a_fault(line: str, fault: str) -> None:
    with pytest.raises(CommandFault, match=fault):
        list(check_line(line))


def test_arguments_that_a_module_rejects_are_faults(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    wrong = [["--lr", "fast"], ["--flip", "False"], ["--processes", "2"], ["--precision", "bf61"]]
    answer = parse("image-classification", tmp_path, [("hint", "train", arguments) for arguments in wrong])
    assert len(answer["faults"]) == len(wrong)
