"""Test that a selection survives a round trip through JSON; errors contain the path of the invalid value."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from envforge.pytorch.matrix import Request, SelectionError, selection_from_json, selection_to_json
from envforge.pytorch.select import select
from tests.pytorch.machines import CU118, MATRIX, machine

SELECTION = select(machine("7.5", driver="535.216.01"), Request(cuda=CU118), MATRIX)


def test_a_selection_survives_json_with_every_candidate() -> None:
    text = json.dumps(selection_to_json(SELECTION))
    assert selection_from_json(json.loads(text), "x.json") == SELECTION


def test_the_short_form_leaves_out_candidates_and_holds_no_null() -> None:
    document = selection_to_json(SELECTION, candidates=False)
    assert selection_from_json(document, "x") == replace(SELECTION, accepted=(), refused=())
    assert "null" not in json.dumps(document)
    assert "accepted" not in document


@pytest.mark.parametrize(
    ("table", "key", "value", "fault"),
    [
        (
            None,
            "grade",
            "good",
            "`grade`: expected one of `direct`, `minor-compatible`, `unverified`, `cpu`, found",
        ),
        (None, "python", 3.1, "`python`: expected a version such as `12.4`, as a string, found `3.1`"),
        (None, "build", [], "`build`: expected a mapping, found `[]`"),
        ("build", "tag", "cu", "`build.tag`: expected `cpu` or a CUDA tag, found `cu`"),
        ("build", "pins", {"torch": "9"}, "`build.pins`: expected {'torch': '2.7.1+cu118'"),
        ("build", "capabilities", ["x"], "`build.capabilities[0]`: expected a compute capability"),
        ("request", "prefer", "best", "`request.prefer`: expected one of `newest-torch`"),
    ],
)
def test_a_damaged_selection_is_refused_with_its_place(table: str | None, key: str, value: object, fault: str) -> None:
    document = json.loads(json.dumps(selection_to_json(SELECTION)))
    (document[table] if table else document)[key] = value
    with pytest.raises(SelectionError) as caught:
        selection_from_json(document, "envforge.toml")
    assert fault in caught.value.message
    assert "`envforge.toml`" in caught.value.message
