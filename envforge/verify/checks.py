"""Which checks there are: ours, and those that other packages offer in the entry-point group ``envforge.checks``.

Enters: nothing. Leaves: ``Check`` values with distinct ids, in the order in which people read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points

from envforge.errors import EnvforgeError
from envforge.verify import whole
from envforge.verify.values import QUESTIONS, Check

GROUP = "envforge.checks"


def all_checks() -> tuple[Check, ...]:
    """By question, ours before those of other packages. Raises where one cannot be loaded or an id is taken."""
    origins: dict[str, str] = {}
    checks = []
    for check, origin in (*_ours(), *_offered()):
        if check.id in origins:
            raise EnvforgeError(
                f"two checks have the id `{check.id}`: from `{origins[check.id]}` and from `{origin}`",
                hint="give one of them another id",
                code="checks-broken",
            )
        origins[check.id] = origin
        checks.append(check)
    return tuple(sorted(checks, key=lambda check: QUESTIONS.index(check.question)))


def _ours() -> Iterator[tuple[Check, str]]:
    from envforge.verify.environment import checks as environment  # noqa: PLC0415 - what judges need comes with them
    from envforge.verify.machine import checks as machine  # noqa: PLC0415
    from envforge.verify.training import checks as training  # noqa: PLC0415

    yield from ((check, whole.__name__) for check in whole.CHECKS)
    for module in (machine, environment, training):
        yield from ((check, module.__name__) for check in module.CHECKS)


def _offered() -> Iterator[tuple[Check, str]]:
    """An entry point is a ``Check`` or a sequence of them."""
    for entry in entry_points(group=GROUP):
        try:
            offered = entry.load()
            checks = (offered,) if isinstance(offered, Check) else tuple(offered)
        except Exception as error:
            raise EnvforgeError(
                f"the checks of `{entry.value}` cannot be loaded: {type(error).__name__}: {error}",
                hint=f"repair or remove the package that offers the entry point `{entry.name}` in `{GROUP}`",
                code="checks-broken",
            ) from error
        for check in checks:
            if not isinstance(check, Check):
                raise EnvforgeError(
                    f"`{entry.value}` offers `{check!r}` in `{GROUP}`: wanted a Check",
                    hint="from envforge.verify.values import QUESTIONS, Check",
                    code="checks-broken",
                )
            yield check, entry.value
