"""Build the options of a command from one struct, and define the options that several commands share.

Each field is declared once: its annotation is ``Annotated[TYPE, Option(HELP)]`` or ``Annotated[TYPE, Argument()]``.
``takes`` adds them to a command, which receives one value of the struct.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import click
from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from envforge.errors import EnvforgeError, Hint, RequestError

if TYPE_CHECKING:
    from envforge.base.urls import Mirrors
    from envforge.lock.plan import Artifact
    from envforge.lock.request import LockRequest
    from envforge.machine.values import Machine
    from envforge.prefix.locate import ChosenEnvironment

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_T = TypeVar("_T")

FILE = click.Path(path_type=Path, dir_okay=False)
DIRECTORY = click.Path(path_type=Path, file_okay=False)


class FiniteRange(click.FloatRange):
    """A range that contains neither `nan` nor `inf`, nor a time that overflows a date."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fail like click if it is none of the range."""
        number = super().convert(value, param, ctx)
        return number if abs(number) < 1e9 else self.fail(f"{value} is not a number below 1e9.", param, ctx)


DEFAULT_PREFIX = Path(".conda")


class Argument:
    """A field that is a positional argument; ``settings`` are those of ``click.argument``."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def parameter(self, name: str, type_: Any, default: Any) -> Decorator:
        """Return the decorator that adds the parameter; it is required if the field has no default."""
        many = {"nargs": -1} if get_origin(type_) is tuple else {}
        required = {"required": default is NODEFAULT}
        return click.argument(name, **{**required, **_settings(type_, default), **many, **self._settings})


class Option:
    """A field that is an option with this help; ``names`` defaults to the field's name (``--dry-run`` of ``dry_run``).

    The field's type decides what the option accepts: ``bool`` makes a flag, a tuple an option that may be repeated, and
    ``Literal`` a choice. A default other than None is shown. ``settings`` of ``click.option`` replace these.
    """

    def __init__(self, help: str, *names: str, **settings: Any) -> None:  # noqa: A002 - as click names it
        self._names, self._settings = names, {"help": help, **settings}

    def parameter(self, name: str, type_: Any, default: Any) -> Decorator:
        """Return the decorator that adds the parameter."""
        names = self._names or (f"--{name.replace('_', '-')}",)
        settings = _settings(type_, default)
        settings |= {"show_default": True} if "default" in settings else {}
        settings |= {"is_flag": True} if type_ is bool else {}
        settings |= {"multiple": True} if get_origin(type_) is tuple else {}
        return click.option(*names, name, **{**settings, **self._settings})


def _settings(type_: Any, default: Any) -> dict[str, Any]:
    """Return the settings of click that follow from the type and the default of a field."""
    settings: dict[str, Any] = {} if default in (NODEFAULT, None, False, ()) else {"default": default}
    for each in (type_, *get_args(type_)):  # the alternatives of `Path | None`
        if get_origin(each) is Literal:
            return {"type": click.Choice(get_args(each)), **settings}
        if each is Path:
            return {"type": FILE, **settings}
    return settings


def takes(kind: type[_T]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options and arguments of ``kind``, a struct, to a command, and call it with one value of ``kind``.

    A field whose type is a struct adds the options of that struct in its place.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_options(*context: Any, **values: Any) -> Any:
            return command(*context, _collect(kind, values))

        return _add(kind, with_options)

    return decorate


def _add(kind: Any, command: Callable[..., Any]) -> Callable[..., Any]:
    # click lists the options of a function from the last decorator to the first
    for parameter in reversed([*_parameters(kind)]):
        command = parameter(command)
    return command


def _parameters(kind: Any) -> Iterator[Decorator]:
    for each in _fields(kind):
        if _is_struct(each.type):
            yield from _parameters(each.type)
        else:
            type_, declared = get_args(each.type)
            yield declared.parameter(each.name, type_, each.default)


def _collect(kind: Any, values: Mapping[str, Any]) -> Any:
    return kind(
        **{
            each.name: _collect(each.type, values) if _is_struct(each.type) else values[each.name]
            for each in _fields(kind)
        }
    )


@functools.cache
def _fields(kind: Any) -> tuple[FieldInfo, ...]:
    return fields(kind)


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, Struct)


JsonOption = Annotated[bool, Option("Print one JSON document to stdout.", "--json")]
MachineOption = Annotated[
    str | None,
    Option(
        "Plan for another machine: a record written by `envforge detect --json`, the output of nvidia-smi, Slurm, or "
        "Kubernetes, `-` for standard input, or a profile such as t4, h100, or rtx-4090.",
        metavar="FILE|PROFILE",
    ),
]
MirrorsOption = Annotated[
    tuple[str, ...],
    Option(
        "Download URLs that start with FROM from TO instead. May be provided more than once.  "
        "[env var: ENVFORGE_MIRRORS]",
        "--mirror",
        metavar="FROM=TO",
    ),
]
CacheOption = Annotated[
    Path | None,
    Option("Directory of downloaded and unpacked packages.", type=DIRECTORY, envvar="ENVFORGE_CACHE", show_envvar=True),
]
CondaExeOption = Annotated[
    Path | None,
    Option(
        "Solve with this conda, mamba, or micromamba instead of the embedded solver.",
        type=click.Path(path_type=Path),
        envvar="ENVFORGE_CONDA_EXE",
        show_envvar=True,
    ),
]


class OutputOptions(Struct, frozen=True, kw_only=True):
    """The command line of a command that has only the format of its output."""

    as_json: JsonOption


def catalogue_option(help_text: str) -> Option:
    """Return ``--catalogue URL``."""
    return Option(help_text, metavar="URL", envvar="ENVFORGE_CATALOGUE", show_envvar=True)


def sign_option(what: str) -> Option:
    """Return ``--sign KEY``, whose value ``chosen_signer`` accepts; ``what`` is the start of its help."""
    text = f"{what}. Prompts for its password, or reads ENVFORGE_SIGNING_PASSWORD."
    return Option(text, "--sign", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="KEY")


def torch_index_option(verb: str) -> Option:
    """Return ``--torch-index URL``; ``verb`` is the start of its help."""
    text = f"{verb} this PyTorch wheel index; leave the tag out.  [default: https://download.pytorch.org/whl]"
    return Option(text, metavar="URL", envvar="ENVFORGE_TORCH_INDEX", show_envvar=True)


class EnvironmentOptions(Struct, frozen=True, kw_only=True):
    """The environment that a command uses: by default, the one of the project around the current directory."""

    prefix: Annotated[
        Path | None, Option("Use the environment in this directory.  [default: .conda of the project]", type=DIRECTORY)
    ] = None
    name: Annotated[str | None, Option("Use the environment installed under this name.")] = None

    def meant(self) -> ChosenEnvironment:
        """Return the environment that the options select; it may be missing or incomplete."""
        from envforge.prefix.locate import chosen_environment

        return chosen_environment(self.prefix, self.name, Path.cwd())

    def usable(self) -> ChosenEnvironment:
        """Return the environment that the options select; raise ``EnvforgeError`` if it is missing or incomplete.

        An incomplete change of environment.yml doesn't affect the environment, so it is only a warning.
        """
        from envforge.prefix.locate import check_usable

        environment = self.meant()
        check_usable(environment)
        tell_change_of(environment.prefix)
        return environment


class FileOptions(Struct, frozen=True, kw_only=True):
    """The environment files that a command locks, and their lockfile."""

    file: Annotated[
        tuple[Path, ...],
        Option(
            "Use this environment file. May be provided more than once, to merge several.  "
            "[default: environment.yml of the project, or the files that its lockfile records]",
            "-f",
            "--file",
        ),
    ] = ()
    lockfile: Annotated[Path | None, Option("Use this lockfile.  [default: conda-lock.yml next to FILE]")] = None

    def files(self) -> tuple[Path, ...]:
        """Return the files of ``--file``, or else those of the project around the current directory."""
        from envforge.lock.lockfile import find_sources

        return tuple(dict.fromkeys(self.file)) or find_sources(Path())

    def request(self, mirrors: tuple[str, ...]) -> LockRequest:
        """Return the request to lock these files; ``mirrors`` are the rules of ``--mirror``."""
        from envforge.lock.lockfile import recorded_input
        from envforge.lock.project import LOCK_FILE
        from envforge.lock.request import LockRequest

        environment, *others = self.files()
        lockfile = self.lockfile or environment.with_name(LOCK_FILE)
        return LockRequest(
            environment=environment,
            others=tuple(others),
            lockfile=lockfile,
            categories=recorded_input(lockfile)[1],
            mirrors=chosen_mirrors(mirrors),
        )


def repeated_command(changes: Mapping[str, str | bool | None]) -> str:
    """Return the current command line with other values for some parameters, by their Python names.

    ``None`` and ``False`` leave an option out. Credentials in URLs are left out too, because hints end up in logs.
    """
    from click.core import ParameterSource

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
            words += [] if each is True else [_shown(str(each))]
    return shlex.join(["envforge", *words[1:]])


def _shown(value: str) -> str:
    from envforge.base.urls import show_url
    from envforge.catalogue.address import parse_address

    if value.startswith("git+"):
        with contextlib.suppress(EnvforgeError):
            return parse_address(value, Path()).public  # with the `#subdirectory=`, which the command needs
    return show_url(value)


def hints_inside(directory: Path, hints: Iterable[Hint], purpose: str = "") -> tuple[Hint, ...]:
    """Return the hints of a part of this command, whose commands apply in another directory; ``purpose`` precedes them.

    Hints without a command are kept, so they must not say what to do with the command that was run.
    """
    enter = "" if directory.absolute() == Path.cwd() else f"cd {shlex.quote(str(directory))} && "
    return tuple(Hint(f"{purpose}{h.purpose}", f"{enter}{h.command}") if h.command else h for h in hints)


def chosen_machine(spec: str | None) -> Machine:
    """Return the machine that ``--machine`` names, or this computer; print the variables that don't apply to it."""
    from envforge.machine.record import load_machine
    from envforge.machine.values import VARIABLES

    machine = load_machine(spec, os.environ)
    # these variables describe the computer on which they are set; a record contains those that were set on the
    # recorded machine
    ignored = [variable for variable in VARIABLES if spec is not None and variable in os.environ]
    if ignored:
        click.echo(f"note: ignoring {', '.join(ignored)}, because `--machine {spec}` is another computer", err=True)
    return machine


def chosen_mirrors(rules: tuple[str, ...]) -> Mirrors:
    """Return the rules of ``--mirror``, then those of ``ENVFORGE_MIRRORS``."""
    from envforge.base.urls import Mirrors

    return Mirrors(Mirrors.parse(rules).rules + Mirrors.from_environment(os.environ).rules)


def machine_here(*, driver: bool) -> Machine:
    """Return this computer; without ``driver``, only what needs no query of the NVIDIA driver."""
    if driver:
        return chosen_machine(None)
    from envforge.machine.probe import probe_system
    from envforge.machine.world import World

    return probe_system(World.here(os.environ))


def platform_here() -> str:
    """Return the conda subdir of this computer."""
    import platform

    from envforge.machine.evidence import conda_subdir

    return conda_subdir(platform.system(), platform.machine())


def cached_size(artifact: Artifact) -> int | None:
    """Return the size of a package's file in bytes; None if the package cache doesn't have it."""
    from envforge.prefix.cache import Store, default_root
    from envforge.prefix.clean import file_bytes

    return file_bytes(Store(Path(os.environ.get("ENVFORGE_CACHE") or default_root())).path(artifact))


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
    from envforge.lock.project import LOCK_FILE, project_here

    return project_here() / LOCK_FILE


def variant(what: str) -> Option:
    """Return ``--variant NAME``, whose value ``stated_lock`` accepts; ``what`` is the verb of its help."""
    return Option(f"{what} lockfiles/NAME/conda-lock.yml.", metavar="NAME")


def stated_lock(lock: Path | None, variant: str | None) -> Path | None:
    """Return the lockfile that LOCK or ``--variant`` selects; None if neither is given."""
    from envforge.lock.needs import variant_lock
    from envforge.lock.project import project_here

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
