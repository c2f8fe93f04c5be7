"""Read the values of a manifest; errors contain what was expected."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from envforge.fields import Fields, WrongValue
from envforge.spec import TORCH_FAMILY, split_conda_spec

_QUESTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_GROUP_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


def refuse_keys(entry: Fields, keys: set[str]) -> None:
    """Raise for an unknown key, because a misspelled one must not be ignored."""
    for key in entry.value:
        if key not in keys:
            raise entry.document.fault(entry.path, "only the keys " + ", ".join(f"`{k}`" for k in sorted(keys)), key)


def read_line(value: object) -> str:
    """Read one line of text."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise WrongValue("one line of text")
    return value


def read_question_name(value: object) -> str:
    """Read the name of a question, which is an identifier in Python and Jinja."""
    name = read_line(value)
    if not _QUESTION_NAME.fullmatch(name) or hasattr(dict, name):
        raise WrongValue("lowercase letters, digits, and `_`, and no method of a mapping such as `items`")
    return name


def read_group_name(value: object) -> str:
    """Read the name of a group, as ``--with`` accepts it; ``all`` is reserved."""
    name = read_line(value)
    if not _GROUP_NAME.fullmatch(name) or name == "all":
        raise WrongValue("lowercase letters, digits, and `-`, and not `all`")
    return name


def read_pattern(value: object) -> str:
    """Read a regular expression."""
    text = read_line(value)
    try:
        re.compile(text)
    except re.error as error:
        raise WrongValue(f"a regular expression ({error})") from error
    return text


def read_conda_spec(value: object) -> str:
    """Read the conda spec of a package that the selection doesn't pin."""
    text = read_line(value)
    try:
        name, _ = split_conda_spec(text)
    except ValueError as error:
        raise WrongValue("a conda spec such as `numpy >=1.26`") from error
    if name in ("python", *TORCH_FAMILY):
        raise WrongValue("a package other than Python and the torch family, which the selection pins")
    return text


def read_command(value: object) -> tuple[str, ...]:
    """Read a command as the list of its arguments."""
    if not isinstance(value, list) or not value:
        raise WrongValue("a list of arguments, such as [python, setup.py]")
    return tuple(read_line(word) for word in value)


def read_relative(value: object) -> PurePosixPath:
    """Read the path of a file or directory of a template."""
    text = read_line(value)
    if text.startswith("/") or "\\" in text or any(part in ("", ".", "..") for part in text.split("/")):
        raise WrongValue("a path inside `files`")
    return PurePosixPath(text)
