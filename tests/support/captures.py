"""Find recorded output of the NVIDIA tools next to the checkout; it may not be committed to this repository."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "nvidia-smi"


def captures(folder: str, pattern: str) -> list[Path]:
    """The files of one kind, sorted; empty where the folder is missing."""
    return sorted((ROOT / folder).glob(pattern))


def sections(path: Path, command: str) -> list[str]:
    """What a command printed in a capture file that holds the output of many, each below a line ``# $ command``."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(rf"^# \$ {re.escape(command)} *\n#+\n(.*?)(?=^#{{80}}$|\Z)", text, re.MULTILINE | re.DOTALL)
    return [str(section) for section in found]
