"""Remove home directories, UUIDs, and given names from every string of a record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from envforge.base.redact import change_texts

T = TypeVar("T")
_HOME = re.compile(r"(?<![\w.])(/home/|/Users/|[A-Za-z]:\\Users\\)[^/\\\s'\"`:]+|(?<![\w./])/root(?=[/\s'\"`:]|$)")
_UUID = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F][0-9a-fA-F/-]{3,}")
_BARE_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")


def redact_texts(value: T, names: Sequence[str] = ()) -> T:
    """Return a copy of a value with every string redacted; ``names`` are names of a host or user."""
    wanted = [re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])") for name in names if len(name) > 1]

    def clean(text: str) -> str:
        text = _HOME.sub("~", _BARE_UUID.sub("...", _UUID.sub(r"\1-...", text)))
        for name in wanted:
            text = name.sub("...", text)
        return text

    return change_texts(value, clean)
