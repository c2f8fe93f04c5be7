"""For conda, mamba and micromamba: an explicit file, and an environment.yml that names every version and build."""

from __future__ import annotations

from envforge.export.source import Exported, Source, build_of, header
from envforge.install.values import Artifact

_WEAKER = "This file pins conda packages by build, not by checksum; conda-lock.yml has the checksums."
_NO_PIP = "The lockfile has no pip, which conda needs to install wheels, so conda installs the newest."


def explicit(source: Source) -> Exported:
    """``@EXPLICIT`` with one address a line; wheels are remarks in the form that conda-lock writes and reads."""
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


def environment(source: Source) -> Exported:
    """environment.yml with each conda package by version and build, and each wheel by address and sha256."""
    import yaml  # noqa: PLC0415 - slow to import

    plan = source.plan
    wanted: list[object] = [f"{a.package.name}={a.package.version}={build_of(a)}" for a in plan.conda]
    wheels = [f"{a.package.name} @ {a.package.url}#{a.digest.algorithm}={a.digest.hex}" for a in plan.wheels]
    lacks_pip = bool(wheels) and not any(a.package.name == "pip" for a in plan.conda)
    if wheels:
        wanted += [*(["pip"] if lacks_pip else []), {"pip": wheels}]
    document = {"channels": [*source.channels, "nodefaults"], "dependencies": wanted}
    use = [f"Every version and build of {plan.platform}:  conda env create -n NAME -f FILE", _WEAKER]
    use += [_NO_PIP] if lacks_pip else []
    return Exported(text=header(source, *use) + yaml.safe_dump(document, sort_keys=False, width=4096))


def _in_link_order(conda: tuple[Artifact, ...]) -> list[Artifact]:
    """Each package after those that it needs, as tools link them; where two need each other, the first stays first."""
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
    """The checksum as conda and mamba read it behind an address: md5 bare, sha256 with its name."""
    return artifact.digest.hex if artifact.digest.algorithm == "md5" else str(artifact.digest)
