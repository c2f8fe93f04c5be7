"""Export for pixi: a workspace (pixi.toml) that pins every locked version, and its pixi.lock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml
from packaging.requirements import Requirement

from envforge.errors import EnvforgeError
from envforge.export.source import Exported, LockSource, channel_of, header, need_sha256, python_of, subdir_of
from envforge.lock.needs import requirements_of
from envforge.lock.plan import Artifact, Plan, wheel_of
from envforge.pytorch.matrix import load_matrix

# written here, because py-rattler 0.28 stores no checksum of a wheel and writes format 7, which older pixi rejects
_LOCK_VERSION = 6  # read by pixi 0.39 and later; newer versions upgrade it


def pixi(source: LockSource) -> Exported:
    """Return pixi.toml and pixi.lock; both contain all platforms of the source."""
    for plan in source.plans:
        _refuse(source, plan)
    return Exported(text=_manifest(source), beside=(("pixi.lock", _lock(source)),))


def _manifest(source: LockSource) -> str:
    import tomlkit  # noqa: PLC0415 - only for this format

    document = tomlkit.document()
    document["workspace"] = {
        "name": "exported",
        "channels": list(source.channels),
        "platforms": [plan.platform for plan in source.plans],
    }
    system = _system_requirements(source)
    if system:
        document["system-requirements"] = system
    targets: dict[str, Any] = {}
    for plan in source.plans:
        targets[plan.platform] = {"dependencies": {a.package.name: _pinned(a) for a in plan.conda}}
        if plan.wheels:
            wheels = {wheel_of(a).name: _inline(url=f"{a.package.url}#sha256={a.digest.hex}") for a in plan.wheels}
            targets[plan.platform]["pypi-dependencies"] = wheels
    document["target"] = targets
    use = [
        "    pixi install --frozen",
        "Keep pixi.lock next to this file; it has the URL and the checksum of every package.",
    ]
    return header(source, *use) + "\n" + tomlkit.dumps(document)


def _pinned(artifact: Artifact) -> Any:
    return _inline(version=f"=={artifact.package.version}", build=artifact.package.build)


def _inline(**values: str) -> Any:
    import tomlkit  # noqa: PLC0415 - only for this format

    table = tomlkit.inline_table()
    table.update(values)
    return table


def _system_requirements(source: LockSource) -> dict[str, Any]:
    """Return the required glibc and macOS; CUDA is left to the wheels, so that ``pixi`` can solve on any machine."""
    matrix = load_matrix()
    needs = [requirements_of(source.lockfile, plan.platform, matrix) for plan in source.plans]
    glibc = max((need.glibc for need in needs if need.glibc), default=None)
    macos = max((need.macos for need in needs if need.macos), default=None)
    found: dict[str, Any] = {}
    if glibc is not None:
        found["libc"] = _inline(family="glibc", version=str(glibc))
    if macos is not None:
        found["macos"] = str(macos)
    return found


def _lock(source: LockSource) -> str:
    environment: dict[str, Any] = {
        "channels": [{"url": f"{url.rstrip('/')}/"} for url in _channel_urls(source)],
        "packages": {
            plan.platform: [_reference(artifact) for artifact in _sorted(plan)]
            for plan in sorted(source.plans, key=lambda plan: plan.platform)
        },
    }
    rows = {a.package.url: a for plan in source.plans for a in _sorted(plan)}
    packages = sorted(rows.values(), key=lambda a: (a.package.manager, a.package.url))
    document = {
        "version": _LOCK_VERSION,
        "environments": {"default": environment},
        "packages": [_row(artifact) for artifact in packages],
    }
    # so wide that no line is folded
    return yaml.safe_dump(document, sort_keys=False, width=4096)


def _sorted(plan: Plan) -> list[Artifact]:
    return sorted((*plan.conda, *plan.wheels), key=lambda a: (a.package.manager, a.package.url))


def _channel_urls(source: LockSource) -> list[str]:
    """Return the channels by URL, because a pixi.lock doesn't use short names."""
    used = [channel_of(a.package.url) for plan in source.plans for a in plan.conda]
    named = [next((url for url in used if url.endswith(f"/{name}")), name) for name in source.channels]
    return list(dict.fromkeys([*named, *used]))


def _reference(artifact: Artifact) -> dict[str, str]:
    return {_kind(artifact): artifact.package.url}


def _kind(artifact: Artifact) -> str:
    return "conda" if artifact.package.manager == "conda" else "pypi"


def _row(artifact: Artifact) -> dict[str, Any]:
    package = artifact.package
    row: dict[str, Any] = {_kind(artifact): package.url}
    if package.manager == "pip":
        wheel = wheel_of(artifact)
        row |= {"name": wheel.name, "version": wheel.version, "sha256": artifact.digest.hex}
        needed = [_requirement(name, wanted) for name, wanted in package.dependencies]
        return row | ({"requires_dist": needed} if needed else {})
    row[artifact.digest.algorithm] = artifact.digest.hex
    if package.md5 and artifact.digest.algorithm == "sha256":
        row["md5"] = package.md5
    needed = [f"{name} {wanted}".strip() for name, wanted in package.dependencies]
    if subdir_of(package.url) == "noarch":
        # a lockfile of conda-lock doesn't record the kind
        row["noarch"] = "python" if _needs_python(package.dependencies) else "generic"
    return row | ({"depends": needed} if needed else {})


def _needs_python(dependencies: Iterable[tuple[str, str]]) -> bool:
    return any(name == "python" for name, _ in dependencies)


def _requirement(name: str, wanted: str) -> str:
    """Return a dependency in the format of PEP 508; conda-lock writes ``*`` for any version, and an exact one bare."""
    bound = wanted.strip()
    if bound in {"", "*"}:
        return name
    text = f"{name}{bound}" if bound[0] in "<>=!~" else f"{name}=={bound}"
    try:
        return str(Requirement(text))
    except ValueError:  # PEP 508 has no `a || b`, and the locked version is pinned anyway
        return name


def _refuse(source: LockSource, plan: Plan) -> None:
    if plan.wheels and python_of(plan) is None:
        raise EnvforgeError(
            f"`{source.name}` has wheels for `{plan.platform}`, but no Python to install them for",
            hint="to add Python to environment.yml and lock again",
            command="envforge add python",
            code="no-python",
        )
    need_sha256(source, plan, "and pixi doesn't accept MD5 for wheels")
