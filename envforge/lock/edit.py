"""Add packages to environment.yml or remove them, and preserve every other byte.

A round trip through a YAML library doesn't preserve comments and quotes, so the text is edited. The result is parsed
again to check that it means what was requested. Removing what was added restores the bytes from before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml
from msgspec import Struct
from packaging.utils import canonicalize_name

from envforge.base.documents import load_yaml
from envforge.base.suggest import nearest
from envforge.base.urls import has_secrets, hide_secrets
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.environment import (
    BREAK,
    Environment,
    PackageRequest,
    Section,
    last_index,
    line_start,
    next_line,
    parse_environment,
)
from envforge.lock.match_spec import BadSpecError, parse_spec
from envforge.lock.names import NameMapping, is_torch_family
from envforge.lock.pip_requirement import BadRequirementError, parse_requirement
from envforge.lock.platforms import EVERYWHERE
from envforge.lock.project import read_text
from envforge.lock.request import LockRequest


def replace_scalar(text: str, node: yaml.Node, value: str) -> str:
    """Replace a scalar; the rest of the line is unchanged."""
    return text[: node.start_mark.index] + quoted(value) + text[node.end_mark.index :]


def delete_lines(text: str, node: yaml.Node) -> str:
    """Delete the lines of a node, including a comment at the end of its last line."""
    start = line_start(text, node.start_mark.index)
    while start and not text[start : node.start_mark.index].strip():  # the dash is on a line of its own
        start = line_start(text, start - 1)
    before, after = text[:start], text[next_line(text, last_index(node)) :]
    if not after and BREAK.search(text, len(text) - 1) is None:  # a file without a final line ending keeps none
        before = before.removesuffix(line_end(text))
    return before + after


def after_line(text: str, node: yaml.Node, line: str) -> str:
    """Insert a line after the last line of a node."""
    at = next_line(text, last_index(node))
    before, newline = text[:at], line_end(text)
    if before and at == len(text) and BREAK.search(text, at - 1) is None:
        return f"{before}{newline}{line}"
    return f"{before}{line}{newline}{text[at:]}"


def line_end(text: str) -> str:
    """Return the line ending that a text uses."""
    match = BREAK.search(text)
    return match[0] if match else "\n"


def quoted(text: str, *, is_json: bool = False) -> str:
    """Return a scalar that YAML reads as this string; JSON requires quotes."""
    # a plain `yes` or `null` would not be read as a string
    is_plain = re.fullmatch(r"[A-Za-z_][\w.-]*", text) is not None and isinstance(load_yaml(text), str)
    return text if is_plain and not is_json else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_TORCH_IN_CONDA = re.compile(r"(?:py)?torch(?:-(?:cpu|gpu|cuda|mutex))?|libtorch|torchvision|torchaudio|triton")


class NewPackage(Struct, frozen=True, kw_only=True):
    """A package to add: ``text`` is its line in the file, ``name`` its name in its package manager."""

    text: str
    name: str
    section: Section


class Edit(Struct, frozen=True, kw_only=True):
    """The new text, and the lines that were added and removed."""

    text: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def parse_packages(words: Sequence[str], section: Section) -> tuple[NewPackage, ...]:
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


def add(text: str, packages: Sequence[NewPackage], request: LockRequest) -> Edit:
    """Add or change the line of each package; raise ``EnvforgeError`` if the file can't be edited.

    ``text`` is that of the first environment file. Commands in errors have all files of ``request``.
    """
    added, removed = [], []
    for one in packages:
        environment = parse_environment(text, request.environment)
        entries = _named(environment, one.name)
        _refuse_other_owner(one, entries, request)
        _refuse_limited(environment, one, entries, request)
        if not entries:
            text = _insert(environment, one)
        elif entries[0].text != one.text:
            text = replace_scalar(text, entries[0].node, one.text)
            removed.append(entries[0].text)
        else:
            continue
        added.append(one.text)
        _check(text, one, environment, request)
    return Edit(text=text, added=tuple(added), removed=tuple(removed))


def _refuse_limited(
    environment: Environment, one: NewPackage, entries: Sequence[PackageRequest], request: LockRequest
) -> None:
    """Raise ``EnvforgeError`` if the package has several lines, or one that doesn't apply to all platforms."""
    where = environment.path
    lines = " and ".join(str(entry.line.number) for entry in entries)
    again = request.command("lock")
    if len(entries) > 1:
        raise EnvforgeError(
            f"`{where}` lists `{one.name}` on lines {lines}",
            hint="edit these lines; then, to update the lockfile",
            command=again,
            code="several-lines",
        )
    missing = [p for entry in entries for p in environment.platforms if p not in entry.platforms]
    has_marker = any(entry.requirement and entry.requirement.marker for entry in entries)
    if missing or has_marker:
        what = f"a selector that excludes {', '.join(missing)}" if missing else "a marker"
        raise EnvforgeError(
            f"`{where}` already lists `{entries[0].text}` on line {lines}, with {what}",
            hint="to request it everywhere, edit this line; then, to update the lockfile",
            command=again,
            code="limited-line",
        )


def remove(text: str, names: Sequence[str], request: LockRequest) -> Edit:
    """Remove every line of each package, from conda and from ``pip:``; raise ``EnvforgeError`` if there is none.

    ``text`` and ``request`` are as for ``add``.
    """
    removed = []
    for name in names:
        refuse_torch(name)
        environment = parse_environment(text, request.environment)
        entries = _named(environment, name)
        if not entries:
            raise _not_listed(environment, name, request)
        removed += [entry.text for entry in entries]
        before = environment
        while entries:  # each deletion moves the nodes, so the text is parsed again
            text = _delete(environment, entries[0], request)
            environment = _parse_edited(text, entries[0].text, request)
            entries = _named(environment, name)
        if _others(environment, name) != _others(before, name):
            raise _cannot_edit(removed[-1], request, "remove")
    return Edit(text=text, removed=tuple(removed))


def _not_listed(environment: Environment, name: str, request: LockRequest) -> RequestError:
    known = [entry.name for entry in environment.entries]
    near = nearest(name.lower(), known, alike=0.6)
    hints = [Hint(f"did you mean `{near}`?")] if near else []
    for path in request.others:
        if _named(parse_environment(read_text(path), path), name):
            hints = [Hint(f"to remove it from `{path}`", request.editing(path).command("remove", name))]
    return RequestError(
        f"`{environment.path}` doesn't list `{name}`; it lists {', '.join(f'`{one}`' for one in known)}",
        hint=hints,
        code="not-asked-for",
    )


def _conda(word: str) -> NewPackage:
    try:
        spec = parse_spec(word)
    except BadSpecError as error:
        raise _not_conda(word, error.hint) from error
    # a URL before `::` could contain a password
    if has_secrets(word) or spec.name.startswith("__"):
        raise _not_conda(word, _EXAMPLE)
    return NewPackage(text=str(spec), name=spec.name, section="conda")


_EXAMPLE = "write a name and an optional version, such as `numpy >=2,<3`"


def _not_conda(word: str, hint: str) -> RequestError:
    return RequestError(
        f"`{word}` is not a valid conda package; expected a name and an optional version, such as `numpy >=2,<3`",
        hint=(Hint(hint), Hint("to add a wheel from the package index, pass `--pip`")),
        code="bad-package",
    )


def _pip(word: str) -> NewPackage:
    try:
        requirement = parse_requirement(word)
    except BadRequirementError as error:
        raise RequestError(hide_secrets(str(error)), hint=error.hints, code="bad-package") from error
    return NewPackage(text=word, name=canonicalize_name(requirement.name), section="pip")


def _refuse_other_owner(one: NewPackage, entries: Sequence[PackageRequest], request: LockRequest) -> None:
    other = next((entry for entry in entries if entry.section != one.section), None)
    if other is None:
        return
    place = "under `pip:`" if other.section == "pip" else "among the conda dependencies"
    words = ["--pip", one.text] if one.section == "pip" else [one.text]
    commands = [request.command("remove", other.name), request.command("add", *words)]
    raise EnvforgeError(
        f"`{request.environment}` already lists `{other.text}` {place}, and a package can't have two owners",
        hint="to replace it",
        command=" && ".join(commands),
        code="two-owners",
    )


def _named(environment: Environment, name: str) -> list[PackageRequest]:
    # a package has other names for conda and for pip, and `remove` accepts either
    mapping = NameMapping.bundled()
    python_name = canonicalize_name(name)
    names = {python_name, mapping.to_python(name), canonicalize_name(mapping.to_conda(python_name))}
    return [entry for entry in environment.entries if canonicalize_name(entry.name) in names]


def _insert(environment: Environment, one: NewPackage) -> str:
    """Insert a line after the last one of its section, with the same indentation."""
    text, dependencies = environment.text, environment.dependencies
    wheels = [entry.siblings for entry in environment.entries if entry.section == "pip" and entry.siblings]
    if one.section == "pip" and not wheels:
        return _insert_section(text, dependencies, one)
    sequence = wheels[-1] if one.section == "pip" else dependencies
    if sequence.flow_style:
        return _insert_in_flow(text, sequence, one.text)
    plain = [node for node in sequence.value if isinstance(node, yaml.ScalarNode)]
    last = (plain or sequence.value)[-1]
    start = line_start(text, last.start_mark.index)
    lead = text[start : last.start_mark.index]
    if not plain:  # the list contains only `pip:`, which must come last
        return text[:start] + f"{_dash(lead)}{quoted(one.text)}{line_end(text)}" + text[start:]
    return after_line(text, last, f"{_dash(lead)}{quoted(one.text)}")


def _insert_section(text: str, dependencies: yaml.SequenceNode, one: NewPackage) -> str:
    if dependencies.flow_style:
        return _insert_in_flow(text, dependencies, one.text, is_pip=True)
    last = dependencies.value[-1]
    lead = text[line_start(text, last.start_mark.index) : last.start_mark.index]
    indent = " " * (len(_dash(lead)) + _dash(lead).index("-"))  # nested as deep as the list in its own key
    newline = line_end(text)
    return after_line(text, last, f"{_dash(lead)}pip:{newline}{indent}- {quoted(one.text)}")


def _insert_in_flow(text: str, sequence: yaml.SequenceNode, package: str, *, is_pip: bool = False) -> str:
    end = last_index(sequence.value[-1]) if sequence.value else sequence.start_mark.index + 1
    is_json = text.lstrip().startswith("{")
    item = quoted(package, is_json=is_json)
    if is_pip:
        item = f"{{{quoted('pip', is_json=is_json)}: [{item}]}}"
    return f"{text[:end]}{', ' if sequence.value else ''}{item}{text[end:]}"


def _delete(environment: Environment, entry: PackageRequest, request: LockRequest) -> str:
    """Delete the line of a package, and the mapping around it with its last package."""
    node, sequence = entry.node, entry.siblings
    if entry.holder is not None and (sequence is None or len(sequence.value) == 1):
        node, sequence = entry.holder, environment.dependencies
    if sequence is None or not sequence.flow_style:
        if sequence is environment.dependencies and len(sequence.value) == 1:
            raise EnvforgeError(
                f"`{entry.text}` is the only package of `{environment.path}`",
                hint="to replace it, add another package first",
                command=request.command("add", "NAME"),
                code="only-package",
            )
        return delete_lines(environment.text, node)
    return _delete_in_flow(environment.text, sequence, node)


def _delete_in_flow(text: str, sequence: yaml.SequenceNode, node: yaml.Node) -> str:
    number = next(i for i, each in enumerate(sequence.value) if each is node)
    start, end = node.start_mark.index, node.end_mark.index
    if number + 1 < len(sequence.value):
        end = sequence.value[number + 1].start_mark.index
    elif number:
        start = last_index(sequence.value[number - 1])
    return text[:start] + text[end:]


def _check(text: str, one: NewPackage, before: Environment, request: LockRequest) -> None:
    """Raise ``EnvforgeError`` unless the text requests the new package everywhere, and the others as before."""
    after = _parse_edited(text, one.text, request)
    everywhere = set(after.platforms) or EVERYWHERE
    same = [e for e in after.entries if (e.section, e.text) == (one.section, one.text)]
    if not any(everywhere <= entry.platforms for entry in same) or _others(after, one.name) != _others(
        before, one.name
    ):
        raise _cannot_edit(one.text, request, "add")


def _parse_edited(text: str, what: str, request: LockRequest) -> Environment:
    # an edit on text can land in a construct that was not foreseen, so parse the result like any other reader
    try:
        return parse_environment(text, request.environment)
    except EnvforgeError as error:
        raise _cannot_edit(what, request, "edit") from error


def _others(environment: Environment, name: str) -> list[tuple[str, str, frozenset[str]]]:
    named = _named(environment, name)
    return [(entry.section, entry.text, entry.platforms) for entry in environment.entries if entry not in named]


def _cannot_edit(what: str, request: LockRequest, verb: str) -> EnvforgeError:
    return EnvforgeError(
        f"`{request.environment}` can't be edited automatically at `{what}`",
        hint=f"{verb} it by hand; then, to update the lockfile",
        command=request.command("lock"),
        code="cannot-edit",
    )


def _dash(lead: str) -> str:
    """Return the text before an entry, with its own dash if the entry shares a line with ``pip:``."""
    return lead if lead.strip() == "-" else "  - "
