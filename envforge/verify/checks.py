"""Collect the built-in checks, and those of other packages (entry-point group ``envforge.checks``)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points

from envforge.errors import EnvforgeError
from envforge.verify import whole
from envforge.verify.values import QUESTIONS, Check

GROUP = "envforge.checks"


def all_checks() -> tuple[Check, ...]:
    """Return the checks by question, built-in ones first. Raise if one can't be loaded or two have the same id."""
    origins: dict[str, str] = {}
    checks = []
    for check, origin in (*_ours(), *_offered()):
        if check.id in origins:
            raise EnvforgeError(
                f"two checks have the id `{check.id}`: from `{origins[check.id]}` and from `{origin}`",
                hint="change one of the two ids, or uninstall the package that provides it",
                code="checks-broken",
            )
        origins[check.id] = origin
        checks.append(check)
    return tuple(sorted(checks, key=lambda check: QUESTIONS.index(check.question)))


def _ours() -> Iterator[tuple[Check, str]]:
    from envforge.verify.environment import checks as environment  # noqa: PLC0415 - imports all that checks need
    from envforge.verify.machine import checks as machine  # noqa: PLC0415
    from envforge.verify.training import checks as training  # noqa: PLC0415

    yield from ((check, whole.__name__) for check in whole.CHECKS)
    for module in (machine, environment, training):
        yield from ((check, module.__name__) for check in module.CHECKS)


def _offered() -> Iterator[tuple[Check, str]]:
    """Yield the checks of entry points; each names a ``Check`` or a sequence of them."""
    for entry in entry_points(group=GROUP):
        try:
            offered = entry.load()
            checks = (offered,) if isinstance(offered, Check) else tuple(offered)
        except Exception as error:
            raise EnvforgeError(
                f"failed to load the checks of `{entry.value}`: {type(error).__name__}: {error}",
                hint=f"fix or uninstall the package with the entry point `{entry.name}` in `{GROUP}`",
                code="checks-broken",
            ) from error
        for check in checks:
            if not isinstance(check, Check):
                raise EnvforgeError(
                    f"the entry point `{entry.value}` in `{GROUP}` is invalid: expected a Check, found `{check!r}`",
                    hint="let the entry point name a `Check`, or a sequence of `Check` values",
                    code="checks-broken",
                )
            yield check, entry.value
