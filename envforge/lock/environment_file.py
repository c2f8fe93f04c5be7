"""Add or remove one dependency line in environment.yml and preserve every other byte.

Every other byte is preserved, which a round trip through a YAML library doesn't guarantee.

The result is parsed again to check that it means what was requested.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from envforge.base.suggest import nearest
from envforge.base.urls import has_secrets
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.names import NameMapping, is_torch_family
from envforge.lock.project import project_command


def replace_scalar(text: str, node: yaml.Node, value: str) -> str:
    """Replace a scalar; the rest of the line is unchanged."""
    return text[: node.start_mark.index] + quoted(value) + text[node.end_mark.index :]


def delete_lines(text: str, node: yaml.Node) -> str:
    """Delete the lines of a node, including a comment at the end of its last line."""
    return text[: line_start(text, node.start_mark.index)] + text[next_line(text, last_index(node)) :]


def after_line(text: str, node: yaml.Node, line: str) -> str:
    """Insert a line after the last line of a node."""
    at = next_line(text, last_index(node))
    newline = line_end(text)
    before = text[:at]
    if before and not before.endswith("\n"):
        before += newline
    return f"{before}{line}{newline}{text[at:]}"


def last_index(node: yaml.Node) -> int:
    """Return the end of the last scalar of a node, because PyYAML puts the end of a block after trailing comments."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return last_index(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return last_index(node.value[-1])
    index: int = node.end_mark.index
    return index


def line_start(text: str, index: int) -> int:
    """Return where the line of an index begins."""
    return text.rfind("\n", 0, index) + 1


def next_line(text: str, index: int) -> int:
    """Return where the line after the one of an index begins."""
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1


def line_end(text: str) -> str:
    """Return the line ending that a text uses."""
    return "\r\n" if "\r\n" in text else "\n"


def quoted(text: str) -> str:
    """Return a scalar that YAML reads as this string."""
    # a plain `yes` or `null` would not be read as a string
    is_plain = re.fullmatch(r"[A-Za-z_][\w.-]*", text) is not None and _is_text(text)
    return text if is_plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_text(text: str) -> bool:
    return isinstance(yaml.safe_load(text), str)


Section = Literal["conda", "pip"]

_CONDA = re.compile(r"(?:(?P<channel>[\w./+:-]+)::)?(?P<name>[A-Za-z0-9_][\w.-]*)(?P<rest>[ =<>!~][^#'\"\[\]\n]*)?")
_VERSION = re.compile(r"[=<>!~0-9*]\S*( \S+)?")
_TORCH_IN_CONDA = re.compile(r"(?:py)?torch(?:-(?:cpu|gpu|cuda|mutex))?|libtorch|torchvision|torchaudio|triton")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One requested package: ``text`` is its line in the file, ``name`` its name in its package manager."""

    text: str
    name: str
    section: Section


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """The new text, and the lines that were added and removed."""

    text: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One package in the file, with its YAML node."""

    name: str
    section: Section
    text: str
    node: yaml.ScalarNode


def parse_wanted(words: Sequence[str], section: Section) -> tuple[Wanted, ...]:
    """Parse the packages on the command line; raise ``RequestError`` if one is invalid."""
    read = _pip if section == "pip" else _conda
    found = tuple(read(word.strip()) for word in words)
    for one in found:
        refuse_torch(one.name, one.text)
    return found


def refuse_torch(name: str, text: str = "") -> None:
    """Raise ``RequestError`` for the torch family, whose builds must fit the driver and the GPU."""
    if _TORCH_IN_CONDA.fullmatch(canonicalize_name(name)) is None and not is_torch_family(name, text):
        return
    raise RequestError(
        f"`{name}` is part of the PyTorch build, which envforge selects for the GPU and its driver",
        hint=(
            Hint("to list the builds that this machine supports", "envforge explain"),
            Hint("to lock this project for another build", "envforge lock --variant TAG"),
            Hint("to create a project for another build", "envforge new TEMPLATE DIR --cuda VERSION"),
        ),
        code="torch-family",
    )


def add(text: str, wanted: Sequence[Wanted], where: str) -> Edit:
    """Add or change the line of each package; raise ``EnvforgeError`` if the file can't be edited."""
    added, removed = [], []
    for one in wanted:
        entries = _named(text, one.name, where)
        _refuse_other_owner(one, entries, where)
        if len(entries) > 1:
            raise EnvforgeError(
                f"`{where}` lists `{one.name}` on {len(entries)} lines, for different platforms",
                hint="edit these lines; then, to update the lockfile",
                command=project_command("lock", Path(where), None),
                code="several-lines",
            )
        if not entries:
            text = _insert(text, one, where)
        elif entries[0].text != one.text:
            text = replace_scalar(text, entries[0].node, one.text)
            removed.append(entries[0].text)
        else:
            continue
        added.append(one.text)
        _check(text, one, where)
    return Edit(text=text, added=tuple(added), removed=tuple(removed))


def remove(text: str, names: Sequence[str], where: str) -> Edit:
    """Remove every line of each package, from conda and from ``pip:``; raise ``EnvforgeError`` if there is none."""
    removed = []
    for name in names:
        refuse_torch(name)
        entries = _named(text, name, where)
        if not entries:
            known = [entry.name for entry in read_entries(text, where)]
            near = nearest(name.lower(), known, alike=0.6)
            raise RequestError(
                f"`{where}` doesn't list `{name}`; it lists {', '.join(f'`{one}`' for one in known)}",
                hint=f"did you mean `{near}`?" if near else "",
                code="not-asked-for",
            )
        removed += [entry.text for entry in entries]
        while entries:  # each deletion moves the nodes, so the text is parsed again
            text = _delete(text, entries[0], where)
            entries = _named(text, name, where)
    return Edit(text=text, removed=tuple(removed))


def _conda(word: str) -> Wanted:
    from rattler import MatchSpec  # noqa: PLC0415 - 0.1 s
    from rattler.exceptions import InvalidMatchSpecError  # noqa: PLC0415

    match = _CONDA.fullmatch(word)
    if match is None or has_secrets(word):
        raise _not_conda(word)
    rest = re.sub(r"\s*([<>=!~,|]+)\s*", r"\1", (match["rest"] or "").strip())
    if rest and _VERSION.fullmatch(rest) is None:
        raise _not_conda(word)
    try:
        MatchSpec(f"{match['name']} {rest}".strip())
    except InvalidMatchSpecError as error:
        raise _not_conda(word) from error
    channel = f"{match['channel']}::" if match["channel"] else ""
    name = match["name"].lower()
    return Wanted(text=f"{channel}{name} {rest}".strip(), name=name, section="conda")


def _not_conda(word: str) -> RequestError:
    return RequestError(
        f"`{word}` is not a valid conda package; expected a name and an optional version, such as `numpy >=2,<3`",
        hint="to add a wheel from the package index, pass `--pip`",
        code="bad-package",
    )


def _pip(word: str) -> Wanted:
    try:
        requirement = Requirement(word)
    except InvalidRequirement as error:
        raise RequestError(
            f"`{word}` is not a valid requirement: {str(error).splitlines()[0]}",
            hint='write a requirement such as `"wandb>=0.19"`',
            code="bad-package",
        ) from error
    return Wanted(text=word, name=canonicalize_name(requirement.name), section="pip")


def _refuse_other_owner(one: Wanted, entries: Sequence[Entry], where: str) -> None:
    other = next((entry for entry in entries if entry.section != one.section), None)
    if other is None:
        return
    place = "under `pip:`" if other.section == "pip" else "among the conda dependencies"
    words = ["--pip", one.text] if one.section == "pip" else [one.text]
    commands = [
        project_command("remove", Path(where), None, [other.name]),
        project_command("add", Path(where), None, words),
    ]
    raise EnvforgeError(
        f"`{where}` already lists `{other.text}` {place}, and a package can't have two owners",
        hint="to replace it",
        command=" && ".join(commands),
        code="two-owners",
    )


def _named(text: str, name: str, where: str) -> list[Entry]:
    mapping = NameMapping.bundled()
    wanted = canonicalize_name(name)
    both = {wanted, mapping.to_python(name), canonicalize_name(mapping.to_conda(wanted))}
    return [entry for entry in read_entries(text, where) if canonicalize_name(entry.name) in both]


def read_entries(text: str, where: str) -> list[Entry]:
    """Return every package that the file requests, conda packages first."""
    conda, pip = _sequences(text, where)
    found = [_entry(node, "conda") for node in conda.value if isinstance(node, yaml.ScalarNode)]
    return found + [_entry(node, "pip") for node in (pip.value if pip else ())]


def _entry(node: yaml.ScalarNode, section: Section) -> Entry:
    line = str(node.value)
    if section == "pip":
        name: str = canonicalize_name(re.split(r"[\s\[<>=!~;@]", line, maxsplit=1)[0])
    else:
        name = re.split(r"[\s<>=!~]", line.rpartition("::")[2].strip(), maxsplit=1)[0].lower()
    return Entry(name=name, section=section, text=line, node=node)


def _sequences(text: str, where: str) -> tuple[yaml.SequenceNode, yaml.SequenceNode | None]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise EnvforgeError(
            f"`{where}` is not valid YAML: {' '.join(str(error).split())}", code="bad-environment"
        ) from error
    dependencies = _value(root, "dependencies")
    if not isinstance(dependencies, yaml.SequenceNode):
        raise EnvforgeError(f"`{where}` is invalid at `dependencies`: expected a list", code="bad-environment")
    pip = next((found for node in dependencies.value if (found := _value(node, "pip")) is not None), None)
    return dependencies, pip if isinstance(pip, yaml.SequenceNode) else None


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _insert(text: str, one: Wanted, where: str) -> str:
    """Insert a line after the last one of its section, with the same indentation."""
    conda, pip = _sequences(text, where)
    sequence = pip if one.section == "pip" else conda
    if sequence is None:
        return _insert_section(text, conda, one, where)
    if sequence.flow_style or not sequence.value:
        return _insert_in_flow(text, sequence, one, where)
    plain = [node for node in sequence.value if isinstance(node, yaml.ScalarNode)]
    last = (plain or sequence.value)[-1]
    start = line_start(text, last.start_mark.index)
    lead = text[start : last.start_mark.index]
    if not plain:  # the list contains only `pip:`, which must come last
        return text[:start] + f"{_dash(lead)}{quoted(one.text)}{line_end(text)}" + text[start:]
    return after_line(text, last, f"{_dash(lead)}{quoted(one.text)}")


def _insert_section(text: str, conda: yaml.SequenceNode, one: Wanted, where: str) -> str:
    if conda.flow_style or not conda.value:
        raise EnvforgeError(
            f"`{where}` lists its dependencies on one line, where `pip:` can't be added",
            hint="write each dependency on its own line",
            code="bad-environment",
        )
    last = conda.value[-1]
    lead = text[line_start(text, last.start_mark.index) : last.start_mark.index]
    indent = " " * (len(_dash(lead)) + _dash(lead).index("-"))  # nested as deep as the list in its own key
    newline = line_end(text)
    return after_line(text, last, f"{_dash(lead)}pip:{newline}{indent}- {quoted(one.text)}")


def _insert_in_flow(text: str, sequence: yaml.SequenceNode, one: Wanted, where: str) -> str:
    end = sequence.end_mark.index - 1
    if not sequence.flow_style or text[end : end + 1] != "]":
        raise EnvforgeError(
            f"`{where}` has an empty list of dependencies", hint="write it as `[]`", code="bad-environment"
        )
    return f"{text[:end].rstrip()}{', ' if sequence.value else ''}{quoted(one.text)}{text[end:]}"


def _delete(text: str, entry: Entry, where: str) -> str:
    """Delete the line of a package, and ``pip:`` with its last package."""
    conda, pip = _sequences(text, where)
    sequence = pip if entry.section == "pip" and pip is not None else conda
    if sequence.flow_style:
        return _delete_in_flow(text, sequence, entry)
    node: yaml.Node = entry.node
    if sequence is pip and len(pip.value) == 1:
        node = next(one for one in conda.value if _value(one, "pip") is not None)
    return delete_lines(text, node)


def _delete_in_flow(text: str, sequence: yaml.SequenceNode, entry: Entry) -> str:
    number = next(i for i, node in enumerate(sequence.value) if node.start_mark.index == entry.node.start_mark.index)
    start, end = entry.node.start_mark.index, entry.node.end_mark.index
    if number + 1 < len(sequence.value):
        end = sequence.value[number + 1].start_mark.index
    elif number:
        start = sequence.value[number - 1].end_mark.index
    return text[:start] + text[end:]


def _check(text: str, one: Wanted, where: str) -> None:
    # an edit on text can land in a construct that was not foreseen, so parse the result like any other reader
    if one.text not in [entry.text for entry in read_entries(text, where) if entry.section == one.section]:
        raise EnvforgeError(
            f"`{one.text}` can't be added to `{where}` automatically",
            hint="add it by hand; then, to update the lockfile",
            command=project_command("lock", Path(where), None),
            code="cannot-edit",
        )


def _dash(lead: str) -> str:
    """Return the text before an entry, with its own dash if the entry shares a line with ``pip:``."""
    return lead if lead.strip() == "-" else "  - "
