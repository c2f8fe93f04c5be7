"""Test edits of environment.yml: the content changes as requested, and every other byte is preserved."""

from __future__ import annotations

import pytest
import yaml

from envforge.errors import EnvforgeError
from envforge.lock.edit import Edit, add, parse_packages, remove
from envforge.lock.environment import Section
from tests.lock.support import REQUEST

TEXT = """\
# head
channels: [conda-forge]
dependencies:
  # python first
  - "python =3.10"  # the old one
  - numpy  # [linux64]

  - 'scipy >=1'
  - pip:
      - "torch==2.7.1+cu118"  # from the index

      - wandb
  # tail
platforms:
  - linux-64
"""


def added(text: str, *words: str, section: Section = "conda") -> Edit:
    return add(text, parse_packages(words, section), REQUEST)


def removed(text: str, *names: str) -> Edit:
    return remove(text, names, REQUEST)


def changed_lines(before: str, after: str) -> list[str]:
    """What ``diff`` would say, for edits of whole lines."""
    one, other = before.splitlines(), after.splitlines()
    gone = [f"-{line}" for line in one if line not in other]
    return gone + [f"+{line}" for line in other if line not in one]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("pandas", "  - pandas"),
        ("pandas>=2", '  - "pandas >=2"'),
        ("pandas >= 2, < 3", '  - "pandas >=2,<3"'),
        ("pandas=2.1", '  - "pandas =2.1"'),
        ("Pandas 2.1.* py310_0", '  - "pandas 2.1.* py310_0"'),
        ("bioconda::samtools", '  - "bioconda::samtools"'),
        ("yes", '  - "yes"'),
    ],
)
def test_a_conda_package_comes_behind_the_others_and_nothing_else_changes(word: str, line: str) -> None:
    edit = added(TEXT, word)
    assert changed_lines(TEXT, edit.text) == [f"+{line}"]
    assert edit.text.splitlines().index(line) == TEXT.splitlines().index("  - 'scipy >=1'") + 1
    assert yaml.safe_load(edit.text)["dependencies"][3] == yaml.safe_load(line)[0]


def test_a_wheel_comes_behind_the_others_under_pip() -> None:
    edit = added(TEXT, "tensorboardx>=2.6", section="pip")
    assert changed_lines(TEXT, edit.text) == ['+      - "tensorboardx>=2.6"']
    assert yaml.safe_load(edit.text)["dependencies"][-1]["pip"][-1] == "tensorboardx>=2.6"


def test_the_first_wheel_brings_its_section() -> None:
    text = "dependencies:\n- python\n# tail\n"
    assert added(text, "rich", section="pip").text == "dependencies:\n- python\n- pip:\n  - rich\n# tail\n"


def test_a_package_that_is_there_gets_the_new_version_in_its_place() -> None:
    edit = added(TEXT, "scipy >=1.15")
    assert changed_lines(TEXT, edit.text) == ["-  - 'scipy >=1'", '+  - "scipy >=1.15"']
    assert (edit.added, edit.removed) == (("scipy >=1.15",), ("scipy >=1",))


def test_what_is_there_already_changes_nothing() -> None:
    assert added(TEXT, "numpy") == Edit(text=TEXT)


def test_removing_takes_out_the_whole_line_and_an_empty_pip_section() -> None:
    edit = removed(TEXT, "NumPy")
    assert changed_lines(TEXT, edit.text) == ["-  - numpy  # [linux64]"]
    alone = "dependencies:\n  - python\n  - pip:\n      - wandb  # logs\n  # tail\nplatforms: []\n"
    assert removed(alone, "wandb").text == "dependencies:\n  - python\n  # tail\nplatforms: []\n"


def test_line_ends_of_windows_stay() -> None:
    text = TEXT.replace("\n", "\r\n")
    assert added(text, "pandas").text == added(TEXT, "pandas").text.replace("\n", "\r\n")
    assert removed(text, "scipy").text == removed(TEXT, "scipy").text.replace("\n", "\r\n")


def test_a_list_in_one_line_stays_in_one_line() -> None:
    text = "dependencies: [python, numpy]\n"
    assert added(text, "scipy").text == "dependencies: [python, numpy, scipy]\n"
    assert removed(text, "numpy").text == "dependencies: [python]\n"
    assert removed(text, "python").text == "dependencies: [numpy]\n"


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_file_without_a_last_line_end_is_continued_on_a_new_line(end: str) -> None:
    assert added(f"dependencies:\n  - python{end}", "scipy").text == f"dependencies:\n  - python\n  - scipy{end}"


@pytest.mark.parametrize("name", ["torch", "torchvision==0.22.1", "nvidia-cublas-cu12", "triton", "something==1+cu118"])
def test_the_torch_family_is_not_added_as_wheels(name: str) -> None:
    with pytest.raises(EnvforgeError) as caught:
        added(TEXT, name, section="pip")
    assert caught.value.code == "torch-family"
    assert caught.value.commands[0] == "envforge explain"


@pytest.mark.parametrize("name", ["pytorch", "pytorch-gpu", "pytorch-cuda=12.1", "torchvision", "libtorch"])
def test_the_torch_family_is_not_added_from_conda(name: str) -> None:
    with pytest.raises(EnvforgeError) as caught:
        added(TEXT, name)
    assert caught.value.code == "torch-family"


def test_torch_is_not_removed() -> None:
    with pytest.raises(EnvforgeError) as caught:
        removed(TEXT, "torch")
    assert caught.value.code == "torch-family"


@pytest.mark.parametrize("word", ["", "a b c d", "numpy >=", "x: y", "numpy # no", "-e .", "a\nb", "[a]", "'a'"])
def test_what_is_not_a_package_is_refused(word: str) -> None:
    with pytest.raises(EnvforgeError) as caught:
        added(TEXT, word)
    assert caught.value.exit_code == 2


def test_a_package_cannot_get_a_second_owner() -> None:
    with pytest.raises(EnvforgeError) as caught:
        added(TEXT, "wandb")
    assert caught.value.code == "two-owners"
    assert caught.value.commands == ("envforge remove wandb && envforge add wandb",)


def test_a_package_on_several_lines_is_left_to_people() -> None:
    text = "dependencies:\n  - a 1  # [linux64]\n  - a 2  # [osx]\n"
    with pytest.raises(EnvforgeError) as caught:
        added(text, "a 3")
    assert caught.value.code == "several-lines"
    assert removed(text + "  - b\n", "a").text == "dependencies:\n  - b\n"


def test_what_is_not_asked_for_cannot_be_removed_and_the_error_lists_what_is() -> None:
    with pytest.raises(EnvforgeError) as caught:
        removed(TEXT, "pandas")
    assert caught.value.message == (
        "`environment.yml` doesn't list `pandas`; it lists `python`, `numpy`, `scipy`, `torch`, `wandb`"
    )
