"""Which checks there are: ours, and those that other packages offer in the entry-point group ``envforge.checks``.

Enters: nothing. Leaves: ``Check`` values with distinct ids, in the order in which people read them.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from envforge.errors import EnvforgeError
from envforge.verify.values import Check

GROUP = "envforge.checks"


def all_checks() -> tuple[Check, ...]:
    """Every check; an entry point is a ``Check`` or a sequence of them. Raises where one is broken or an id is
    taken.
    """
    found: dict[str, tuple[Check, str]] = {}
    for entry in entry_points(group=GROUP):
        try:
            offered = entry.load()
        except Exception as error:
            raise EnvforgeError(
                f"the checks of `{entry.value}` cannot be loaded: {type(error).__name__}: {error}",
                hint=f"repair or remove the package that offers the entry point `{entry.name}` in `{GROUP}`",
                code="checks-broken",
            ) from error
        for check in (offered,) if isinstance(offered, Check) else tuple(offered):
            if check.id in found:
                raise EnvforgeError(
                    f"two checks have the id `{check.id}`: from `{found[check.id][1]}` and from `{entry.value}`",
                    hint="give one of them another id",
                    code="checks-broken",
                )
            found[check.id] = (check, entry.value)
    return tuple(check for check, _ in found.values())
