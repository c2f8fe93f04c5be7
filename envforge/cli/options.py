"""Define the options that several commands share."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envforge.errors import Hint

if TYPE_CHECKING:
    from envforge.base.net import Mirrors
    from envforge.machine.values import Machine
    from envforge.prefix.locate import Meant

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

    from envforge.base.urls import show_url

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
            words += [] if each is True else [show_url(str(each))]
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

    from envforge.machine.profiles import load_machine
    from envforge.machine.variables import VARIABLES

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

    from envforge.base.net import Mirrors

    return Mirrors(Mirrors.parse(rules).rules + Mirrors.from_environment(os.environ).rules)


def machine_here(*, driver: bool) -> Machine:
    """Return this computer; without ``driver``, only what needs no query of the NVIDIA driver."""
    if driver:
        return chosen_machine(None)
    import os

    from envforge.machine.probe import probe_system
    from envforge.machine.world import World

    return probe_system(World.here(os.environ))


def platform_here() -> str:
    """Return the conda subdir of this computer."""
    import platform

    from envforge.machine.system import conda_subdir

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


Command = Callable[..., Any]
DEFAULT_PREFIX = Path(".conda")


def prefix_options(command: Command) -> Command:
    """Add ``--prefix`` and ``--name``, whose values ``meant`` and ``usable`` accept."""
    name = click.option("--name", help="Use the environment installed under this name.")
    prefix = click.option(
        "--prefix",
        type=click.Path(path_type=Path, file_okay=False),
        help="Use the environment in this directory.  [default: .conda of the project]",
    )
    return prefix(name(command))


def meant(prefix: Path | None, name: str | None) -> Meant:
    """Return the environment that the options select; it may be missing or incomplete."""
    from envforge.prefix.locate import meant_prefix

    return meant_prefix(prefix, name, Path.cwd())


def usable(prefix: Path | None, name: str | None) -> Meant:
    """Return the environment that the options select; raise ``EnvforgeError`` if it is missing or incomplete.

    An incomplete change of environment.yml doesn't affect the environment, so it is only a warning.
    """
    from envforge.prefix.locate import check_usable

    environment = meant(prefix, name)
    check_usable(environment)
    tell_change_of(environment.prefix)
    return environment


def fail_on_incomplete_change(lockfile: Path) -> None:
    """Raise ``EnvforgeError`` if a change of this lockfile is incomplete; either state could be the intended one."""
    from envforge.prefix.locate import unfinished_change

    found = unfinished_change(lockfile)
    if found is not None:
        raise found.error()


def warn_of_incomplete_change(lockfile: Path) -> None:
    """Print a warning if a change of this lockfile is incomplete."""
    from envforge.prefix.locate import unfinished_change

    _tell(unfinished_change(lockfile))


def tell_change_of(prefix: Path) -> None:
    """Print a warning if a change of the lockfile that an environment was created from is incomplete."""
    from envforge.prefix.locate import unfinished_change_of

    _tell(unfinished_change_of(prefix))


def warn_of_incomplete_environment() -> None:
    """Print a warning if the environment of the project around the current directory is incomplete."""
    from envforge.errors import EnvforgeError
    from envforge.prefix.locate import unfinished_around

    try:
        _tell(unfinished_around(Path.cwd()))
    except EnvforgeError as error:  # the current command doesn't use this environment
        _tell(f"{error.message}; {error.hint}")


def _tell(found: object) -> None:
    if found is not None:
        click.echo(f"warning: {found}", err=True)


def default_lock() -> Path:
    """Return ``conda-lock.yml`` of the project around the current directory; it may not exist."""
    from envforge.lock.lockfile import LOCK_NAME
    from envforge.lock.project import project_here

    return project_here() / LOCK_NAME


def file_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--file`` and ``--lockfile``; pass their values to ``environment_of`` and ``lockfile_of``."""
    lockfile = click.option(
        "--lockfile",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Use this lockfile.  [default: conda-lock.yml next to FILE]",
    )
    file = click.option(
        "-f",
        "--file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Use this environment file.  [default: environment.yml of the project]",
    )
    return file(lockfile(command))


def environment_of(file: Path | None) -> Path:
    """Return the file of ``--file``, or else environment.yml of the project around the current directory."""
    from envforge.lock.project import find_environment

    return file or find_environment(Path())


def variant_option(what: str) -> Decorator:
    """Add ``--variant NAME``, whose value ``stated_lock`` accepts; ``what`` is the verb of its help."""
    return click.option("--variant", metavar="NAME", help=f"{what} lockfiles/NAME/conda-lock.yml.")


def stated_lock(lock: Path | None, variant: str | None) -> Path | None:
    """Return the lockfile that LOCK or ``--variant`` selects; None if neither is given."""
    from envforge.errors import RequestError
    from envforge.lock.project import project_here
    from envforge.lock.variant_choice import variant_lock

    if lock is not None and variant is not None:
        raise RequestError(
            f"the lockfile `{lock}` and `--variant {variant}` can't be used together",
            hint="to select one lockfile, omit the path or `--variant`",
            code="two-locks",
        )
    return variant_lock(project_here(), variant, platform_here()) if variant is not None else lock


def need_lock(lock: Path | None, variant: str | None, what: str) -> Path:
    """Return the lockfile that LOCK or ``--variant`` selects, else the project's ``conda-lock.yml``.

    ``what`` is the command that the hint repeats with a variant. Raises ``EnvforgeError`` if a change of the lockfile
    is incomplete, and prints a warning if the environment of the project is.
    """
    from envforge.errors import RequestError
    from envforge.lock.lockfile import list_variants

    chosen = stated_lock(lock, variant) or default_lock()
    names = () if chosen.exists() or lock is not None else list_variants(chosen.parent)
    if names:
        raise RequestError(
            f"`{chosen}` does not exist, but the project has lockfiles of variants: {', '.join(names)}",
            hint="to select one",
            command=" ".join([what, "--variant", shlex.quote(names[0])]),
            code="which-variant",
        )
    fail_on_incomplete_change(chosen)
    warn_of_incomplete_environment()
    return chosen
