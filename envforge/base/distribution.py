"""Report which distribution this copy of envforge is, how it was installed, and how to upgrade or require it.

The name of the distribution is stated in ``pyproject.toml`` only, because another project owns ``envforge`` on PyPI.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.version import Version

from envforge import __version__
from envforge.base.urls import Url, has_secrets
from envforge.errors import RequestError

REQUIREMENT_VARIABLE = "ENVFORGE_REQUIREMENT"
_ENTRY_POINT = "envforge.__main__:run"
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_NAME_AT = re.compile(r"[A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\])?\s*@")


def distribution_name() -> str:
    """Return the name to install envforge by."""
    found = _distribution()
    if found is not None:
        return str(found.metadata["Name"])
    from envforge.base import toml  # noqa: PLC0415 - only a copy that was never installed needs it

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    return str(toml.loads(text)["project"]["name"])


def pinned_requirement() -> str:
    """Return the requirement for this version, such as ``name==1.2.3``."""
    return f"{distribution_name()}=={__version__}"


def fleet_requirement(option: str | None, environment: Mapping[str, str]) -> str:
    """Return the requirement by which generated files install envforge; by default this version."""
    return stated_requirement(option, environment) or pinned_requirement()


def stated_requirement(
    option: str | None, environment: Mapping[str, str], recorded: tuple[str, str] | None = None
) -> str | None:
    """Return the requirement of ``--envforge``, the project, the variable, or the settings; None if none states one.

    ``recorded`` is the requirement that a project records, and the file that records it. Raises ``RequestError`` if
    pip can't install envforge by it, or if it contains credentials. An empty variable counts as unset.
    """
    from envforge.base.data_files import user_file, user_setting  # noqa: PLC0415 - only generated files need it

    if option is not None:
        return _checked(option, "`--envforge`", f"--envforge {__version__}")
    if recorded is not None:
        return _checked(recorded[0], f"`envforge_requirement` in `{recorded[1]}`", f"--envforge {__version__}")
    if variable := environment.get(REQUIREMENT_VARIABLE):
        return _checked(variable, f"`{REQUIREMENT_VARIABLE}`", f"{REQUIREMENT_VARIABLE}={__version__}")
    setting = user_setting("envforge", "requirement")
    place = f"`requirement` in `{user_file()}`"
    return None if setting is None else _checked(setting, place, f'requirement = "{__version__}"')


def python_image(requirement: str, release: str = "bookworm") -> str:
    """Return the container image in which pip can install a requirement; the slim images have no git."""
    return f"python:3.12-{'' if 'git+' in requirement else 'slim-'}{release}"


def installed_by() -> str:
    """Return how this copy was installed, such as ``uv tool``, or ``pip (editable, from DIR)``."""
    source = _direct_url()
    facts = [] if _distribution() is not None else ["not installed"]
    facts += ["editable"] if _is_editable(source) else []
    facts += [f"from {_requirement_from(source, '').rpartition(' @ ')[2]}"] if source else []
    installer = _tool() or ("uv pip" if _is_by_uv() else "pip")
    return f"{installer} ({', '.join(facts)})" if facts else installer


def upgrade_command() -> str:
    """Return the command that upgrades this copy, in the way it was installed.

    A file or a tag never gets newer, so a copy of one is upgraded from the package index.
    """
    source, name, tool = _direct_url(), distribution_name(), _tool()
    checkout = _checkout(source)
    if checkout is not None and _is_editable(source):
        return f"git -C {shlex.quote(checkout)} pull"
    if checkout is None and not _is_branch(source):
        if tool is None:
            return f"{_installer()} --upgrade {name}"
        if not source:
            return f"{tool} upgrade {name}"
        return f"pipx install --force {name}" if tool == "pipx" else f"{tool} install --upgrade {name}"
    pull = f"git -C {shlex.quote(checkout)} pull && " if checkout is not None else ""
    requirement = shlex.quote(_requirement_from(source, ""))
    if tool is not None:
        # plain upgrades keep a copy whose version is unchanged
        upgrade = f"pipx install --force {requirement}" if tool == "pipx" else f"{tool} upgrade --reinstall {name}"
        return f"{pull}{upgrade}"
    again = f"--reinstall-package {name}" if _is_by_uv() else "--force-reinstall"
    return f"{pull}{_installer()} --upgrade {again} {requirement}"


def extra_command(extra: str) -> str:
    """Return the command that adds an optional dependency group to this copy, in the way it was installed."""
    source, tool = _direct_url(), _tool()
    install = f"{tool} install --force" if tool is not None else _installer()
    return f"{install} {_editable(source)}{shlex.quote(_requirement_from(source, extra))}"


def reinstall_command() -> str:
    """Return the command that installs this copy again, for files of envforge that are missing or invalid."""
    source, tool = _direct_url(), _tool()
    checkout = _checkout(source)
    if checkout is not None and _is_editable(source):
        return f"git -C {shlex.quote(checkout)} status"
    requirement = _editable(source) + shlex.quote(_requirement_from(source, "") if source else pinned_requirement())
    if tool is not None:
        return f"{tool} install --force {requirement}"
    return f"{_installer()} {'--reinstall' if _is_by_uv() else '--force-reinstall'} --no-deps {requirement}"


def _checked(text: str, place: str, example: str) -> str:
    """Return a requirement of envforge in the form that pip accepts; a version becomes ``NAME==VERSION``."""
    value = text.strip(" ")
    if has_secrets(value):
        raise RequestError(
            f"the URL in {place} contains a user name, a password, or a token, which generated files would spread",
            hint="remove it from the URL; pip reads `~/.netrc` on the machine that installs envforge",
            code="credentials",
        )
    version = _version(value) if value.isprintable() else None
    if version is not None:
        return f"{distribution_name()}=={version}"
    expected = _expected_instead(value)
    if expected:
        shown = value if value.isprintable() else value.encode("unicode_escape").decode()
        raise RequestError(
            f"{place} is not a requirement of envforge: expected {expected}, found `{shown}`",
            hint=f"use a version, a git URL, or a wheel, such as `{example}`",
            code="bad-requirement",
        )
    return value


def _expected_instead(value: str) -> str:
    """Return what was expected if pip can't install envforge by a value; empty if it can."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - only generated files need it

    ours = f"a requirement of `{distribution_name()}`"
    any_form = f"a version, {ours}, a git URL, or the URL or path of a wheel"
    # pip would take `-…` for an option, and only a shell expands `~`
    if not value or not value.isprintable() or value.startswith(("-", "~")):
        return any_form
    is_place = value in (".", "..") or "/" in value or "\\" in value or value.endswith(_ARCHIVES)
    # `NAME @ URL` has a slash, too
    if _NAME_AT.match(value) is None and is_place:
        return "" if _is_url(value) or _is_path(value) else any_form
    try:
        requirement = Requirement(value)
    except ValueError:
        return any_form
    if not _is_ours(requirement.name):
        return ours
    return "" if requirement.url is None or _is_url(requirement.url) else f"{ours} with a URL of git or of an archive"


def _version(value: str) -> str | None:
    try:
        return str(Version(value))
    except ValueError:
        return None


def _is_ours(name: str) -> bool:
    from packaging.utils import canonicalize_name  # noqa: PLC0415 - only generated files need it

    return canonicalize_name(name) == canonicalize_name(distribution_name())


def _is_url(url: str) -> bool:
    try:
        parts = Url.parse(url)
    except ValueError:
        return False
    if " " in url or "://" not in url or not (parts.host or parts.scheme.endswith("file")) or not parts.path.strip("/"):
        return False
    if parts.scheme.startswith("git+"):
        return parts.scheme in ("git+https", "git+http", "git+ssh", "git+git", "git+file")
    is_archive = parts.path.endswith(_ARCHIVES)
    return (parts.scheme == "file" or (parts.scheme in ("https", "http") and is_archive)) and _fits(parts.file_name)


def _is_path(path: str) -> bool:
    # `C:` is a drive of Windows; `file:` and `git@HOST:` begin a URL
    return re.match(r"[\w.+@-]{2,}:|git\+", path) is None and _fits(re.sub(r"\[[^\]]*\]$", "", path))


def _fits(path: str) -> bool:
    """Return whether a path can lead to envforge; only the name of a wheel shows its distribution."""
    from packaging.utils import parse_wheel_filename  # noqa: PLC0415 - only generated files need it

    if not path.endswith(".whl"):
        return True
    try:
        return _is_ours(parse_wheel_filename(re.split(r"[/\\]", path)[-1])[0])
    except ValueError:
        return False


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
    # by the command and not by the name, because another project owns the name `envforge` on PyPI
    for script in metadata.entry_points(group="console_scripts", name="envforge"):
        if script.value == _ENTRY_POINT and script.dist is not None:
            return script.dist
    return None


def _direct_url() -> dict[str, Any]:
    """Return ``direct_url.json`` (PEP 610); empty if this copy came from a package index.

    A checkout without an install is treated as editable, because an editable install completes it.
    """
    found = _distribution()
    if found is None:
        return {"url": Path(__file__).parents[2].as_uri(), "dir_info": {"editable": True}}
    text = found.read_text("direct_url.json")
    document = json.loads(text) if text else {}
    return document if isinstance(document, dict) else {}


def _local_directory(source: Mapping[str, Any]) -> str | None:
    return file_url_path(str(source["url"])) if "dir_info" in source else None


def file_url_path(url: str) -> str:
    """Return the path of a ``file:`` URL, as in ``direct_url.json``."""
    from urllib.request import url2pathname  # noqa: PLC0415 - slow to import, and only hints need it

    return url2pathname(urlsplit(url).path)


def _checkout(source: Mapping[str, Any]) -> str | None:
    directory = _local_directory(source)
    return directory if directory is not None and (Path(directory) / ".git").exists() else None


def _is_branch(source: Mapping[str, Any]) -> bool:
    """Return whether this copy was installed from git by the name of a branch, which can get newer."""
    vcs = source.get("vcs_info", {})
    revision = vcs.get("requested_revision") or ""
    is_fixed = _version(revision) is not None or re.fullmatch(r"[0-9a-f]{7,64}|refs/tags/.*", revision) is not None
    return bool(vcs) and not is_fixed


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
    program = shlex.quote(sys.executable)
    if _is_by_uv():
        is_active = os.environ.get("VIRTUAL_ENV") == sys.prefix
        return "uv pip install" if is_active else f"uv pip install --python {program}"
    pip = shutil.which("pip")
    # a `pip` of another environment would install envforge there
    is_first = pip is not None and Path(pip).parent == Path(sys.executable).parent
    return "pip install" if is_first else f"{program} -m pip install"
