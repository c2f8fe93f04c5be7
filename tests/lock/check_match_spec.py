"""Print what conda reads in packages; run it as a separate program, because conda's code changes ``subprocess``.

stdin is JSON with ``specs`` and ``packages`` (pairs of version and build). stdout is JSON with the numbers of the
packages that each spec matches, or null if conda rejects it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from conda_lock._vendor.conda import exceptions
from conda_lock._vendor.conda.models import match_spec

MatchSpec: Any = match_spec.MatchSpec  # conda's code is not typed


def matched(text: str, packages: list[list[str]]) -> list[int] | None:
    try:
        spec = MatchSpec(text)
        rows = [{"name": "pkg", "version": v, "build": b, "build_number": 0} for v, b in packages]
        return [number for number, row in enumerate(rows) if spec.match(row)]
    except (exceptions.InvalidMatchSpec, exceptions.InvalidVersionSpec):
        return None


if __name__ == "__main__":
    request = json.load(sys.stdin)
    json.dump({text: matched(text, request["packages"]) for text in request["specs"]}, sys.stdout)
