"""Render ``environment.yml`` and ``virtual-packages.yml`` for one selection per platform.

Neither file contains the project's name or facts of this machine, so the same answers give the same hash everywhere.
The catalogue finds a stored lockfile by that hash.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from msgspec import Struct
from packaging.version import Version

from envforge.base.data_files import read_data
from envforge.base.jinja import TemplateError, render_template
from envforge.base.urls import has_secrets
from envforge.errors import Hint, RequestError
from envforge.pytorch.matrix import Selection

TORCH_FAMILY = ("torch", "torchvision", "torchaudio")

_CONDA_SPEC = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)(?: +(?P<version>[0-9a-zA-Z.*+!=<>,|_-]+))?")
# the selectors that conda-lock reads in comments, from conda_lock/src_parser/selectors.py of conda-lock 4.0.3
_SELECTORS = {
    "linux-64": "linux64",
    "linux-aarch64": "aarch64",
    "osx-64": "osx64",
    "osx-arm64": "arm64",
    "win-64": "win64",
}
# the defaults of conda-lock 4.0.3 (default-virtual-packages.yaml), except for the kernel: 3.10 goes with the oldest
# glibc of manylinux2014, and no package requires a newer one
_VIRTUAL = {
    "linux-64": {"__archspec": "1 x86_64", "__glibc": "2.17", "__linux": "3.10", "__unix": "0"},
    "linux-aarch64": {"__archspec": "1 aarch64", "__glibc": "2.17", "__linux": "3.10", "__unix": "0"},
    "osx-64": {"__archspec": "1 x86_64", "__osx": "11.0", "__unix": "0"},
    "osx-arm64": {"__archspec": "1 arm64", "__osx": "11.0", "__unix": "0"},
    "win-64": {"__archspec": "1 x86_64", "__win": "0"},
}

# the first release whose torch and torchvision wheels for macOS are tagged macosx_14_0 (file names on PyPI, 2026-11-22:
# 2.11.0 and 0.26.0 macosx_11_0, 2.12.1 and 0.27.1 macosx_14_0)
_MACOS_14_SINCE = Version("2.12")


class TemplateNeeds(Struct, frozen=True, kw_only=True):
    """What a template's code imports: members of the torch family, and conda-forge packages as conda specs."""

    torch_family: tuple[str, ...] = ("torch", "torchvision")
    conda: tuple[str, ...] = ()


class EnvironmentTexts(Struct, frozen=True, kw_only=True):
    """The contents of the two files that conda-lock reads."""

    environment: str
    virtual_packages: str

    @property
    def sha256(self) -> str:
        """The key of a lockfile for this input in the catalogue."""
        return input_sha256(self.environment, self.virtual_packages)


class _SpecLine(Struct, frozen=True, kw_only=True):
    text: str
    selector: str = ""


class _Platform(Struct, frozen=True, kw_only=True):
    name: str
    packages: tuple[tuple[str, str], ...]


def input_sha256(environment_text: str, virtual_packages_text: str) -> str:
    """Return the SHA-256 (lowercase hex) of the input of a lockfile: both texts as UTF-8.

    The byte length precedes each text, so that different pairs of texts never give the same bytes.
    """
    digest = hashlib.sha256()
    for text in (environment_text, virtual_packages_text):
        raw = text.encode()
        digest.update(f"{len(raw)}\n".encode())
        digest.update(raw)
    return digest.hexdigest()


def render_texts(selections: tuple[Selection, ...], needs: TemplateNeeds, templates: Path) -> EnvironmentTexts:
    """Render both files for one selection per platform; ``templates`` is the directory of their Jinja sources."""
    return EnvironmentTexts(
        environment=render_environment(selections, needs, templates),
        virtual_packages=render_virtual_packages(selections, templates),
    )


def render_environment(selections: tuple[Selection, ...], needs: TemplateNeeds, templates: Path) -> str:
    """Return the text of ``environment.yml``, with the platforms sorted by name."""
    _check(selections, needs)
    # the catalogue finds a lockfile by these bytes, so the order of `--platform` must not matter
    selections = _sorted(selections)
    conda = _common_lines(selections, {s.build.platform: _conda_lines(s, needs) for s in selections})
    pip = _common_lines(selections, {s.build.platform: _pip_lines(s, needs) for s in selections})
    variables = {
        "torch": " and ".join(dict.fromkeys(dict(s.build.pins)["torch"] for s in selections)),
        "platforms": [s.build.platform for s in selections],
        "conda": conda,
        "pip": pip,
        "has_selectors": any(line.selector for line in (*conda, *pip)),
        "indexes": list(dict.fromkeys(s.index_url for s in selections)),
    }
    return _render(templates / "environment.yml.jinja", variables)


def render_virtual_packages(selections: tuple[Selection, ...], templates: Path) -> str:
    """Return the text of ``virtual-packages.yml``: the oldest system of each platform that the builds support."""
    platforms = [_Platform(name=s.build.platform, packages=virtual_packages(s)) for s in _sorted(selections)]
    return _render(templates / "virtual-packages.yml.jinja", {"platforms": platforms})


def virtual_packages(selection: Selection) -> tuple[tuple[str, str], ...]:
    """Return the virtual packages that a build needs, sorted by name; a CPU build has no ``__cuda``."""
    packages = dict(_VIRTUAL[selection.build.platform])
    if "__osx" in packages and selection.build.torch >= _MACOS_14_SINCE:
        packages["__osx"] = "14.0"
    if selection.build.tag.cuda is not None:
        packages["__cuda"] = str(selection.build.tag.cuda)
    if selection.build.glibc is not None:
        packages["__glibc"] = str(selection.build.glibc)
    return tuple(sorted(packages.items()))


class _Requirement(Struct, frozen=True, kw_only=True):
    """A conda spec, and the torch releases that it applies to: ``since`` <= release < ``before``."""

    conda: str
    since: Version | None = None
    before: Version | None = None


class _TorchRequirements(Struct, frozen=True, kw_only=True):
    """``torch_requirements.json``."""

    requirements: tuple[_Requirement, ...]


def torch_requirements(release: Version) -> tuple[str, ...]:
    """Return the conda specs of the packages that this torch release and its family need besides their own wheels."""
    return tuple(
        row.conda
        for row in _torch_requirements().requirements
        if (row.since is None or row.since <= release) and (row.before is None or release < row.before)
    )


def torch_requirement_names() -> tuple[str, ...]:
    """Return the conda names of all packages that any torch release needs."""
    return tuple(sorted({split_conda_spec(row.conda)[0] for row in _torch_requirements().requirements}))


def split_conda_spec(spec: str) -> tuple[str, str]:
    """Split ``numpy >=1.26`` into name and version constraint; raise ``ValueError`` for anything else."""
    match = _CONDA_SPEC.fullmatch(spec)
    if match is None:
        raise ValueError(f"`{spec}` is not a conda spec such as `numpy >=1.26`")
    return match["name"], match["version"] or ""


@lru_cache(maxsize=1)
def _torch_requirements() -> _TorchRequirements:
    return read_data("torch_requirements.json", _TorchRequirements)


def _sorted(selections: tuple[Selection, ...]) -> tuple[Selection, ...]:
    return tuple(sorted(selections, key=lambda s: s.build.platform))


def _check(selections: tuple[Selection, ...], needs: TemplateNeeds) -> None:
    if not selections:
        raise ValueError("expected one selection or more, found none")
    for selection in selections:
        _refuse_credentials(selection.index_url)
        missing = [name for name in needs.torch_family if name not in dict(selection.build.pins)]
        if missing:
            raise RequestError(
                f"the template requires `{missing[0]}`, which has no known build for {selection.build}",
                hint=(
                    Hint("to list the PyTorch releases", "envforge explain"),
                    Hint("to select another release, pass `--torch VERSION`"),
                ),
                code="no-family-member",
            )


def _refuse_credentials(url: str) -> None:
    if has_secrets(url):
        raise RequestError(
            "`--torch-index` contains credentials, but environment.yml is shared",
            hint="refer to environment variables instead, which are expanded when the project is locked: pass "
            "`--torch-index 'https://$INDEX_USER:$INDEX_PASSWORD@HOST/PATH'`",
            code="credentials-in-address",
        )


def _conda_lines(selection: Selection, needs: TemplateNeeds) -> tuple[str, ...]:
    wanted: dict[str, list[str]] = {"pip": []}
    for spec in (*torch_requirements(selection.build.torch), *needs.conda):
        name, version = split_conda_spec(spec)
        constraints = wanted.setdefault(name, [])
        # a template and torch itself may state the same constraint
        constraints.extend(c for c in version.split(",") if c and c not in constraints)
    python = f"python ={selection.python.major}.{selection.python.minor}"
    return (python, *(f"{name} {','.join(wanted[name])}".rstrip() for name in sorted(wanted)))


def _pip_lines(selection: Selection, needs: TemplateNeeds) -> tuple[str, ...]:
    return tuple(f"{name}=={version}" for name, version in selection.build.pins if name in needs.torch_family)


def _common_lines(selections: tuple[Selection, ...], by_platform: dict[str, tuple[str, ...]]) -> tuple[_SpecLine, ...]:
    # a line without a selector applies to all platforms, so only lines that all of them share go without
    everywhere = set.intersection(*(set(lines) for lines in by_platform.values()))
    first = by_platform[selections[0].build.platform]
    common = tuple(_SpecLine(text=text) for text in first if text in everywhere)
    special = tuple(
        _SpecLine(text=text, selector=_SELECTORS[platform])
        for platform, lines in by_platform.items()
        for text in lines
        if text not in everywhere
    )
    return common + special


def _render(source: Path, variables: dict[str, object]) -> str:
    try:
        text = source.read_text(encoding="utf-8")
    except OSError as error:
        raise TemplateError(f"cannot read the template `{source}`: {error}", code="template-damaged") from error
    return render_template(text, variables, str(source))
