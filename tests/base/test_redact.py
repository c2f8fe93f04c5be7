"""Test that redacted strings contain none of the identities that were planted in them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envforge.base.redact import Identity, change_texts, quoted, redactor

WHO = Identity(user="elvira", hosts=("gpu-box-7.lab.example",), home="/data/people/elvira")
UUID = "12345678-aaaa-bbbb-cccc-1234567890ab"
# each with the part that must not remain
IDENTITIES = (
    ("/data/people/elvira/cats", "elvira"),
    ("/home/max.muster/cats", "max"),
    ("/export/home/max/cats", "max"),
    ("/Users/max/cats", "max"),
    (r"C:\Users\max\cats", "max"),
    ("/root/secret.so", "root"),
    ("elvira@node", "elvira"),
    ("/scratch/elvira/run", "elvira"),
    ("user elvira", "elvira"),
    ("gpu-box-7", "gpu-box"),
    ("core-gpu-box-7", "gpu-box"),
    ("gpu-box-8.lab.example", "lab.example"),
    (f"GPU-{UUID}", "12345678"),
    ("GPU-5ec7e711", "5ec7e711"),
    (f"MIG-GPU-{UUID}/1/0", "12345678"),
    (UUID, "12345678"),
    ("0a:1b:2c:3d:4e:5f", "0a:1b"),
    ("10.20.30.40:8080", "10.20"),
    ("host 192.168.17.4", "192.168"),
    ("http://203.0.113.9/simple", "203.0"),
    ("fe80::1ff:fe23:4567:890a", "fe80"),
    ("2001:db8:1:2:3:4:5:6", "2001"),
    ("max.muster@company.example", "company"),
    ("Serial Number: 1320220012345", "1320220012345"),
    ("https://max:hunter2@index.example/simple", "hunter2"),
)
# none of them identifies anyone
FACTS = (
    "driver 580.126.09", "cudnn 9.1.0.70", "nvidia-cudnn-cu12==9.1.0.70", "NVML version 12.580.126.09", "12:34:56",
    "0000:10:00.0", "00000000:10:00.0", "127.0.0.1:29500", "std::bad_alloc", "c10::Error", "torch 2.7.1+cu118",
    "GPU-bound", "/usr/lib/x86_64-linux-gnu/libcuda.so.1", "~/cats", "only root may", "sha256 0123abcd",
    "Xid (PCI:0000:10:00): 79", "https://download.pytorch.org/whl/cu118", "/usr/share/homebrew/x",
)  # fmt: skip


@dataclass(frozen=True)
class Value:
    text: str
    inside: tuple[dict[str, list[str]], int]


@given(
    st.lists(st.sampled_from(IDENTITIES), min_size=1, max_size=4), st.sampled_from((" ", ", ", "`", "'", " (", ")\n"))
)
def test_no_planted_identity_is_left(planted: list[tuple[str, str]], between: str) -> None:
    text = between.join(["found", *(text for text, _ in planted), "here"])
    value = change_texts(Value(text, ({"all": [text]}, 1)), redactor(WHO))
    assert value.inside == ({"all": [value.text]}, 1)
    assert [part for _, part in planted if part in value.text] == []


@pytest.mark.parametrize("between", [" ", ", ", "`", "'", " (", ")\n"])
@pytest.mark.parametrize("first", IDENTITIES, ids=lambda pair: pair[1])
def test_no_identity_is_left_beside_another(first: tuple[str, str], between: str) -> None:
    for second in IDENTITIES:
        text = redactor(WHO)(between.join(["found", first[0], second[0], "here"]))
        assert first[1] not in text, text
        assert second[1] not in text, text


@given(st.lists(st.sampled_from(FACTS), min_size=1, max_size=4))
def test_facts_are_kept(facts: list[str]) -> None:
    text = "; ".join(facts)
    assert redactor(WHO)(text) == text


def test_a_string_that_is_a_version_is_kept() -> None:
    assert redactor(WHO)("9.1.0.70") == "9.1.0.70"


@given(st.lists(st.sampled_from([text for text, _ in IDENTITIES]), max_size=4).map(" ".join))
def test_redacting_again_changes_nothing(text: str) -> None:
    once = redactor(WHO)(text)
    assert redactor(WHO)(once) == once


@given(st.text())
def test_any_string_can_be_redacted(text: str) -> None:
    redactor(WHO)(text)


@pytest.mark.parametrize(
    ("path", "shown"), [("~/a", "~/a"), ("~/my project", "~/'my project'"), ("/a b", "'/a b'"), ("/a", "/a")]
)
def test_quoted_paths_keep_the_home_directory(path: str, shown: str) -> None:
    assert quoted(path) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/scratch/lovelace-runs/lib:/x/lovelace_2", "/scratch/USER-runs/lib:/x/USER_2"),
        ("/scratch/lovelaces/lib", "/scratch/lovelaces/lib"),
        ("/data/home/.cache/x", "~/x"),
        ("/data/home/lovelace/.cache/x", "~/.cache/x"),
    ],
)
def test_name_of_user_is_redacted_in_any_path(text: str, shown: str) -> None:
    assert redactor(Identity(user="lovelace", hosts=(), home="/data/home/lovelace"))(text) == shown
