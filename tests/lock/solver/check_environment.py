"""Check with conda's code that a set of packages meets its own dependencies; run it as a separate program.

stdin is JSON with ``records``, ``virtual`` (records, too), and ``specs``; stdout is a JSON list of unmet dependencies.
conda's code is vendored in conda-lock, and importing it changes ``subprocess`` for the entire process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from conda_lock._vendor.conda.models import match_spec

MatchSpec: Any = match_spec.MatchSpec  # conda's code is not typed

Record = Mapping[str, Any]


def broken(records: list[Record], virtual: list[Record], specs: list[str]) -> Iterator[str]:
    present = {record["name"]: record for record in (*virtual, *records)}
    if len(present) != len(records) + len(virtual):
        yield "a package stands twice"
    for text in specs:
        if not _is_met(text, present):
            yield f"`{text}` was asked for"
    for record in records:
        yield from (f"{record['name']} depends on `{text}`" for text in record["depends"] if not _is_met(text, present))
        for text in record["constrains"]:
            if MatchSpec(text).name in present and not _is_met(text, present):
                yield f"{record['name']} constrains `{text}`"


def _is_met(text: str, present: Mapping[str, Record]) -> bool:
    spec = MatchSpec(text)
    return spec.name in present and bool(spec.match(present[spec.name]))


if __name__ == "__main__":
    json.dump(list(broken(**json.load(sys.stdin))), sys.stdout)
