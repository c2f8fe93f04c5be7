"""Write a Dockerfile that builds the environment from the lockfile with micromamba, and leaves the tools behind.

micromamba verifies the conda archives, and passes each wheel to pip as ``NAME @ URL#sha256=…``, which pip verifies.
Source: ``create_explicit_transaction_from_lockfile`` in libmamba's ``transaction.cpp``.
"""

from __future__ import annotations

import re
import shlex

from packaging.version import Version

from envforge.base.distribution import python_image
from envforge.errors import EnvforgeError
from envforge.export.source import Exported, LockSource, header, need_sha256
from envforge.lock.needs import requirements_of
from envforge.lock.plan import Plan
from envforge.lock.project import platform_hints
from envforge.pytorch.matrix import load_matrix

PREFIX = "/opt/env"
# source: libc6 in Debian 12 (bookworm) is 2.36, in Debian 13 (trixie) 2.41; official image tags have these names
_BASES = ((Version("2.36"), "bookworm", 12), (Version("2.41"), "trixie", 13))
_MICROMAMBA = "2.8.1"


def dockerfile(source: LockSource) -> Exported:
    """Return a Dockerfile of two stages: the first creates ``/opt/env``, the second copies only that directory."""
    linux = [plan for plan in source.plans if plan.platform.startswith("linux-")]
    if not linux:
        names = ", ".join(f"`{plan.platform}`" for plan in source.plans)
        raise EnvforgeError(
            f"`{source.name}` has packages for {names}, but an image requires packages for Linux",
            hint=platform_hints(source.path, source.lockfile.platforms, "linux-64"),
            code="platform-not-locked",
        )
    if re.fullmatch(r"[A-Za-z0-9._-]+", source.name) is None or source.name.startswith("-"):
        raise EnvforgeError(
            f"invalid file name `{source.name}` for a Dockerfile: expected letters, digits, `.`, `_`, and `-`",
            hint="to use the standard name",
            command=f"cp {shlex.quote(source.name)} conda-lock.yml",
            code="bad-name",
        )
    # an `@EXPLICIT` file has neither a hash of its input nor channels
    is_explicit = not (source.lockfile.content_hash or source.lockfile.channels)
    for plan in linux:
        _check_wheels(source, plan, is_explicit=is_explicit)
    matrix = load_matrix()
    needs = [requirements_of(source.lockfile, plan.platform, matrix) for plan in linux]
    base, release = _base(max((need.glibc for need in needs if need.glibc), default=None))
    words = [f"{plan.platform} requires: {need.words}" for plan, need in zip(linux, needs, strict=True)]
    use = [f"    docker build -t NAME .        with {source.name} in the same directory", *words]
    text = _TEXT.format(
        base=base,
        release=release,
        micromamba=_MICROMAMBA,
        lock=source.name,
        # micromamba recognizes the format of a lockfile by its name
        inside="explicit.txt" if is_explicit else "conda-lock.yml",
        categories=" --category main --category dev" if _has_dev(linux) else "",
        prefix=PREFIX,
        image=python_image(source.requirement, base),
        requirement=shlex.quote(source.requirement),
    )
    return Exported(text=header(source, *use) + text)


def _has_dev(plans: list[Plan]) -> bool:
    return any(artifact.package.category == "dev" for plan in plans for artifact in (*plan.conda, *plan.wheels))


def _check_wheels(source: LockSource, plan: Plan, *, is_explicit: bool) -> None:
    """Raise ``EnvforgeError`` if micromamba would not install and verify the wheels of a plan."""
    if not plan.wheels:
        return
    if is_explicit:
        raise EnvforgeError(
            f"`{source.name}` is an explicit file with wheels, which micromamba ignores",
            hint="to export the lockfile that it was made from",
            command="envforge export dockerfile --lockfile conda-lock.yml",
            code="explicit-wheels",
        )
    need_sha256(source, plan, "so micromamba and pip can't verify them")
    if not any(artifact.package.name == "pip" for artifact in plan.conda):
        raise EnvforgeError(
            f"`{source.name}` has wheels for `{plan.platform}`, but not the conda package `pip`, which micromamba "
            "needs to install them",
            hint="to add it",
            command="envforge add pip",
            code="no-pip",
        )


def _base(glibc: Version | None) -> tuple[str, int]:
    for provided, name, release in _BASES:
        if glibc is None or glibc <= provided:
            return name, release
    raise EnvforgeError(
        f"the lockfile requires glibc {glibc}, but the newest base image that envforge knows has {_BASES[-1][0]}",
        hint="write the Dockerfile by hand, from an image with that glibc; to create the environment in it",
        command="envforge install",
        code="no-base-image",
    )


_TEXT = """
# micromamba and pip verify the hash of each file. To build the environment with envforge instead, use this stage:
#   FROM {image} AS build
#   RUN pip install --no-cache-dir {requirement}
#   COPY {lock} /tmp/lock/{lock}
#   RUN envforge install /tmp/lock/{lock} --prefix {prefix} --cache /tmp/cache --ignore-machine
FROM mambaorg/micromamba:{micromamba}-debian{release}-slim AS build
# hadolint ignore=DL3002 # this stage is not part of the image
USER 0
COPY {lock} /tmp/lock/{inside}
RUN PIP_NO_CACHE_DIR=1 micromamba create --yes --prefix {prefix}{categories} --file /tmp/lock/{inside}

FROM debian:{base}-slim
COPY --from=build {prefix} {prefix}
ENV PATH={prefix}/bin:$PATH \\
    CONDA_PREFIX={prefix} \\
    NVIDIA_VISIBLE_DEVICES=all \\
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /project
CMD ["python"]
"""
