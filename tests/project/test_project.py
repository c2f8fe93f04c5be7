from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from envforge import __version__
from envforge.base.data_files import templates_root
from envforge.base.envelope import Json
from envforge.base.jinja import TemplateError
from envforge.lock.environment_spec import render_texts
from envforge.project.plan import Project, place, plan_project
from envforge.project.record import (
    PROJECT_FILE,
    ProjectFileError,
    ProjectRecord,
    dump_record,
    parse_project_file,
    read_project_file,
    written_files,
)
from envforge.project.templates import load_template
from tests.project import builds

MANIFEST = "name: demo\nversion: 1\nsummary: s\ncommon: [tests, LICENSE]\n"
MACHINE: Json = {"platform": "linux-64", "driver": None, "gpus": [{"name": "A10G", "uuid": None}]}


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    root = tmp_path / "templates"
    _write(root / "demo" / "template.yml", MANIFEST)
    _write(
        root / "demo" / "files" / "__package__" / "__init__.py.jinja",
        '"""{{ project }}"""\nIMPORT = {{ package | quoted }}\n',
    )
    _write(root / "demo" / "files" / "data.bin", b"\x00\xff{{ project }}\r\n")
    _write(
        root / "demo" / "files" / "conf-__package__.toml.jinja",
        "torch = {{ selection.build.torch | string | quoted }}\n",
    )
    _write(root / "demo" / "files" / "__pycache__" / "x.pyc", b"litter")
    _write(root / "common" / "files" / "LICENSE", "free\n")
    _write(root / "common" / "files" / "tests" / "test_it.py.jinja", "import {{ package }}\n")
    _write(root / "common" / "files" / "unasked", "no\n")
    return root


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _project(templates: Path, name: str = "my-net") -> Project:
    return Project(
        template=load_template(templates, "demo"),
        name=name,
        package=name.replace("-", "_"),
        answers=(("epochs", 5), ("flip", True), ("title", 'a "b"\\ {{ 1 }}')),
        selections=(builds.CU118, builds.CPU_MAC),
        texts=render_texts((builds.CU118, builds.CPU_MAC), builds.NEEDS, templates_root()),
        machine=MACHINE,
    )


def test_the_plan_has_rendered_copied_and_generated_files(templates: Path) -> None:
    files = {str(file.path): file.content for file in plan_project(_project(templates), "the lock\n")}

    assert sorted(files) == [
        ".envforge/baseline.json",
        "LICENSE",
        "conda-lock.yml",
        "conf-my_net.toml",
        "data.bin",
        "envforge.toml",
        "environment.yml",
        "my_net/__init__.py",
        "tests/test_it.py",
        "virtual-packages.yml",
    ]
    assert files["my_net/__init__.py"] == b'"""my-net"""\nIMPORT = "my_net"\n'
    assert files["data.bin"] == b"\x00\xff{{ project }}\r\n"
    assert files["conf-my_net.toml"] == b'torch = "2.7.1"\n'
    assert files["conda-lock.yml"] == b"the lock\n"


def test_the_same_project_has_the_same_bytes(templates: Path) -> None:
    assert plan_project(_project(templates), None) == plan_project(_project(templates), None)


def test_the_name_of_the_project_does_not_reach_the_environment(templates: Path) -> None:
    one, two = (
        {str(file.path): file.content for file in plan_project(_project(templates, name), None)}
        for name in ("one", "two")
    )

    assert one["environment.yml"] == two["environment.yml"]
    assert one["virtual-packages.yml"] == two["virtual-packages.yml"]


def test_the_record_comes_back_as_it_went(templates: Path, tmp_path: Path) -> None:
    project = _project(templates)
    place(plan_project(project, "the lock\n"), tmp_path / "my-net", force=False, written_before={})

    record = read_project_file(tmp_path / "my-net")

    assert record is not None
    assert (record.envforge_version, record.template, record.template_version) == (__version__, "demo", "1")
    assert (record.project, record.package) == ("my-net", "my_net")
    assert record.answers == project.answers
    assert record.selections == project.selections
    assert record.input_sha256 == project.texts.sha256
    assert record.machine == {"platform": "linux-64", "gpus": [{"name": "A10G"}]}
    assert dump_record(record) == (tmp_path / "my-net" / PROJECT_FILE).read_text(encoding="utf-8")


def test_every_written_file_is_known_again_until_it_is_edited(templates: Path, tmp_path: Path) -> None:
    project, target = _project(templates), tmp_path / "my-net"
    files = plan_project(project, "the lock\n")
    place(files, target, force=False, written_before={})
    (target / "LICENSE").write_text("mine\n", encoding="utf-8")

    other = plan_project(_project(templates, "other-name"), "another lock\n")
    placement = place(other, target, force=True, written_before=written_files(target))

    assert placement.kept == ((PurePosixPath("LICENSE"), PurePosixPath("LICENSE.orig")),)
    assert PurePosixPath(PROJECT_FILE) in placement.replaced


def test_a_folder_without_record_has_no_written_files(tmp_path: Path) -> None:
    assert written_files(tmp_path) == {}


def _text(templates: Path) -> str:
    return next(
        file for file in plan_project(_project(templates), None) if str(file.path) == PROJECT_FILE
    ).content.decode()


@pytest.mark.parametrize(
    ("old", "new", "place_of_fault"),
    [
        ("schema_version = 1", "schema_version = 2", "`schema_version`"),
        ("schema_version = 1", "schema_version = [", "expected TOML"),
        ('package = "my_net"', "package = 3", "`project.package`"),
        ('name = "demo"', "", "`template.name`"),
        ("epochs = 5", "epochs = 5.5", "`answers.epochs`"),
        ("[files]", "[others]", "`files`"),
        ("[selection", "[other", "`selection`"),
        ('grade = "direct"', 'grade = "fine"', "selection[0]"),
    ],
)
def test_a_damaged_record_names_file_and_place(templates: Path, old: str, new: str, place_of_fault: str) -> None:
    text = _text(templates)
    assert old in text

    with pytest.raises(Exception, match=r"invalid") as fault:
        parse_project_file(text.replace(old, new), "here/envforge.toml")

    assert place_of_fault in str(fault.value)
    assert "here/envforge.toml" in str(fault.value)


def test_a_record_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / PROJECT_FILE).write_bytes(b"\xff\xfe")

    with pytest.raises(ProjectFileError, match="cannot read"):
        read_project_file(tmp_path)


def test_nothing_in_a_record_may_be_null() -> None:
    record = ProjectRecord(
        envforge_version="1",
        template="t",
        template_version="1",
        project="p",
        package="p",
        answers=(),
        selections=(),
        input_sha256="0",
        files=(),
    )

    assert parse_project_file(dump_record(record), "x") == record


def _break(templates: Path, path: str, content: str | None, link: str = "") -> None:
    if content is not None:
        _write(templates / path, content)
    if link:
        (templates / path).symlink_to(link)


@pytest.mark.parametrize(
    ("path", "content", "link", "words"),
    [
        ("demo/files/bad.jinja", "{{ nothing }}\n", "", "bad.jinja"),
        ("demo/files/bad.jinja", "{{ answers.nothing }}\n", "", "bad.jinja"),
        ("demo/files/LICENSE", "twice\n", "", "writes `LICENSE` twice"),
        ("demo/files/license", "twice\n", "", "twice"),
        ("demo/files/environment.yml", "mine\n", "", "writes `environment.yml` twice"),
        ("demo/files/envforge.toml", "mine\n", "", "writes `envforge.toml` twice"),
        ("demo/files/passwd", None, "/etc/passwd", "symbolic link"),
        ("demo/files/folder", None, "/etc", "symbolic link"),
        ("demo/template.yml", MANIFEST.replace("LICENSE", "COPYING"), "", "`COPYING`"),
    ],
)
def test_a_damaged_template_names_the_file(
    templates: Path, path: str, content: str | None, link: str, words: str
) -> None:
    _break(templates, path, content, link)

    with pytest.raises(TemplateError) as fault:
        plan_project(_project(templates), None)

    assert words in fault.value.message


def test_a_template_file_that_is_not_text_is_named(templates: Path) -> None:
    (templates / "demo" / "files" / "bad.jinja").write_bytes(b"\xff")

    with pytest.raises(TemplateError, match=r"bad\.jinja"):
        plan_project(_project(templates), None)


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys, envforge.lock.environment_spec, envforge.project.plan;"
        "import envforge.project.plan, envforge.project.templates, envforge.project.templates;"
        "print(sorted({'jinja2','yaml','tomlkit','filelock','rich','rattler','conda_lock','torch'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
