"""Render text with Jinja: strict, sandboxed, and with the same bytes for the same values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from envforge.errors import EnvforgeError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

_LONGEST_REASON = 400
_NOT_THE_SAME_TWICE = ("random", "lipsum")


class TemplateError(EnvforgeError):
    """A template is invalid; its author can fix it."""


def render_template(text: str, variables: Mapping[str, object], where: str) -> str:
    """Render ``text``; ``where`` names it in errors. An undefined variable is an error, values are never evaluated."""
    environment = _environment()
    try:
        rendered = environment.from_string(text).render(variables)
        rendered.encode()  # an expression can produce a lone surrogate, which no file can contain
    except Exception as error:  # an expression of a template can raise anything
        line = getattr(error, "lineno", None)
        at = f"`{where}`, line {line}" if line else f"`{where}`"
        # a message may contain a value of any length, and one of `MemoryError` is empty
        reason = str(error)[:_LONGEST_REASON] or type(error).__name__
        raise TemplateError(f"the template {at} can't be rendered: {reason}", code="template-damaged") from error
    return rendered


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    """Return the environment, which a template can't change, so that all share it."""
    from jinja2 import StrictUndefined  # noqa: PLC0415 - slow to import, and only `new` needs it
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 - as above

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # plain text, never HTML
        cache_size=0,
    )
    environment.filters["quoted"] = quoted
    for name in _NOT_THE_SAME_TWICE:
        environment.filters.pop(name, None)
        environment.globals.pop(name, None)
    return environment


def quoted(value: object) -> str:
    """Return a double-quoted string that YAML, TOML, JSON, and Python read alike."""
    return json.dumps(str(value), ensure_ascii=False)
