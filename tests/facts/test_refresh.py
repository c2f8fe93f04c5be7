"""``envforge facts refresh`` reads new builds from public servers, and trusts nothing that contradicts a pinned row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from envforge.cli import main
from envforge.facts import nvidia
from tests.facts.server import INDEX, REDIST, REGISTRY, Servers, family_wheel, future, manifest, torch_wheel
from tests.support.loopback import Fault, Loopback

LINUX = ["manylinux_2_28_x86_64"]


Serve = Callable[[Servers], Any]


@dataclass
class Line:
    """The command line with a loopback server in place of the public ones."""

    server: Loopback
    capsys: pytest.CaptureFixture[str]
    data: Path

    def run(self, *words: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = main(list(words))
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def refresh(self, *words: str) -> tuple[int, str, str]:
        mirrors = [
            f"https://download.pytorch.org/whl={self.server.url}{INDEX}",
            f"{nvidia.REDIST}={self.server.url}{REDIST.removesuffix('/redist')}",
        ]
        return self.run("facts", "refresh", *(f"--mirror={each}" for each in mirrors), *words)

    def json(self, *words: str) -> Any:
        _, out, _ = self.run(*words, "--json")
        return json.loads(out)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Serve:
    """Return a function that serves what it is given."""
    monkeypatch.delenv("ENVFORGE_FACTS")
    for variable, folder in (("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.chdir(tmp_path)

    @contextmanager
    def serve(servers: Servers) -> Iterator[Line]:
        with Loopback(servers.answer) as server:
            monkeypatch.setenv("UV_DEFAULT_INDEX", f"{server.url}{REGISTRY}")
            yield Line(server, capsys, tmp_path / "data" / "envforge" / "facts.json")

    return serve


def test_new_release_is_found_with_kernels_and_driver(served: Serve) -> None:
    with served(future()) as line:
        code, out, err = line.refresh("--yes")
        assert (code, "CUDA 13.9: driver 620.10.04 (Linux), 620 (Windows)" in out) == (0, True), out + err
        # `sm_90a` runs on no other chip than 9.0
        found = (
            "+ torch 2.99.0 cu139 linux-64: Python 3.12 to 3.13, glibc 2.28, torchvision 0.99.0, kernels 7.5, 8.0, 8.6"
        )
        assert found in " ".join(out.split())
        row = next(each for each in json.loads(line.data.read_text())["builds"] if each["tag"] == "cu139")
        assert (row["capabilities"], row["ptx"]) == (["7.5", "8.0", "8.6", "9.0", "10.0", "12.0"], ["12.0"])
        assert "torch-2.99.0%2Bcu139-cp313" in row["kernels_source"]


def test_code_for_one_chip_only_is_no_kernel_for_its_family(served: Serve) -> None:
    servers = future()
    wheel = torch_wheel("2.99.0", "13.9", "sm_80 sm_90a sm_100f compute_80")
    servers.wheels = {path: wheel if "cu139/torch-" in path else data for path, data in servers.wheels.items()}
    with served(servers) as line:
        line.refresh("--yes")
        row = next(each for each in json.loads(line.data.read_text())["builds"] if each["tag"] == "cu139")
        assert (row["capabilities"], row["ptx"]) == (["8.0"], ["8.0"])


def test_refreshed_build_is_selected_and_verified(served: Serve) -> None:
    with served(future()) as line:
        line.refresh("--yes")
        (selection,) = line.json("explain", "--machine", "h100", "--cuda", "13.9", "--torch", "2.99")["result"][
            "selections"
        ]
        assert (selection["build"]["pins"]["torch"], selection["grade"]) == ("2.99.0+cu139", "minor-compatible")
        assert "CUDA 13.9: 620.10.04 or newer" in selection["reason"]
        _, out, _ = line.run("explain", "--machine", "h100")
        assert out.startswith("torch 2.99.0+cu139 is the newest")


def test_only_parts_of_a_wheel_are_downloaded(served: Serve) -> None:
    servers = future()
    servers.wheels = {
        path: data + b"" if "torch-" not in path else _padded(data) for path, data in servers.wheels.items()
    }
    with served(servers) as line:
        line.refresh("--yes")
        read = [each for each in line.server.requests if each.path.endswith(".whl")]
        assert read
        assert all("range" in each.headers for each in read)


def _padded(data: bytes) -> bytes:
    return b"\0" * 300_000 + data  # a zip file may have anything before it


def test_nothing_is_used_with_dry_run_or_without_consent(served: Serve) -> None:
    with served(future()) as line:
        code, out, _ = line.refresh("--dry-run")
        assert (code, "not used (--dry-run)" in out, line.data.exists()) == (0, True, False)
        code, out, err = line.refresh()
        assert (code, line.data.exists()) == (2, False)
        assert "+ torch 2.99.0 cu139 linux-64" in out
        assert "there is no terminal to ask on" in err
        assert "--yes" in err


def test_second_refresh_changes_nothing_and_reads_no_wheel(served: Serve) -> None:
    with served(future()) as line:
        line.refresh("--yes")
        first, count = line.data.read_bytes(), len(line.server.requests)
        code, out, _ = line.refresh("--yes")
        assert (code, "unchanged" in out, line.data.read_bytes()) == (0, True, first)
        again = [each.path for each in line.server.requests[count:]]
        assert [path for path in again if path.endswith(".whl") and "/torch-" in path] == []


def test_mirror_without_a_page_of_all_tags_is_read_by_tag(served: Serve) -> None:
    servers = future()
    servers.has_root = False
    servers.add("cu138", "torch-2.15.0+cu138", torch_wheel("2.15.0+cu138", "13.8", "sm_80 sm_90"), LINUX, ["cp312"])
    with served(servers) as line:
        code, out, _ = line.refresh("--yes")
        assert (code, "torch 2.99.0 cpu linux-64" in out) == (0, True)


def test_release_without_readable_kernels_stays_unverified(served: Serve) -> None:
    servers = future()
    with served(servers) as line:
        for path in servers.wheels:
            if "cu139/torch-" in path:
                line.server.fail(path, Fault(no_ranges=True))
        code, out, _ = line.refresh("--yes")
        assert code == 0
        assert "unverified: kernels" in out.replace("\n    ", " ")
        assert "doesn't support range requests" in out.replace("\n    ", " ")
        record = line.json("explain", "--machine", "h100", "--all")
        (selection,) = record["result"]["selections"]
        assert selection["build"]["torch"] != "2.99.0"


@pytest.mark.parametrize(
    ("wheel", "said"),
    [
        (torch_wheel("2.99.0", "12.8", "sm_80 sm_90"), "its wheel is built for CUDA 12.8"),
        (torch_wheel("2.99.0", "13.9", ""), "has no list of kernels"),
        (torch_wheel("2.99.0", None), "its wheel is built for CUDA none"),
        (b"PK\x05\x06 no zip", "is not a valid wheel"),
        (torch_wheel("2.99.0", "13.9", "sm_80")[:-40], "is not a valid wheel"),
    ],
)
def test_wheel_that_contradicts_its_name_isnt_trusted(served: Serve, wheel: bytes, said: str) -> None:
    servers = future()
    servers.wheels = {path: wheel if "cu139/torch-" in path else data for path, data in servers.wheels.items()}
    with served(servers) as line:
        code, out, _ = line.refresh("--yes")
        assert code == 0
        assert said in " ".join(out.split())


def test_row_that_contradicts_a_pinned_row_isnt_used(served: Serve) -> None:
    servers = future()
    servers.add("cu118", "torch-2.7.1+cu118", torch_wheel("2.7.1", "11.8"), ["manylinux_2_34_x86_64"], ["cp313"])
    with served(servers) as line:
        code, out, _ = line.refresh("--yes")
        text = " ".join(out.split())
        assert code == 0
        assert "! torch 2.7.1 cu118 linux-64: glibc 2.28 is pinned, found 2.34 (not used)" in text
        assert "! torch 2.7.1 cu118 linux-64: Python 3.9, 3.10, 3.11, 3.12 is pinned, but not found (not used)" in text
        assert "2.7.1" not in line.data.read_text()


def test_previews_yanked_files_and_other_accelerators_are_left_out(served: Serve) -> None:
    servers = future()
    data = torch_wheel("2.99.1", "13.9", "sm_80")
    for tag, name in (("nightly", "2.99.1.dev20261130+cu139"), ("rocm7.4", "2.99.1+rocm7.4"), ("xpu", "2.99.1+xpu")):
        servers.add(tag, f"torch-{name}", data, LINUX, ["cp312"])
    servers.add("cu139", "torch-2.99.1rc1+cu139", data, LINUX, ["cp312"])
    servers.wheels[f"{INDEX}/cu139/torch-2.99.1+cu139-cp313-cp313t-manylinux_2_28_x86_64.whl"] = data
    servers.wheels[f"{INDEX}/cu139/torch-2.99.1+cu139-cp313-cp313-manylinux_2_28_s390x.whl"] = data
    with served(servers) as line:
        _, out, err = line.refresh("--yes")
        assert "2.99.1" not in out + err


@pytest.mark.parametrize("version", ["2.99.1.post1", "1!2.99.1", "99999999999999999.0", "2.99.1.0.1"])
def test_release_with_an_odd_version_is_reported_and_the_others_are_used(served: Serve, version: str) -> None:
    servers = future()
    servers.add("cu139", f"torch-{version}+cu139", torch_wheel(version, "13.9", "sm_80"), LINUX, ["cp312"])
    servers.add("cpu", f"torchvision-{version}+cpu", family_wheel("torchvision", version, "torch"), LINUX, ["cp312"])
    servers.add("cpu", "torch-0.4.1.post2+cpu", torch_wheel("0.4.1.post2", None), LINUX, ["cp312"])
    servers.registry.append(f"torch-{version}-cp312-cp312-manylinux_2_28_x86_64.whl")
    with served(servers) as line:
        code, out, err = line.refresh("--yes")
        text = " ".join(out.split())
        assert (code, "+ torch 2.99.0 cu139" in text) == (0, True), err
        assert f"! torch {version}: expected a version such as `2.15.0` (not used)" in text
        assert f"! torchvision {version}: expected a version such as" in text
        assert "0.4.1" not in out


def test_imported_kernels_are_read_again_from_the_wheel(served: Serve, tmp_path: Path) -> None:
    with served(future()) as line:
        line.refresh("--yes")
        good = json.loads(line.data.read_text())
        row = next(each for each in good["builds"] if each["tag"] == "cu139")
        row |= {"capabilities": ["5.0", "12.0"], "ptx": [], "kernels_source": "a guess"}
        poison = tmp_path / "poison.json"
        poison.write_text(json.dumps(good))
        assert line.run("facts", "import", str(poison), "--yes")[0] == 0
        _, out, _ = line.refresh("--yes")
        said = "torch 2.99.0 cu139 linux-64: a guess stated kernels 5.0, 12.0, but its wheel has kernels 7.5, 8.0"
        assert said in " ".join(out.split())
        row = next(each for each in json.loads(line.data.read_text())["builds"] if each["tag"] == "cu139")
        assert row["capabilities"] == ["7.5", "8.0", "8.6", "9.0", "10.0", "12.0"]
        assert "torch-2.99.0%2Bcu139-cp313" in row["kernels_source"]


def test_imported_row_whose_wheel_is_for_another_cuda_is_dropped(served: Serve, tmp_path: Path) -> None:
    servers = future()
    with served(servers) as line:
        line.refresh("--yes")
        poison = tmp_path / "poison.json"
        poison.write_text(line.data.read_text().replace("list of kernels in", "as told in"))
        line.run("facts", "import", str(poison), "--yes")
        wheel = torch_wheel("2.99.0", "12.8", "sm_80")
        servers.wheels = {path: wheel if "cu139/torch-" in path else data for path, data in servers.wheels.items()}
        _, out, _ = line.refresh("--yes")
        assert "- torch 2.99.0 cu139 linux-64" in out
        assert "cu139" not in line.data.read_text()


def test_release_that_has_gone_is_dropped_and_shown(served: Serve) -> None:
    servers = future()
    servers.add("cu139", "torch-2.98.0+cu139", torch_wheel("2.98.0", "13.9", "sm_80"), LINUX, ["cp312"])
    with served(servers) as line:
        line.refresh("--yes")
        kept = json.loads(line.data.read_text())
        servers.wheels = {path: data for path, data in servers.wheels.items() if "2.98" not in path}
        code, out, _ = line.refresh("--yes")
        assert (code, "- torch 2.98.0 cu139 linux-64" in out) == (0, True)
        assert "note: torch 2.98.0 cu139 linux-64 isn't on https://download.pytorch.org/whl anymore" in out
        assert "2.98.0" not in line.data.read_text()
        # a row from elsewhere stays, and is reported
        for row in kept["builds"]:
            row["source"] = "our own build"
        line.data.write_text(json.dumps(kept))
        _, out, _ = line.refresh("--yes")
        assert "it is kept from our own build" in " ".join(out.split())
        assert "2.98.0" in line.data.read_text()


def test_first_refresh_with_nothing_new_writes_nothing_and_asks_nothing(served: Serve) -> None:
    servers = Servers()
    servers.add("cu126", "torch-2.14.1+cu126", b"", LINUX, ["cp310", "cp311", "cp312", "cp313", "cp314"])
    with served(servers) as line:
        code, out, _ = line.refresh()
        assert (code, line.data.exists()) == (0, False)
        assert "nothing new in the sources that can be read" in out
        servers.registry.append("torch-2.14.1-cp312-cp312-manylinux_2_28_x86_64.whl")
        code, out, err = line.refresh()
        assert (code, line.data.exists()) == (0, False), err
        assert out.splitlines()[-1] == "nothing new: the built-in facts are up to date"


def test_index_that_cannot_be_read_drops_nothing(served: Serve) -> None:
    with served(future()) as line:
        line.refresh("--yes")
        line.server.fail(f"{INDEX}/torch/", Fault(status=401))
        code, _, _ = line.refresh("--yes")
        assert (code, "2.99.0" in line.data.read_text()) == (0, True)


def test_release_only_on_the_package_index_is_reported(served: Serve) -> None:
    servers = future()
    servers.registry.append("torch-2.99.1-cp312-cp312-manylinux_2_28_x86_64.whl")
    with served(servers) as line:
        _, out, _ = line.refresh("--yes")
        assert "torch 2.99.1 is on the package index, but has no build on the PyTorch index" in " ".join(out.split())
        assert "torch 2.99.0 is on" not in out


def test_source_that_fails_is_reported_and_the_others_are_used(served: Serve) -> None:
    servers = future()
    servers.manifests["redistrib_13.6.0.json"] = {"nvidia_driver": {"version": "rm -rf /"}}
    with served(servers) as line:
        line.server.fail(f"{REGISTRY}/torch/", Fault(status=401))
        code, out, _ = line.refresh("--yes")
        text = " ".join(out.split())
        assert (code, "torch 2.99.0 cu139" in text) == (0, True)
        assert "warning: cannot read NVIDIA's list of CUDA toolkits: the list of packages" in text
        assert "expected a driver version such as `580.65.06`, found `rm -rf /`" in text
        assert "returned HTTP 401" in text


def test_toolkit_without_a_driver_adds_no_row(served: Serve) -> None:
    servers = Servers(manifests={"redistrib_13.7.0.json": manifest("13.7.0", None)})
    servers.add("cpu", "torch-2.99.0+cpu", torch_wheel("2.99.0", None), LINUX, ["cp312"])
    with served(servers) as line:
        assert "13.7" not in line.refresh("--yes")[1]


def test_toolkit_that_undercuts_the_driver_of_its_cuda_isnt_used(served: Serve) -> None:
    servers = future()
    servers.manifests = {"redistrib_13.9.0.json": manifest("13.9.0", "300.10.04")}
    with served(servers) as line:
        _, out, _ = line.refresh("--yes")
        assert "! CUDA 13.9: CUDA 13 requires driver 580, found 300.10.04 (Linux) (not used)" in " ".join(out.split())
        assert json.loads(line.data.read_text())["toolkits"] == []


def test_no_readable_source_is_an_external_failure(served: Serve) -> None:
    with served(Servers()) as line:
        line.server.fail(f"{REDIST}/", Fault(status=500))
        code, _, err = line.refresh("--yes")
        assert (code, line.data.exists()) == (3, False)
        assert "no source of facts can be read" in err
        assert "envforge facts import FILE" in err


def test_partner_for_another_release_isnt_paired(served: Serve) -> None:
    servers = future(vision="0.99.0")
    for tag in ("cu139", "cpu"):
        path = f"{INDEX}/{tag}/torchvision-0.99.0+{tag}-cp312-cp312-manylinux_2_28_x86_64.whl"
        servers.wheels[path] = family_wheel("torchvision", "0.99.0", "torch (==2.15.0)")
    with served(servers) as line:
        _, out, _ = line.refresh("--yes")
        assert "torch 2.99.0 cu139" in out
        assert "torchvision" not in out
