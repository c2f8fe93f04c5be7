from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from envforge.base.data_files import templates_root
from envforge.cli import main
from envforge.project.questions import Answer
from envforge.project.templates import Template, list_templates, load_foreign
from envforge.project.trial import pairwise
from tests.project.update.support import FILES, World

QUESTIONS = """
name: demo
version: 7
summary: A demo
questions:
  - {name: size, type: choice, choices: [small, middle, large], default: small, help: Which}
  - {name: flip, type: bool, default: false, help: Mirror}
  - {name: depth, type: choice, choices: ["1", "2"], default: "1", help: How deep, when: {size: [middle, large]}}
  - {name: title, type: str, default: t, help: Title}
groups:
  - {name: notes, help: Notes, files: [NOTES]}
  - {name: logo, help: A logo, files: [logo.png], default: true}
  - {name: deep, help: For the deep, files: [size.jinja], when: {depth: "2"}, conda: [dask]}
environment: {torch: [torch], conda: [numpy]}
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    world.write_template(FILES)
    (world.template / "template.yml").write_text(QUESTIONS, encoding="utf-8")
    return world


def _template(world: World) -> Template:
    return load_foreign(world.template, templates_root() / "common")


def test_every_template_is_listed_with_what_it_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates"]) == 0
    words = capsys.readouterr().out
    assert main(["templates", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["result"]["templates"]

    assert [row["name"] for row in listed] == list(list_templates(templates_root()))
    for row in listed:
        assert f"{row['name']} {row['version']}\n" in words
        assert row["summary"].split()[0] in words


@pytest.mark.parametrize("name", list_templates(templates_root()))
def test_every_template_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates", "show", name]) == 0
    words = capsys.readouterr().out
    assert main(["templates", "show", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["result"]

    assert "torch" in shown["needs"]["torch"]
    assert all(path in words for path in shown["files"])


def test_questions_groups_files_and_needs_are_shown(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates", "show", "./demo"]) == 0
    words = capsys.readouterr().out
    assert main(["templates", "show", "./demo", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["result"]

    assert "size  Which (small, middle, large; default small)" in words
    assert "depth  How deep (1, 2; default 1), only with size=middle|large" in words
    assert "deep  For the deep, only with depth=2: size; needs dask" in words
    assert "logo  A logo (default): logo.png" in words
    assert "PACKAGE/train.py" in words
    assert shown["files"] == ["PACKAGE/train.py", "README"]
    assert [group["files"] for group in shown["groups"]] == [["NOTES"], ["logo.png"], ["size"]]
    assert shown["questions"][2]["when"] == {"size": ["middle", "large"]}


def _holds(row: dict[str, Answer]) -> bool:
    """Whether a combination is one that a user can have."""
    if row["depth"] == "2" and row["size"] == "small":
        return False
    return not (row["with deep"] and row["depth"] != "2")


def test_every_two_choices_that_may_meet_do_in_few_variants(world: World) -> None:
    variants = pairwise(_template(world))
    rows = []
    for variant in variants:
        answers: dict[str, Answer] = dict(variant.answers)
        rows.append(answers | {f"with {name}": name in variant.groups for name in ("notes", "logo", "deep")})
    values: dict[str, tuple[Answer, ...]] = {
        "size": ("small", "middle", "large"),
        "flip": (False, True),
        "depth": ("1", "2"),
        **dict.fromkeys(("with notes", "with logo", "with deep"), (False, True)),
    }
    impossible = {
        frozenset({("depth", "2"), ("size", "small")}),
        frozenset({("with deep", True), ("depth", "1")}),
        frozenset({("with deep", True), ("size", "small")}),
    }
    wanted = {
        frozenset({(one, a), (other, b)})
        for one, other in combinations(values, 2)
        for a in values[one]
        for b in values[other]
    } - impossible

    met = {frozenset(two) for row in rows for two in combinations(row.items(), 2)}

    assert all(_holds(row) for row in rows)
    assert wanted - met == set()
    assert len(rows) <= 12  # of 72 that are possible
    assert variants[0].words(_template(world)) == "(defaults)"


def test_a_template_without_choices_has_one_variant(world: World) -> None:
    (world.template / "template.yml").write_text("name: demo\nversion: 1\nsummary: s\n", encoding="utf-8")

    assert len(pairwise(_template(world))) == 1


@pytest.mark.slow
def test_a_new_template_passes_its_test_and_makes_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert main(["templates", "new", "mine"]) == 0
    assert "envforge templates test mine" in capsys.readouterr().out

    assert main(["templates", "test", "mine", "--json"]) == 0
    variants = json.loads(capsys.readouterr().out)["result"]["variants"]

    assert [row["problems"] for row in variants] == [[]] * 2
    assert sorted(row["smoke"] for row in variants) == ["passed", "same"]
    assert main(["new", "./mine", "net", "--machine", "cpu", "--no-lock", "--with", "notes"]) == 0
    assert (tmp_path / "net" / "net" / "train.py").is_file()
    assert "What was tried stands in NOTES.md" in (tmp_path / "net" / "README.md").read_text(encoding="utf-8")


def test_a_template_is_not_started_where_something_is(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(world.root.rglob("*"))

    assert main(["templates", "new", "demo"]) == 1
    assert main(["templates", "new", "No Name"]) == 2

    assert sorted(world.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("__package__/bad.py.jinja", b"x = {{ answers.size }} y\n", "bad.py"),
        ("bad.json", b"{", "bad.json"),
        ("bad.toml.jinja", b"x = {{ answers.title }}\n", "bad.toml"),
        ("bad.yml", b"a: [", "bad.yml"),
        ("bad.jinja", b"{% if groups.logo %}{{ nothing }}{% endif %}", "can't be rendered"),
        ("__package__/smoke.py", b"raise SystemExit(3)\n", "exit code 3"),
    ],
)
def test_a_fault_in_any_variant_fails_the_test_of_the_template(
    world: World, capsys: pytest.CaptureFixture[str], name: str, content: bytes, words: str
) -> None:
    if "smoke" in name:
        pytest.importorskip("torch")
    (world.template / "files" / name).write_bytes(content)

    assert main(["templates", "test", "demo"]) == 1

    said = capsys.readouterr().out
    assert words in said
    assert "\nfailed  " in f"\n{said}"


def test_without_smoke_no_code_of_the_template_is_run(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"open({str(world.root / 'ran')!r}, 'w').close()\n"
    (world.template / "files" / "__package__" / "smoke.py").write_text(code, encoding="utf-8")

    main(["templates", "test", "demo", "--no-smoke"])

    assert not (world.root / "ran").exists()
    assert "smoke test" not in capsys.readouterr().out
