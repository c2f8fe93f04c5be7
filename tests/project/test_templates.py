from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
import yaml

from envforge.base.data_files import templates_root
from envforge.base.jinja import TemplateError, render_template
from envforge.errors import RequestError
from envforge.project.plan import check_project_name, package_name
from envforge.project.questions import TemplateQuestion, gather_answers
from envforge.project.templates import list_templates, load_template, parse_manifest

MANIFEST = """
name: demo
version: 3
summary: A demo
common: [tests, __package__/amp.py]
questions:
  - {name: epochs, type: int, default: 5, help: How long, pattern: "[1-9][0-9]*"}
  - {name: model, type: choice, default: small, choices: [small, large], help: Which}
  - {name: flip, type: bool, default: false, help: Mirror}
  - {name: title, type: str, default: A title, help: Title}
environment:
  torch: [torch]
  conda: ["numpy >=1.23", tqdm]
"""
WHERE = Path("templates/demo/template.yml")


def _damaged(**changes: object) -> str:
    return yaml.safe_dump({**yaml.safe_load(MANIFEST), **changes})


def _question(**changes: object) -> str:
    first = {**yaml.safe_load(MANIFEST)["questions"][0], **changes}
    return _damaged(questions=[{key: value for key, value in first.items() if value is not ...}])


def test_a_manifest_is_read_into_values() -> None:
    template = parse_manifest(MANIFEST, WHERE)

    assert (template.name, template.version, template.root) == ("demo", "3", WHERE.parent)
    assert template.common == (PurePosixPath("tests"), PurePosixPath("__package__/amp.py"))
    assert template.needs.torch_family == ("torch",)
    assert template.needs.conda == ("numpy >=1.23", "tqdm")
    assert [question.name for question in template.questions] == ["epochs", "model", "flip", "title"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[", ": expected YAML"),
        ("- a", ": expected a mapping"),
        (_damaged(name="other"), "`name`"),
        (_damaged(version=None), "`version`"),
        (_damaged(summary=7), "`summary`"),
        (_damaged(surprise=1), "expected one of the fields"),
        (_damaged(questions="epochs"), "`questions`"),
        (_damaged(common=["../../etc/passwd"]), "`common[0]`"),
        (_damaged(common=["tests", "/etc/passwd"]), "`common[1]`"),
        (_damaged(common=["a\\b"]), "`common[0]`"),
        (_damaged(environment={"conda": ["numpy=>1"]}), "`environment.conda[0]`"),
        (_damaged(environment={"conda": ["tqdm", "--index-url x"]}), "`environment.conda[1]`"),
        (_damaged(environment={"conda": ["torch"]}), "`environment.conda[0]`"),
        (_damaged(environment={"conda": ["python =3.9"]}), "`environment.conda[0]`"),
        (_damaged(environment={"torch": ["jax"]}), "`environment.torch[0]`"),
        (_question(name="Epochs"), "`questions[0].name`"),
        (_question(type="float"), "`questions[0].type`"),
        (_question(default="five"), "`questions[0].default`"),
        (_question(default=True), "`questions[0].default`"),
        (_question(default=0), "`questions[0].default`"),
        (_question(default=...), "`questions[0].default`"),
        (_question(help=...), "`questions[0].help`"),
        (_question(pattern="["), "`questions[0].pattern`"),
        (_question(choices=["a"]), "`questions[0].choices`"),
        (_question(type="choice", default="5"), "`questions[0].choices`"),
        (_question(type="choice", default="5", pattern=..., choices=["a", 5]), "`questions[0].choices[1]`"),
        (_damaged(questions=[{"name": "a", "type": "str", "default": "", "help": "h"}] * 2), "`questions[1].name`"),
        (_question(when={"model": "small"}), "`questions[0].when.model`"),
        (_question(when=["model"]), "`questions[0].when`"),
    ],
)
def test_a_damaged_manifest_names_file_and_place(text: str, place: str) -> None:
    with pytest.raises(TemplateError) as fault:
        parse_manifest(text, WHERE)

    assert str(WHERE) in fault.value.message
    assert place in fault.value.message
    assert "expected" in fault.value.message
    assert "found" in fault.value.message


def test_an_unknown_template_lists_what_exists_and_the_nearest() -> None:
    with pytest.raises(RequestError) as refusal:
        load_template(templates_root(), "image-clasification")

    assert "`image-classification`" in refusal.value.message
    assert refusal.value.hint == "did you mean `image-classification`?"


@pytest.mark.parametrize(
    "name", ["", "common", "..", "../templates/image-classification", "image-classification/", "."]
)
def test_what_is_no_template_is_refused_as_unknown(name: str) -> None:
    with pytest.raises(RequestError, match="unknown template"):
        load_template(templates_root(), name)


@pytest.mark.parametrize("name", list_templates(templates_root()))
def test_every_template_that_ships_has_a_sound_manifest(name: str) -> None:
    template = load_template(templates_root(), name)

    assert template.summary
    assert "torch" in template.needs.torch_family


@pytest.mark.parametrize(
    ("variables", "answers"),
    [
        ((), {"epochs": 5, "model": "small", "flip": False, "title": "A title"}),
        (("epochs=12", "flip=yes"), {"epochs": 12, "model": "small", "flip": True, "title": "A title"}),
        (("title=a=b {{ 7*7 }}",), {"epochs": 5, "model": "small", "flip": False, "title": "a=b {{ 7*7 }}"}),
    ],
)
def test_answers_are_typed(variables: tuple[str, ...], answers: dict[str, object]) -> None:
    assert dict(gather_answers(parse_manifest(MANIFEST, WHERE).questions, variables, None)) == answers


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("epochs", "is not of the form `KEY=VALUE`"),
        ("epoch=3", "has the questions: `epochs`"),
        ("epochs=0", "expected a whole number that matches `[1-9][0-9]*`"),
        ("epochs=1e3", "expected a whole number"),
        ("epochs=", "expected a whole number"),
        ("epochs=" + "9" * 40, "expected a whole number"),
        ("model=huge", "expected one of `small`, `large`"),
        ("flip=maybe", "expected `true` or `false`"),
        ("title=a\nb", "printable characters"),
        ("title=" + "x" * 201, "at most 200"),
    ],
)
def test_a_bad_answer_names_option_and_rule(variable: str, words: str) -> None:
    with pytest.raises(RequestError) as refusal:
        gather_answers(parse_manifest(MANIFEST, WHERE).questions, (variable,), None)

    assert refusal.value.message.count("`--var")
    assert words in refusal.value.message


def test_an_answer_is_given_once() -> None:
    with pytest.raises(RequestError, match="provided twice"):
        gather_answers(parse_manifest(MANIFEST, WHERE).questions, ("epochs=1", "epochs=2"), None)


def test_only_what_was_not_answered_is_asked() -> None:
    asked: list[str] = []

    def ask(question: TemplateQuestion) -> int | str | bool:
        asked.append(question.name)
        return question.default

    gather_answers(parse_manifest(MANIFEST, WHERE).questions, ("epochs=1", "flip=no"), ask)

    assert asked == ["model", "title"]


@pytest.mark.parametrize("name", ["a", "my-net", "My_Net2", "x" * 64, "digits-v2"])
def test_ordinary_names_are_taken(name: str) -> None:
    assert check_project_name(name, "--name") == name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "expected a letter"),
        ("..", "expected a letter"),
        ("a/b", "expected a letter"),
        ("a\\b", "expected a letter"),
        ("../up", "expected a letter"),
        ("-rf", "expected a letter"),
        ("2fast", "expected a letter"),
        ("my net", "expected a letter"),
        ("net.py", "expected a letter"),
        ("net\n", "expected a letter"),
        ("net\x1b[31m", "expected a letter"),
        ("nét", "expected a letter"),
        ("net-", "expected a letter"),
        ("{{net}}", "expected a letter"),
        ("x" * 65, "at most 64 characters"),
        ("CON", "Windows reserves"),
        ("nul", "Windows reserves"),
        ("Lpt1", "Windows reserves"),
    ],
)
def test_a_bad_project_name_names_option_and_rule(name: str, rule: str) -> None:
    with pytest.raises(RequestError) as refusal:
        check_project_name(name, "--name")

    assert refusal.value.message.startswith("--name ")
    assert rule in refusal.value.message
    assert refusal.value.message.isprintable()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("class", "keyword of Python"),
        ("Match", "keyword of Python"),
        ("none", "keyword of Python"),
        ("json", "standard library"),
        ("Random", "standard library"),
        ("torch", "already imports another package"),
        ("test", "already imports another package"),
        ("tests", "already imports another package"),
        ("scikit-learn", "already imports another package"),
        ("sklearn", "already imports another package"),
        ("envforge", "already imports another package"),
    ],
)
def test_a_package_that_would_hide_another_is_refused(name: str, rule: str) -> None:
    with pytest.raises(RequestError, match=rule):
        package_name(name, "--name", ("torch", "scikit-learn"))


def test_the_package_has_the_name_of_the_project() -> None:
    assert package_name("My-Net_2", "--name", ("torch",)) == "my_net_2"


def test_an_undefined_variable_is_an_error_with_file_and_line() -> None:
    with pytest.raises(TemplateError, match=r"`a\.jinja`.*epochs"):
        render_template("one\n{{ answers.epochs }}\n", {"answers": {}}, "a.jinja")


@pytest.mark.parametrize(
    "text",
    ["{% if %}", "{{ x", "{{ ''.__class__.__mro__ }}", "{{ lipsum.__globals__ }}", "{% include 'b' %}", "{{ 1 / 0 }}"],
)
def test_a_template_cannot_leave_its_text(text: str) -> None:
    with pytest.raises(TemplateError, match=r"`a\.jinja`"):
        render_template(text, {}, "a.jinja")


def test_values_are_never_read_as_templates() -> None:
    assert render_template("{{ x }} {{ x | quoted }}\n", {"x": '{{ 7*7 }}"'}, "a") == '{{ 7*7 }}" "{{ 7*7 }}\\""\n'


@pytest.mark.parametrize(("name", "near"), [("imag", "image-classification"), ("tabluar", "tabular"), ("x\ny", None)])
def test_unknown_template_suggests_the_nearest_or_the_only_prefix(name: str, near: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        load_template(templates_root(), name)
    assert caught.value.message.startswith(f"unknown template `{name.encode('unicode_escape').decode()}`;")
    expected = "to describe the built-in templates, run `envforge templates`" if near is None else f"mean `{near}`?"
    assert caught.value.hint.endswith(expected)
