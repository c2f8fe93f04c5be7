"""Readers of the values that a manifest is made of, each with the words of what it wants."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from envforge.fields import Fields, WrongValue
from envforge.spec import TORCH_FAMILY, split_conda_spec

_QUESTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_GROUP_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


def refuse_keys(entry: Fields, keys: set[str]) -> None:
    """Stop at a key that means nothing: a misspelt one must not be passed over."""
    for key in entry.value:
        if key not in keys:
            raise entry.document.fault(entry.path, "only the keys " + ", ".join(f"`{k}`" for k in sorted(keys)), key)


def read_line(value: object) -> str:
    """A text of one line that says something."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise WrongValue("a text")
    return value


def read_question_name(value: object) -> str:
    """The name of a question, which is a word of Python and of Jinja as well."""
    name = read_line(value)
    if not _QUESTION_NAME.fullmatch(name) or hasattr(dict, name):
        raise WrongValue("small letters, digits and `_`, and no method of a mapping such as `items`")
    return name


def read_group_name(value: object) -> str:
    """The name of a group, as it stands behind ``--with``; ``all`` is taken."""
    name = read_line(value)
    if not _GROUP_NAME.fullmatch(name) or name == "all":
        raise WrongValue("small letters, digits and `-`, and another name than `all`")
    return name


def read_pattern(value: object) -> str:
    """A regular expression."""
    text = read_line(value)
    try:
        re.compile(text)
    except re.error as error:
        raise WrongValue(f"a regular expression ({error})") from error
    return text


def read_conda_spec(value: object) -> str:
    """A conda spec of a package that the selection does not decide."""
    text = read_line(value)
    try:
        name, _ = split_conda_spec(text)
    except ValueError as error:
        raise WrongValue("a conda spec such as `numpy >=1.26`") from error
    if name in ("python", *TORCH_FAMILY):
        raise WrongValue("a package that the selection does not decide")
    return text


def read_command(value: object) -> tuple[str, ...]:
    """A command as the list of its words."""
    if not isinstance(value, list) or not value:
        raise WrongValue("a list of words, such as [python, setup.py]")
    return tuple(read_line(word) for word in value)


def read_relative(value: object) -> PurePosixPath:
    """The path of a file or folder of a template."""
    text = read_line(value)
    if text.startswith("/") or "\\" in text or any(part in ("", ".", "..") for part in text.split("/")):
        raise WrongValue("a path inside `files`")
    return PurePosixPath(text)
