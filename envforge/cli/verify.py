"""``envforge verify``: turn options into one request, and write the report in each format.

The formats are text, JSON, JUnit XML, Markdown, and HTML.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envforge.cli.options import json_option, machine_option, prefix_options, variant_option

if TYPE_CHECKING:
    from envforge.verify.discovery import Place
    from envforge.verify.record import Asked, Record
    from envforge.verify.redact import Identity
    from envforge.verify.values import Check, Cost, Question, Report

_FILE = click.Path(path_type=Path, dir_okay=False)
_STDOUT = Path("-")
# the name of each subcommand, and the question that it checks
_QUESTIONS: dict[str, Question] = {"machine": "machine", "env": "environment", "train": "training"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    fast: bool
    deep: bool
    only: tuple[str, ...]
    skip: tuple[str, ...]
    show_list: bool
    strict: bool
    record: Path | None
    lock: Path | None
    variant: str | None
    prefix: Path | None
    name: str | None
    limit: float
    junit: Path | None
    markdown: Path | None
    html: Path | None
    no_redact: bool
    verbose: bool
    machine: str | None = None

    def asked(self, questions: tuple[Question, ...]) -> Asked:
        from envforge.verify.record import Asked

        self._reject_contradictions()
        depth: Cost = "fast" if self.fast else "deep" if self.deep else "default"
        return Asked(
            explicit=questions,
            depth=depth,
            only=_words(self.only),
            skip=_words(self.skip),
            machine=self.machine or "",
        )

    def _reject_contradictions(self) -> None:
        from envforge.errors import RequestError

        if self.machine is not None and self.machine.startswith("-"):
            raise RequestError(
                "`--machine` requires a machine record or a profile",
                hint="to check this machine",
                command="envforge verify machine",
                code="no-such-machine",
            )
        pairs = (
            ("fast", "deep", "two-depths", self.fast and self.deep),
            ("lock", "variant", "two-locks", self.lock is not None and self.variant is not None),
            ("from", "machine", "two-machines", self.record is not None and self.machine is not None),
        )
        for one, other, code, are_both in pairs:
            if are_both:
                hint = f"omit `--{one}` or `--{other}`"
                raise RequestError(f"`--{one}` can't be used with `--{other}`", hint=hint, code=code)

    def place(self) -> Place:
        from envforge.errors import RequestError
        from envforge.verify.discovery import Place

        if self.lock is not None and not self.lock.exists():
            raise RequestError(
                f"the lockfile `{self.lock}` does not exist", hint="check the path in `--lock`", code="no-lockfile"
            )
        return Place(folder=Path.cwd(), prefix=self.prefix, name=self.name, lock=self.lock, variant=self.variant)


def _words(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for each in given for word in each.split(",") if word.strip()))


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that each subcommand has, in the order of the help."""
    for option in reversed(
        (
            click.option("--fast", is_flag=True, help="Run only the checks that take a moment."),
            click.option("--deep", is_flag=True, help="Also run the checks that take minutes."),
            click.option(
                "--only",
                multiple=True,
                metavar="ID",
                help="Run only this check or group, whatever it costs. May be provided more than once.",
            ),
            click.option(
                "--skip", multiple=True, metavar="ID", help="Omit this check or group. May be provided more than once."
            ),
            click.option("--list", "show_list", is_flag=True, help="List the checks with group, severity, and cost."),
            click.option("--strict", is_flag=True, help="Exit with 1 on warnings, too."),
            click.option(
                "--from",
                "record",
                type=_FILE,
                metavar="RECORD",
                help="Evaluate the output of `envforge verify --json` from another machine or time.",
            ),
            click.option(
                "--lock",
                type=_FILE,
                metavar="FILE",
                help="Compare with this lockfile.  [default: the lockfile of the environment or project]",
            ),
            variant_option("Compare with"),
            prefix_options,
            click.option(
                "--limit",
                type=click.FloatRange(min=1),
                default=120.0,
                show_default=True,
                metavar="SECONDS",
                help="Stop each process that a check starts after this time.",
            ),
            click.option("--junit", type=_FILE, metavar="FILE", help="Write a JUnit XML report for CI."),
            click.option(
                "--markdown",
                type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
                is_flag=False,
                flag_value=_STDOUT,
                metavar="[FILE]",
                help="Write a Markdown report for an issue, to stdout unless you name a FILE.",
            ),
            click.option("--html", type=_FILE, metavar="FILE", help="Write an HTML report with charts and filters."),
            click.option("--no-redact", is_flag=True, help="Keep user names, host names, and serial numbers."),
            click.option("-v", "--verbose", is_flag=True, help="Show every finding in full, also if it passes."),
            json_option(),
        )
    ):
        command = option(command)
    return command


class _Group(click.Group):
    """A group whose options may also be given before the subcommand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._subcommand_first(ctx, args))

    def _subcommand_first(self, ctx: click.Context, args: list[str]) -> list[str]:
        plain = list(args)
        for position, word in enumerate(plain[:-1]):
            if word == "--markdown" and plain[position + 1] in self.commands:
                plain[position] = f"--markdown={_STDOUT}"  # a subcommand, not the optional FILE
        try:
            rest = self.make_parser(ctx).parse_args(list(plain))[1]
        except click.NoSuchOption as error:
            name = error.option_name.removeprefix("--")
            if name in self.commands:
                ctx.fail(f"No such option `--{name}`. Did you mean `envforge verify {name}`?")
            raise
        before, after = plain[: len(plain) - len(rest)], plain[len(plain) - len(rest) :]
        return [after[0], *before, *after[1:]] if after and after[0] in self.commands else plain

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            ctx.fail(f"No such command `{args[0]}`. Expected `machine`, `env`, or `train`.")
        return super().resolve_command(ctx, args)


@click.group("verify", cls=_Group, invoke_without_command=True, subcommand_metavar="[COMMAND]")
@machine_option()
@_options
@click.pass_context
def verify(context: click.Context, /, *, as_json: bool, **options: object) -> None:
    """Check that this machine, this environment, and this GPU can train.

    Without a command, envforge selects the checks from the current directory: the machine; in a project also the
    lockfile; if the environment is installed, also the environment and training. Nothing is changed or reset.

    With --machine, envforge checks whether the lockfile supports another machine, without being there.

    \b
    Exits with 0 if nothing fails. There may be warnings.
    Exits with 1 if a check fails, or if a required check can't decide.
    Exits with 3 if nothing could be observed, or a report could not be written.
    """  # noqa: D301 - click needs the control character
    if context.invoked_subcommand is None:
        _run((), _Options(**options), as_json=as_json)  # type: ignore[arg-type] # click gives each field its type


@verify.command("machine")
@machine_option()
@_options
def machine(*, as_json: bool, **options: object) -> None:
    """Check the machine and whether it supports the lockfile. Needs no torch and no environment, and takes seconds.

    Covers the driver, GPUs, containers, hardware errors, clocks, disks, limits, and environment variables.

    With --machine, envforge compares the lockfile with a record made by `envforge detect --json` on another machine, or
    with a built-in profile. Facts that the record lacks are UNKNOWN. Exits with 1 if the lockfile doesn't fit.
    """
    _run((_QUESTIONS["machine"],), _Options(**options), as_json=as_json)  # type: ignore[arg-type] # as above


@verify.command("env")
@_options
def env(*, as_json: bool, **options: object) -> None:
    """Check that the environment matches its lockfile, and that its torch and libraries load.

    Compares the installed files with the lockfile, then imports torch with the environment's own Python. Exits with 1
    if the environment is missing or incomplete.
    """
    _run((_QUESTIONS["env"],), _Options(**options), as_json=as_json)  # type: ignore[arg-type] # as above


@verify.command("train")
@_options
def train(*, as_json: bool, **options: object) -> None:
    """Train on every GPU, and check that the model learns and the GPU computes correctly.

    Runs kernels, the project's own training step, and speed tests with the environment's own Python, one process per
    GPU. Without a GPU, the same runs on the CPU. Nothing is written into the project.
    """
    _run((_QUESTIONS["train"],), _Options(**options), as_json=as_json)  # type: ignore[arg-type] # as above


def _run(questions: tuple[Question, ...], chosen: _Options, *, as_json: bool) -> None:
    from envforge.verify.checks import all_checks, choose, judge
    from envforge.verify.record import read_record_file

    asked = chosen.asked(questions)
    checks = all_checks()
    if chosen.show_list:
        _show_list(choose(asked, checks).checks if asked.explicit or asked.only or asked.skip else checks, as_json)
        return
    identity = _identity()
    if chosen.record is not None:
        record = read_record_file(chosen.record)
        selected = choose(_asked_before(asked, record), checks).checks
    elif chosen.machine is not None:
        selected, record = _plan(chosen, asked, checks)
    else:
        with _telling(quiet=as_json) as say:
            selected, record = _observe(chosen, asked, checks, say)
    report = _shown(judge(record, selected), identity, chosen)
    _write_files(report, chosen)
    _print(report, chosen, as_json=as_json)
    _exit(report, strict=chosen.strict)


def _asked_before(asked: Asked, record: Record) -> Asked:
    """Return the request that the record was made with, changed by what is requested now."""
    from dataclasses import replace

    before = record.asked
    if asked.only or asked.skip:
        return replace(asked, explicit=asked.explicit or before.explicit, depth=before.depth)
    return replace(before, explicit=asked.explicit or before.explicit)


def _plan(chosen: _Options, asked: Asked, checks: Sequence[Check]) -> tuple[tuple[Check, ...], Record]:
    import datetime as dt

    from envforge.cli.options import chosen_machine
    from envforge.verify.discovery import plan_for

    described = chosen_machine(chosen.machine)
    now = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
    return plan_for(described, asked, chosen.place(), checks, now)


@contextmanager
def _telling(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show progress on stderr: one changing line on a terminal, plain lines elsewhere, nothing if ``quiet``."""
    import sys

    if quiet or sys.stderr is None:
        yield lambda _text: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status("checking this machine") as status:
            yield lambda text: status.update(Text(text))
    else:
        yield lambda text: click.echo(text, err=True)


def _observe(
    chosen: _Options, asked: Asked, checks: Sequence[Check], say: Callable[[str], None]
) -> tuple[tuple[Check, ...], Record]:
    import datetime as dt

    from envforge.cli.options import warn_of_incomplete_change
    from envforge.machine.world import World
    from envforge.verify.checks import choose
    from envforge.verify.discovery import Means, find_situation
    from envforge.verify.observe import observe

    means = Means(
        world=World.here(os.environ),
        now=dt.datetime.now(dt.timezone.utc).replace(microsecond=0),
        limit_s=chosen.limit,
        say=say,
    )
    selection = choose(asked, checks)
    situation, surroundings = find_situation(chosen.place(), asked, selection, means)
    if situation.lock is not None:
        warn_of_incomplete_change(situation.lock)
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
    """Write each requested report file atomically, and name it on stderr."""
    from envforge.verify.reports import html
    from envforge.verify.reports import machine_readable as junit
    from envforge.verify.reports import text as markdown

    strict = chosen.strict
    if chosen.junit is not None:
        write_report(chosen.junit, junit.render_junit(report, strict=strict))
    if chosen.markdown is not None and chosen.markdown != _STDOUT:
        write_report(chosen.markdown, markdown.render_markdown(report, strict=strict).encode())
    if chosen.html is not None:
        write_report(chosen.html, html.render_html(report, strict=strict).encode())


def write_report(path: Path, content: bytes) -> None:
    """Write a report file atomically, and name it on stderr, because stdout may be data."""
    from envforge.base.files import write_atomic

    write_atomic(path, content)
    click.echo(f"Wrote {path}", err=True)


def _print(report: Report, chosen: _Options, *, as_json: bool) -> None:
    strict = chosen.strict
    if as_json:
        from envforge.base.envelope import finding, success
        from envforge.verify.reports.machine_readable import report_to_json

        result = report_to_json(report, strict=strict)
        click.echo(success("verify", result) if report.passed(strict=strict) else finding("verify", result))
    elif chosen.markdown == _STDOUT:
        from envforge.verify.reports import text as markdown

        click.echo(markdown.render_markdown(report, strict=strict), nl=False)
    else:
        from envforge.verify.reports.text import render_terminal

        console = _console()
        for line in render_terminal(report, width=console.width, strict=strict, verbose=chosen.verbose):
            console.print(line, soft_wrap=True)


def _show_list(checks: Sequence[Check], as_json: bool) -> None:
    from envforge.base.envelope import success
    from envforge.verify.reports.machine_readable import check_to_json
    from envforge.verify.reports.text import render_list

    if as_json:
        click.echo(success("verify", {"checks": [check_to_json(check) for check in checks]}))
        return
    console = _console()
    for line in render_list(checks, console.width):
        console.print(line, soft_wrap=True)


def _console() -> Any:
    import sys

    from rich.console import Console

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return Console(highlight=False, width=None if is_terminal else 80)


def _exit(report: Report, *, strict: bool) -> None:
    record = report.record
    if not record.observed and any(lack.why in ("broken", "late") for lack in record.not_observed):
        raise click.exceptions.Exit(3)
    if not report.passed(strict=strict):
        raise click.exceptions.Exit(1)
