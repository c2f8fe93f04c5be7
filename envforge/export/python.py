"""Export the wheels of a lockfile for pip and uv: requirements with hashes, and pylock.toml (PEP 751).

Neither contains the conda packages; those with Python libraries are listed as comments.
"""

from __future__ import annotations

from packaging.version import Version

from envforge.errors import EnvforgeError
from envforge.export.source import Exported, LockSource, header, need_sha256, python_of
from envforge.lock.names import NameMapping
from envforge.lock.plan import Plan
from envforge.lock.pylock import render_pylock


# a wheel of the same version as a conda package would be another build without a locked checksum, so only wheels are
# listed; they are named by URL, because a requirements file can't bind a package to one index
def requirements(source: LockSource) -> Exported:
    """Return a requirements file with every wheel by URL and ``--hash``, for the hash-checking mode of pip and uv."""
    plan = source.plan
    _refuse_weak(source, plan)
    use = [
        f"The wheels for {_audience(plan)}:",
        "    pip install --no-deps --require-hashes -r FILE       or: uv pip install, with the same options",
        *_provided_by_conda(plan),
    ]
    lines = [f"{a.package.name} @ {a.package.url} \\\n    --hash={a.digest}" for a in plan.wheels]
    return Exported(text=header(source, *use) + "\n" + "\n".join(lines) + "\n")


def pylock(source: LockSource) -> Exported:
    """Return a pylock.toml with the URL and SHA-256 of every wheel."""
    plan = source.plan
    _refuse_weak(source, plan)
    python = python_of(plan)
    text = render_pylock({plan.platform: plan.wheels}, Version(python) if python else None)
    use = [
        f"The wheels for {_audience(plan)}:",
        "    uv pip install --no-deps -r pylock.toml       (`uv pip sync` would remove all other packages)",
        *_provided_by_conda(plan),
    ]
    return Exported(text=header(source, *use) + "\n" + text)


def _audience(plan: Plan) -> str:
    python = python_of(plan)
    return f"Python {_minor(python)} on {plan.platform}" if python else plan.platform


def _provided_by_conda(plan: Plan) -> list[str]:
    """Return comments that list the Python packages which conda installs, because the file doesn't contain them."""
    mapping = NameMapping.bundled()
    names = sorted(
        f"{mapping.to_python(a.package.name)}=={a.package.version}"
        for a in plan.conda
        if any(name == "python" for name, _ in a.package.dependencies)
    )
    if not names:
        return []
    return ["conda provides these packages; they are not in this file:", *(f"    {name}" for name in names)]


def _refuse_weak(source: LockSource, plan: Plan) -> None:
    """Raise ``EnvforgeError`` if there are no wheels, or one has only an MD5, which pip and uv don't accept."""
    if not plan.wheels:
        raise EnvforgeError(
            f"`{source.name}` has no wheels for `{plan.platform}`, so there is nothing for pip or uv to install",
            hint="to export the conda packages",
            command=f"envforge export explicit --platform {plan.platform}",
            code="no-wheels",
        )
    need_sha256(source, plan, "and pip and uv don't accept MD5")


def _minor(python: str) -> str:
    version = Version(python)
    return f"{version.major}.{version.minor}"
