"""``envforge explain``: show which PyTorch builds fit, which one is selected, and why the others aren't."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct
from msgspec.structs import replace

from envforge.base.envelope import Json, fault, to_json
from envforge.cli import print_result, wrapped
from envforge.cli.options import JsonOption, MachineOption, Option, chosen_machine, takes
from envforge.cli.project_options import SelectionOptions
from envforge.errors import EnvforgeError

if TYPE_CHECKING:
    from packaging.version import Version

    from envforge.machine.values import Machine
    from envforge.pytorch.matrix import Candidate, Grade, Matrix, Refusal, Request, Selection
    from envforge.pytorch.others import ToolBuild
    from envforge.pytorch.reasons import NoBuildError

_SHOWN = 8
_WIDTH = 80


class ExplainOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge explain``."""

    selection: SelectionOptions
    machine: MachineOption
    show_all: Annotated[bool, Option("List every known build with its reason.", "--all")]
    compare: Annotated[bool, Option("Show what uv, pip, and conda would install, and whether it would run.")]
    as_json: JsonOption


@click.command("explain")
@takes(ExplainOptions)
def explain(options: ExplainOptions) -> None:
    """Show which PyTorch builds fit this machine, and why.

    Nothing is installed or written. `envforge new` selects the same build for the same options.
    """
    from envforge.pytorch.matrix import PYTORCH_INDEX, load_matrix, selection_to_json
    from envforge.pytorch.reasons import NoBuildError
    from envforge.pytorch.select import select_platforms

    matrix = load_matrix()
    request, platforms = options.selection.to_request(matrix), options.selection.known_platforms(matrix)
    machine = chosen_machine(options.machine)
    try:
        selections = select_platforms(machine, request, platforms, matrix)
    except NoBuildError as error:
        places = [(platform, None) for platform in platforms or (machine.platform,)]
        choices = _compared(machine, request, places, matrix) if options.compare else ()
        _explain_nothing(error, choices, options)
        raise
    _warn_of_other_facts(matrix)
    if request.torch_index != PYTORCH_INDEX and not options.as_json:
        click.echo(f"note: the builds are those of {PYTORCH_INDEX}; {request.torch_index} was not contacted", err=True)
    result: dict[str, Json] = {"selections": [selection_to_json(each) for each in selections], "facts": _facts(matrix)}
    parts = ["\n".join(_lines(each, show_all=options.show_all)) for each in selections]
    if options.compare:
        choices = _compared(machine, request, [(each.build.platform, each.python) for each in selections], matrix)
        result["compared"] = to_json(choices)
        parts.append("\n".join(_comparison(choices, selections)))
    text = "\n\n".join(parts)
    print_result("explain", result, text, as_json=options.as_json)


def _facts(matrix: Matrix) -> Json:
    """Return which facts the answer follows from, so that another computer can give the same."""
    return {"checked": matrix.checked, "refreshed": to_json(matrix.refreshed)}


def _warn_of_other_facts(matrix: Matrix) -> None:
    """Print a warning if the project around the current directory was created with other facts."""
    from envforge.project.record import find_project, read_project_file
    from envforge.pytorch.facts_file import note_of_other_facts

    folder = find_project(Path.cwd())
    try:
        record = None if folder is None else read_project_file(folder)
    except EnvforgeError:  # `explain` doesn't need the project
        return
    note = None if record is None else note_of_other_facts(record.facts, matrix.refreshed)
    if note:
        click.echo(f"warning: {note}", err=True)


def _compared(
    machine: Machine, request: Request, places: Sequence[tuple[str, Version | None]], matrix: Matrix
) -> tuple[ToolBuild, ...]:
    """Return what other tools would install on each platform, with a Python or else with the default one."""
    from envforge.base.terms import CPU
    from envforge.pytorch.others import compare_tools, load_other_tools

    tools, default = load_other_tools(), request.python or matrix.python_default(CPU).at_most
    return tuple(
        choice
        for platform, python in places
        for choice in compare_tools(machine, replace(request, platform=platform), python or default, matrix, tools)
    )


def _comparison(choices: Sequence[ToolBuild], selections: Sequence[Selection]) -> Iterator[str]:
    """Yield a table of the builds of all tools, then the reasons for those that don't run."""
    platforms = dict.fromkeys(choice.platform for choice in choices)
    for platform in platforms:
        yield f"What other tools would install on {platform}:"
        own = [(each.build, _verdict(each.grade)) for each in selections if each.build.platform == platform]
        cells = [("tool", "build", "verdict")]
        cells += [("envforge", f"{build.torch}+{build.tag}", verdict) for build, verdict in own]
        mine = [choice for choice in choices if choice.platform == platform]
        for choice in mine:
            verdict = _verdict(choice.grade) if choice.verdict == "runs" and choice.grade else choice.verdict
            missing = "not predicted" if choice.verdict == "unverified" else "none"
            cells.append((choice.tool, choice.build or missing, verdict))
        yield from _table(cells)
        for choice in mine:
            yield from wrapped(f"{choice.tool}: {choice.reason}", _WIDTH, "  ", " " * 4) if choice.reason else ()


def _verdict(grade: Grade) -> str:
    return grade.value if grade.value == "unverified" else f"runs ({grade.value})"


def _explain_nothing(error: NoBuildError, choices: Sequence[ToolBuild], options: ExplainOptions) -> None:
    """Print the rejected builds if no build fits; with ``--json``, as the one document."""
    from envforge.base.envelope import finding
    from envforge.pytorch.matrix import refusals_to_json

    if options.as_json:
        refused = refusals_to_json(error.refused)
        compared: dict[str, Json] = {"compared": to_json(choices)} if options.compare else {}
        click.echo(finding("explain", {"selections": [], "error": fault(error), "refused": refused, **compared}))
        click.echo(f"error: {error.message}\n\nhint: {error.hint}", err=True)
        raise click.exceptions.Exit(error.exit_code)
    if options.show_all:
        click.echo("\n".join(_every_refusal(error.refused)))
    if choices:
        click.echo("\n".join(_comparison(choices, ())))


def _lines(selection: Selection, *, show_all: bool) -> Iterator[str]:
    yield from _answer(selection)
    yield ""
    yield from _accepted(selection.accepted, show_all=show_all)
    yield ""
    yield from _every_refusal(selection.refused) if show_all else _grouped(selection.refused)


def _answer(selection: Selection) -> Iterator[str]:
    for part in selection.reason.split("; "):
        yield from wrapped(part, _WIDTH, rest="  ")
    for warning in selection.warnings:
        yield from wrapped(f"warning: {warning}", _WIDTH, rest="  ")
    yield ""
    rows = {**dict(selection.build.pins), "python": str(selection.python), "platform": selection.build.platform}
    rows |= {"grade": selection.grade.value, "index": selection.index_url}
    yield from (f"  {name:<12}  {value}" for name, value in rows.items())


def _accepted(accepted: Sequence[Candidate], *, show_all: bool) -> Iterator[str]:
    shown = accepted if show_all else accepted[:_SHOWN]
    more = "" if len(shown) == len(accepted) else f"; the first {len(shown)} (for all, pass --all)"
    fit = "1 build fits" if len(accepted) == 1 else f"{len(accepted)} builds fit"
    yield f"{fit}, best first{more}:"
    cells = [("torch", "build", "grade", "Python")]
    for candidate in shown:
        build = candidate.build
        cells.append((str(build.torch), str(build.tag), candidate.grade.value, _pythons(build.pythons)))
    yield from _table(cells)


def _grouped(refused: Sequence[Refusal]) -> Iterator[str]:
    """Yield one entry for each reason; only count builds that weren't requested."""
    from envforge.pytorch.reasons import NOT_ASKED, grouped

    told = [refusal for refusal in refused if refusal.code not in NOT_ASKED]
    yield f"{_builds(len(told))} fit:" if told else "All builds for this request fit."
    for line in grouped(told):
        yield from wrapped(line, _WIDTH, "  ", " " * 4)
    more = f"{len(refused) - len(told)} more are for another platform, release, CUDA, or Python (for all, pass --all)."
    yield from wrapped(more, _WIDTH, rest="  ")


def _builds(count: int) -> str:
    return "1 build doesn't" if count == 1 else f"{count} builds don't"


def _every_refusal(refused: Sequence[Refusal]) -> Iterator[str]:
    yield f"{_builds(len(refused))} fit:"
    for refusal in refused:
        yield f"  torch {refusal.build.torch} {refusal.build.tag} {refusal.build.platform}: {refusal.reason}"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _pythons(pythons: Sequence[Version]) -> str:
    return f"{pythons[0]} to {pythons[-1]}" if len(pythons) > 1 else str(pythons[0])
