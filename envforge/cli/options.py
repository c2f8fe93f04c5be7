"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from envforge.machine import Machine
    from envforge.mirrors import Mirrors

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def collected(options: Sequence[Decorator], kind: type[Any], name: str) -> Decorator:
    """Options whose values the command receives together: one ``kind``, a dataclass, under ``name``."""

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


def json_option() -> Decorator:
    """``--json``: one versioned envelope on stdout, failures included."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def machine_option() -> Decorator:
    """``--machine FILE|PROFILE``: plan for another machine; give the value to ``chosen_machine``."""
    return click.option(
        "--machine",
        metavar="FILE|PROFILE",
        help="Another machine than this one: a record (envforge detect --json > FILE) or a profile such as t4, h100 or "
        "rtx-4090; a wrong name lists them all.",
    )


def chosen_machine(spec: str | None) -> Machine:
    """The machine that ``--machine`` names, or this computer; stderr names the variables that do not count for it."""
    import os

    from envforge.machine.overrides import VARIABLES
    from envforge.machine.profiles import load_machine

    machine = load_machine(spec, os.environ)
    # these variables describe the computer on which they are set; a record contains those that were set on the
    # recorded machine
    ignored = [variable for variable in VARIABLES if spec is not None and variable in os.environ]
    if ignored:
        click.echo(
            f"note: {', '.join(ignored)} describes this computer and is not applied to --machine {spec}", err=True
        )
    return machine


def mirror_option() -> Decorator:
    """``--mirror FROM=TO``, as ``mirrors``; give the value to ``chosen_mirrors``."""
    return click.option(
        "--mirror",
        "mirrors",
        multiple=True,
        metavar="FROM=TO",
        help="Fetch from TO what has an address below FROM (repeatable; also ENVFORGE_MIRRORS).",
    )


def chosen_mirrors(rules: tuple[str, ...]) -> Mirrors:
    """The rules of ``--mirror``, then those of ``ENVFORGE_MIRRORS``."""
    import os

    from envforge.mirrors import Mirrors

    return Mirrors(Mirrors.parse(rules).rules + Mirrors.from_environment(os.environ).rules)


def platform_here() -> str:
    """The conda subdir of this computer."""
    import platform

    from envforge.probe.system import conda_subdir

    return conda_subdir(platform.system(), platform.machine())


def cache_option() -> Decorator:
    """``--cache DIR``: where downloads are kept; ``None`` means the user's own folder."""
    return click.option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="ENVFORGE_CACHE",
        show_envvar=True,
        help="Where downloaded and unpacked packages are kept.",
    )
