"""A file of facts is shown, exported, imported, and recorded; an invalid, foreign, or newer one is rejected by name."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from envforge.base.data_files import user_file
from envforge.catalogue.signing import Signer, verify
from envforge.cli import facts as command
from envforge.cli import main
from envforge.errors import EnvforgeError
from envforge.facts.signed import write_signed
from envforge.project.record import parse_project_file, read_project_file
from envforge.pytorch.facts_file import changes, contradictions, dump_facts, layered, note_of_other_facts, parse_facts
from envforge.pytorch.matrix import FactsId, built_in_matrix, load_matrix

MATRIX = built_in_matrix()
ROW: dict[str, Any] = {
    "torch": "2.99.0",
    "tag": "cu138",
    "platform": "linux-64",
    "torchvision": "0.99.0",
    "glibc": "2.28",
    "pythons": ["3.11", "3.12"],
    "capabilities": ["8.0", "9.0"],
    "source": "https://download.pytorch.org/whl",
    "kernels_source": "https://download.pytorch.org/whl/cu138/torch.whl, list of kernels in torch._C",
    "checked": "2026-11-30",
}
TOOLKIT = {"cuda": "13.8", "linux": "615.71.09", "windows": "615", "source": "redistrib", "checked": "2026-11-30"}
FACTS: dict[str, Any] = {"schema_version": 1, "checked": "2026-11-30", "builds": [ROW], "toolkits": [TOOLKIT]}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.delenv("ENVFORGE_FACTS")
    for variable, folder in (("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.chdir(tmp_path)

    def words(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return words


def written(folder: Path, **fields: Any) -> Path:
    """Write a file of facts with these top-level fields, and return its path."""
    path = folder / "new.json"
    path.write_text(json.dumps({**FACTS, **fields}), encoding="utf-8")
    return path


def row(**fields: Any) -> dict[str, Any]:
    return {"builds": [{name: value for name, value in {**ROW, **fields}.items() if value is not None}]}


def test_imported_build_is_selected_and_reset_removes_it(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("facts", "import", str(written(tmp_path)), "--yes")
    assert code == 0
    assert "+ torch 2.99.0 cu138 linux-64: Python 3.11 to 3.12, glibc 2.28, torchvision 0.99.0, kernels 8.0, 9.0" in out
    answer = run("explain", "--machine", "h100")[1]
    assert answer.startswith("torch 2.99.0+cu138 is the newest")
    assert run("facts", "reset")[0] == 0
    assert "2.99.0" not in run("explain", "--machine", "h100")[1]
    assert run("facts", "reset")[:2] == (0, "this computer has no refreshed facts\n")


def test_kernels_that_are_inferred_leave_a_build_unverified(run: Run, tmp_path: Path) -> None:
    run("facts", "import", str(written(tmp_path, **row(kernels_source=None))), "--yes")
    _, out, _ = run("explain", "--machine", "h100", "--torch", "2.99.0", "--json")
    (selection,) = json.loads(out)["result"]["selections"]
    assert selection["grade"] == "unverified"
    assert json.loads(out)["result"]["facts"]["refreshed"]["checked"] == "2026-11-30"


def test_exported_file_is_the_same_bytes_and_the_same_identity(run: Run, tmp_path: Path) -> None:
    source = written(tmp_path)
    run("facts", "import", str(source), "--yes")
    assert run("facts", "export", "out.json")[0] == 0
    assert Path("out.json").read_bytes() == source.read_bytes()
    assert run("facts", "import", "out.json")[1].endswith("unchanged\n")


def test_nothing_to_export_is_an_error_with_a_command(run: Run) -> None:
    code, _, err = run("facts", "export", "out.json")
    assert (code, "envforge facts refresh" in err, Path("out.json").exists()) == (1, True, False)


def test_import_shows_a_diff_before_it_is_used(run: Run, tmp_path: Path) -> None:
    run("facts", "import", str(written(tmp_path)), "--yes")
    changed = written(tmp_path, **row(capabilities=["8.0", "9.0", "10.0"]), toolkits=[])
    code, out, _ = run("facts", "import", str(changed), "--dry-run")
    assert code == 0
    assert re.findall(r"^[+-] (.*?):", out, re.MULTILINE) == [
        "CUDA 13.8",
        "torch 2.99.0 cu138 linux-64",
        "torch 2.99.0 cu138 linux-64",
    ]
    assert run("facts", "import", str(changed))[0] == 2
    assert "10.0" not in run("facts", "show")[1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schema_version": 2, "rows": {}}, "written by a newer envforge: expected schema_version `1`, found `2`"),
        ({"schema_version": "1"}, "at `schema_version`"),
        ({"confirmed_by": "x"}, "expected one of the fields builds, checked, schema_version, toolkits, found"),
        (row(withdrawn=True), "at `builds[0]`: expected one of the fields"),
        (row(torch="2.99.0+evil"), "at `builds[0].torch`: expected a version"),
        (row(torch="../../etc"), "at `builds[0].torch`: expected a version"),
        (row(tag="rocm7"), "at `builds[0].tag`: expected `cpu` or a tag"),
        (row(platform="linux 64"), "at `builds[0].platform`: expected a platform"),
        (row(pythons=[]), "at `builds[0].pythons`"),
        (row(capabilities=[]), "at `builds[0].capabilities`: expected the kernels of a CUDA build"),
        (row(capabilities=["900.0"]), "at `builds[0].capabilities[0]`: expected two numbers"),
        (row(plain=["os"]), "at `builds[0].plain[0]`"),
        (row(kernels_source=None, ptx=["9.0"]), "at `builds[0].ptx`"),
        (row(source="\x1b[2Jgone"), "at `builds[0].source`: expected a string without control characters"),
        (row(checked="yesterday"), "at `builds[0].checked`: expected a date"),
        ({"builds": [ROW, ROW]}, "expected a build that differs from builds[0]"),
        ({"builds": [ROW, {**ROW, "torch": "2.99"}]}, "expected a build that differs from builds[0]"),
        ({"builds": [ROW, {**ROW, "torch": "2.099.0.0"}]}, "expected a build that differs from builds[0]"),
        (
            {"builds": [{**ROW, "tag": "cu98"}, {**ROW, "tag": "cu098"}]},
            "expected a build that differs from builds[0], found `torch 2.99.0 cu98 linux-64`",
        ),
        (
            {"toolkits": [{**TOOLKIT, "cuda": "9.9"}, {**TOOLKIT, "cuda": "09.9"}]},
            "expected a toolkit that differs from toolkits[0]",
        ),
        ({"toolkits": [TOOLKIT, TOOLKIT]}, "expected a toolkit that differs from toolkits[0]"),
        ({"toolkits": [{**TOOLKIT, "linux": "x"}]}, "at `toolkits[0].linux`"),
        ({"builds": {}}, "at `builds`: expected a list"),
    ],
)
def test_invalid_or_newer_file_is_named_and_not_used(run: Run, tmp_path: Path, fields: Any, said: str) -> None:
    path = written(tmp_path, **fields)
    code, _, err = run("facts", "import", str(path), "--yes")
    assert (code, str(path) in err) == (1, True), err
    assert said in err
    assert "hint:" in err
    assert not (tmp_path / "data").exists()


def test_large_file_is_rejected_unread(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    path.write_bytes(b" " * 4_000_001)
    code, _, err = run("facts", "import", str(path), "--yes")
    assert (code, "expected at most 4,000,000" in err) == (1, True)


def test_missing_file_is_named(run: Run) -> None:
    code, _, err = run("facts", "import", "nothing.json")
    assert (code, "nothing.json" in err) == (1, True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (row(torch="2.7.1", tag="cu118", glibc="2.17"), "torch 2.7.1 cu118 linux-64: glibc 2.28 is pinned, found 2.17"),
        (row(torch="2.7.1.0", tag="cu118", glibc="2.17"), "cu118 linux-64: glibc 2.28 is pinned, found 2.17"),
        (row(torch="2.07.1", tag="cu118", glibc="2.17"), "cu118 linux-64: glibc 2.28 is pinned, found 2.17"),
        (row(torch="2.7.1", tag="cu118", capabilities=["12.0"]), "are pinned, found 12.0"),
        (row(torch="2.7.1", tag="cu118"), "is pinned, but not found"),
        ({"toolkits": [{**TOOLKIT, "cuda": "12.6", "linux": "470.1"}]}, "CUDA 12.6: driver 560.28.03 is pinned, found"),
        (
            {"toolkits": [{**TOOLKIT, "linux": "300.10.04"}]},
            "13.8: CUDA 13 requires driver 580, found 300.10.04 (Linux)",
        ),
        ({"toolkits": [{**TOOLKIT, "windows": "300"}]}, "13.8: CUDA 13 requires driver 580, found 300 (Windows)"),
        ({"toolkits": [{**TOOLKIT, "linux": "580.65.07"}]}, "of CUDA 13.3 is newer, found 580.65.07 (Linux)"),
        ({"toolkits": [{**TOOLKIT, "windows": "581"}]}, "of CUDA 13.3 is newer, found 581 (Windows)"),
        ({"toolkits": [{**TOOLKIT, "cuda": "12.7", "linux": "571.10"}]}, "of CUDA 12.8 is older, found 571.10 (Linux)"),
        ({"toolkits": [{**TOOLKIT, "cuda": "14.0", "linux": "535.10"}]}, "of CUDA 13.3 is newer, found 535.10 (Linux)"),
        (
            {"toolkits": [TOOLKIT, {**TOOLKIT, "cuda": "13.9", "linux": "612.10"}]},
            "CUDA 13.9: driver 615.71.09 of CUDA 13.8 is newer, found 612.10 (Linux)",
        ),
    ],
)
def test_file_that_contradicts_a_pinned_row_is_rejected(run: Run, tmp_path: Path, fields: Any, said: str) -> None:
    code, _, err = run("facts", "import", str(written(tmp_path, **fields)), "--yes")
    assert (code, said in err) == (1, True), err
    assert "envforge facts refresh" in err


def test_pinned_rows_win_over_a_file_that_is_already_in_use(tmp_path: Path) -> None:
    """A newer envforge may confirm a build that an older one had to read from the file."""
    build = next(b for b in MATRIX.builds if b.confirmed and b.capabilities_stated and not b.tag.is_cpu)
    text = json.dumps({**FACTS, **row(torch=str(build.torch), tag=str(build.tag), platform=build.platform)})
    facts, identity = parse_facts(text.encode(), "x")
    assert [*contradictions(MATRIX, facts)]
    assert build in layered(MATRIX, facts, identity).builds


def test_file_in_use_undercuts_no_driver(tmp_path: Path) -> None:
    toolkit = {**TOOLKIT, "linux": "535.1", "windows": "535"}
    facts, identity = parse_facts(json.dumps({**FACTS, "toolkits": [toolkit]}).encode(), "x")
    assert layered(MATRIX, facts, identity).toolkits == MATRIX.toolkits


def test_facts_can_be_disabled_or_read_from_another_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVFORGE_FACTS", str(written(tmp_path)))
    assert "2.99.0" in {str(torch) for torch in load_matrix().torches}
    monkeypatch.setenv("ENVFORGE_FACTS", "built-in")
    assert load_matrix() == MATRIX
    code, _, err = run("facts", "import", str(tmp_path / "new.json"))
    assert (code, "`ENVFORGE_FACTS=built-in` disables refreshed facts" in err) == (2, True)
    monkeypatch.setenv("ENVFORGE_FACTS", str(tmp_path / "nothing.json"))
    code, _, err = run("explain", "--machine", "t4")
    assert (code, "nothing.json" in err) == (2, True)


def test_reset_keeps_a_file_that_the_variable_names(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    monkeypatch.setenv("ENVFORGE_FACTS", str(path))
    code, _, err = run("facts", "reset")
    assert (code, path.exists(), "set `ENVFORGE_FACTS=built-in`" in err) == (2, True, True)
    path.write_text("{", encoding="utf-8")
    code, _, err = run("explain", "--machine", "t4")
    assert (code, "set `ENVFORGE_FACTS=built-in`" in err, "facts reset" in err) == (1, True, False)


def test_damaged_file_in_use_is_named_with_the_command_that_removes_it(run: Run, tmp_path: Path) -> None:
    run("facts", "import", str(written(tmp_path)), "--yes")
    path = tmp_path / "data" / "envforge" / "facts.json"
    path.write_text("{", encoding="utf-8")
    code, _, err = run("explain", "--machine", "t4")
    assert (code, str(path) in err, "envforge facts reset" in err) == (1, True, True)
    assert run("facts", "reset")[0] == 0


def test_show_lists_tables_with_date_source_and_hash(run: Run, tmp_path: Path) -> None:
    run("facts", "import", str(written(tmp_path)), "--yes")
    _, out, _ = run("facts", "show")
    lines = out.splitlines()
    assert lines[0].startswith(f"built-in   {MATRIX.checked}  {len(MATRIX.builds)} builds")
    assert lines[1].startswith("refreshed  2026-11-30  1 build, 1 toolkit")
    assert "2026-11-30  https://download.pytorch.org/whl" in out
    document = json.loads(run("facts", "show", "--json")[1])["result"]
    assert document["tables"][1]["sha256"] in out
    assert document["rows"]["builds"][0]["torch"] == "2.99.0"


@pytest.mark.parametrize(
    ("days", "said"), [(60, ""), (61, "the facts are 61 days old; to read newer ones, run"), (-2, "is in the future")]
)
def test_show_warns_of_old_facts(run: Run, monkeypatch: pytest.MonkeyPatch, days: int, said: str) -> None:
    newest = dt.date.fromisoformat(MATRIX.checked)
    monkeypatch.setattr(command, "_today", lambda: newest + dt.timedelta(days=days))
    code, _, err = run("facts", "show")
    assert (code, said in err, bool(err)) == (0, True, bool(said))


def test_same_facts_produce_the_same_bytes_in_any_order() -> None:
    other = {**ROW, "torch": "2.99.1"}
    texts = [json.dumps({**FACTS, "builds": rows}).encode() for rows in ([ROW, other], [other, ROW])]
    dumped = [dump_facts(parse_facts(text, "x")[0]) for text in texts]
    assert dumped[0] == dumped[1]
    again, _ = parse_facts(dumped[0], "x")
    assert [*changes(again, parse_facts(texts[0], "x")[0])] == []


def test_project_records_the_facts_that_its_build_was_selected_with(run: Run, tmp_path: Path) -> None:
    words = ("new", "image-classification", "demo", "--machine", "h100", "--no-lock", "--cuda", "11.8")
    assert run(*words)[0] == 0
    assert read_project_file(Path("demo")).facts is None  # type: ignore[union-attr] # it was just written
    run("facts", "import", str(written(tmp_path)), "--yes")
    assert run(*words[:2], "other", *words[3:])[0] == 0
    text = Path("other/envforge.toml").read_text(encoding="utf-8")
    record = parse_project_file(text, "envforge.toml")
    assert record.facts == load_matrix().refreshed
    assert f'[facts]\nchecked = "2026-11-30"\nsha256 = "{record.facts and record.facts.sha256}"' in text


def test_update_with_other_facts_says_how_to_get_the_same(run: Run, tmp_path: Path) -> None:
    run("facts", "import", str(written(tmp_path)), "--yes")
    assert run("new", "image-classification", "demo", "--machine", "h100", "--no-lock", "--cuda", "11.8")[0] == 0
    run("facts", "reset")
    code, _, err = run("update", "--directory", "demo", "--cuda", "11.8", "--no-lock", "--dry-run")
    assert code == 0
    assert "but this computer has only the built-in ones; to use the same" in err
    assert "envforge facts import FILE" in err


def test_note_names_both_sides() -> None:
    one, other = (FactsId(checked=dt.date(2026, 11, day), sha256=str(day) * 32) for day in (10, 20))
    assert note_of_other_facts(one, one) is None
    assert "2026-11-10 (101010101010), but this computer has those of 2026-11-20" in (
        note_of_other_facts(one, other) or ""
    )
    assert "set `ENVFORGE_FACTS=built-in`" in (note_of_other_facts(None, one) or "")


@pytest.fixture
def keys(tmp_path: Path) -> Any:
    pytest.importorskip("minisign", reason="py-minisign (the extra `sign`) is not installed")
    from tests.catalogue.test_signing import Keys

    return Keys(tmp_path, "team")


@pytest.fixture
def catalogue(run: Run, tmp_path: Path, keys: Any, no_other_source: None) -> Path:
    """A catalogue with a signed index and signed facts, which is configured with its key."""
    from tests.catalogue.support import project

    folder = tmp_path / "catalogue"
    user_file().parent.mkdir(parents=True)
    user_file().write_text(f'[catalogue]\naddress = "{folder}"\npublic-key = "{keys.public_text}"\n')
    demo = project(tmp_path / "demo")
    assert run("lockfiles", "publish", str(demo / "conda-lock.yml"), "--sign", str(keys.secret))[0] == 0
    write_signed(folder / "facts.json", written(tmp_path).read_bytes(), signer(keys))
    return folder


def signer(keys: Any) -> Signer:
    return Signer(secret_key=keys.secret.read_bytes(), password="")


def refresh_from(run: Run) -> tuple[int, str, str]:
    # nothing listens on port 9, so only the catalogue can be read
    mirrors = ["https://download.pytorch.org/whl", "https://developer.download.nvidia.com/compute/cuda"]
    words = [f"--mirror={each}=http://127.0.0.1:9/x" for each in mirrors]
    return run("facts", "refresh", "--yes", *words)


@pytest.fixture
def no_other_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setattr("envforge.lock.pages._DELAYS_S", ())


def test_signed_facts_of_the_catalogue_are_used(run: Run, catalogue: Path) -> None:
    code, out, err = refresh_from(run)
    assert (code, "+ torch 2.99.0 cu138 linux-64" in out) == (0, True), out + err
    assert str(catalogue / "facts.json") not in err


def test_changed_facts_of_the_catalogue_stop_the_refresh(run: Run, catalogue: Path) -> None:
    path = catalogue / "facts.json"
    path.write_bytes(path.read_bytes().replace(b"2.28", b"2.17"))
    code, _, err = refresh_from(run)
    assert (code, "cannot verify the facts `facts.json`" in err) == (1, True)


def test_older_facts_of_the_catalogue_are_a_rollback(run: Run, catalogue: Path, keys: Any) -> None:
    assert refresh_from(run)[0] == 0
    run("facts", "reset")
    write_signed(catalogue / "facts.json", written(catalogue.parent, checked="2026-10-01").read_bytes(), signer(keys))
    code, _, err = refresh_from(run)
    assert (code, "is older than the last one read here" in err) == (1, True)


def test_catalogue_without_a_key_isnt_trusted_with_facts(run: Run, catalogue: Path) -> None:
    user_file().write_text(f'[catalogue]\naddress = "{catalogue}"\n')
    code, _, err = refresh_from(run)
    assert (code, "no source of facts can be read" in err) == (3, True)


def test_import_verifies_the_signature_next_to_the_file(run: Run, catalogue: Path, keys: Any) -> None:
    path = catalogue / "facts.json"
    assert run("facts", "import", str(path), "--public-key", str(keys.public), "--yes")[0] == 0
    (catalogue / "facts.json.minisig").unlink()
    code, _, err = run("facts", "import", str(path), "--public-key", str(keys.public), "--yes")
    assert (code, "expected a signature by the key" in err) == (1, True)


def test_import_requires_the_signature_of_the_configured_key(run: Run, catalogue: Path, tmp_path: Path) -> None:
    code, _, err = run("facts", "import", str(written(tmp_path)), "--yes")
    assert (code, "expected a signature by the key" in err) == (1, True)
    assert run("facts", "import", str(catalogue / "facts.json"), "--yes")[0] == 0
    assert run("facts", "export", "out.json")[0] == 0
    user_file().unlink()
    assert run("facts", "import", str(written(tmp_path)), "--yes")[0] == 0


def test_import_uses_the_bytes_that_it_verified(
    run: Run, catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = catalogue / "facts.json"
    signed = path.read_bytes()

    def swapped(*arguments: Any) -> None:
        verify(*arguments)
        path.write_bytes(signed.replace(b"2.28", b"2.17"))

    monkeypatch.setattr("envforge.facts.signed.verify", swapped)
    assert run("facts", "import", str(path), "--yes")[0] == 0
    assert (tmp_path / "data" / "envforge" / "facts.json").read_bytes() == signed


def test_bytes_of_any_kind_end_in_an_error_of_the_file() -> None:
    for data in (b"", b"[]", b"null", b"\xff", b'{"schema_version": 1}', b"[" * 100_000, b'{"schema_version": 1e999}'):
        with pytest.raises(EnvforgeError, match="facts `x`"):
            parse_facts(data, "x")
