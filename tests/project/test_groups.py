from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from envforge.base.data_files import templates_root
from envforge.base.jinja import TemplateError
from envforge.errors import RequestError
from envforge.lock.environment_spec import EnvironmentTexts
from envforge.project.plan import Project, plan_project
from envforge.project.questions import choose_groups, gather_answers
from envforge.project.record import PROJECT_FILE, parse_project_file
from envforge.project.templates import Template, load_template
from tests.project import builds

COMMON = """
groups:
  - name: docker
    help: A container of the locked environment
    files: [Dockerfile.jinja, .dockerignore]
  - name: notebook
    help: A notebook that explores the data
    default: true
    files: [explore.ipynb]
    conda: [ipykernel]
"""
MANIFEST = """
name: demo
version: 1
summary: s
common: [LICENSE, tests]
questions:
  - {name: size, type: choice, choices: [small, large], default: small, help: Which}
  - {name: nodes, type: int, default: 2, help: How many, when: {size: large}}
groups:
  - docker
  - {name: notebook, files: [data], conda: [jupyterlab]}
  - name: cluster
    help: Scripts for a cluster
    default: true
    files: [job.sh.jinja]
    when: {size: [large]}
environment: {conda: [numpy]}
"""
FILES = {
    "common/groups.yml": COMMON,
    "common/files/Dockerfile.jinja": "# {{ package }}\n",
    "common/files/.dockerignore": ".git\n",
    "common/files/explore.ipynb": "{}\n",
    "common/files/LICENSE": "free\n",
    "common/files/tests/test_it.py": "\n",
    "common/files/never": "asked for by nobody\n",
    "demo/template.yml": MANIFEST,
    "demo/files/README.jinja": "{% if groups.docker %}docker{% else %}plain{% endif +%}\n",
    "demo/files/data/a": "a\n",
    "demo/files/data/b": "b\n",
    "demo/files/job.sh.jinja": "{{ answers.nodes }}\n",
}
GENERATED = {".envforge/baseline.json", "envforge.toml", "environment.yml", "virtual-packages.yml"}
ALWAYS = {"LICENSE", "README", "tests/test_it.py", *GENERATED}
DOCKER = {"Dockerfile", ".dockerignore"}
NOTEBOOK = {"explore.ipynb", "data/a", "data/b"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def _files(template: Template, groups: tuple[str, ...], **answers: str) -> dict[str, str]:
    project = Project(
        template=template,
        name="net",
        package="net",
        answers=(("size", answers.get("size", "small")), ("nodes", 2)),
        selections=(builds.CPU_LINUX,),
        texts=EnvironmentTexts(environment="", virtual_packages=""),
        groups=groups,
    )
    return {str(file.path): file.content.decode() for file in plan_project(project, None)}


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ((), set()),
        (("docker",), DOCKER),
        (("notebook",), NOTEBOOK),
        (("docker", "notebook", "cluster"), DOCKER | NOTEBOOK | {"job.sh"}),
    ],
)
def test_a_project_has_the_files_of_its_groups_and_of_no_other(
    root: Path, groups: tuple[str, ...], files: set[str]
) -> None:
    assert set(_files(load_template(root, "demo"), groups)) == ALWAYS | files


def test_a_file_of_two_groups_is_there_once_with_either(root: Path) -> None:
    (root / "demo" / "template.yml").write_text(MANIFEST.replace("files: [data]", "files: [.dockerignore]"))
    template = load_template(root, "demo")

    assert [name for name in _files(template, ("notebook",)) if name == ".dockerignore"] == [".dockerignore"]
    assert ".dockerignore" in _files(template, ("docker",))
    assert ".dockerignore" in _files(template, ("docker", "notebook"))
    assert ".dockerignore" not in _files(template, ())


def test_other_files_can_say_what_groups_there_are(root: Path) -> None:
    template = load_template(root, "demo")

    assert _files(template, ("docker",))["README"] == "docker\n"
    assert _files(template, ())["README"] == "plain\n"


def test_the_environment_gets_what_the_groups_need(root: Path) -> None:
    template = load_template(root, "demo")

    assert template.needs_with(()).conda == ("numpy",)
    assert template.needs_with(("notebook", "docker")).conda == ("numpy", "ipykernel", "jupyterlab")


def test_the_record_keeps_the_groups_that_are_there_and_those_that_are_not(root: Path) -> None:
    text = _files(load_template(root, "demo"), ("docker",))[PROJECT_FILE]

    record = parse_project_file(text, PROJECT_FILE)

    assert record.groups == (("docker", True), ("notebook", False), ("cluster", False))


def test_a_record_from_before_there_were_groups_is_read(root: Path) -> None:
    text = _files(load_template(root, "demo"), ())[PROJECT_FILE]
    start = text.index("[groups]")

    record = parse_project_file(text[:start] + text[text.index("[environment]") :], PROJECT_FILE)

    assert record.groups == ()


@pytest.mark.parametrize(
    ("size", "wanted", "unwanted", "groups"),
    [
        ("small", (), (), ("notebook",)),
        ("large", (), (), ("notebook", "cluster")),
        ("small", ("docker",), (), ("docker", "notebook")),
        ("small", ("notebook,docker",), (), ("docker", "notebook")),
        ("small", (" docker , ", "notebook"), (), ("docker", "notebook")),
        ("small", (), ("notebook",), ()),
        ("large", (), ("all",), ()),
        ("large", ("all",), (), ("docker", "notebook", "cluster")),
        ("small", ("all",), (), ("docker", "notebook")),
        ("small", ("all",), ("docker",), ("notebook",)),
        ("small", ("docker",), ("all",), ("docker",)),
    ],
)
def test_groups_are_chosen_by_name(
    root: Path, size: str, wanted: tuple[str, ...], unwanted: tuple[str, ...], groups: tuple[str, ...]
) -> None:
    assert choose_groups(load_template(root, "demo").groups, {"size": size, "nodes": 2}, wanted, unwanted) == groups


@pytest.mark.parametrize(
    ("wanted", "unwanted", "words", "hint"),
    [
        (
            ("dcker",),
            (),
            "the template has the groups: `docker`, `notebook`, `cluster`",
            "did you mean `--with docker`?",
        ),
        ((), ("xyz",), "unknown group `xyz` for `--without`", "omit `xyz`"),
        (("docker",), ("docker",), "in both `--with` and `--without`", "omit it from `--without`"),
        (("cluster",), (), "only with `size=large`", "pass `--var size=large`"),
    ],
)
def test_a_group_that_cannot_be_is_refused_with_the_way_out(
    root: Path, wanted: tuple[str, ...], unwanted: tuple[str, ...], words: str, hint: str
) -> None:
    with pytest.raises(RequestError) as refusal:
        choose_groups(load_template(root, "demo").groups, {"size": "small", "nodes": 2}, wanted, unwanted)

    assert words in refusal.value.message
    assert hint in refusal.value.hint


def _changed(**changes: object) -> str:
    return yaml.safe_dump({**yaml.safe_load(MANIFEST), **changes})


@pytest.mark.parametrize(
    ("manifest", "common", "place"),
    [
        (_changed(groups="docker"), COMMON, "`groups`"),
        (_changed(groups=[7]), COMMON, "`groups[0]`"),
        (_changed(groups=["dokcer"]), COMMON, "`groups[0].name`"),
        (_changed(groups=["docker", "docker"]), COMMON, "`groups[1].name`"),
        (_changed(groups=[{"name": "all", "help": "h"}]), COMMON, "`groups[0].name`"),
        (_changed(groups=[{"name": "docker", "surprise": 1}]), COMMON, "`groups[0]`"),
        (_changed(groups=[{"name": "docker", "default": "yes"}]), COMMON, "`groups[0].default`"),
        (_changed(groups=[{"name": "docker", "files": ["../../x"]}]), COMMON, "`groups[0].files[0]`"),
        (_changed(groups=[{"name": "docker", "conda": ["torch"]}]), COMMON, "`groups[0].conda[0]`"),
        (_changed(groups=[{"name": "docker", "when": {"sizes": "large"}}]), COMMON, "`groups[0].when.sizes`"),
        (_changed(groups=[{"name": "docker", "when": {"size": "huge"}}]), COMMON, "`groups[0].when.size`"),
        (_changed(groups=[{"name": "docker", "when": {"size": []}}]), COMMON, "`groups[0].when.size`"),
        (_changed(groups=[{"name": "docker", "when": {"nodes": True}}]), COMMON, "`groups[0].when.nodes`"),
        (MANIFEST, COMMON.replace("help: A container", "hlep: A container"), "`groups[0]`"),
        (MANIFEST, COMMON.replace("notebook", "docker"), "`groups[1].name`"),
        (MANIFEST, "[", "groups.yml"),
    ],
)
def test_damaged_groups_name_the_place(root: Path, manifest: str, common: str, place: str) -> None:
    (root / "demo" / "template.yml").write_text(manifest, encoding="utf-8")
    (root / "common" / "groups.yml").write_text(common, encoding="utf-8")

    with pytest.raises(TemplateError) as fault:
        load_template(root, "demo")

    assert place in fault.value.message


def test_a_file_that_a_group_names_and_nobody_has_is_a_fault_of_the_template(root: Path) -> None:
    (root / "common" / "files" / ".dockerignore").unlink()

    with pytest.raises(TemplateError, match=r"group `docker`.*`\.dockerignore`"):
        _files(load_template(root, "demo"), ())


def test_a_question_whose_condition_does_not_hold_is_not_asked(root: Path) -> None:
    template = load_template(root, "demo")

    assert dict(gather_answers(template.questions, (), lambda _: 9 if _.name == "nodes" else "small"))["nodes"] == 2
    assert dict(gather_answers(template.questions, ("size=large",), lambda _: 9))["nodes"] == 9


def test_an_answer_to_a_question_that_is_not_asked_is_refused(root: Path) -> None:
    template = load_template(root, "demo")

    with pytest.raises(RequestError, match="applies only with `size=large`"):
        gather_answers(template.questions, ("nodes=4",), None)
    assert dict(gather_answers(template.questions, ("nodes=4", "size=large"), None))["nodes"] == 4


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(templates_root().glob("*/template.yml"))])
def test_every_template_that_ships_takes_every_common_group(name: str) -> None:
    common = yaml.safe_load((templates_root() / "common" / "groups.yml").read_text(encoding="utf-8"))["groups"]

    taken = {group.name for group in load_template(templates_root(), name).groups}

    assert {group["name"] for group in common} <= taken


def test_the_command_takes_groups_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Driven in a copy of envforge, whose templates are those of this test."""
    tool = tmp_path / "tool"
    shutil.copytree(
        Path(__file__).parents[2] / "envforge", tool / "envforge", ignore=shutil.ignore_patterns("__pycache__")
    )
    for source in templates_root().glob("*.jinja"):
        (tool / "templates").mkdir(exist_ok=True)
        shutil.copy(source, tool / "templates")
    for name, text in FILES.items():
        path = tool / "templates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    words = ["new", "demo", "net", "--machine", "cpu", "--no-lock", "--with", "docker", "--without", "notebook"]

    done = subprocess.run(
        [sys.executable, "-m", "envforge", *words], cwd=tool, capture_output=True, text=True, check=False
    )
    again = subprocess.run(
        [sys.executable, "-m", "envforge", *words, "--dry-run", "--force", "--json"],
        cwd=tool,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "with docker; left out: notebook, cluster" in done.stdout
    assert (tool / "net" / "Dockerfile").read_text(encoding="utf-8") == "# net\n"
    assert not (tool / "net" / "explore.ipynb").exists()
    assert json.loads(again.stdout)["result"]["groups"] == {"docker": True, "notebook": False, "cluster": False}


def test_a_template_leaves_a_common_file_that_it_has_no_use_for(root: Path) -> None:
    manifest = root / "demo" / "template.yml"
    manifest.write_text(MANIFEST.replace("groups:\n", "not_common: [tests/test_it.py]\ngroups:\n", 1), encoding="utf-8")
    assert "tests/test_it.py" not in _files(load_template(root, "demo"), ())
    manifest.write_text(MANIFEST.replace("groups:\n", "not_common: [tests/gone.py]\ngroups:\n", 1), encoding="utf-8")
    with pytest.raises(TemplateError, match=r"excludes the common file `tests/gone.py`"):
        _files(load_template(root, "demo"), ())
