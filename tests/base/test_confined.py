"""Test that templates and patterns of third parties run in a child process that ends at its limits."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from envforge.base.confined import Confined
from envforge.base.jinja import TemplateError
from envforge.project.templates import load_foreign

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows limits neither CPU time nor memory")


def test_confined_renders_and_matches_as_this_process_does() -> None:
    with closing(Confined()) as confined:
        assert confined.render("{{ a.b }} ä\n", {"a": {"b": "x€"}}, "x.jinja") == "x€ ä\n"
        assert confined.matches("[a-z]+", "abc")
        assert not confined.matches("[a-z]+", "abc1")
        with pytest.raises(TemplateError, match=r"`x\.jinja`.* can't be rendered: 'b' is undefined"):
            confined.render("{{ b }}", {}, "x.jinja")
        with pytest.raises(TemplateError, match=r"`x\.jinja`.* can't be rendered: .* surrogates not allowed"):
            confined.render(r"{{ '\ud800' }}", {}, "x.jinja")


@posix
@pytest.mark.parametrize(
    "text", [LOOP, "{{ 'x' * 10**10 }}", "{{ 10**(10**9) }}", "{{ 'x' * 10**8 }}{{ 'y' * 10**8 }}"]
)
def test_confined_template_ends_at_a_limit(text: str) -> None:
    started = time.process_time()
    with closing(Confined()) as confined, pytest.raises(TemplateError, match=r"`x\.jinja`"):
        confined.render(text, {}, "x.jinja")
    assert time.process_time() - started < 2


@posix
def test_confined_pattern_ends_at_a_limit() -> None:
    with closing(Confined()) as confined:
        with pytest.raises(TemplateError, match="expected at most 2 s and 500 MB"):
            confined.matches("(a+)+$", "a" * 40 + "!")
        assert confined.matches("a", "a")


def test_confined_child_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_X", "S3CRETp4ss")
    with closing(Confined()) as confined:
        confined.matches("a", "a")
        assert confined._process is not None
        pid = confined._process.pid
        if sys.platform == "linux":
            assert b"S3CRETp4ss" not in Path(f"/proc/{pid}/environ").read_bytes()


@posix
@pytest.mark.parametrize(
    ("pattern", "default", "expected"),
    [
        ("(a+)+$", "a" * 40 + "!", "a regular expression that needs at most 2 s and 500 MB"),
        ("x{99999999999}", "x", "a regular expression"),
        ("x{" + "9" * 5000 + "}", "x", "a regular expression"),
        ("(" * 5000 + ")" * 5000, "x", "a regular expression"),
    ],
)
def test_foreign_pattern_without_end_names_the_file(pattern: str, default: str, expected: str, tmp_path: Path) -> None:
    question = f'{{name: a, type: str, default: "{default}", help: h, pattern: "{pattern}"}}'
    (tmp_path / "template.yml").write_text(f"name: a\nversion: 1\nsummary: x\nquestions: [{question}]\n")
    with pytest.raises(TemplateError, match=rf"template\.yml` is invalid at `questions\[0\]\.pattern`: .*{expected}"):
        load_foreign(tmp_path, tmp_path)


@posix
@pytest.mark.parametrize(
    ("text", "reason"), [("{{ {}['a' * 100000] }}", "no attribute 'aaa"), ("{{ 'a' * 10 ** 10 }}", "M")]
)
def test_reason_of_a_failure_is_short_and_not_empty(text: str, reason: str) -> None:
    with (
        closing(Confined()) as confined,
        pytest.raises(TemplateError, match=f"can't be rendered: .*{reason}") as caught,
    ):
        confined.render(text, {}, "x.jinja")
    assert len(caught.value.message) < 600
