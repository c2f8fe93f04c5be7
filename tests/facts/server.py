"""Serve a small PyTorch index, a package index, and NVIDIA's list of toolkits, in the form of the public servers.

The wheels have only the members that envforge reads, so a test sees which of them are requested.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from tests.support.loopback import Request, Response

INDEX = "/whl"
REDIST = "/compute/cuda/redist"
REGISTRY = "/simple"


def torch_wheel(torch: str, cuda: str | None, flags: str = "", *, library: str = "libtorch_python.so") -> bytes:
    """Return a wheel with ``torch/version.py`` and a library that contains the text of the compiled kernels."""
    stated = "None" if cuda is None else f"'{cuda}'"
    version = f"from typing import Optional\n\n__version__ = '{torch}'\ndebug = False\ncuda: Optional[str] = {stated}\n"
    # the strings next to the list in a real library
    body = b"\x7fELF" + b"torch/csrc/cuda/Module.cpp\0sm_ is a prefix\0" * 2000 + f"\0{flags}\0\0/__w/".encode()
    files = {"torch/version.py": version.encode(), f"torch/lib/{library}": body, "torch/lib/libtorch_cuda.so": b"x" * 9}
    return _zip(files)


def family_wheel(name: str, version: str, requires: str) -> bytes:
    """Return a wheel of torchvision or torchaudio with its requirement on torch."""
    info = f"{name}-{version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: numpy\nRequires-Dist: {requires}\n"
    )
    return _zip({f"{info}/METADATA": metadata.encode()})


def _zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


@dataclass
class Servers:
    """What all three servers have; ``answer`` is a function for ``Loopback``."""

    wheels: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, object] = field(default_factory=dict)
    registry: list[str] = field(default_factory=list)
    has_root: bool = True

    def add(self, tag: str, name: str, data: bytes, platforms: Iterable[str], pythons: Iterable[str]) -> None:
        """Add a wheel of ``name`` (with its version) for each platform tag and Python."""
        for platform in platforms:
            for python in pythons:
                self.wheels[f"{INDEX}/{tag}/{name}-{python}-{python}-{platform}.whl"] = data

    def answer(self, request: Request) -> Response | None:
        """Return the page, the wheel, or the manifest of a request."""
        path = unquote(request.path)
        if path in self.wheels:
            return Response(body=self.wheels[path])
        if path.startswith(REDIST):
            return self._redist(path.removeprefix(REDIST).strip("/"))
        if path == f"{REGISTRY}/torch/":
            links = "".join(f'<a href="{quote(name)}">{name}</a>' for name in self.registry)
            return Response(body=f"<!DOCTYPE html><body>{links}</body>".encode(), headers={"Content-Type": "text/html"})
        parts = path.removeprefix(INDEX).strip("/").split("/")
        if not path.startswith(INDEX) or (len(parts) == 1 and not self.has_root):
            return None
        folder, name = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
        found = [each for each in self.wheels if _is_of(each, folder, name)]
        return (
            self._page(name, found) if found else Response(body=b"<Error><Code>AccessDenied</Code></Error>", status=403)
        )

    def _page(self, name: str, paths: list[str]) -> Response:
        rows = [f'    <a href="{quote(path)}#sha256={"0" * 64}">{path.rsplit("/", 1)[-1]}</a><br/>' for path in paths]
        head = ["<!DOCTYPE html>", "<html>", "  <body>", f"    <h1>Links for {name}</h1>"]
        text = "\n".join([*head, *rows, "  </body>", "</html>", "<!--TIMESTAMP 1764518400-->"])
        return Response(body=text.encode(), headers={"Content-Type": "text/html"})

    def _redist(self, name: str) -> Response | None:
        if not name:
            rows = "".join(f"<span><a href='{each}'>{each}</a></span>" for each in ("cuda_cudart/", *self.manifests))
            return Response(body=f"<html><body>{rows}</body></html>".encode(), headers={"Content-Type": "text/html"})
        return Response(body=json.dumps(self.manifests[name]).encode()) if name in self.manifests else None


def manifest(cuda: str, driver: str | None) -> dict[str, object]:
    """Return a manifest of a toolkit release, in the form of NVIDIA's."""
    linux = {"relative_path": "nvidia_driver/linux-x86_64/x.tar.xz", "sha256": "0" * 64, "size": "300000000"}
    drivers = {"name": "NVIDIA Linux Driver", "license": "NVIDIA Driver", "version": driver, "linux-x86_64": linux}
    cudart = {"name": "CUDA Runtime (cudart)", "license": "CUDA Toolkit", "version": f"{cuda}.48"}
    document: dict[str, object] = {"release_date": "2026-11-20", "release_label": cuda, "cuda_cudart": cudart}
    return document if driver is None else {**document, "nvidia_driver": drivers}


def _is_of(path: str, folder: str, name: str) -> bool:
    _, tag, file_name = path.removeprefix(INDEX).split("/")
    return file_name.startswith(f"{name}-") and folder in {"", tag}


def future(torch: str = "2.99.0", vision: str = "0.99.0") -> Servers:
    """Return servers with a torch release that the built-in table doesn't have, for CUDA 13.9."""
    servers = Servers()
    flags = "sm_75 sm_80 sm_86 sm_90 sm_90a sm_100 sm_120 compute_120"
    wheel = torch_wheel(f"{torch}+cu139", "13.9", flags)
    servers.add("cu139", f"torch-{torch}+cu139", wheel, ["manylinux_2_28_x86_64"], ["cp312", "cp313"])
    servers.add("cpu", f"torch-{torch}+cpu", torch_wheel(f"{torch}+cpu", None), ["manylinux_2_28_x86_64"], ["cp312"])
    servers.add("cpu", f"torch-{torch}", torch_wheel(torch, None), ["macosx_14_0_arm64"], ["cp312"])
    for tag in ("cu139", "cpu"):
        name = f"torchvision-{vision}+{tag}"
        data = family_wheel("torchvision", f"{vision}+{tag}", f"torch (=={torch})")
        servers.add(tag, name, data, ["manylinux_2_28_x86_64"], ["cp312"])
    servers.manifests = {"redistrib_13.9.0.json": manifest("13.9.0", "620.10.04")}
    servers.manifests["redistrib_13.9.1.json"] = manifest("13.9.1", "620.99.01")
    servers.registry = [f"torch-{torch}-cp312-cp312-manylinux_2_28_x86_64.whl"]
    return servers
