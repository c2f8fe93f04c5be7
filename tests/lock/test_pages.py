"""Test index pages, wheel selection, and downloads, without conda-lock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.version import Version

from envforge.base.urls import Mirrors
from envforge.errors import EnvforgeError
from envforge.lock.index import PlatformIndex, Sources, Target, Wanted
from envforge.lock.names import NameMapping, is_torch_family, torch_indexes
from envforge.lock.pages import Downloads, IndexFile, parse_page
from tests.lock.conftest import TORCH, VISION, torch_index
from tests.lock.torchindex import PUBLIC, SHARED, TorchIndex, wheel
from tests.support.loopback import Fault, Loopback

LINUX = Target(platform="linux-64", python=Version("3.10.18"), virtual={"__glibc": "2.28"})


def test_a_page_gives_public_addresses_digests_and_metadata() -> None:
    text = """<a href="/whl/cu118/torch-2.7.1%2Bcu118-cp310-cp310-linux_x86_64.whl#sha256=AB12"
        data-requires-python="&gt;=3.9" data-core-metadata="sha256=cd34">torch</a>
        <a href="https://download-r2.pytorch.org/whl/triton-3.3.1-py3-none-any.whl" data-yanked="">triton</a>"""
    assert parse_page(text, "text/html", f"{PUBLIC}/cu118/torch/") == (
        IndexFile(
            file_name="torch-2.7.1+cu118-cp310-cp310-linux_x86_64.whl",
            url=f"{PUBLIC}/cu118/torch-2.7.1%2Bcu118-cp310-cp310-linux_x86_64.whl",
            digests=(("sha256", "ab12"),),
            requires_python=">=3.9",
            has_metadata=True,
            metadata_sha256="cd34",
        ),
        IndexFile(
            file_name="triton-3.3.1-py3-none-any.whl",
            url="https://download-r2.pytorch.org/whl/triton-3.3.1-py3-none-any.whl",
            is_yanked=True,
        ),
    )


@pytest.mark.parametrize(
    ("text", "content_type"),
    [
        ('<a href="torch-2.7.1-py3-none-any.whl">x</a><![x[', "text/html"),
        ('<a href="http://[::1/torch-2.7.1-py3-none-any.whl">x</a>', "text/html"),
        ('<base href="http://[x"><a href="torch-2.7.1-py3-none-any.whl">x</a>', "text/html"),
        ('{"files": [{"url": "http://[x/y.whl"}]}', "application/json"),
        ('{"files": [{"url": 3}]}', "application/json"),
        ('{"files": [{"url": "x", "hashes": 3}]}', "application/json"),
    ],
)
def test_invalid_page_is_named(text: str, content_type: str) -> None:
    with pytest.raises(EnvforgeError, match=r"`https://index\.example/torch/` is not a page of a package index"):
        parse_page(text, content_type, "https://index.example/torch/")


def test_moment_outside_the_calendar_is_unknown() -> None:
    text = '{"files": [{"url": "x.whl", "upload-time": "0001-01-01T00:00:00+23:59"}]}'
    assert parse_page(text, "application/json", "https://index.example/torch/")[0].uploaded is None


def test_the_real_torch_page_is_read() -> None:
    import gzip

    path = SHARED / "pytorch" / "whl_torch_index_2025-07-09.html.gz"
    if not path.is_file():
        pytest.skip(f"needs {path.name} beside the checkout")
    files = parse_page(gzip.decompress(path.read_bytes()).decode(), "text/html", f"{PUBLIC}/torch/")
    (torch,) = [f for f in files if f.file_name == TORCH.file_name]
    assert len(files) == 2442
    assert torch.url == f"{PUBLIC}/cu118/{TORCH.file_name.replace('+', '%2B')}"
    assert torch.sha256 == "89433c62b02ec802d4c0887c867d935887ae8f00d7cc549ecf1c2640d096bd4c"
    assert torch.metadata_sha256 == "c6cd29576101c63ff85b41d641e5f38a14388c568ece91b79905286c8023189a"


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("torch-2.7.1+cu118-cp310-cp310-manylinux_2_28_x86_64.whl", True),
        ("torch-2.7.1+cu118-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        ("torch-2.7.1+cu118-cp310-cp310-win_amd64.whl", False),
        ("torch-2.7.1-cp310-cp310-manylinux_2_28_aarch64.whl", False),
        ("torch-2.7.1+cu118-cp310-cp310-manylinux_2_34_x86_64.whl", False),
        ("nvidia_cudnn_cu12-9.10.2.21-py3-none-manylinux_2_27_x86_64.whl", True),
        ("nvidia_nvtx_cu11-11.8.86-py3-none-manylinux1_x86_64.whl", True),
        ("torch-2.0.1+cu118-cp310-cp310-linux_x86_64.whl", True),
        ("not a wheel", False),
    ],
)
def test_a_wheel_fits_by_python_machine_and_glibc(wheel: str, fits: bool) -> None:
    assert (LINUX.rank(wheel) is not None) is fits


def test_the_machine_of_a_marker_counts() -> None:
    """conda-lock leaves ``platform_machine`` open, and would give CUDA libraries for x86_64 to aarch64."""
    marker = Marker('platform_system == "Linux" and platform_machine == "x86_64"')
    assert LINUX.counts(marker)
    assert not Target(platform="linux-aarch64", python=Version("3.10"), virtual={}).counts(marker)
    assert not Target(platform="osx-64", python=Version("3.10"), virtual={}).counts(marker)


def test_the_torch_family_is_known_by_name_and_by_pin() -> None:
    family = ["torch", "torchvision", "triton", "nvidia-cublas-cu12", "nvidia-nvshmem-cu13", "cuda-bindings"]
    assert [name for name in family if not is_torch_family(name)] == []
    assert [name for name in ("nvidia-ml-py", "numpy", "sympy", "torchmetrics") if is_torch_family(name)] == []
    assert is_torch_family("fbgemm-gpu", "==1.2.0+cu118")


def test_torch_indexes_are_known_by_their_layout() -> None:
    mirror = "https://mirror.example/pytorch/whl/cu126/"
    other = "https://packages.example/simple"
    assert torch_indexes((f"{PUBLIC}/cu118", other, mirror, PUBLIC)) == (f"{PUBLIC}/cu118", mirror, PUBLIC)


def test_metadata_of_a_server_without_ranges_comes_from_the_whole_file_and_is_checked() -> None:
    path = f"/whl/cu118/{VISION.file_name}"
    url = f"{PUBLIC}/cu118/{VISION.file_name.replace('+', '%2B')}"
    file = IndexFile(file_name=VISION.file_name, url=url, digests=(("sha256", VISION.sha256),))
    with Loopback(torch_index().answer) as server:
        server.fail(path, Fault(no_ranges=True))
        downloads = Downloads(Mirrors((("https://download.pytorch.org", server.url),)), repr)
        assert downloads.metadata(file) == VISION.metadata
        wrong = IndexFile(file_name=file.file_name, url=url, digests=(("sha256", "ab" * 32),))
        with pytest.raises(EnvforgeError) as caught:
            downloads.metadata(wrong)
    assert caught.value.code == "hash-mismatch"


def test_a_wheel_that_is_cut_off_is_not_hashed() -> None:
    url = f"{PUBLIC}/cu118/{VISION.file_name.replace('+', '%2B')}"
    with Loopback(torch_index().answer) as server:
        server.fail(f"/whl/cu118/{VISION.file_name}", Fault(truncate_at=1000))
        downloads = Downloads(Mirrors((("https://download.pytorch.org", server.url),)), repr)
        with pytest.raises(EnvforgeError) as caught:
            downloads.sha256(IndexFile(file_name=VISION.file_name, url=url))
    assert (caught.value.code, caught.value.exit_code) == ("cut-off", 3)


def test_metadata_that_is_not_what_the_page_states_stops() -> None:
    url = f"{PUBLIC}/cu118/{VISION.file_name.replace('+', '%2B')}"
    file = IndexFile(file_name=VISION.file_name, url=url, has_metadata=True, metadata_sha256="ab" * 32)
    with Loopback(torch_index().answer) as server:
        downloads = Downloads(Mirrors((("https://download.pytorch.org", server.url),)), repr)
        with pytest.raises(EnvforgeError) as caught:
            downloads.metadata(file)
    assert caught.value.code == "hash-mismatch"


def test_metadata_is_served_with_its_markers_decided(tmp_path: Path) -> None:
    """conda-lock's Poetry does not know the machine of a marker, and never ends on those of ``cuda-toolkit``."""
    toolkit = wheel(
        "cuda-toolkit",
        "13.0.2",
        requires=[
            'nvidia-cublas==13.1.0.3; (sys_platform == "win32" or sys_platform == "linux") and extra == "cublas"',
            'nvidia-cufile==1.15; sys_platform == "linux" and platform_machine == "aarch64" and extra == "cufile"',
            'numpy>=1; python_version >= "3.9"',
        ],
    )
    index = TorchIndex()
    index.add("cu130", toolkit)
    solve = {"packages": [{"name": "python", "version": "3.10.18", "url": "", "depends": []}]}
    (tmp_path / "solve.json").write_text(json.dumps(solve), encoding="utf-8")
    with Loopback(index.answer) as server:
        downloads = Downloads(Mirrors((("https://download.pytorch.org", server.url),)), repr)
        served = PlatformIndex(
            wanted=Wanted(platform="linux-64", pip=(), virtual={"__glibc": "2.28"}, records=tmp_path),
            sources=Sources(torch=(f"{PUBLIC}/cu130",), other=()),
            downloads=downloads,
            mapping=NameMapping.bundled(),
        )
        assert served.page("numpy") is None
        assert served.page("cuda-toolkit") is not None
        (token,) = served.offers
        text = (served.metadata(token) or b"").decode()
        assert served.target is served.target  # its ranks take milliseconds, and a page has thousands of wheels
    assert [line for line in text.splitlines() if line.startswith("Requires-Dist")] == [
        'Requires-Dist: nvidia-cublas==13.1.0.3 ; extra == "cublas"',
        "Requires-Dist: numpy>=1",
    ]
