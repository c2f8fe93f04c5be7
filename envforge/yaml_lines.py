"""Edit single lines and scalars of a YAML file as text, at the positions of the nodes that PyYAML composes.

Every other byte is preserved, which a round trip through a YAML library doesn't guarantee.
"""

from __future__ import annotations

import re

import yaml


def replace_scalar(text: str, node: yaml.Node, value: str) -> str:
    """Replace a scalar; the rest of the line is unchanged."""
    return text[: node.start_mark.index] + quoted(value) + text[node.end_mark.index :]


def delete_lines(text: str, node: yaml.Node) -> str:
    """Delete the lines of a node, including a comment at the end of its last line."""
    return text[: line_start(text, node.start_mark.index)] + text[next_line(text, last_index(node)) :]


def after_line(text: str, node: yaml.Node, line: str) -> str:
    """Insert a line after the last line of a node."""
    at = next_line(text, last_index(node))
    newline = line_end(text)
    before = text[:at]
    if before and not before.endswith("\n"):
        before += newline
    return f"{before}{line}{newline}{text[at:]}"


def last_index(node: yaml.Node) -> int:
    """Return the end of the last scalar of a node, because PyYAML puts the end of a block after trailing comments."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return last_index(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return last_index(node.value[-1])
    index: int = node.end_mark.index
    return index


def line_start(text: str, index: int) -> int:
    """Return where the line of an index begins."""
    return text.rfind("\n", 0, index) + 1


def next_line(text: str, index: int) -> int:
    """Return where the line after the one of an index begins."""
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1


def line_end(text: str) -> str:
    """Return the line ending that a text uses."""
    return "\r\n" if "\r\n" in text else "\n"


def quoted(text: str) -> str:
    """Return a scalar that YAML reads as this string."""
    # a plain `yes` or `null` would not be read as a string
    is_plain = re.fullmatch(r"[A-Za-z_][\w.-]*", text) is not None and _is_text(text)
    return text if is_plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_text(text: str) -> bool:
    return isinstance(yaml.safe_load(text), str)
