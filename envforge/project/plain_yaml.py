"""Reject YAML features that a third-party manifest doesn't need: references, tags, and duplicate keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from envforge.fields import Document

_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


def refuse_tricks(text: str, document: Document) -> None:
    """Raise for the first such feature, without converting the text to values."""
    import yaml  # noqa: PLC0415 - slow to import

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        top = yaml.compose(text, Loader=loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise document.fault("", "YAML", " ".join(str(error).split())) from error
    seen: set[int] = set()
    for node in _nodes(top):
        line = f"line {node.start_mark.line + 1}"
        if id(node) in seen:
            raise document.fault(line, "no anchors or aliases", "a reference to another value")
        seen.add(id(node))
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _TAGS:
            raise document.fault(line, "plain values", node.tag)
        if isinstance(node, yaml.MappingNode):
            keys = [str(key.value) for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise document.fault(line, "each key once", twice)


def _nodes(top: Any) -> Iterator[Any]:
    """Yield every node: a shared node each time it is referenced, but its children only once."""
    left, inside = [top], set()
    while left:
        node = left.pop()
        if node is None:
            continue
        yield node
        value = getattr(node, "value", None)
        if isinstance(value, list) and id(node) not in inside:
            inside.add(id(node))
            left += [each for item in value for each in (item if isinstance(item, tuple) else (item,))]
