"""Derive, lock, and check the variants of a project.

Only what depends on the build differs: the pins of the torch family, the index, and the constraints of torch itself.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from msgspec import Struct
from msgspec.structs import replace
from packaging.requirements import Requirement
from packaging.version import Version

from envforge.base.data_files import templates_root
from envforge.base.files import exclusive_lock, regular
from envforge.base.suggest import nearest
from envforge.base.terms import CPU, WheelTag
from envforge.errors import EnvforgeError, RequestError
from envforge.lock.check import check_lock
from envforge.lock.consistency import Difference
from envforge.lock.edit import NewPackage, add, after_line, delete_lines, quoted, replace_scalar
from envforge.lock.environment import parse_environment
from envforge.lock.environment_spec import TORCH_FAMILY, render_virtual_packages, split_conda_spec, torch_requirements
from envforge.lock.inputs import Inputs, read_inputs
from envforge.lock.lockfile import Lockfile, list_variants
from envforge.lock.locking import make_lock
from envforge.lock.names import torch_indexes
from envforge.lock.needs import describe, read_needs
from envforge.lock.plan import make_plan
from envforge.lock.project import (
    ENVIRONMENT_FILE,
    LOCK_FILE,
    VARIANTS_DIRECTORY,
    VIRTUAL_PACKAGES_FILE,
    complete_transaction,
    replace_together,
)
from envforge.lock.request import LockProgress, LockReport, LockRequest
from envforge.pytorch.matrix import PYTORCH_INDEX, Build, Grade, Matrix, Request, Selection, load_matrix

_PYTHON = re.compile(r"python\s*[=<>!~]*\s*(\d+\.\d+)")
_REMARKS = re.compile(r"\A(?:#.*\r?\n)+")
VARIANT_HEAD = "# The variant "


class VariantTexts(Struct, frozen=True, kw_only=True):
    """The input of a variant's lockfile, and its builds, one for each platform."""

    environment: str
    virtual_packages: str
    builds: tuple[Build, ...]


def parse_variant(name: str) -> WheelTag:
    """Return the wheel tag that a variant is named after; raise ``RequestError`` if no build has it."""
    tags = [str(tag) for tag in load_matrix().tags]
    if name in tags:
        return WheelTag.parse(name)
    near = _near_tag(name, load_matrix().tags)
    raise RequestError(
        f"unknown variant `{name}`; expected one of the wheel tags: {', '.join(tags)}",
        hint=f"did you mean `--variant {near}`?" if near else "",
        code="bad-variant",
    )


def _near_tag(name: str, tags: Sequence[WheelTag]) -> str | None:
    """Return the tag that ``name`` probably means: the nearest of the same CUDA major version, or the same spelling."""
    major = re.fullmatch(r"cu(\d\d)\w*", name.lower())
    if major is None:
        return nearest(name.lower(), [str(tag) for tag in tags], alike=0.6)
    same = [tag for tag in tags if tag.cuda is not None and str(tag.cuda.major) == major[1]]
    try:
        meant = WheelTag.parse(name.lower()).cuda
    except ValueError:
        return nearest(name.lower(), [str(tag) for tag in same], alike=0.6)
    by_distance = {abs(tag.cuda.minor - meant.minor): str(tag) for tag in same if tag.cuda and meant}
    return by_distance[min(by_distance)] if by_distance else None


def derive_variant(environment: Path, tag: WheelTag, matrix: Matrix) -> VariantTexts:
    """Return the texts of one variant; raise ``EnvforgeError`` if no build of the tag supports the project."""
    inputs = read_inputs(environment, None)
    torch = _torch(inputs)
    builds = _builds(inputs, tag, torch, matrix)
    # the comments at the top describe the project's file, and the variant gets a head of its own
    text = _REMARKS.sub("", inputs.text)
    text = _with_bounds(text, torch, next(iter(builds.values())).torch, environment)
    text = _with_pins(text, builds, environment)
    text = _with_indexes(text, inputs, builds)
    selections = tuple(_selection(build, inputs) for build in builds.values())
    return VariantTexts(
        environment=_head(tag, builds.values()) + text,
        virtual_packages=render_virtual_packages(selections, templates_root()),
        builds=tuple(builds.values()),
    )


def _head(tag: WheelTag, builds: Iterable[Build]) -> str:
    torch = next(iter(builds)).torch
    return (
        f"{VARIANT_HEAD}{tag} of ../../environment.yml, with PyTorch {torch}. Do not edit: change that file, then run\n"
        f"#     envforge lock --variant {tag}\n"
    )


def _torch(inputs: Inputs) -> Version:
    for platform in inputs.platforms:
        for requirement in inputs.pip_for(platform):
            if requirement.name == "torch":
                return _pinned(requirement, inputs.path)
    raise EnvforgeError(
        f"`{inputs.path}` lists no `torch` under `pip:`, so it can't have variants",
        hint="to create a project with PyTorch",
        command="envforge new TEMPLATE DIR",
        code="no-torch",
    )


def _pinned(requirement: Requirement, path: Path) -> Version:
    versions = [one.version for one in requirement.specifier if one.operator in {"==", "==="}]
    try:
        return Version(Version(versions[0]).public)
    except (IndexError, ValueError) as error:
        raise EnvforgeError(
            f"`{path}` lists `{requirement}`, but variants require one exact version",
            hint='write it as in `"torch==2.7.1+cu118"`',
            code="no-torch-pin",
        ) from error


def _builds(inputs: Inputs, tag: WheelTag, torch: Version, matrix: Matrix) -> dict[str, Build]:
    """Return one build per platform, all of one release: the project's if the tag has it, or else the newest."""
    fitting = {platform: _of_platform(platform, inputs, tag, matrix) for platform in inputs.platforms}
    common = set.intersection(*(set(builds) for builds in fitting.values()))
    if not common:
        raise _no_build(inputs, tag, matrix)
    # the project's release if possible, so that variants differ only in CUDA
    release = torch if torch in common else max(common)
    return {platform: builds[release] for platform, builds in fitting.items()}


def _no_build(inputs: Inputs, tag: WheelTag, matrix: Matrix) -> EnvforgeError:
    python = _python(inputs)
    others = [
        str(other)
        for other in matrix.tags
        if set.intersection(*(set(_of_platform(platform, inputs, other, matrix)) for platform in inputs.platforms))
    ]
    return EnvforgeError(
        f"no PyTorch build for `{tag}` supports {', '.join(inputs.platforms)}"
        + (f" with Python {python}" if python else "")
        + f" (from `{inputs.path}`)"
        + (f"; variants with a build: {', '.join(others)}" if others else ""),
        hint=f"to lock another variant, pass `--variant {others[0]}`"
        if others
        else f"to use a Python version that has builds, change it in `{inputs.path}`",
        code="no-build",
    )


def _of_platform(platform: str, inputs: Inputs, tag: WheelTag, matrix: Matrix) -> dict[Version, Build]:
    """Return the confirmed builds by release; a platform without wheels of the tag uses CPU builds, as in ``new``."""
    here = [build for build in matrix.builds if build.platform == platform and build.confirmed]
    tags = {build.tag for build in here}
    python = _python(inputs)
    family = {r.name for r in inputs.pip_for(platform) if r.name in TORCH_FAMILY}
    return {
        build.torch: build
        for build in here
        if build.tag == (tag if tag in tags else CPU)
        and (python is None or python in build.pythons)
        and family <= dict(build.pins).keys()
    }


def _python(inputs: Inputs) -> Version | None:
    for entry in inputs.entries:
        match = _PYTHON.match(entry.text) if entry.name == "python" else None
        if match:
            return Version(match[1])
    return None


def _with_bounds(text: str, old: Version, new: Version, path: Path) -> str:
    """Replace the constraints of the project's torch release with those of the variant's, and keep the user's own."""
    before, after = _bounds(old), _bounds(new)
    for name in sorted(after):
        if before.get(name) == after[name]:
            continue
        entries = parse_environment(text, path).entries
        spec = next((one.spec for one in entries if one.spec is not None and one.name == name), None)
        own = spec.version.split(",") if spec else []
        bounds = [bound for bound in own if bound and bound not in before.get(name, ())]
        line = f"{name} {','.join(dict.fromkeys([*after[name], *bounds]))}".strip()
        request = LockRequest(environment=path, lockfile=path.with_name(LOCK_FILE))
        text = add(text, [NewPackage(text=line, name=name, section="conda")], request).text
    return text


def _bounds(torch: Version) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for spec in torch_requirements(torch):
        name, version = split_conda_spec(spec)
        found[name] = (*found.get(name, ()), *(bound for bound in version.split(",") if bound))
    return found


def _with_pins(text: str, builds: Mapping[str, Build], path: Path) -> str:
    """Set the version of each line of the torch family to the one of the platforms that its selector covers."""
    for number, entry in enumerate(parse_environment(text, path).entries):
        if entry.section != "pip" or entry.name not in TORCH_FAMILY:
            continue
        versions = {dict(b.pins)[entry.name] for platform, b in builds.items() if platform in entry.platforms}
        if len(versions) != 1:
            raise EnvforgeError(
                f"`{path}` lists `{entry.text}` on one line, but its platforms need {', '.join(sorted(versions))}",
                hint=f'write one line for each platform, such as `"{entry.text}"  # [linux64]`',
                code="several-lines",
            )
        # parsed again, because each edit moves the nodes after it
        node = parse_environment(text, path).entries[number].node
        text = replace_scalar(text, node, f"{entry.name}=={versions.pop()}")
    return text


def _with_indexes(text: str, inputs: Inputs, builds: Mapping[str, Build]) -> str:
    """Point the PyTorch indexes to the tags of the variant, and keep other indexes."""
    old = torch_indexes(inputs.pip_repositories)
    base = old[0].rstrip("/").rpartition("/")[0] if old else PYTORCH_INDEX
    new = list(dict.fromkeys(f"{base}/{build.tag}" for build in builds.values()))
    nodes = _index_nodes(text, inputs.path, old)
    if not nodes:
        return f"{text.rstrip()}\npip-repositories:\n" + "".join(f"  - {quoted(url)}\n" for url in new)
    # from the last to the first, because an edit moves the nodes after it
    for number in range(max(len(nodes), len(new)) - 1, -1, -1):
        if number >= len(nodes):
            text = after_line(text, nodes[-1], f"  - {quoted(new[number])}")
        elif number >= len(new):
            text = delete_lines(text, nodes[number])
        else:
            text = replace_scalar(text, nodes[number], new[number])
    return text


def _index_nodes(text: str, path: Path, addresses: Sequence[str]) -> list[yaml.Node]:
    listed = parse_environment(text, path).indexes
    return [node for node in (listed.value if listed else ()) if node.value in addresses]


def _selection(build: Build, inputs: Inputs) -> Selection:
    """Wrap a build in a selection for rendering; it was requested, not selected for a machine."""
    return Selection(
        request=Request(cuda=build.tag),
        build=build,
        python=_python(inputs) or build.pythons[-1],
        grade=Grade.UNVERIFIED,
        index_url=f"{PYTORCH_INDEX}/{build.tag}",
        reason="",
    )


class VariantReport(Struct, frozen=True, kw_only=True):
    """A locked variant; ``needs`` describes for each platform what it requires of the machine."""

    name: str
    report: LockReport
    needs: tuple[str, ...]


def lock_variant(request: LockRequest, tag: WheelTag, progress: LockProgress = repr) -> VariantReport:
    """Derive and lock one variant; on errors, raise ``EnvforgeError`` and leave its files unchanged."""
    _refuse_several(request)
    matrix = load_matrix()
    texts = derive_variant(request.environment, tag, matrix)
    folder, own = variant_folder(request.environment, tag), variant_request(request, tag)
    lockfile = own.lockfile
    _refuse_foreign(own.environment)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_lock(lockfile):
            complete_transaction(own.environment)
            report = _make(own, texts, progress)
    except EnvforgeError as error:
        raise type(error)(f"variant {tag}: {error.message}", hint=error.hints, code=error.code) from error
    finally:
        for empty in (folder, folder.parent):
            with contextlib.suppress(OSError):  # only an empty directory is removed
                empty.rmdir()
    return VariantReport(name=str(tag), report=report, needs=_needs(report.lock, lockfile, matrix))


def variant_request(request: LockRequest, tag: WheelTag) -> LockRequest:
    """Return the request for the files of a variant; hints name the environment file that it is derived from."""
    folder = variant_folder(request.environment, tag)
    environment, lockfile = folder / ENVIRONMENT_FILE, folder / LOCK_FILE
    return replace(request, environment=environment, lockfile=lockfile, source=request.environment)


def check_variant(request: LockRequest, tag: WheelTag) -> tuple[Difference, ...]:
    """Return the differences between a variant and the project's current environment.yml."""
    _refuse_several(request)
    folder = variant_folder(request.environment, tag)
    texts = derive_variant(request.environment, tag, load_matrix())
    if not _is_current(folder, texts):
        return (
            Difference(
                "variant-changed",
                f"variant {tag} of `{request.environment}` is requested",
                f"`{folder}` {'was derived from another version of it' if folder.is_dir() else 'does not exist'}",
            ),
        )
    return check_lock(folder / ENVIRONMENT_FILE, folder / LOCK_FILE, exclude_newer=request.exclude_newer)


def stale_variants(environment: Path) -> tuple[str, ...]:
    """Return the variants that were derived from another version of the project's environment.yml."""
    found = []
    for name in list_variants(environment.parent):
        path = environment.parent / VARIANTS_DIRECTORY / name / ENVIRONMENT_FILE
        if not is_derived(path):
            continue
        with contextlib.suppress(EnvforgeError):  # `lock --variant` explains why it can't be derived
            if _is_current(path.parent, derive_variant(environment, parse_variant(name), load_matrix())):
                continue
        found.append(name)
    return tuple(found)


def is_derived(environment: Path) -> bool:
    """Return whether ``lock --variant`` wrote an environment file."""
    return environment.is_file() and environment.read_bytes().startswith(VARIANT_HEAD.encode())


def _refuse_several(request: LockRequest) -> None:
    if request.others:
        names = ", ".join(f"`{path}`" for path in (request.environment, *request.others))
        raise RequestError(
            f"a variant is derived from one environment file, but there are several: {names}",
            hint="to derive it from one of them",
            command=shlex.join(["envforge", "lock", "-f", str(request.environment), "--variant", "TAG"]),
            code="several-files",
        )


def variant_folder(environment: Path, tag: WheelTag) -> Path:
    """Return the directory of a variant."""
    return environment.parent / VARIANTS_DIRECTORY / str(tag)


def _make(request: LockRequest, texts: VariantTexts, progress: LockProgress) -> LockReport:
    beside = request.environment.with_name(VIRTUAL_PACKAGES_FILE)
    request = replace(request, environment_text=texts.environment, virtual_packages=texts.virtual_packages)
    made = make_lock(request, progress)
    files = {
        request.environment: texts.environment.encode(),
        beside: texts.virtual_packages.encode(),
        request.lockfile: made.text.encode(),
    }
    changed = {path: data for path, data in files.items() if not path.exists() or regular(path).read_bytes() != data}
    if changed:
        replace_together(request.environment, changed)
    return made.report


def _refuse_foreign(environment: Path) -> None:
    if environment.exists() and not is_derived(environment):
        raise EnvforgeError(
            f"`{environment}` was not created by `envforge lock --variant`, and is not overwritten",
            hint="to lock it as it is",
            command=shlex.join(["envforge", "lock", "-f", str(environment)]),
            code="foreign-variant",
        )


def _is_current(folder: Path, texts: VariantTexts) -> bool:
    wanted = {ENVIRONMENT_FILE: texts.environment, VIRTUAL_PACKAGES_FILE: texts.virtual_packages}
    files = {name: folder / name for name in wanted}
    return all(path.is_file() and path.read_bytes() == wanted[name].encode() for name, path in files.items())


def _needs(lock: Lockfile, path: Path, matrix: Matrix) -> tuple[str, ...]:
    plans = (make_plan(lock, platform, path, allow_builds=True) for platform in lock.platforms)
    return tuple(describe(read_needs(plan, matrix), matrix) for plan in plans)
