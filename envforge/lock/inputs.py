"""Read environment.yml and virtual-packages.yml into the complete input of a lock.

conda-lock's own default, CUDA 11.4 for every project, is never used.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from envforge.base.suggest import nearest
from envforge.base.terms import WheelTag
from envforge.base.urls import has_secrets, hide_secrets
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.request import VIRTUAL_PACKAGES

KNOWN_PLATFORMS = ("linux-64", "linux-aarch64", "linux-ppc64le", "osx-64", "osx-arm64", "win-64")
_SELECTOR = re.compile(r"#.*\[([^\[\]]+)\][^()]*$")
_DIRECT = re.compile(r"https://\S+#sha256=[0-9a-f]{64}")
_SELECTORS = {
    "linux-64": {"linux64", "linux", "unix"},
    "linux-aarch64": {"aarch64", "linux", "unix"},
    "linux-ppc64le": {"ppc64le", "linux", "unix"},
    "osx-64": {"osx64", "osx", "unix"},
    "osx-arm64": {"arm64", "osx", "unix"},
    "win-64": {"win64", "win"},
}
_PIP_OPTION = re.compile(r"--?[A-Za-z]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The contents of both files. ``virtual_packages`` is ``None`` if there is no such file."""

    path: Path
    text: str
    virtual_packages_path: Path
    virtual_packages: str | None
    platforms: tuple[str, ...]
    channels: tuple[str, ...]
    pip_repositories: tuple[str, ...]
    allow_registry: bool
    pip: tuple[str, ...]

    def pip_for(self, platform: str) -> tuple[Requirement, ...]:
        """Return the requirements under ``pip:`` for one platform, by the selectors (``# [linux64]``, ``# [osx]``)."""
        text = "\n".join(line for line in self.text.splitlines() if is_for(line, platform))
        document = _mapping(_load(text, self.path), self.path, "")
        return tuple(_requirement(line, self.path) for line in _pip_lines(document, self.path))

    @property
    def sha256(self) -> str:
        """The SHA-256 that a lockfile records of its input."""
        return input_sha256(self.text, self.virtual_packages)


def input_sha256(environment: str, virtual_packages: str | None) -> str:
    """Return the SHA-256 of both files, independent of line endings; a missing file differs from an empty one."""
    digest = hashlib.sha256()
    for name, text in (("environment.yml", environment), (VIRTUAL_PACKAGES, virtual_packages)):
        if text is not None:
            data = text.replace("\r\n", "\n").encode()
            digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def read_inputs(
    environment: Path, virtual_packages: Path | None, platforms: Sequence[str] = (), text: str | None = None
) -> Inputs:
    """Read and check both files; ``text`` replaces the first. Raises ``EnvforgeError`` with the path of an error."""
    if text is None:
        text = read_text(environment, newline=None)
    document = _mapping(_load(text, environment), environment, "")
    beside = environment.with_name(VIRTUAL_PACKAGES)
    virtual_path = virtual_packages or beside
    virtual = _read(virtual_path) if virtual_packages is not None or virtual_path.is_file() else None
    inputs = Inputs(
        path=environment,
        text=text,
        virtual_packages_path=virtual_path,
        virtual_packages=virtual,
        platforms=tuple(dict.fromkeys(platforms)) or tuple(dict.fromkeys(_texts(document, "platforms", environment))),
        channels=_texts(document, "channels", environment),
        pip_repositories=_texts(document, "pip-repositories", environment),
        allow_registry=document.get("allow-pypi-requests", True) is not False,
        pip=tuple(_pip_lines(document, environment)),
    )
    _refuse(inputs)
    return inputs


def conda_lock_copy(inputs: Inputs) -> str:
    """Return the environment.yml for conda-lock: the same lines, but without indexes other than the lock-time index."""
    import yaml  # noqa: PLC0415 - slow to import

    # conda-lock would query the indexes of `pip-repositories` in addition to the lock-time index (decision 0040)
    root = yaml.compose(inputs.text, Loader=yaml.SafeLoader)
    kept, position = [], 0
    for key, value in root.value if root is not None else ():
        if key.value in {"pip-repositories", "allow-pypi-requests"}:
            kept.append(inputs.text[position : key.start_mark.index])
            position = value.end_mark.index
    kept.append(inputs.text[position:])
    return "".join(kept).rstrip("\n") + "\nallow-pypi-requests: false\n"


def is_for(line: str, platform: str) -> bool:
    """Return whether a line applies to a platform, by conda-lock's rule for selectors; comment lines never do."""
    match = _SELECTOR.search(line)
    if line.lstrip().startswith("#"):
        return False
    return match is None or match[1] in _SELECTORS[platform]


def _requirement(line: str, path: Path) -> Requirement:
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        raise EnvforgeError(
            f"`{path}` has `{line}` under `pip:`, which is not a valid requirement: {str(error).splitlines()[0]}",
            hint='write a requirement such as `"rich>=13"`',
            code="bad-requirement",
        ) from error
    # no index states the hash of a direct URL, so the URL must contain it
    if requirement.url is not None and not _DIRECT.fullmatch(requirement.url):
        raise EnvforgeError(
            f"`{path}` has `{line}` under `pip:`, but the URL of a wheel must start with `https://` and end with its "
            "SHA-256",
            hint=f'write it as `"{requirement.name} @ https://HOST/{requirement.name}.whl#sha256=DIGEST"`',
            code="bad-requirement",
        )
    return requirement


def read_text(path: Path, newline: str | None = "") -> str:
    """Read an environment.yml, by default with its line endings; raise ``EnvforgeError`` with what may be meant."""
    return _read(path, () if path.exists() else _hints_missing(path), newline)


def _hints_missing(path: Path) -> tuple[Hint, ...]:
    """Return what helps if an environment file doesn't exist; the commands that read one have `--file`."""
    from envforge.lock.project import ENVIRONMENT  # noqa: PLC0415 - only errors need it

    other = path.with_suffix(".yaml" if path.suffix == ".yml" else ".yml")
    if other.is_file():
        return (Hint(f"to use `{other}` instead, pass `--file {shlex.quote(str(other))}`"),)
    if path.name != ENVIRONMENT:
        return (Hint("check the path in `--file`"),)
    return (
        Hint("to create a project", "envforge new TEMPLATE DIR"),
        Hint("to use another environment file, pass `--file FILE`"),
    )


def _read(path: Path, hints: tuple[Hint, ...] = (), newline: str | None = None) -> str:
    try:
        with path.open(encoding="utf-8", newline=newline) as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise EnvforgeError(f"cannot read `{path}`: {why}", hint=hints, code="unreadable-input") from error


def _load(text: str, path: Path) -> Any:
    import yaml  # noqa: PLC0415 - slow to import

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise EnvforgeError(
            f"`{path}` is not valid YAML: {' '.join(str(error).split())}", code="bad-environment"
        ) from error


def _mapping(value: object, path: Path, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _fault(path, at, "a mapping", value)
    return value


def _texts(document: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    value = document.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _fault(path, key, "a list of strings", value)
    return tuple(value)


def _fault(path: Path, at: str, wanted: str, found: object) -> EnvforgeError:
    where = f" at `{at}`" if at else ""
    shown = "nothing" if found is None else f"`{found}`"
    return EnvforgeError(f"`{path}` is invalid{where}: expected {wanted}, found {shown}", code="bad-environment")


def _pip_lines(document: dict[str, Any], path: Path) -> Iterator[str]:
    dependencies = document.get("dependencies")
    if not isinstance(dependencies, list):
        raise _fault(path, "dependencies", "a list", dependencies)
    for number, entry in enumerate(dependencies):
        at = f"dependencies[{number}]"
        if isinstance(entry, str):
            continue
        lines = _mapping(entry, path, at).get("pip") or []
        if not isinstance(lines, list):
            raise _fault(path, f"{at}.pip", "a list", lines)
        for line_number, line in enumerate(lines):
            if not isinstance(line, str):
                raise _fault(path, f"{at}.pip[{line_number}]", "a string", line)
            yield line


def _refuse(inputs: Inputs) -> None:
    if not inputs.platforms:
        raise RequestError(
            f"`{inputs.path}` lists no `platforms:`",
            hint=f"add a line such as `platforms: [linux-64]` to `{inputs.path}`",
            code="no-platform",
        )
    for platform in inputs.platforms:
        if platform not in KNOWN_PLATFORMS:
            near = nearest(platform, KNOWN_PLATFORMS, alike=0.6)
            raise RequestError(
                f"unknown platform `{platform}`; expected one of: {', '.join(KNOWN_PLATFORMS)}",
                hint=f"did you mean `{near}`?" if near else "",
                code="no-such-platform",
            )
    for line in inputs.pip:
        if line.startswith(("-e ", "--editable")):
            raise EnvforgeError(
                f"`{inputs.path}` has `{line}` under `pip:`, but a lockfile can't contain a local directory",
                hint=(
                    Hint("remove the line"),
                    Hint(
                        "to install the directory into the environment",
                        f"envforge install && envforge run -- pip install --no-deps {_editable(line)}",
                    ),
                ),
                code="pip-option",
            )
        if _PIP_OPTION.match(line):
            raise EnvforgeError(
                f"`{inputs.path}` has the option `{line}` under `pip:`, which is not supported there",
                hint="remove the line; to add a package index, list it at the top level of the file, such as "
                "`pip-repositories: [https://download.pytorch.org/whl/cu118]`",
                code="pip-option",
            )
    refuse_credentials(str(inputs.path), (*inputs.channels, *inputs.pip_repositories, *inputs.pip))


def _editable(line: str) -> str:
    """Return ``-e DIR`` as shell words."""
    return f"-e {shlex.quote(re.split(r'[ =]+', line, maxsplit=1)[-1].strip())}"


def refuse_credentials(where: str, texts: Sequence[str]) -> None:
    """Raise ``EnvforgeError`` if a URL contains a password or a token, without repeating it."""
    for text in texts:
        if has_secrets(text):
            raise EnvforgeError(
                f"`{hide_secrets(text)}` in `{where}` contains credentials, which a lockfile would spread",
                hint="move them to `~/.netrc`, or refer to environment variables, such as `https://$USER:$TOKEN@HOST`",
                code="credentials",
            )


_LINUX = {"__unix": "0", "__linux": "5.10", "__glibc": "2.28"}
_MAC = {"__unix": "0", "__osx": "11.0"}
_BASE: Mapping[str, Mapping[str, str]] = {
    "linux-64": {**_LINUX, "__archspec": "1 x86_64"},
    "linux-aarch64": {**_LINUX, "__archspec": "1 aarch64"},
    "linux-ppc64le": {**_LINUX, "__archspec": "1 ppc64le"},
    "osx-64": {**_MAC, "__archspec": "1 x86_64"},
    "osx-arm64": {**_MAC, "__archspec": "1 arm64"},
    "win-64": {"__win": "0", "__archspec": "1 x86_64"},
}
_LOCAL = re.compile(r"\+(cpu|cu\d{2,3})\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualPackages:
    """Pairs of (name, version) for each platform, as in conda-lock's file; ``source`` is where they come from."""

    subdirs: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    source: str

    def of(self, platform: str) -> dict[str, str]:
        """Return the virtual packages of one platform."""
        return dict(dict(self.subdirs)[platform])

    def words(self) -> tuple[str, ...]:
        """Return one line of text per platform."""
        return tuple(f"{platform}: {' '.join(f'{n}={v}' for n, v in pairs)}" for platform, pairs in self.subdirs)

    def text(self) -> str:
        """Return the text of the file for conda-lock's ``--virtual-package-spec``."""
        lines = ["subdirs:"]
        for platform, pairs in self.subdirs:
            lines += [f"  {platform}:", "    packages:", *(f'      {name}: "{version}"' for name, version in pairs)]
        return "\n".join(lines) + "\n"


def virtual_packages_of(inputs: Inputs, pip: Mapping[str, tuple[Requirement, ...]]) -> VirtualPackages:
    """Return what virtual-packages.yml states; for platforms that it lacks, what their torch version requires."""
    stated = _virtual_read(inputs)
    missing = [name for name in inputs.platforms if stated is None or name not in dict(stated.subdirs)]
    derived = _derive(missing, pip)
    if stated is None:
        return derived
    if not missing:
        return stated
    source = f"{stated.source}, and from {derived.source} for {', '.join(missing)}"
    return VirtualPackages(subdirs=(*stated.subdirs, *derived.subdirs), source=source)


def _virtual_read(inputs: Inputs) -> VirtualPackages | None:
    if inputs.virtual_packages is None:
        return None
    import yaml  # noqa: PLC0415 - slow to import

    path = str(inputs.virtual_packages_path)
    try:
        document = yaml.safe_load(inputs.virtual_packages)
    except yaml.YAMLError as error:
        raise EnvforgeError(
            f"`{path}` is not valid YAML: {' '.join(str(error).split())}", code="bad-virtual-packages"
        ) from error
    subdirs = _virtual_mapping(_virtual_mapping(document, path, "").get("subdirs"), path, "subdirs")
    found = []
    for platform, entry in subdirs.items():
        at = f"subdirs.{platform}.packages"
        packages = _virtual_mapping(
            _virtual_mapping(entry, path, f"subdirs.{platform}").get("packages") or {}, path, at
        )
        found.append((str(platform), tuple((str(name), str(version)) for name, version in packages.items())))
    return VirtualPackages(subdirs=tuple(found), source=path)


def _derive(platforms: Iterable[str], pip: Mapping[str, tuple[Requirement, ...]]) -> VirtualPackages:
    """Return the virtual packages for the torch pin of each platform; ``__cuda`` is absent for a CPU build."""
    subdirs = []
    for platform in platforms:
        packages = dict(_BASE[platform])
        tag = _torch_tag(pip.get(platform, ()))
        if tag is not None and tag.cuda is not None:
            packages["__cuda"] = str(tag.cuda)
        subdirs.append((platform, tuple(sorted(packages.items()))))
    return VirtualPackages(subdirs=tuple(subdirs), source="the torch version")


def _torch_tag(requirements: Iterable[Requirement]) -> WheelTag | None:
    for requirement in requirements:
        match = _LOCAL.search(str(requirement.specifier))
        if canonicalize_name(requirement.name) == "torch" and match is not None:
            return WheelTag.parse(match[1])
    return None


def _virtual_mapping(value: object, path: str, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        where = f" at `{at}`" if at else ""
        raise EnvforgeError(
            f"`{path}` is invalid{where}: expected a mapping, found `{value}`", code="bad-virtual-packages"
        )
    return value
