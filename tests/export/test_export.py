"""Each export matches the lockfile, and packages that can't be verified are rejected."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from msgspec.structs import replace
from packaging.requirements import Requirement
from rattler import LockFile, MatchSpec, PackageRecord
from rattler.explicit_environment import ExplicitEnvironmentSpec
from rattler.lock import CondaLockedPackage, PypiLockedPackage
from rattler.package.build_string import BuildString

from envforge.base import toml
from envforge.base.data_files import user_file
from envforge.base.distribution import distribution_name, pinned_requirement
from envforge.catalogue.index import PLACEHOLDER, list_entries
from envforge.cli import main
from envforge.cli.export import FormatName
from envforge.errors import EnvforgeError
from envforge.export import FORMATS
from envforge.export.source import LockSource, read_source
from envforge.lock.lockfile import LockedPackage, Lockfile, parse_lockfile, read_lockfile
from envforge.lock.names import NameMapping
from envforge.lock.plan import make_plan, parse_explicit
from tests.export.locks import CATALOGUE, CHANNEL, CU118, JINJA2, NUMPY, PIP, PYTHON, REAL, conda, lock, package

LOCKS = {f"{entry.variant}-{entry.platforms[0]}": entry for entry in list_entries(CATALOGUE)}
CU118_LOCK = CATALOGUE / "image-classification" / "cu118-linux-64.conda-lock.yml"
WHERE = Path("conda-lock.yml")


def _source(lockfile: Lockfile, *platforms: str) -> LockSource:
    return read_source(lockfile, WHERE, platforms or lockfile.platforms)


def _text(kind: str, *packages: LockedPackage) -> str:
    return FORMATS[kind].render(_source(lock(*packages))).text


@pytest.fixture(params=sorted(LOCKS))
def stored(request: pytest.FixtureRequest) -> Lockfile:
    """A lock of the catalogue with its addresses filled in."""
    text = LOCKS[request.param].path.read_text(encoding="utf-8")
    return parse_lockfile(text.replace(PLACEHOLDER, "https://files.example/packages/"), request.param)


def test_explicit_holds_the_same_files_with_the_same_checksums(stored: Lockfile) -> None:
    (platform,) = stored.platforms
    text = FORMATS["explicit"].render(_source(stored)).text
    again = make_plan(parse_explicit(text, "exported", "other"), platform, WHERE)
    assert again.fingerprint == make_plan(stored, platform, WHERE).fingerprint


def test_explicit_is_opened_by_rattler(stored: Lockfile) -> None:
    spec = ExplicitEnvironmentSpec.from_str(FORMATS["explicit"].render(_source(stored)).text)
    assert str(spec.platform) == stored.platforms[0]
    assert {entry.url.split("#")[0] for entry in spec.packages} == {
        package.url for package in stored.packages if package.manager == "conda"
    }


def test_explicit_names_what_is_needed_before_what_needs_it() -> None:
    pip = conda("pip", "26.0", "pyh8b19718_0", dependencies=(("python", ">=3.10"),))
    python = replace(PYTHON, dependencies=(("pip", "*"),))
    lines = _text("explicit", JINJA2, NUMPY, pip, python).splitlines()
    names = [line.rsplit("/", 1)[1].split("-", 1)[0] for line in lines if line.startswith("https")]
    assert names[-1] == "numpy" or names.index("python") < names.index("numpy")
    assert names.index("python") < names.index("jinja2")
    assert sorted(names) == ["jinja2", "numpy", "pip", "python"]


def test_explicit_falls_back_to_md5_where_the_lock_has_no_sha256() -> None:
    assert f"{CHANNEL}/linux-64/numpy-2.2.6-py310hefbff90_0.conda#{'ef' * 16}\n" in _text(
        "explicit", replace(NUMPY, sha256=None, md5="ef" * 16)
    )


_READ_BY_CONDA_LOCK = """
import json, pathlib, sys
from conda_lock.src_parser.environment_yaml import parse_environment_file
path, platform, mapping = sys.argv[1:]
found = parse_environment_file(pathlib.Path(path), [platform], mapping_url=mapping).dependencies[platform]
print(json.dumps([[d.manager, d.name, getattr(d, "version", None), getattr(d, "build", None)] for d in found]))
"""


def test_environment_is_read_by_conda_lock_and_names_each_locked_build(tmp_path: Path) -> None:
    stored = read_lockfile(CU118_LOCK)
    path, mapping = tmp_path / "environment.yml", tmp_path / "mapping.json"
    path.write_text(FORMATS["environment"].render(_source(stored)).text, encoding="utf-8")
    NameMapping.bundled().write(mapping)
    words = [sys.executable, "-c", _READ_BY_CONDA_LOCK, str(path), "linux-64", mapping.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    read = json.loads(done.stdout.splitlines()[-1])
    assert {(name, version, build) for manager, name, version, build in read if manager == "conda"} == {
        ("pip", "*", None),  # the lock has no pip, and conda needs one for the wheels
        *((locked.name, locked.version, _build(locked)) for locked in stored.packages if locked.manager == "conda"),
    }
    assert {name for manager, name, _, _ in read if manager == "pip"} == {
        locked.name for locked in stored.packages if locked.manager == "pip"
    }


def test_environment_asks_for_each_locked_build_as_rattler_reads_it(stored: Lockfile) -> None:
    (platform,) = stored.platforms
    asked = yaml.safe_load(FORMATS["environment"].render(_source(stored)).text)["dependencies"]
    specs = [MatchSpec(line) for line in asked if isinstance(line, str) and line != "pip"]
    locked = stored.for_platform(platform, "conda")
    assert len(specs) == len(locked)
    for spec, one in zip(specs, locked, strict=True):
        assert spec.matches(_record(one, _build(one)))
        assert not spec.matches(_record(one, f"{_build(one)}0"))


def _record(locked: LockedPackage, build: str) -> PackageRecord:
    return PackageRecord(locked.name, locked.version, BuildString(build), 0, locked.platform)


def test_environment_pins_wheels_by_address_and_sha256() -> None:
    document = yaml.safe_load(_text("environment", PYTHON, CU118))
    (pinned,) = document["dependencies"][-1]["pip"]
    assert Requirement(pinned).url == f"{CU118.url}#sha256={'ab' * 32}"
    assert document["channels"] == ["conda-forge"]


def _build(locked: LockedPackage) -> str:
    return re.sub(r"(\.conda|\.tar\.bz2)$", "", locked.url).rsplit("-", 1)[1]


def _pixi(lockfile: Lockfile, folder: Path) -> tuple[dict[str, Any], LockFile]:
    exported = FORMATS["pixi"].render(_source(lockfile))
    ((name, text),) = exported.beside
    (folder / name).write_text(text, encoding="utf-8")
    return toml.loads(exported.text), LockFile.from_path(folder / name)


def _check_pixi(lockfile: Lockfile, folder: Path) -> None:
    """pixi.lock as rattler reads it holds the lock's files; pixi.toml asks for exactly these."""
    manifest, read = _pixi(lockfile, folder)
    environment = read.default_environment()
    assert environment is not None
    for target in environment.platforms():
        asked = manifest["target"][target.name]
        locked = {p.url: p for p in make_plan_packages(lockfile, target.name)}
        found = environment.packages(target) or []
        assert {package.location for package in found} == set(locked)
        for each in found:
            assert each.hashes is not None
            assert each.hashes.sha256 is None or each.hashes.sha256.hex() == locked[each.location].sha256
            if isinstance(each, CondaLockedPackage):
                wanted = asked["dependencies"][each.name]
                assert each.satisfies(MatchSpec(f"{each.name} {wanted['version']} {wanted['build']}"))
            elif isinstance(each, PypiLockedPackage):
                assert asked["pypi-dependencies"][each.name]["url"].split("#")[0] == each.location
                assert each.hashes.sha256 is not None
    assert sorted(platform.name for platform in environment.platforms()) == sorted(manifest["workspace"]["platforms"])


def make_plan_packages(lockfile: Lockfile, platform: str) -> list[LockedPackage]:
    plan = make_plan(lockfile, platform, WHERE, allow_builds=True)
    return [artifact.package for artifact in (*plan.conda, *plan.wheels)]


def test_pixi_lock_is_opened_by_rattler_and_satisfies_its_manifest(stored: Lockfile, tmp_path: Path) -> None:
    _check_pixi(stored, tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the recorded real lockfiles are not here")
def test_pixi_takes_a_real_lock_of_several_platforms(tmp_path: Path) -> None:
    _check_pixi(read_lockfile(REAL / "ChristophHoenes__NumTimeProbe__conda-lock.yml"), tmp_path)


def test_pixi_states_the_glibc_that_the_wheels_need(tmp_path: Path) -> None:
    manifest, _ = _pixi(lock(PYTHON, CU118), tmp_path)
    assert manifest["system-requirements"] == {"libc": {"family": "glibc", "version": "2.28"}}


def test_a_dependency_that_pep_508_cannot_say_keeps_its_name_in_pixi_lock(tmp_path: Path) -> None:
    odd = replace(
        CU118, dependencies=(("pillow", ">=5.3.0,<8.3.dev0 || >=8.4.dev0"), ("numpy", "2.2.6"), ("sympy", "*"))
    )
    exported = FORMATS["pixi"].render(_source(lock(PYTHON, odd)))
    rows = yaml.safe_load(exported.beside[0][1])["packages"]
    assert rows[-1]["requires_dist"] == ["pillow", "numpy==2.2.6", "sympy"]


def test_dockerfile_takes_a_base_that_has_the_glibc() -> None:
    text = _text("dockerfile", PYTHON, PIP, CU118)
    assert re.findall("^FROM .*", text, re.MULTILINE) == [
        "FROM mambaorg/micromamba:2.8.1-debian12-slim AS build",
        "FROM debian:bookworm-slim",
    ]
    newer = replace(NUMPY, dependencies=(("__glibc", ">=2.39,<3.0.a0"),))
    assert re.findall("^FROM .*", _text("dockerfile", PYTHON, newer), re.MULTILINE) == [
        "FROM mambaorg/micromamba:2.8.1-debian13-slim AS build",
        "FROM debian:trixie-slim",
    ]
    unknown = replace(NUMPY, dependencies=(("__glibc", ">=2.99,<3.0.a0"),))
    with pytest.raises(EnvforgeError, match=r"requires glibc 2\.99, but the newest base image"):
        _text("dockerfile", PYTHON, unknown)


def test_dockerfile_of_a_lock_without_linux_is_refused() -> None:
    mac = conda("python", "3.10.20", "h1_cpython", platform="osx-arm64")
    with pytest.raises(EnvforgeError, match="an image requires packages for Linux"):
        FORMATS["dockerfile"].render(_source(lock(mac, platforms=("osx-arm64",))))


def test_dockerfile_rejects_wheels_that_micromamba_cannot_verify() -> None:
    with pytest.raises(EnvforgeError, match="not the conda package `pip`") as caught:
        _text("dockerfile", PYTHON, CU118)
    assert caught.value.commands == ("envforge add pip",)
    with pytest.raises(EnvforgeError, match=r"no SHA-256 for `torch 2\.7\.1\+cu118`"):
        _text("dockerfile", PYTHON, PIP, replace(CU118, sha256=None, md5="ef" * 16))
    explicit = replace(lock(PYTHON, PIP, CU118), channels=())
    with pytest.raises(EnvforgeError, match="an explicit file with wheels, which micromamba ignores"):
        FORMATS["dockerfile"].render(_source(explicit))


def test_dockerfile_installs_the_packages_that_install_does() -> None:
    assert "--prefix /opt/env --file /tmp/lock/conda-lock.yml" in _text("dockerfile", PYTHON, PIP, CU118)
    tool = replace(JINJA2, category="dev")
    assert "--category main --category dev --file" in _text("dockerfile", PYTHON, tool)
    explicit = replace(lock(PYTHON), channels=())
    assert "--file /tmp/lock/explicit.txt" in FORMATS["dockerfile"].render(_source(explicit)).text


HOSTILE = """tool[a] @ git+https://host.example/it's $(touch x) $(nodes) $$ `id` "q" \\ {0} #frag: - %s"""


@pytest.mark.parametrize("kind", ["skypilot", "kubernetes"])
def test_job_installs_the_requirement_whatever_it_contains(kind: str, tmp_path: Path) -> None:
    source = read_source(lock(PYTHON, CU118), WHERE, ("linux-64",), HOSTILE)
    text = FORMATS[kind].render(source).text
    documents = list(yaml.safe_load_all(text))
    script = documents[0]["setup"] if kind == "skypilot" else _container(documents[1])["command"][2]
    if kind == "kubernetes":
        script = _expanded_by_kubernetes(script)
    line = next(line for line in script.splitlines() if line.startswith("pip install"))
    printed = ["bash", "-c", f'pip() {{ printf "%s\\n" "${{@: -1}}"; }}; {line}']
    assert subprocess.run(printed, capture_output=True, text=True, check=True, cwd=tmp_path).stdout == f"{HOSTILE}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("requirement", "image"), [("git+https://host.example/x.git", ""), ("./x.zip", "slim-")])
def test_image_has_git_only_if_the_requirement_needs_it(requirement: str, image: str) -> None:
    source = read_source(lock(PYTHON, CU118, PIP), WHERE, ("linux-64",), requirement)
    job = list(yaml.safe_load_all(FORMATS["kubernetes"].render(source).text))[1]
    assert _container(job)["image"] == f"python:3.12-{image}bookworm"
    assert f"#   FROM python:3.12-{image}bookworm AS build\n" in FORMATS["dockerfile"].render(source).text


@pytest.mark.parametrize("failing", ["pip", "envforge"])
@pytest.mark.parametrize("kind", ["skypilot", "kubernetes"])
def test_job_stops_if_an_installation_fails(kind: str, failing: str) -> None:
    documents = list(yaml.safe_load_all(FORMATS[kind].render(_source(lock(PYTHON, CU118))).text))
    script = documents[0]["setup"] if kind == "skypilot" else _container(documents[1])["command"][2]
    stubs = (
        'pip() { echo "pip $1"; }; envforge() { echo "envforge $1"; }; ' + f"{failing}() {{ echo failed; return 7; }}; "
    )
    done = subprocess.run(["bash", "-c", stubs + script], capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert done.stdout.splitlines()[-1] == "failed"


def _container(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def _expanded_by_kubernetes(text: str) -> str:
    """Expand a command as Kubernetes does: ``$$`` is one ``$``, and ``$(nodes)`` is a variable."""
    return re.sub(r"\$\$|\$\(nodes\)", lambda match: "$" if match[0] == "$$" else "2", text)


def test_dockerfile_keeps_a_requirement_in_its_comment() -> None:
    text = FORMATS["dockerfile"].render(read_source(lock(PYTHON), WHERE, ("linux-64",), HOSTILE)).text
    assert [line for line in text.splitlines() if "host.example" in line and not line.startswith("#")] == []


def test_requirement_comes_from_option_variable_settings_or_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ENVFORGE_REQUIREMENT", raising=False)
    words = ["skypilot", "-o", str(tmp_path / "verify.sky.yaml"), "--force"]

    def installed(*more: str) -> str:
        assert _run(*words, *more) == 0
        capsys.readouterr()
        text = (tmp_path / "verify.sky.yaml").read_text(encoding="utf-8")
        return next(line for line in text.splitlines() if "pip install" in line).split("install ")[1]

    assert installed() == pinned_requirement()
    settings = user_file()
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('[envforge]\nrequirement = "1.1"\n', encoding="utf-8")
    assert installed() == f"{distribution_name()}==1.1"
    monkeypatch.setenv("ENVFORGE_REQUIREMENT", "1.2")
    assert installed() == f"{distribution_name()}==1.2"
    assert installed("--envforge", "1.3") == f"{distribution_name()}==1.3"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("skypilot", "-o", "x.yaml", "--envforge", " "), 2),
        (("skypilot", "-o", "x.yaml", "--envforge", "a\nb"), 2),
        (("skypilot", "-o", "x.yaml", "--envforge", "a @ https://ada:secret@host.example/a.whl"), 2),
        (("explicit", "--envforge", "a==1"), 2),
    ],
)
def test_requirement_that_no_file_may_contain_is_rejected(
    words: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*words) == code
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", get_args(FormatName))
def test_the_same_lock_gives_the_same_bytes(kind: str) -> None:
    renders = [FORMATS[kind].render(_source(read_lockfile(CU118_LOCK))) for _ in range(2)]
    assert renders[0] == renders[1]


def test_the_command_offers_every_format() -> None:
    assert set(FORMATS) == set(get_args(FormatName))


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@packages.example/linux-64/numpy-2.2.6-py310_0.conda",
        "https://packages.example/t/secret-token/linux-64/numpy-2.2.6-py310_0.conda",
    ],
)
def test_credentials_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(EnvforgeError) as caught:
        _source(lock(PYTHON, replace(NUMPY, url=url)))
    assert caught.value.code == "credentials"
    assert "secret" not in caught.value.message


def test_a_stored_lock_whose_addresses_lead_nowhere_is_refused() -> None:
    with pytest.raises(EnvforgeError, match="19 of its URLs are placeholders"):
        _source(read_lockfile(LOCKS["cu128-linux-64"].path))


@pytest.mark.parametrize("field", ["name", "version", "url"])
def test_a_line_break_in_the_lock_cannot_begin_a_line_of_the_export(field: str) -> None:
    broken = getattr(NUMPY, field).replace("n", "n\nRUN evil ", 1) if field != "version" else "2.2.6\nRUN evil"
    with pytest.raises(EnvforgeError, match="control character"):
        _source(lock(PYTHON, replace(NUMPY, **{field: broken})))


@pytest.mark.parametrize("kind", ["requirements", "pylock", "pixi"])
def test_a_wheel_without_sha256_is_refused_where_the_tool_takes_no_md5(kind: str) -> None:
    with pytest.raises(EnvforgeError, match=r"no SHA-256 for `torch 2\.7\.1\+cu118`"):
        _text(kind, PYTHON, replace(CU118, sha256=None, md5="ef" * 16))


@pytest.mark.parametrize("kind", ["requirements", "pylock"])
def test_a_lock_without_wheels_is_refused_for_pip_and_uv(kind: str) -> None:
    with pytest.raises(EnvforgeError, match="has no wheels for `linux-64`"):
        _text(kind, PYTHON, NUMPY)


def test_what_conda_provides_is_named_in_requirements() -> None:
    assert "#     jinja2==3.1.6\n" in _text("requirements", PYTHON, JINJA2, CU118)


def _run(*words: str) -> int:
    return main(["export", *words, "--lockfile", str(CU118_LOCK)])


def test_the_export_goes_to_stdout_unless_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "folder" / "requirements.txt"
    assert _run("requirements") == 0
    printed = capsys.readouterr().out
    assert _run("requirements", "-o", str(output)) == 0
    assert output.read_text(encoding="utf-8") == printed
    assert capsys.readouterr().out == f"wrote {output}\n"
    assert [path.name for path in output.parent.iterdir()] == ["requirements.txt"]


def test_a_variant_is_exported_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lockfiles" / "cu118").mkdir(parents=True)
    stored = CU118_LOCK.read_text(encoding="utf-8").replace(PLACEHOLDER, "https://files.example/packages/")
    (tmp_path / "lockfiles" / "cu118" / "conda-lock.yml").write_text(stored, encoding="utf-8")
    words = ["export", "requirements", "--platform", "linux-64"]
    assert main(words) == 2
    assert (
        "hint: to select one, run `envforge export requirements -p linux-64 --variant cu118`\n"
        in capsys.readouterr().err
    )
    assert main([*words, "--variant", "cu118"]) == 0
    assert "torch-2.7.1%2Bcu118" in capsys.readouterr().out
    assert main([*words, "--variant", "cu118", "--lockfile", "conda-lock.yml"]) == 2


def test_a_file_of_others_stays_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "environment.yml"
    output.write_text("mine\n", encoding="utf-8")
    assert _run("environment", "-o", str(output)) == 1
    assert "`envforge export` did not create it" in capsys.readouterr().err
    assert output.read_text(encoding="utf-8") == "mine\n"
    assert _run("environment", "-o", str(output), "--force") == 0
    assert _run("environment", "-o", str(output)) == 0


def test_a_pixi_lock_of_others_stays(tmp_path: Path) -> None:
    (tmp_path / "pixi.lock").write_text("mine\n", encoding="utf-8")
    assert _run("pixi", "-o", str(tmp_path / "pixi.toml")) == 1
    assert (tmp_path / "pixi.lock").read_text(encoding="utf-8") == "mine\n"
    assert not (tmp_path / "pixi.toml").exists()


def test_a_folder_that_cannot_be_written_is_an_error_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert _run("explicit", "-o", str(tmp_path / "file" / "x.txt")) == 3
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pixi",), "writes two files, `pixi.toml` and `pixi.lock`"),
        (("pixi", "-o", "other.toml"), "expected `pixi.toml`"),
        (("pylock", "-o", "lock.toml"), "expected `pylock.toml`"),
        (("poetry",), "`poetry` is not one of"),
    ],
)
def test_a_request_that_no_tool_would_read_is_a_usage_error(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*words) == 2
    assert message in capsys.readouterr().err


def test_the_platform_has_to_be_said_where_several_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CU118_LOCK.read_text(encoding="utf-8")
    several = text.replace("  platforms:\n  - linux-64\n", "  platforms:\n  - osx-64\n  - win-64\n")
    path = tmp_path / "conda-lock.yml"
    path.write_text(several.replace("platform: linux-64", "platform: osx-64"), encoding="utf-8")
    assert main(["export", "explicit", "--lockfile", str(path)]) == 2
    assert "pass `--platform osx-64`" in capsys.readouterr().err
    assert main(["export", "explicit", "--lockfile", str(path), "--platform", "linux-64"]) == 1
    assert "it has packages for `osx-64`, `win-64`" in capsys.readouterr().err


def test_json_carries_the_text_or_names_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("explicit", "--json") == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["kind"], result["files"]) == ("explicit", [])
    assert "@EXPLICIT" in result["text"]
    assert _run("pixi", "--json", "-o", str(tmp_path / "pixi.toml")) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert result["files"] == [str(tmp_path / "pixi.lock"), str(tmp_path / "pixi.toml")]
    assert result["text"] is None


def test_a_source_distribution_is_exported_with_its_hash() -> None:
    source = package("old-tool", "1.0", "https://packages.example/old-tool-1.0.tar.gz")
    (row,) = toml.loads(_text("pylock", PYTHON, source))["packages"]
    assert row["sdist"]["hashes"] == {"sha256": "ab" * 32}
