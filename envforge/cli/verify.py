"""``envforge verify``: options to one question, the report to words, JSON, JUnit, Markdown and HTML."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envforge.cli.options import json_option
from envforge.cli.prefix_options import prefix_options

if TYPE_CHECKING:
    from envforge.verify.record import Asked, Record
    from envforge.verify.redact import Identity
    from envforge.verify.values import Check, Cost, Question, Report

_FILE = click.Path(path_type=Path, dir_okay=False)
_STDOUT = Path("-")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    machine: bool
    env: bool
    train: bool
    fast: bool
    deep: bool
    only: tuple[str, ...]
    skip: tuple[str, ...]
    show_list: bool
    strict: bool
    record: Path | None
    lock: Path | None
    prefix: Path | None
    name: str | None
    limit: float
    junit: Path | None
    markdown: Path | None
    html: Path | None
    no_redact: bool
    verbose: bool

    def asked(self) -> Asked:
        from envforge.errors import RequestError
        from envforge.verify.record import Asked

        if self.fast and self.deep:
            raise RequestError("--fast and --deep say opposite things", hint="give one of them", code="two-depths")
        depth: Cost = "fast" if self.fast else "deep" if self.deep else "default"
        flags: tuple[tuple[Question, bool], ...] = (
            ("machine", self.machine),
            ("environment", self.env),
            ("training", self.train),
        )
        return Asked(
            explicit=tuple(question for question, given in flags if given),
            depth=depth,
            only=_words(self.only),
            skip=_words(self.skip),
        )


def _words(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for each in given for word in each.split(",") if word.strip()))


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options in the order of the help."""
    for option in reversed(
        (
            click.option(
                "--machine",
                is_flag=True,
                help="The first question: the machine against itself and the lock. (Elsewhere --machine FILE plans for "
                "another machine; to judge one that was observed there, give --from.)",
            ),
            click.option("--env", is_flag=True, help="The second question: the environment against its lock."),
            click.option("--train", is_flag=True, help="The third question: train, on each GPU."),
            click.option("--fast", is_flag=True, help="Only what costs no more than a moment."),
            click.option("--deep", is_flag=True, help="Also what takes minutes."),
            click.option("--only", multiple=True, metavar="ID", help="Only this check or group (repeatable)."),
            click.option("--skip", multiple=True, metavar="ID", help="Without this check or group (repeatable)."),
            click.option("--list", "show_list", is_flag=True, help="List every check: id, group, severity, cost."),
            click.option("--strict", is_flag=True, help="A warning fails, too."),
            click.option(
                "--from", "record", type=_FILE, metavar="RECORD", help="Judge what verify --json observed elsewhere."
            ),
            click.option("--lock", type=_FILE, help="The lock to compare with.  [default: that of the environment]"),
            prefix_options,
            click.option(
                "--limit",
                type=click.FloatRange(min=1),
                default=120.0,
                show_default=True,
                metavar="SECONDS",
                help="How long each process that is started may take.",
            ),
            click.option("--junit", type=_FILE, metavar="FILE", help="Write JUnit XML for CI."),
            click.option(
                "--markdown",
                type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
                is_flag=False,
                flag_value=_STDOUT,
                metavar="[FILE]",
                help="Write Markdown for an issue; without FILE to stdout.",
            ),
            click.option("--html", type=_FILE, metavar="FILE", help="Write one page with charts and filters."),
            click.option("--no-redact", is_flag=True, help="Keep user, host and serial numbers in what is written."),
            click.option("-v", "--verbose", is_flag=True, help="Show each finding in full, also what passed."),
            json_option(),
        )
    ):
        command = option(command)
    return command


@click.command("verify")
@_options
def verify(*, as_json: bool, **options: object) -> None:
    r"""Does this machine really train? Look at it, at the environment, and train.

    Three questions, each usable alone: the machine (without torch, in two seconds), the environment against its lock,
    and a training that shows it. Without a question, those that apply here are asked. Nothing is changed or reset.

    \b
    Exit 0: nothing fails (there may be warnings; --strict makes them fail).
    Exit 1: something fails, or a required check could not tell.
    Exit 3: nothing could be looked at.
    """
    from envforge.verify.checks import all_checks
    from envforge.verify.judge import judge
    from envforge.verify.record import read_record_file
    from envforge.verify.select import choose

    chosen = _Options(**options)  # type: ignore[arg-type] # click gives each field its type
    asked = chosen.asked()
    checks = all_checks()
    if chosen.show_list:
        _show_list(choose(asked, checks).checks if asked.explicit or asked.only or asked.skip else checks, as_json)
        return
    identity = _identity()
    if chosen.record is not None:
        record = read_record_file(chosen.record)
        asked = _asked_before(asked, record)
        selected = choose(asked, checks).checks
    else:
        with _telling(quiet=as_json) as say:
            selected, record = _observe(chosen, asked, checks, say)
    report = _shown(judge(record, selected), identity, chosen)
    _write_files(report, chosen)
    _print(report, chosen, as_json=as_json)
    _exit(report, strict=chosen.strict)


def _asked_before(asked: Asked, record: Record) -> Asked:
    """What is asked of a record: as it was asked where it was made, but for what is asked now."""
    from dataclasses import replace

    before = record.asked
    if asked.only or asked.skip:
        return replace(asked, explicit=asked.explicit or before.explicit, depth=before.depth)
    return replace(before, explicit=asked.explicit or before.explicit)


@contextmanager
def _telling(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Who is told how far it is: nobody, a terminal's line that changes, or plain lines; always on stderr."""
    import sys

    if quiet:
        yield lambda _text: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status("looking at this machine") as status:
            yield lambda text: status.update(Text(text))
    else:
        yield lambda text: click.echo(text, err=True)


def _observe(
    chosen: _Options, asked: Asked, checks: Sequence[Check], say: Callable[[str], None]
) -> tuple[tuple[Check, ...], Record]:
    import datetime as dt

    from envforge.cli.unfinished import tell_half_change
    from envforge.probe import World
    from envforge.verify.observe import observe
    from envforge.verify.select import choose
    from envforge.verify.situation import Means, Place, find_situation

    means = Means(
        world=World.here(os.environ),
        now=dt.datetime.now(dt.timezone.utc).replace(microsecond=0),
        limit_s=chosen.limit,
        say=say,
    )
    place = Place(folder=Path.cwd(), prefix=chosen.prefix, name=chosen.name, lock=chosen.lock)
    selection = choose(asked, checks)
    situation, surroundings = find_situation(place, asked, selection, means)
    if situation.lock is not None:
        tell_half_change(situation.lock)
    return selection.checks, observe(situation, surroundings, selection.checks)


def _identity() -> Identity:
    import socket

    from envforge.verify.redact import Identity

    return Identity.of(os.environ, socket.gethostname())


def _shown(report: Report, identity: Identity, chosen: _Options) -> Report:
    from envforge.verify.redact import redact

    # after judging, so that no verdict depends on what is hidden; `--from` judges the redacted record again
    return report if chosen.no_redact else redact(report, identity)


def _write_files(report: Report, chosen: _Options) -> None:
    """Write each report that goes into a file, whole or not at all."""
    from envforge.install.journal import write_whole

    strict = chosen.strict
    if chosen.junit is not None:
        from envforge.verify.reports import junit

        write_whole(chosen.junit, junit.render(report, strict=strict))
    if chosen.markdown not in (None, _STDOUT):
        from envforge.verify.reports import markdown

        write_whole(chosen.markdown, markdown.render(report, strict=strict).encode())
    if chosen.html is not None:
        from envforge.verify.reports import html

        write_whole(chosen.html, html.render(report, strict=strict).encode())


def _print(report: Report, chosen: _Options, *, as_json: bool) -> None:
    strict = chosen.strict
    if as_json:
        from envforge.report import finding, success
        from envforge.verify.reports.as_json import report_to_json

        result = report_to_json(report, strict=strict)
        click.echo(success("verify", result) if report.passed(strict=strict) else finding("verify", result))
    elif chosen.markdown == _STDOUT:
        from envforge.verify.reports import markdown

        click.echo(markdown.render(report, strict=strict), nl=False)
    else:
        from envforge.verify.reports.terminal import render

        console = _console()
        for line in render(report, width=console.width, strict=strict, verbose=chosen.verbose):
            console.print(line, soft_wrap=True)


def _show_list(checks: Sequence[Check], as_json: bool) -> None:
    from envforge.report import success
    from envforge.verify.reports.as_json import check_to_json
    from envforge.verify.reports.terminal import render_list

    if as_json:
        click.echo(success("verify", {"checks": [check_to_json(check) for check in checks]}))
        return
    console = _console()
    for line in render_list(checks, console.width):
        console.print(line, soft_wrap=True)


def _console() -> Any:
    import sys

    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 80)


def _exit(report: Report, *, strict: bool) -> None:
    record = report.record
    if not record.observed and any(lack.why in ("broken", "late") for lack in record.not_observed):
        raise click.exceptions.Exit(3)
    if not report.passed(strict=strict):
        raise click.exceptions.Exit(1)
