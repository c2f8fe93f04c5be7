"""Generate the JSON Schemas of ``verify`` and the check table in docs/verify.md.

Run ``python -m tools.write_verify``; tests compare the files with the code.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

from envforge.base.data_files import data_folder
from envforge.verify.checks import all_checks
from envforge.verify.reports import comparison
from envforge.verify.reports import machine_readable as as_json
from envforge.verify.values import Check

DOCUMENT = Path(__file__).parent.parent / "docs" / "verify.md"
BEGIN, END = "<!-- checks: written by python -m tools.write_verify -->", "<!-- end of checks -->"


def schemas() -> dict[Path, str]:
    """Return the text of each schema by its file."""
    made = {"verify-report.schema.json": as_json.make_schema(), "verify-compare.schema.json": comparison.make_schema()}
    return {data_folder() / name: json.dumps(schema, indent=1, sort_keys=True) + "\n" for name, schema in made.items()}


def table() -> str:
    """Return the table of the built-in checks, by question."""
    lines = [BEGIN]
    for question, checks in groupby(all_checks(), key=lambda check: check.question):
        lines += [
            "",
            f"### {question.capitalize()}",
            "",
            "| check | group | severity | cost | subject, and why it matters |",
        ]
        lines.append("|---|---|---|---|---|")
        lines += [_row(check) for check in checks]
    return "\n".join([*lines, "", END])


def _row(check: Check) -> str:
    required = ", required" if check.required else ""
    words = f"{check.title.rstrip('.')}. {check.why}".replace("|", "\\|").replace("\n", " ")
    return f"| `{check.id}` | {check.group} | {check.severity.value}{required} | {check.cost} | {words} |"


def document(text: str) -> str:
    """Return the document with the current table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{table()}{after}"


def main() -> None:
    """Write all files."""
    for path, text in schemas().items():
        path.write_text(text, encoding="utf-8")
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
