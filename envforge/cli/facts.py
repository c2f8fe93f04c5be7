"""``envforge facts``: show, refresh, export, and import the facts about PyTorch builds and CUDA toolkits."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct

from envforge.base.envelope import Json, to_json
from envforge.cli import print_result, wrapped
from envforge.cli.lockfiles import PublicKeyOption, chosen_signer, key_or_configured
from envforge.cli.options import (
    FILE,
    Argument,
    JsonOption,
    MirrorsOption,
    Option,
    OutputOptions,
    catalogue_option,
    chosen_mirrors,
    repeated_command,
    sign_option,
    takes,
    torch_index_option,
)
from envforge.cli.progress import counted
from envforge.errors import EnvforgeError, Hint, RequestError

if TYPE_CHECKING:
    from envforge.facts.refresh import Refreshed, RefreshRequest
    from envforge.pytorch.facts_file import FactsFile

_WIDTH = 100


class UseOptions(Struct, frozen=True, kw_only=True):
    """Whether new facts are used."""

    yes: Annotated[bool, Option("Use the new facts without a prompt.", "-y", "--yes")] = False
    dry_run: Annotated[bool, Option("Show what would change, without using it.")] = False
    as_json: JsonOption = False


class RefreshOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge facts refresh``."""

    torch_index: Annotated[str | None, torch_index_option("Read")] = None
    catalogue: Annotated[
        str | None, catalogue_option("Read the signed facts of this catalogue, too; see `envforge lockfiles`.")
    ] = None
    mirrors: MirrorsOption = ()
    use: UseOptions


class ExportFactsOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge facts export``."""

    file: Annotated[Path, Argument(type=FILE)]
    secret_key: Annotated[Path | None, sign_option("Sign with this minisign secret key, into FILE.minisig")] = None
    as_json: JsonOption


class ImportFactsOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge facts import``."""

    file: Annotated[Path, Argument(type=FILE)]
    public_key: PublicKeyOption = None
    use: UseOptions


@click.group("facts")
def facts() -> None:
    """Show or refresh the facts that select a build: releases, kernels, and drivers."""


@facts.command("show")
@takes(OutputOptions)
def show(options: OutputOptions) -> None:
    """Show the date and the source of each table, and what the refreshed table adds."""
    from envforge.pytorch.facts_file import OLD_AFTER_DAYS, changes, installed_facts, layered
    from envforge.pytorch.matrix import BUILT_IN, built_in_matrix, facts_path

    matrix, found, path, today = built_in_matrix(), installed_facts(), facts_path(), _today()
    rows: list[dict[str, Json]] = [
        {
            "table": BUILT_IN,
            "checked": matrix.checked,
            "source": "data/facts of envforge, where each row has its source",
            "builds": len(matrix.builds),
            "toolkits": len(matrix.toolkits),
            "sha256": None,
        }
    ]
    lines: list[str] = []
    newest = dt.date.fromisoformat(matrix.checked)
    if found is not None:
        refreshed, identity = found
        newest = max(newest, refreshed.checked)
        rows.append(
            {
                "table": "refreshed",
                "checked": refreshed.checked.isoformat(),
                "source": str(path),
                "builds": len(refreshed.builds),
                "toolkits": len(refreshed.toolkits),
                "sha256": identity.sha256,
            }
        )
        unused = [row for row in refreshed.builds if row.build() not in layered(matrix, refreshed, identity).builds]
        lines += [line.removeprefix("+ ") for line in changes(None, refreshed)]
        lines += [f"  {line}" for line in _sources(refreshed)]
        if unused:
            lines.append(f"{counted(len(unused), 'row')} of it are not used, because the built-in table has them now")
    warnings = list(_age_warnings(newest, today, OLD_AFTER_DAYS))
    text = [f"{row['table']:<10} {row['checked']}  {_size(row)}  {row['source']}" for row in rows]
    text += [f"           sha256 {row['sha256']}" for row in rows if row["sha256"]]
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    result = {"tables": rows, "age_days": (today - newest).days, "rows": to_json(found[0]) if found else None}
    print_result("facts show", {**result, "warnings": warnings}, "\n".join([*text, *lines]), as_json=options.as_json)


def _size(row: dict[str, Json]) -> str:
    return f"{counted(int(str(row['builds'])), 'build')}, {counted(int(str(row['toolkits'])), 'toolkit')}"


def _sources(found: FactsFile) -> Iterator[str]:
    places = {(row.source, row.checked) for row in found.builds} | {(row.source, row.checked) for row in found.toolkits}
    yield from (f"{checked}  {source}" for source, checked in sorted(places))


def _age_warnings(newest: dt.date, today: dt.date, old_after_days: int) -> Iterator[str]:
    age_days = (today - newest).days
    if age_days > old_after_days:
        yield f"the facts are {age_days} days old; to read newer ones, run `envforge facts refresh`"
    # a day ahead is another time zone
    if age_days < -1:
        yield f"the facts are dated {newest}, which is in the future; check the clock of this computer"


@facts.command("refresh", short_help="Read new releases, kernels, and drivers from public servers.")
@takes(RefreshOptions)
def refresh(options: RefreshOptions) -> None:
    """Read what the built-in table lacks, and show it before it is used.

    Reads the PyTorch index, the package index, NVIDIA's list of toolkits, and the signed facts of your team's
    catalogue. Only the parts of a wheel that state its kernels are downloaded. A build whose kernels can't be read is
    graded `unverified`. Rows that contradict a confirmed row of the built-in table are reported and not used.
    """
    from contextlib import closing

    from envforge.facts.refresh import refresh
    from envforge.lock.pages import Downloads
    from envforge.pytorch.facts_file import dump_facts

    notes: list[str] = []
    request = _request(options, notes)
    with closing(Downloads(chosen_mirrors(options.mirrors), _ignore)) as downloads:
        found = refresh(request, downloads, lambda text: click.echo(text, err=True))
    found.notes[:0] = notes
    _use("facts refresh", request.before, dump_facts(_newer(request.before, found.facts)), options.use, found)


def _request(options: RefreshOptions, notes: list[str]) -> RefreshRequest:
    from envforge.catalogue.index import chosen_catalogue
    from envforge.facts.refresh import RefreshRequest
    from envforge.facts.signed import read_team_facts
    from envforge.lock.python_index import configured_index
    from envforge.pytorch.matrix import built_in_matrix
    from envforge.pytorch.select import read_request

    matrix, team = built_in_matrix(), None
    chosen = chosen_catalogue(options.catalogue, Path(), os.environ)
    if chosen is not None:
        try:
            team = read_team_facts(chosen)
        except EnvforgeError as error:
            # a bad signature is an attack or a mistake, and a catalogue without facts is neither
            if error.code in {"bad-signature", "catalogue-rolled-back", "facts-damaged", "facts-newer"}:
                raise
            notes.append(f"the team's catalogue: {error.message}")
    registry = configured_index(os.environ, Path.home(), Path(sys.prefix))
    return RefreshRequest(
        matrix=matrix,
        torch_index=read_request(matrix, torch_index=options.torch_index).torch_index,
        registry=registry.simple_url if registry.is_served else None,
        today=_today(),
        before=_before(),
        team=team,
    )


@facts.command("export", short_help="Write the refreshed facts to a file, for another computer.")
@takes(ExportFactsOptions)
def export_facts(options: ExportFactsOptions) -> None:
    """Write the refreshed facts to FILE, for `envforge facts import` or the catalogue of your team."""
    from envforge.base.files import regular
    from envforge.facts.signed import write_signed
    from envforge.pytorch.facts_file import read_facts_file

    path = _path()
    if not path.exists():
        raise EnvforgeError(
            "this computer has no refreshed facts to export; every envforge of this version has the built-in ones",
            hint="to read newer facts",
            command="envforge facts refresh",
            code="nothing-to-export",
        )
    _, identity = read_facts_file(path)
    write_signed(options.file, regular(path).read_bytes(), chosen_signer(options.secret_key))
    result = {"file": options.file, "checked": identity.checked.isoformat(), "sha256": identity.sha256}
    text = f"wrote the facts of {identity} to {options.file}"
    print_result("facts export", result, text, as_json=options.as_json)


@facts.command("import", short_help="Use the facts in a file that another computer exported.")
@takes(ImportFactsOptions)
def import_facts(options: ImportFactsOptions) -> None:
    """Use the facts in FILE, and show what changes.

    If --public-key is passed or your catalogue has a `public-key`, FILE.minisig must be a signature by it.
    """
    from envforge.catalogue.index import chosen_catalogue
    from envforge.facts.signed import read_signed
    from envforge.pytorch.facts_file import contradictions
    from envforge.pytorch.matrix import built_in_matrix

    key = key_or_configured(options.public_key, chosen_catalogue(None, Path(), os.environ))
    found, data = read_signed(options.file, key)
    matrix = built_in_matrix()
    wrong = [*contradictions(matrix, found)]
    if wrong:
        raise EnvforgeError(
            f"the facts `{options.file}` contradict the built-in facts of {matrix.checked}:\n"
            + "\n".join(f"  {each}" for each in wrong),
            hint=(Hint("to read facts that agree with them", "envforge facts refresh"),),
            code="facts-contradict",
        )
    _use("facts import", _before(), data, options.use, None)


@facts.command("reset")
@takes(OutputOptions)
def reset(options: OutputOptions) -> None:
    """Remove the refreshed facts, and use the built-in ones."""
    from envforge.pytorch.matrix import BUILT_IN, FACTS_VARIABLE

    path = _path()
    if os.environ.get(FACTS_VARIABLE):
        # such a file may be in a repository, or belong to others
        raise RequestError(
            f"`{FACTS_VARIABLE}` selects `{path}`, which `envforge facts reset` doesn't remove",
            hint=(
                Hint(f"to use only the built-in facts, set `{FACTS_VARIABLE}={BUILT_IN}`"),
                Hint(f"to remove the facts of this computer, unset `{FACTS_VARIABLE}` and run the command again"),
            ),
            code="facts-of-variable",
        )
    is_there = path.exists()
    path.unlink(missing_ok=True)
    text = f"removed {path}" if is_there else "this computer has no refreshed facts"
    print_result("facts reset", {"removed": is_there, "file": path}, text, as_json=options.as_json)


def _use(command: str, before: FactsFile | None, data: bytes, use: UseOptions, found: Refreshed | None) -> None:
    """Show what the new facts change, and use them if the user agrees."""
    from envforge.base.files import regular, write_atomic
    from envforge.pytorch.facts_file import changes, parse_facts

    path = _path()
    after, identity = parse_facts(data, path)
    lines = [*changes(before, after)]
    # without a file before, one without rows would add nothing but its date
    is_changed = regular(path).read_bytes() != data if path.exists() else bool(lines)
    used = is_changed and not use.dry_run
    if not use.as_json:
        for line in (*lines, *_reported(found)):
            click.echo("\n".join(wrapped(line, _WIDTH, rest="    ")))
        if used and not use.yes:
            _ask(len(lines))
    elif used and not use.yes:
        raise _needs_yes()
    if used:
        write_atomic(path, data)
    state = "in use" if used else "not used (--dry-run)" if use.dry_run and is_changed else "unchanged"
    result = {
        "changes": lines,
        "used": used,
        "checked": identity.checked.isoformat(),
        "sha256": identity.sha256,
        "file": path,
        **({} if found is None else {name: getattr(found, name) for name in ("read", "unread", "rejected", "notes")}),
    }
    text = f"the facts of {identity}: {state}"
    if not is_changed and not path.exists():
        text = "nothing new: the built-in facts are up to date"
        if found is not None and found.unread:
            text = "nothing new in the sources that can be read"
    print_result(command, result, text, as_json=use.as_json)


def _reported(found: Refreshed | None) -> Iterator[str]:
    """Yield what was left out, and why."""
    if found is None:
        return
    yield from (f"! {line} (not used)" for line in found.rejected)
    yield from (f"note: {line}" for line in found.notes)
    yield from (f"warning: cannot read {line}" for line in found.unread)


def _ask(count: int) -> None:
    """Raise if the user doesn't agree to the changes."""
    if not sys.stdin.isatty():
        raise _needs_yes()
    if not click.confirm(f"Use these facts ({counted(count, 'line')})?", err=True):
        raise click.Abort


def _needs_yes() -> RequestError:
    return RequestError(
        "the new facts are not used yet, because there is no terminal to ask on",
        hint=(
            Hint("to use them", repeated_command({"yes": True})),
            Hint("to only show them", repeated_command({"dry_run": True})),
        ),
        code="needs-yes",
    )


def _newer(before: FactsFile | None, after: FactsFile) -> FactsFile:
    """Return the new facts, or the former ones if they have the same rows and aren't old.

    Projects record the hash of the file, so it changes only if an answer may change.
    """
    from envforge.pytorch.facts_file import OLD_AFTER_DAYS, changes

    if before is None or [*changes(before, after)] or (after.checked - before.checked).days > OLD_AFTER_DAYS:
        return after
    return before


def _path() -> Path:
    """Return the file of refreshed facts; raise ``RequestError`` if a variable disables it."""
    from envforge.pytorch.matrix import BUILT_IN, FACTS_VARIABLE, facts_path

    path = facts_path()
    if path is None:
        raise RequestError(
            f"`{FACTS_VARIABLE}={BUILT_IN}` disables refreshed facts",
            hint=f"to use refreshed facts, unset `{FACTS_VARIABLE}`",
            code="facts-disabled",
        )
    return path


def _before() -> FactsFile | None:
    from envforge.pytorch.facts_file import read_facts_file

    path = _path()
    return read_facts_file(path)[0] if path.exists() else None


def _today() -> dt.date:
    return dt.datetime.now(dt.timezone.utc).date()


def _ignore(_: object) -> None:
    """Discard the progress of downloads, which are small."""
