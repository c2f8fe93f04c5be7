from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from envforge.base.data_files import templates_root
from envforge.base.jinja import TemplateError
from envforge.errors import RequestError
from envforge.lock import environment_spec as spec
from envforge.lock.environment_spec import TemplateNeeds, input_sha256, render_texts, torch_requirements
from envforge.pytorch.matrix import Selection
from tests.project import builds

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "cu118": (builds.CU118,),
    "cpu-everywhere": (builds.CPU_LINUX, builds.CPU_ARM, builds.CPU_MAC, builds.CPU_WINDOWS),
    "cu118-and-mac": (builds.CU118, builds.CPU_MAC, builds.CU118_WINDOWS),
    "torch-2.0": (builds.OLD,),
    "cu130-arm": (builds.NEW_ARM,),
}
CONDA_LOCK_WARNS = pytest.mark.filterwarnings("ignore")  # its vendored libraries, at import
EVERY = tuple(dict.fromkeys(itertools.chain(*CASES.values())))


def _texts(*selections: Selection, needs: TemplateNeeds = builds.NEEDS) -> spec.EnvironmentTexts:
    return render_texts(selections, needs, templates_root())


@pytest.mark.parametrize("name", CASES)
def test_rendered_files_are_the_reviewed_ones(name: str) -> None:
    texts = _texts(*CASES[name])

    assert texts.environment == (GOLDEN / f"{name}.environment.yml").read_text(encoding="utf-8")
    assert texts.virtual_packages == (GOLDEN / f"{name}.virtual-packages.yml").read_text(encoding="utf-8")


@CONDA_LOCK_WARNS
@pytest.mark.parametrize("name", CASES)
def test_conda_lock_reads_for_each_platform_exactly_its_own_build(name: str, tmp_path: Path) -> None:
    from conda_lock.src_parser.environment_yaml import parse_environment_file

    texts = _texts(*CASES[name])
    (tmp_path / "environment.yml").write_text(texts.environment, encoding="utf-8")
    (tmp_path / "mapping.yml").write_text("{}\n", encoding="utf-8")
    platforms = [s.build.platform for s in CASES[name]]

    read = parse_environment_file(
        tmp_path / "environment.yml", platforms, mapping_url=(tmp_path / "mapping.yml").as_uri()
    )

    assert [channel.url for channel in read.channels] == ["conda-forge"]
    assert {repository.url for repository in read.pip_repositories} == {s.index_url for s in CASES[name]}
    for selection in CASES[name]:
        dependencies = read.dependencies[selection.build.platform]
        pip = {d.name: d.version for d in dependencies if d.manager == "pip"}
        conda = {d.name: d.version for d in dependencies if d.manager == "conda"}
        assert pip == {f"{n}": f"=={v}" for n, v in selection.build.pins if n != "torchaudio"}
        assert conda["python"] == f"{selection.python}.*"
        assert {"filelock", "sympy", "networkx", "jinja2", "typing_extensions", "setuptools", "numpy"} <= set(conda)


@CONDA_LOCK_WARNS
@pytest.mark.parametrize("name", CASES)
def test_conda_lock_solves_against_exactly_the_stated_virtual_packages(name: str, tmp_path: Path) -> None:
    from conda_lock.virtual_package import virtual_package_repo_from_specification

    path = tmp_path / "virtual-packages.yml"
    path.write_text(_texts(*CASES[name]).virtual_packages, encoding="utf-8")

    repodata = virtual_package_repo_from_specification(path).all_repodata

    for selection in CASES[name]:
        found = {p["name"]: p["version"] for p in repodata[selection.build.platform]["packages"].values()}
        cuda, glibc = selection.build.tag.cuda, selection.build.glibc
        assert found.get("__cuda") == (str(cuda) if cuda else None)
        assert found.get("__glibc") == (str(glibc) if glibc else None)
        assert "__archspec" in found


def test_a_cpu_build_states_no_cuda() -> None:
    stated = yaml.safe_load(_texts(builds.CPU_LINUX, builds.CPU_WINDOWS).virtual_packages)["subdirs"]

    assert ["__cuda" in stated[platform]["packages"] for platform in ("linux-64", "win-64")] == [False, False]


@settings(deadline=None, max_examples=25)
@given(st.permutations(CASES["cpu-everywhere"]))
def test_the_order_of_platforms_does_not_change_the_bytes(order: list[Selection]) -> None:
    assert _texts(*order) == _texts(*CASES["cpu-everywhere"])


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from(["tqdm", "numpy >=1.23", "rich", "zlib", "pandas >=2,<3"]), unique=True),
    st.sampled_from(EVERY),
)
def test_the_same_input_gives_the_same_bytes_and_one_line_for_each_package(conda: list[str], chosen: Selection) -> None:
    texts = _texts(chosen, needs=TemplateNeeds(torch_family=("torch",), conda=tuple(conda)))

    assert texts == _texts(chosen, needs=TemplateNeeds(torch_family=("torch",), conda=tuple(reversed(conda))))
    assert texts.environment.endswith("\n")
    lines = [line for line in yaml.safe_load(texts.environment)["dependencies"] if isinstance(line, str)]
    names = [line.split(" ")[0] for line in lines]
    assert names == ["python", *sorted(set(names) - {"python"})]
    assert {name.split(" ")[0] for name in conda} <= set(names)


@settings(deadline=None, max_examples=25)
@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_only_equal_texts_have_an_equal_hash(a: str, b: str, c: str, d: str) -> None:
    assert (input_sha256(a, b) == input_sha256(c, d)) == ((a, b) == (c, d))


def test_the_hash_of_a_known_input_stays() -> None:
    assert input_sha256("a\n", "b\n") == "25b6660e11239e0aaa7ccf3f15ff2487eed9625332d49dbb2be18d2f94613faa"


def test_constraints_of_torch_and_of_the_template_are_joined() -> None:
    lines = yaml.safe_load(_texts(builds.OLD).environment)["dependencies"]

    assert "numpy <2,>=1.23" in lines


@pytest.mark.parametrize(
    "release", ["2.0.0", "2.1.0", "2.4.1", "2.5.1", "2.6.0", "2.7.1", "2.11.0", "2.13.0", "2.15.0"]
)
def test_every_release_has_one_rule_for_each_package_that_changed(release: str) -> None:
    names = [spec.split_conda_spec(each)[0] for each in torch_requirements(Version(release))]

    for changed in ("sympy", "typing_extensions", "setuptools", "numpy"):
        assert names.count(changed) == 1


@pytest.mark.parametrize("address", ["https://me:secret@host/whl", "https://token@host/whl"])
def test_a_password_in_the_index_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(RequestError) as refusal:
        _texts(builds.selection(index=address))

    assert "--torch-index" in refusal.value.message
    assert not {"secret", "token"} & set(refusal.value.message.replace("`", " ").replace(":", " ").split())


def test_environment_variables_in_the_index_are_kept() -> None:
    index = "https://$INDEX_USER:${INDEX_PASSWORD}@host/whl"

    assert f'"{index}/cu118"' in _texts(builds.selection(index=index)).environment


def test_a_family_member_that_does_not_exist_is_named() -> None:
    needs = TemplateNeeds(torch_family=("torch", "torchvision"))
    bare = builds.selection()
    without = type(bare)(
        **{name: getattr(bare, name) for name in bare.__struct_fields__ if name != "build"},
        build=type(bare.build)(
            **{name: getattr(bare.build, name) for name in bare.build.__struct_fields__ if name != "torchvision"},
            torchvision=None,
        ),
    )

    with pytest.raises(RequestError, match="requires `torchvision`"):
        _texts(without, needs=needs)


def test_a_missing_source_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"environment\.yml\.jinja"):
        render_texts((builds.CU118,), builds.NEEDS, tmp_path)
