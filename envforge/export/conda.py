"""Export for conda, mamba, and micromamba: an explicit file, and an environment.yml with all versions and builds."""

from __future__ import annotations

from envforge.export.source import Exported, LockSource, header
from envforge.lock.plan import Artifact

_WEAKER = "This file pins conda packages by build, not by checksum; conda-lock.yml has the checksums."
_NO_PIP = "The lockfile has no pip, which conda needs to install wheels, so conda installs the newest."


def explicit(source: LockSource) -> Exported:
    """Return an ``@EXPLICIT`` file with one URL per line, and wheels as comments in the format of conda-lock."""
    plan = source.plan
    use = ["conda create -n NAME --file FILE        or: micromamba create -n NAME -f FILE"]
    if plan.wheels:
        use += [
            "These install only the conda packages. To install the wheels (the `# pip` lines), too, run:",
            "    envforge install FILE",
        ]
    lines = [f"# platform: {plan.platform}", "@EXPLICIT"]
    lines += [f"{artifact.package.url}#{_fragment(artifact)}" for artifact in _in_link_order(plan.conda)]
    lines += [
        f"# pip {artifact.package.name} @ {artifact.package.url} --hash={artifact.digest}" for artifact in plan.wheels
    ]
    return Exported(text=header(source, *use) + "\n".join(lines) + "\n")


def environment(source: LockSource) -> Exported:
    """Return an environment.yml with conda packages by version and build, and wheels by URL and SHA-256."""
    import yaml  # noqa: PLC0415 - slow to import

    plan = source.plan
    wanted: list[object] = [f"{a.package.name}={a.package.version}={a.package.build}" for a in plan.conda]
    wheels = [f"{a.package.name} @ {a.package.url}#{a.digest.algorithm}={a.digest.hex}" for a in plan.wheels]
    lacks_pip = bool(wheels) and not any(a.package.name == "pip" for a in plan.conda)
    if wheels:
        wanted += [*(["pip"] if lacks_pip else []), {"pip": wheels}]
    # conda 26 takes `nodefaults` for a channel; without it, conda and mamba add no channel to those of a file
    document: dict[str, object] = {"channels": list(source.channels), "dependencies": wanted}
    if source.lockfile.variables:
        document["variables"] = dict(source.lockfile.variables)
    use = [f"Every version and build of {plan.platform}:  conda env create -n NAME -f FILE", _WEAKER]
    use += [_NO_PIP] if lacks_pip else []
    return Exported(text=header(source, *use) + yaml.safe_dump(document, sort_keys=False, width=4096))


def _in_link_order(conda: tuple[Artifact, ...]) -> list[Artifact]:
    """Return each package after its dependencies, which is the order in which tools link; cycles keep their order."""
    by_name = {artifact.package.name: artifact for artifact in conda}
    ordered: dict[str, Artifact] = {}
    begun: set[str] = set()
    stack = [(name, False) for name in reversed(by_name)]
    while stack:
        name, are_needed_there = stack.pop()
        if are_needed_there:
            ordered[name] = by_name[name]
        elif name in by_name and name not in begun:
            begun.add(name)
            stack.append((name, True))
            stack += [(needed, False) for needed, _ in reversed(by_name[name].package.dependencies)]
    return list(ordered.values())


def _fragment(artifact: Artifact) -> str:
    """Return the checksum in the format that conda and mamba read after a URL: MD5 bare, SHA-256 with its name."""
    return artifact.digest.hex if artifact.digest.algorithm == "md5" else str(artifact.digest)
