"""What in a record tells who and where: home folders, the host's name, UUIDs, in whatever text they stand. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from envforge.verify.texts import change_texts

T = TypeVar("T")
_HOME = re.compile(r"(?<![\w.])(/home/|/Users/|[A-Za-z]:\\Users\\)[^/\\\s'\"`:]+|(?<![\w./])/root(?=[/\s'\"`:]|$)")
_UUID = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F][0-9a-fA-F/-]{3,}")
_BARE_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")


def redact_texts(value: T, names: Sequence[str] = ()) -> T:
    """A copy of a frozen value with every text in it redacted; ``names`` are a host's or user's name."""
    wanted = [re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])") for name in names if len(name) > 1]

    def clean(text: str) -> str:
        text = _HOME.sub("~", _BARE_UUID.sub("...", _UUID.sub(r"\1-...", text)))
        for name in wanted:
            text = name.sub("...", text)
        return text

    return change_texts(value, clean)
