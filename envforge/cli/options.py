"""Define options that several commands share, and repeat the typed command line for hints."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envforge.errors import Hint

if TYPE_CHECKING:
    from envforge.machine import Machine
    from envforge.mirrors import Mirrors

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def collected(options: Sequence[Decorator], kind: type[Any], name: str) -> Decorator:
    """Pass the values of options to the command together: as one ``kind``, a dataclass, under ``name``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_options(*arguments: Any, **keywords: Any) -> Any:
            values = {field: keywords.pop(field) for field in kind.__dataclass_fields__}
            return command(*arguments, **{name: kind(**values)}, **keywords)

        decorated: Callable[..., Any] = with_options
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def repeated_command(changes: Mapping[str, str | bool | None]) -> str:
    """Return the current command line with other values for some parameters, by their Python names.

    ``None`` and ``False`` leave an option out. Credentials in URLs are left out too, because hints end up in logs.
    """
    from click.core import ParameterSource

    from envforge.install.credentials import without_credentials

    context = click.get_current_context()
    words = context.command_path.split()
    arguments = [each for each in context.command.params if isinstance(each, click.Argument)]
    options = [each for each in context.command.params if isinstance(each, click.Option)]
    for parameter in (*arguments, *options):
        name = parameter.name or ""
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        value = changes[name] if name in changes else context.params[name] if typed else None
        for each in value if isinstance(value, tuple) else (value,):
            if each is None or each is False:
                continue
            words += [] if isinstance(parameter, click.Argument) else [max(parameter.opts, key=len)]
            words += [] if each is True else [without_credentials(str(each))]
    return shlex.join(["envforge", *words[1:]])


def hints_inside(directory: Path, hints: Iterable[Hint], purpose: str = "") -> tuple[Hint, ...]:
    """Return the hints of a part of this command, whose commands apply in another directory; ``purpose`` precedes them.

    Hints without a command are kept, so they must not say what to do with the command that was run.
    """
    enter = "" if directory.absolute() == Path.cwd() else f"cd {shlex.quote(str(directory))} && "
    return tuple(Hint(f"{purpose}{h.purpose}", f"{enter}{h.command}") if h.command else h for h in hints)


def json_option() -> Decorator:
    """Add ``--json``: one versioned envelope on stdout, failures included."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")


def machine_option() -> Decorator:
    """Add ``--machine FILE|PROFILE``, whose value ``chosen_machine`` accepts."""
    return click.option(
        "--machine",
        metavar="FILE|PROFILE",
        help="Plan for another machine: a record written by `envforge detect --json`, or a profile such as t4, h100, "
        "or rtx-4090.",
    )


def chosen_machine(spec: str | None) -> Machine:
    """Return the machine that ``--machine`` names, or this computer; print the variables that don't apply to it."""
    import os

    from envforge.machine.overrides import VARIABLES
    from envforge.machine.profiles import load_machine

    machine = load_machine(spec, os.environ)
    # these variables describe the computer on which they are set; a record contains those that were set on the
    # recorded machine
    ignored = [variable for variable in VARIABLES if spec is not None and variable in os.environ]
    if ignored:
        click.echo(f"note: ignoring {', '.join(ignored)}, because `--machine {spec}` is another computer", err=True)
    return machine


def mirror_option() -> Decorator:
    """Add ``--mirror FROM=TO`` as ``mirrors``, whose value ``chosen_mirrors`` accepts."""
    return click.option(
        "--mirror",
        "mirrors",
        multiple=True,
        metavar="FROM=TO",
        help="Download URLs that start with FROM from TO instead. May be provided more than once.  "
        "[env var: ENVFORGE_MIRRORS]",
    )


def chosen_mirrors(rules: tuple[str, ...]) -> Mirrors:
    """Return the rules of ``--mirror``, then those of ``ENVFORGE_MIRRORS``."""
    import os

    from envforge.mirrors import Mirrors

    return Mirrors(Mirrors.parse(rules).rules + Mirrors.from_environment(os.environ).rules)


def machine_here(*, driver: bool) -> Machine:
    """Return this computer; without ``driver``, only what needs no query of the NVIDIA driver."""
    if driver:
        return chosen_machine(None)
    import os

    from envforge.probe import World, probe_system

    return probe_system(World.here(os.environ))


def platform_here() -> str:
    """Return the conda subdir of this computer."""
    import platform

    from envforge.probe.system import conda_subdir

    return conda_subdir(platform.system(), platform.machine())


def cache_option() -> Decorator:
    """Add ``--cache DIR``; ``None`` means the cache directory of the user."""
    return click.option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="ENVFORGE_CACHE",
        show_envvar=True,
        help="Directory of downloaded and unpacked packages.",
    )
