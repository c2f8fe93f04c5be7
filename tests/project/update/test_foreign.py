"""Test third-party templates: their sources, and the limits of what they can do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from envforge.base.jinja import TemplateError
from envforge.cli import main
from envforge.errors import EnvforgeError
from envforge.project.record import need_project_file
from envforge.project.template_source import MOST_BYTES, MOST_FILES
from envforge.project.templates import open_template
from tests.catalogue.support import git
from tests.project.update.support import FILES, LINES, MANIFEST, World, commit

assert sys.platform != "win32"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    for variable in ("CONDA_OVERRIDE_CUDA", "ENVFORGE_MIRRORS", "ENVFORGE_CATALOGUE"):
        monkeypatch.delenv(variable, raising=False)
    world = World(tmp_path)
    world.write_template(FILES)
    return world


def _new(source: str, *options: str) -> int:
    return main(["new", source, "net", "--machine", "cpu", "--no-lock", *options])


def _refused(world: World, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``new`` says of the template; nothing was written."""
    before = {path for path in world.root.rglob("*") if "demo" not in path.parts}
    assert _new("./demo") == 1
    assert {path for path in world.root.rglob("*") if "demo" not in path.parts} == before
    assert not world.project.exists()
    return capsys.readouterr().err


def _repository(world: World) -> str:
    git(world.root, "init", "--quiet", "--initial-branch=main", "demo")
    commit(world, "v1")
    return f"git+file://{world.template}"


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("demo", "envforge has no template `demo`, but the directory of that name is one", "pass `./demo`"),
        ("./nowhere", "template directory `nowhere` does not exist", "envforge templates new DIR"),
    ],
)
def test_a_folder_that_was_named_wrongly_is_told_how_to_name(
    world: World, source: str, message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _new(source) == 2

    told = capsys.readouterr().err
    assert message in told
    assert hint in told


def test_a_folder_is_a_template_and_is_recorded_relative_to_the_project(world: World) -> None:
    assert _new("./demo") == 0

    assert world.read("README").encode() == FILES["README"]
    record = need_project_file(world.project)
    assert (record.template, record.origin.source) == ("demo", "../demo")
    assert main(["update", "--directory", "net", "--check"]) == 0
    (world.template / "files" / "README").write_text("newer\n", encoding="utf-8")
    assert main(["update", "--directory", "net", "--check"]) == 1
    assert main(["update", "--directory", "net"]) == 0
    assert world.read("README") == "newer\n"


def test_a_repository_is_a_template_and_its_commit_is_recorded(world: World) -> None:
    source = _repository(world)
    commit = git(world.template, "rev-parse", "HEAD")

    assert _new(f"{source}@v1") == 0

    record = need_project_file(world.project)
    assert record.origin.source == f"{source}@v1"
    assert record.origin.commit == commit


def test_a_project_follows_its_branch_or_goes_to_another_revision(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _repository(world)
    assert _new(source) == 0
    (world.template / "files" / "README").write_text("second\n", encoding="utf-8")
    second = commit(world, "v2")
    (world.template / "files" / "README").write_text("third\n", encoding="utf-8")
    commit(world, "v3")

    assert main(["update", "--directory", "net", "--check"]) == 1
    assert main(["update", "--directory", "net", "--template-version", "v2"]) == 0
    assert world.read("README") == "second\n"
    assert need_project_file(world.project).origin.commit == second
    assert main(["update", "--directory", "net", "--check"]) == 0  # the project now stands on v2
    assert main(["update", "--directory", "net", "--template-version", "main"]) == 0
    assert world.read("README") == "third\n"
    assert main(["update", "--directory", "net", "--template-version", second]) == 0
    assert world.read("README") == "second\n"


def test_a_template_in_a_folder_of_a_repository(world: World) -> None:
    world.template.rename(world.root / "inner")
    world.template.mkdir()
    (world.root / "inner").rename(world.template / "inner")
    source = _repository(world)

    assert _new(f"{source}#subdirectory=inner") == 0
    assert main(["update", "--directory", "net", "--template-version", "v1"]) == 0
    assert need_project_file(world.project).origin.source == f"{source}@v1#subdirectory=inner"


def test_a_link_in_a_repository_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (world.template / "files" / "passwd").symlink_to("/etc/passwd")

    assert _new(_repository(world)) == 1

    assert "link or submodule `files/passwd`" in capsys.readouterr().err
    assert not world.project.exists()


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("git+file:///nowhere/at/all", 3),
        ("git+ext::sh -c id", 2),
        ("git+file:///x@--upload-pack=id", 2),
        ("git+file:///x#subdirectory=../..", 2),
        ("git+https://ada:secret@host.invalid/x.git", 2),
        ("./nowhere", 2),
        ("../", 2),
    ],
)
def test_what_is_no_template_is_refused_without_its_password(
    world: World, capsys: pytest.CaptureFixture[str], source: str, code: int
) -> None:
    assert _new(source) == code

    assert "secret" not in capsys.readouterr().err
    assert not world.project.exists()


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(project) }}",
    "{{ '{x.__class__}'.format_map({'x': project}) }}",
    "{{ (project | attr('format'))('{0.__class__}') | attr('__class__') }}",
    "{{ [project] | map(attribute='__class__') | join }}",
    "{{ selection | attr('__dict__') }}",
    "{{ selection.build.__class__.__init__.__globals__ }}",
    "{{ selection.build.torch.__class__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id') }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ range.__self__ }}",
    "{{ quoted.__globals__ }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{% set answers.size = 'x' %}",
    "{% do answers.update({'size': 'x'}) %}",
    "{{ answers.update({'size': 'x'}) }}",
    "{{ selections.append(1) }}",
    "{{ selections.clear() }}",
    "{% include '/etc/passwd' %}",
    "{% include '../../secret' %}",
    "{% import 'os' as os %}",
    "{% extends '/etc/passwd' %}",
    "{{ range(10 ** 9) | list }}",
    "{{ project.open }}",
    "{{ environment }}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_no_known_way_out_of_the_sandbox_is_open(world: World, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (world.template / "files" / "evil.jinja").write_text(text, encoding="utf-8")

    said = _refused(world, capsys)

    assert "evil.jinja" in said
    assert "can't be rendered" in said


def test_what_the_sandbox_gives_is_plain_data(world: World) -> None:
    text = "{{ '%s' | format(selection) }}\n{{ '{0}'.format(answers) }}\n"
    (world.template / "files" / "plain.jinja").write_text(text, encoding="utf-8")

    assert _new("./demo") == 0

    assert " object at " not in world.read("plain")
    assert "Selection(" not in world.read("plain")
    assert world.read("plain").endswith("{'size': 'small'}\n")


def test_an_answer_is_never_read_as_a_template(world: World) -> None:
    manifest = MANIFEST.replace("groups:", "  - {{name: title, type: str, default: t, help: h}}\ngroups:")
    world.write_template({**FILES, "title.jinja": b"{{ answers.title }}\n"}, manifest=manifest)

    assert _new("./demo", "--var", "title={{ ''.__class__ }}") == 0

    assert world.read("title") == "{{ ''.__class__ }}\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".git/hooks/post-checkout", "of another tool"),
        (".GIT/config", "of another tool"),
        (".envforge/baseline.json", "of another tool"),
        (".conda/bin/python", "of another tool"),
        ("con.txt", "device name on Windows"),
        ("deep/LPT1", "device name on Windows"),
        ("aux .py", "device name on Windows"),
        ("end.", "a dot, which Windows"),
        ("end ", "with a space"),
        ("a:b", "some file systems"),
        ("a\\b", "some file systems"),
        ("a\x1b[31mb", "some file systems"),
        ("x" * 201, "longer than 200"),
        ("envforge.toml", "twice"),
        ("Conda-Lock.yml", "twice"),
        ("readme", "twice"),
    ],
)
def test_a_path_that_is_not_safe_everywhere_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    path = world.template / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x", encoding="utf-8")

    said = _refused(world, capsys)

    assert words in said
    assert "\x1b" not in said


def _large(folder: Path) -> None:
    with (folder / "files" / "large").open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)


def _many(folder: Path) -> None:
    for number in range(MOST_FILES + 1):
        (folder / "files" / str(number)).touch()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "files" / "x").symlink_to("/etc/passwd"), "symbolic link"),
        (lambda folder: (folder / "files" / "x").symlink_to("/etc"), "symbolic link"),
        (lambda folder: (folder / "x").symlink_to("nowhere"), "symbolic link"),
        (lambda folder: os.mkfifo(folder / "files" / "x"), "not a regular file"),
        (_large, "too large"),
        (_many, "too large"),
    ],
)
def test_what_is_no_plain_file_or_too_much_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], words: str
) -> None:
    spoil(world.template)

    assert words in _refused(world, capsys)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: !!python/object/apply:os.system [id]\n", "plain values"),
        ("name: !!python/name:os.system\n", "plain values"),
        ("name: !mine x\n", "plain values"),
        (BOMB, "no anchors or aliases"),
        ("name: demo\nversion: 1\nname: other\n", "each key once"),
        ("[" * 5000, "expected"),
        ("name: 'x\n", "expected YAML"),
        ("x: " + "y" * 300_000, "at most 200,000"),
        (MANIFEST.format(version=1) + "surprise: 1\n", "expected one of the fields"),
        (MANIFEST.format(version=1).replace("name: demo", "name: ../demo"), "`name`"),
        (MANIFEST.format(version=1).replace("[NOTES]", "[../../etc/passwd]"), "`groups[0].files[0]`"),
        (MANIFEST.format(version=1).replace("name: size", "name: items"), "`questions[0].name`"),
        (MANIFEST.format(version=1) + "hooks: [rm -rf .]\n", "`hooks[0]`"),
    ],
)
def test_a_manifest_that_plays_tricks_is_refused(world: World, text: str, words: str) -> None:
    (world.template / "template.yml").write_text(text, encoding="utf-8")

    with pytest.raises(EnvforgeError) as fault, open_template("./demo", world.root):
        pass

    assert isinstance(fault.value, TemplateError)
    assert words in fault.value.message


HOOKS = MANIFEST + "hooks: [[sh, -c, 'echo ran > hooked'], [sh, -c, 'exit {code}']]\n"


def _with_hooks(world: World, code: int) -> None:
    world.write_template(FILES, manifest=HOOKS.replace("{code}", str(code)))


def test_hooks_are_shown_and_not_run(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    _with_hooks(world, 0)

    assert _new("./demo") == 0

    assert "to run them, pass --trust:\n  sh -c 'echo ran > hooked'\n" in capsys.readouterr().err
    assert not (world.project / "hooked").exists()


def test_hooks_run_with_trust_after_they_were_shown(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    _with_hooks(world, 0)

    assert _new("./demo", "--trust") == 0

    assert "  sh -c 'echo ran > hooked'\n" in capsys.readouterr().err
    assert world.read("hooked") == "ran\n"


def test_a_hook_that_fails_is_told_and_the_project_stays(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    _with_hooks(world, 7)

    assert _new("./demo", "--trust") == 1

    assert "exit code 7; the project is complete" in capsys.readouterr().err
    assert (world.project / "README").is_file()


def test_hooks_do_not_run_on_an_update_or_a_dry_run_or_a_look(world: World) -> None:
    _with_hooks(world, 0)
    assert _new("./demo", "--trust", "--dry-run") == 0
    assert main(["templates", "show", "./demo"]) == 0
    assert _new("./demo") == 0
    (world.template / "files" / "README").write_text("newer\n", encoding="utf-8")
    assert main(["update", "--directory", "net"]) == 0

    assert list(world.root.rglob("hooked")) == []


def test_smoke_needs_trust(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert _new("./demo", "--smoke") == 2

    assert "--trust" in capsys.readouterr().err
    assert not world.project.exists()


def test_update_counts_the_files_of_a_directory_that_you_left_alone(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = {f"engine/{name}.py": LINES.encode() for name in "abcd"}
    world.write_template({**FILES, **engine})
    assert _new("./demo") == 0
    world.write_template({**FILES, **{name: text + b"more\n" for name, text in engine.items()}}, version=2)
    capsys.readouterr()

    assert main(["update", "--directory", "net", "--dry-run"]) == 0
    assert "  update    engine/: 4 files replaced; none of yours edited\n" in capsys.readouterr().out

    world.write("engine/d.py", "mine\n" + LINES)
    assert main(["update", "--directory", "net"]) == 0

    said = capsys.readouterr().out
    assert "  update    engine/: 3 files replaced; edited by you: 1\n  merge     engine/d.py\n" in said
    assert world.read("engine/a.py") == LINES + "more\n"


def test_what_a_dry_run_and_a_conflict_say(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert _new("./demo") == 0
    world.write("README", "mine\n")
    world.write_template({**FILES, "README": b"theirs\n", "logo.png": b"\x00new"}, version=2)
    before = world.contents()
    capsys.readouterr()

    assert main(["update", "--directory", "net", "--dry-run"]) == 1

    said = capsys.readouterr().out
    assert "net, from demo 1 → 2: would be updated" in said
    assert "--- a/README\n+++ b/README\n" in said
    assert "Binary files a/logo.png and b/logo.png differ" in said
    assert world.contents() == before

    assert main(["update", "--directory", "net", "--conflict", "rej", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)["result"]
    assert result["written"] is True
    assert {change["path"]: (change["action"], change["beside"]) for change in result["changes"]} == {
        "README": ("conflict", "README.rej"),
        "logo.png": ("update", None),
    }
    assert world.read("README") == "mine\n"
    assert main(["update", "--directory", "net"]) == 0


def test_a_conflict_that_was_not_settled_is_told_by_the_next_update(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _new("./demo") == 0
    world.write("README", "mine\n")
    world.write_template({**FILES, "README": b"theirs\n"}, version=2)
    assert main(["update", "--directory", "net"]) == 1
    capsys.readouterr()

    assert main(["update", "--directory", "net"]) == 1
    said = capsys.readouterr()
    assert "up to date" in said.out
    assert "`README` still has both sides of a conflict" in said.err

    world.write("README", "mine and theirs\n")
    assert main(["update", "--directory", "net"]) == 0
    assert "conflict" not in capsys.readouterr().err


def test_another_cuda_is_chosen_for_the_recorded_machine(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "./demo", "net", "--machine", "a10g", "--cuda", "11.8", "--no-lock"]) == 0

    assert main(["update", "--directory", "net", "--cuda", "12.6"]) == 0

    assert "+cu126" in world.read("environment.yml")
    record = need_project_file(world.project)
    assert str(record.selections[0].build.tag) == "cu126"
    assert "A10G" in json.dumps(record.machine)
    assert main(["update", "--directory", "net", "--check"]) == 0


def test_the_lock_follows_another_cuda(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "image-classification", "net", "--machine", "a10g", "--cuda", "11.8"]) == 0
    assert "cu118" in world.read("conda-lock.yml")

    assert main(["update", "--directory", "net", "--cuda", "12.6", "--torch", "2.14.0", "--dry-run"]) == 0
    assert "conda-lock.yml would be updated" in capsys.readouterr().out
    assert main(["update", "--directory", "net", "--cuda", "12.6", "--torch", "2.14.0"]) == 0

    assert "cu126" in world.read("conda-lock.yml")
    assert "cu118" not in world.read("conda-lock.yml")


def test_a_version_that_is_not_there_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert _new("./demo") == 0

    assert main(["update", "--directory", "net", "--template-version", "9"]) == 2

    assert "`../demo` has version `1`" in capsys.readouterr().err
