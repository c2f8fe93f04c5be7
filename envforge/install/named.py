"""Find the prefix of a named environment in the user's data directory."""

from __future__ import annotations

import re
from pathlib import Path

from envforge.errors import RequestError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def named_prefix(name: str) -> Path:
    """Return the prefix of a name; raise ``RequestError`` if the name is invalid."""
    import platformdirs  # noqa: PLC0415 - only for named environments

    if not _NAME.fullmatch(name) or name.endswith("."):
        raise RequestError(
            f"invalid environment name `{name}`: expected up to 64 letters, digits, `.`, `_`, or `-`, starting with a "
            "letter or digit and not ending with `.`",
            hint="choose another name, such as `--name my-project`",
            code="bad-name",
        )
    return Path(platformdirs.user_data_dir("envforge", appauthor=False)) / "environments" / name
