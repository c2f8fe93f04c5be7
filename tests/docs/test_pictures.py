"""The terminal pictures show what the commands print today."""

from __future__ import annotations

import html
import re
from pathlib import Path

from tools.write_pictures import ASSETS, record_all


def text_of(svg: str) -> str:
    """Return the text of a picture with each number as 0: sizes, versions, and dates change with data and templates."""
    return re.sub(r"\d+", "0", " ".join(html.unescape(" ".join(re.findall(r"<text [^>]*>([^<]*)", svg))).split()))


def test_terminal_pictures_show_what_the_commands_print(tmp_path: Path) -> None:
    recorded = {name: text_of(picture) for name, picture in record_all(tmp_path).items()}
    shown = {name: text_of((ASSETS / name).read_text(encoding="utf-8")) for name in recorded}
    assert all("$ envforge" in text for text in shown.values())
    assert shown == recorded, "to update the pictures, run `python -m tools.write_pictures terminal`"
