"""Report which distribution this copy of envforge is, how it was installed, and how to upgrade or require it.

The name of the distribution is stated in ``pyproject.toml`` only, because another project owns ``envforge`` on PyPI.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from envforge import __version__
from envforge.errors import RequestError

REQUIREMENT_VARIABLE = "ENVFORGE_REQUIREMENT"
_ENTRY_POINT = "envforge.__main__:run"


def distribution_name() -> str:
    """Return the name to install envforge by."""
    found = _distribution()
    if found is not None:
        return str(found.metadata["Name"])
    return _name_in_checkout()


def pinned_requirement(extra: str = "") -> str:
    """Return the requirement for this version, such as ``name[smoke]==1.2.3``."""
    return f"{_with_extra(extra)}=={__version__}"


def fleet_requirement(option: str | None, environment: Mapping[str, str]) -> str:
    """Return the requirement by which generated files install envforge: ``--envforge``, the variable, the settings.

    Raises ``RequestError`` if the value is empty or contains a control character, which no generated file can quote.
    """
    from envforge.sharing.settings import user_setting  # noqa: PLC0415 - only generated files need it

    stated = option or environment.get(REQUIREMENT_VARIABLE) or user_setting("envforge", "requirement")
    if stated is None:
        return pinned_requirement()
    if not stated.strip() or not stated.isprintable():
        raise RequestError(
            f"{stated!r} is not a requirement that pip can install",
            hint=f"pass a version, a git URL, or a wheel, such as `--envforge '{pinned_requirement()}'`",
            code="bad-requirement",
        )
    return stated.strip()


def installed_by() -> str:
    """Return how this copy was installed, such as ``uv tool``, or ``pip (editable, from DIR)``."""
    source = _direct_url()
    facts = [] if _distribution() is not None else ["not installed"]
    facts += ["editable"] if _is_editable(source) else []
    facts += [f"from {_requirement_from(source, '').rpartition(' @ ')[2]}"] if source else []
    installer = _tool() or ("uv pip" if _is_by_uv() else "pip")
    return f"{installer} ({', '.join(facts)})" if facts else installer


def upgrade_command() -> str:
    """Return the command that upgrades this copy, in the way it was installed."""
    source = _direct_url()
    checkout = _local_directory(source)
    if checkout is not None and _is_editable(source) and (Path(checkout) / ".git").exists():
        return f"git -C {shlex.quote(checkout)} pull"
    tool = _tool()
    if tool is not None:
        return f"{tool} upgrade {distribution_name()}"
    return f"{_installer()} --upgrade {_editable(source)}{shlex.quote(_requirement_from(source, ''))}"


def extra_command(extra: str) -> str:
    """Return the command that adds an optional dependency group to this copy, in the way it was installed."""
    source = _direct_url()
    tool = _tool()
    install = f"{tool} install --force" if tool is not None else _installer()
    return f"{install} {_editable(source)}{shlex.quote(_requirement_from(source, extra))}"


def reinstall_command() -> str:
    """Return the command that installs this copy again, for files of envforge that are missing or invalid."""
    source = _direct_url()
    checkout = _local_directory(source)
    if checkout is not None and _is_editable(source) and (Path(checkout) / ".git").exists():
        return f"git -C {shlex.quote(checkout)} status"
    requirement = _editable(source) + shlex.quote(_requirement_from(source, "") if source else pinned_requirement())
    tool = _tool()
    if tool is not None:
        return f"{tool} install --force {requirement}"
    return f"{_installer()} {'--reinstall' if _is_by_uv() else '--force-reinstall'} --no-deps {requirement}"


def _with_extra(extra: str) -> str:
    return f"{distribution_name()}[{extra}]" if extra else distribution_name()


def _requirement_from(source: Mapping[str, Any], extra: str) -> str:
    """Return the requirement by which this copy was installed: a directory, a git URL, an archive, or the name."""
    checkout = _local_directory(source)
    if checkout is not None:
        return f"{checkout}[{extra}]" if extra else checkout
    url = source.get("url")
    if not isinstance(url, str):
        return _with_extra(extra)
    vcs = source.get("vcs_info", {})
    kind, revision = vcs.get("vcs"), vcs.get("requested_revision")
    place = f"{kind}+{url}@{revision}" if revision else f"{kind}+{url}" if kind else url
    part = source.get("subdirectory")
    return f"{_with_extra(extra)} @ {place}{f'#subdirectory={part}' if part else ''}"


@cache
def _distribution() -> metadata.Distribution | None:
    """Return the installed distribution that provides this command, or ``None`` in a checkout without an install."""
    for script in metadata.entry_points(group="console_scripts", name="envforge"):
        if script.value == _ENTRY_POINT and script.dist is not None:
            return script.dist
    return None


def _name_in_checkout() -> str:
    from envforge import toml  # noqa: PLC0415 - only a copy that was never installed needs it

    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    return str(toml.loads(text)["project"]["name"])


def _direct_url() -> dict[str, Any]:
    """Return ``direct_url.json`` (PEP 610); empty if this copy came from a package index.

    A checkout without an install is treated as editable, because an editable install completes it.
    """
    found = _distribution()
    if found is None:
        return {"url": Path(__file__).parents[1].as_uri(), "dir_info": {"editable": True}}
    text = found.read_text("direct_url.json")
    document = json.loads(text) if text else {}
    return document if isinstance(document, dict) else {}


def _local_directory(source: Mapping[str, Any]) -> str | None:
    from urllib.parse import urlsplit  # noqa: PLC0415 - only hints need it
    from urllib.request import url2pathname  # noqa: PLC0415 - as above

    if "dir_info" not in source:
        return None
    return url2pathname(urlsplit(str(source["url"])).path)


def _tool() -> str | None:
    """Return the tool that owns this environment, if any: pipx and uv write a file into each one that they create."""
    for name, command in (("pipx_metadata.json", "pipx"), ("uv-receipt.toml", "uv tool")):
        if (Path(sys.prefix) / name).is_file():
            return command
    return None


def _is_editable(source: Mapping[str, Any]) -> bool:
    return bool(source.get("dir_info", {}).get("editable"))


def _editable(source: Mapping[str, Any]) -> str:
    return "-e " if _is_editable(source) else ""


def _is_by_uv() -> bool:
    found = _distribution()
    return found is not None and (found.read_text("INSTALLER") or "").strip() == "uv"


def _installer() -> str:
    """Return the command that installs into the environment of this copy, even if another one is active."""
    import shutil  # noqa: PLC0415 - only hints need it

    program = shlex.quote(sys.executable)
    if _is_by_uv():
        is_active = os.environ.get("VIRTUAL_ENV") == sys.prefix
        return "uv pip install" if is_active else f"uv pip install --python {program}"
    pip = shutil.which("pip")
    is_first = pip is not None and Path(pip).parent == Path(sys.executable).parent
    return "pip install" if is_first else f"{program} -m pip install"
