"""Test index pages, wheel selection, and downloads, without conda-lock."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace
from packaging.markers import Marker
from packaging.version import Version

from envforge.base.net import Client
from envforge.base.urls import Mirrors
from envforge.errors import EnvforgeError
from envforge.lock.index import LockTimeIndex, PlatformIndex, Sources, Target, Wanted
from envforge.lock.names import NameMapping, is_torch_family, torch_indexes
from envforge.lock.pages import Downloads, IndexFile, parse_page
from envforge.lock.plan import LARGEST_METADATA
from tests.lock.conftest import TORCH, VISION, torch_index
from tests.lock.torchindex import PUBLIC, SHARED, TorchIndex, wheel
from tests.support.loopback import Fault, Loopback, Request, Response

LINUX = Target(platform="linux-64", python=Version("3.10.18"), virtual={"__glibc": "2.28"})


def test_a_page_gives_public_addresses_digests_and_metadata() -> None:
    text = f"""<a href="/whl/cu118/torch-2.7.1%2Bcu118-cp310-cp310-linux_x86_64.whl#sha256={"AB" * 32}"
        data-requires-python="&gt;=3.9" data-core-metadata="sha256=cd34">torch</a>
        <a href="https://download-r2.pytorch.org/whl/triton-3.3.1-py3-none-any.whl" data-yanked="">triton</a>"""
    assert parse_page(text, "text/html", f"{PUBLIC}/cu118/torch/") == (
        IndexFile(
            file_name="torch-2.7.1+cu118-cp310-cp310-linux_x86_64.whl",
            url=f"{PUBLIC}/cu118/torch-2.7.1%2Bcu118-cp310-cp310-linux_x86_64.whl",
            digests=(("sha256", "ab" * 32),),
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
        *(
            (json.dumps({"files": [{"url": "x.whl"} | changes]}), "application/json")
            for changes in (
                {"url": 3},
                {"filename": ["a"]},
                {"requires-python": 3},
                {"requires-python": ">=3," * 60_000},
                {"size": "abc"},
                {"hashes": 3},
                {"hashes": {"sha256": 3}},
                {"hashes": {"sha256": "abc"}},
                {"hashes": {"sha256": "../x"}},
                {"core-metadata": [1]},
                {"core-metadata": {"sha256": 3}},
                {"filename": "x-1-" + "-".join([".".join(map(str, range(60)))] * 3) + ".whl"},
            )
        ),
        ('{"files": [{}]}', "application/json"),
        ('{"files": [' + '{"url": "x"},' * 50_000 + '{"url": "x"}]}', "application/json"),
        ('{"files": [' + "{}," * 400_000 + "{}]}", "application/json"),
        *((text * 400_000, "text/html") for text in ("<a href=x>", "<b>", "<a b=c ", "<!-->", "<base href=x>")),
    ],
    ids=lambda text: text[:60],
)
def test_invalid_page_is_named(text: str, content_type: str) -> None:
    with pytest.raises(EnvforgeError, match=r"`https://index\.example/torch/` is not a page of a package index"):
        parse_page(text, content_type, "https://index.example/torch/")


def test_largest_page_is_read() -> None:
    fields = {"url": "x.whl", "hashes": {"sha256": "ab" * 32}, "requires-python": ">=3.10", "core-metadata": True}
    page = {"files": [fields | {"filename": f"x-{number}-py3-none-any.whl"} for number in range(50_000)]}
    assert len(parse_page(json.dumps(page), "application/json", "https://index.example/torch/")) == 50_000


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
        assert downloads.metadata(file)["Name"] == "torchvision"
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


@pytest.mark.parametrize("kind", ["METADATA", "other", "beside", "body", "size", "directory", "encrypted"])
def test_metadata_is_read_up_to_the_limit(kind: str) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        name = "x-1.0.dist-info/" + ("WHEEL" if kind == "other" else "METADATA")
        archive.writestr(name, bytes(LARGEST_METADATA + (kind in {"METADATA", "size"})))
    data = stream.getvalue()
    at = data.rindex(b"PK\x05\x06") + 12  # the size of the directory
    if kind == "directory":
        data = data[:at] + (1 << 30).to_bytes(4, "little") + data[at + 4 :]
    if kind == "encrypted":
        flags = data.rindex(b"PK\x01\x02") + 8
        data = data[:flags] + b"\1" + data[flags + 1 :]
    size = {"size": "9" * 5000, "directory": str(1 << 40)}.get(kind, str(len(data)))
    body = data if kind != "body" else bytes(1 << 17)

    def answer(request: Request) -> Response:
        if request.path.endswith(".metadata"):
            return Response(body=bytes(LARGEST_METADATA + 1))
        return Response(body=body, status=206, headers={"Content-Range": f"bytes 0-1/{size}"})

    with Loopback(answer) as server:
        file = IndexFile(file_name="x.whl", url=f"{server.url}/x.whl", has_metadata=kind == "beside")
        with pytest.raises(EnvforgeError) as caught:
            Downloads(Mirrors(), repr).metadata(file)
    assert caught.value.code == ("document-too-large" if kind in {"beside", "body"} else "bad-wheel")


def test_unexpected_error_of_a_request_is_kept() -> None:
    with LockTimeIndex({"linux-64": cast("PlatformIndex", object())}) as server:
        with Client().send(f"{server.simple('linux-64')}/x/") as response:
            assert response.status == 404
        assert isinstance(server.fault, AttributeError)


@contextmanager
def _served(index: TorchIndex, records: Path) -> Iterator[PlatformIndex]:
    solve = {"packages": [{"name": "python", "version": "3.10.18", "url": "", "depends": []}]}
    (records / "solve.json").write_text(json.dumps(solve), encoding="utf-8")
    with Loopback(index.answer) as server:
        yield PlatformIndex(
            wanted=Wanted(platform="linux-64", pip=(), virtual={"__glibc": "2.28"}, records=records),
            sources=Sources(torch=(f"{PUBLIC}/cu130",), other=()),
            downloads=Downloads(Mirrors((("https://download.pytorch.org", server.url),)), repr),
            mapping=NameMapping.bundled(),
        )


@pytest.mark.parametrize("kind", ["shake_128", "md4", "sha3_256"])
def test_only_digests_that_python_computes_are_compared(kind: str) -> None:
    with Loopback(lambda _: Response(body=b"x")) as server:
        file = IndexFile(file_name="x.whl", url=f"{server.url}/x.whl", digests=((kind, "aa"),))
        if kind == "sha3_256":
            with pytest.raises(EnvforgeError, match="checksum mismatch"):
                Downloads(Mirrors(), repr).sha256(file)
        else:
            assert Downloads(Mirrors(), repr).sha256(file) == hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    "line",
    [
        b"Requires-Dist: \xff",
        b"Requires-Dist: x; " + b"(" * 5000 + b"os_name == 'a'" + b")" * 5000,
        b"Requires-Dist: x; " + b" or ".join(b"extra == '%d'" % number for number in range(101)),
        b"Requires-Dist: x" + b">=1," * 60_000,
        b"Requires-Dist: x\n" * 20_000,
        b"Requires-Python: " + b">=1," * 60_000,
    ],
    ids=lambda line: line[:40],
)
def test_invalid_requirement_of_a_wheel_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    index = TorchIndex()
    index.add("cu130", replace(wheel("cuda-toolkit", "1.0"), metadata=line + b"\n\n"))
    with _served(index, tmp_path) as served:
        assert served.page("cuda-toolkit") is not None
        with pytest.raises(
            EnvforgeError, match=r"`https://download\.pytorch\.org/whl/cu130/cuda_toolkit-1\.0-py3"
        ) as caught:
            served.metadata(next(iter(served.offers)))
    assert caught.value.code == "bad-wheel"
    assert len(caught.value.message) < 500


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
    with _served(index, tmp_path) as served:
        assert served.page("numpy") is None
        assert served.page("cuda-toolkit") is not None
        (token,) = served.offers
        text = (served.metadata(token) or b"").decode()
        assert served.target is served.target  # its ranks take milliseconds, and a page has thousands of wheels
    assert [line for line in text.splitlines() if line.startswith("Requires-Dist")] == [
        'Requires-Dist: nvidia-cublas==13.1.0.3 ; extra == "cublas"',
        "Requires-Dist: numpy>=1",
    ]
