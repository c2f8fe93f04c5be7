"""Read the CUDA version and the kernels of a torch wheel from single members, without downloading the wheel.

``torch/version.py`` states the CUDA version. The library of ``torch._C`` contains the text that
``torch.cuda.get_arch_list()`` returns, such as ``sm_75 sm_80 compute_80``.
"""

from __future__ import annotations

import re
import zipfile

from msgspec import Struct
from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.base.urls import show_url
from envforge.errors import EnvforgeError
from envforge.lock.pages import Downloads, IndexFile

_VERSION = "torch/version.py"
_LIBRARIES = ("torch/lib/libtorch_python.so", "torch/lib/torch_python.dll")
_CUDA = re.compile(r"^cuda\b[^=\n]*= *(?:None|['\"](\d{1,2}\.\d)['\"]) *$", re.MULTILINE)
# other strings of the library name single architectures, so a list has at least two, or ends the string
_FLAGS = re.compile(rb"(?<![\w ])(?:(?:sm|compute)_\d{2,3}[af]? )*(?:sm|compute)_\d{2,3}[af]?(?=\0)")
_LONGEST_VERSION = 100_000
_MOST_LIBRARY = 500_000_000  # bytes; that of torch 2.14 has 34 MB
_CHUNK = 1 << 20
_OVERLAP = 1024  # a list of kernels may lie on the border of two chunks


class WheelFacts(Struct, frozen=True, kw_only=True):
    """What a torch wheel states of itself; ``cuda`` is None for a CPU build."""

    cuda: Version | None
    capabilities: tuple[ComputeCapability, ...] = ()
    ptx: tuple[ComputeCapability, ...] = ()


def read_wheel(downloads: Downloads, file: IndexFile, *, kernels: bool) -> WheelFacts:
    """Return the CUDA version of a torch wheel, and its kernels if they are requested and it is a CUDA build.

    Raises ``EnvforgeError`` if the wheel doesn't state them.
    """
    with downloads.archive(file) as archive:
        cuda = _cuda(archive, file)
        if cuda is None or not kernels:
            return WheelFacts(cuda=cuda)
        flags = _flags(archive)
    if not flags:
        raise _unstated(file, "list of kernels in the library of `torch._C`")
    return WheelFacts(cuda=cuda, capabilities=_parsed(flags, "sm"), ptx=_parsed(flags, "compute"))


def _cuda(archive: zipfile.ZipFile, file: IndexFile) -> Version | None:
    if _VERSION not in archive.namelist() or archive.getinfo(_VERSION).file_size > _LONGEST_VERSION:
        raise _unstated(file, f"`{_VERSION}`")
    found = _CUDA.search(archive.read(_VERSION).decode("utf-8", "replace"))
    if found is None:
        raise _unstated(file, f"`cuda` in `{_VERSION}`")
    return None if found[1] is None else Version(found[1])


def _flags(archive: zipfile.ZipFile) -> str:
    """Return the longest list of kernels in the library; reading stops soon after one was found."""
    name = next((each for each in _LIBRARIES if each in archive.namelist()), None)
    if name is None:
        return ""
    kept, done = b"", 0
    with archive.open(name) as stream:
        while done < _MOST_LIBRARY and (chunk := stream.read(_CHUNK)):
            done += len(chunk)
            window = kept + chunk
            lists = [match[0] for match in _FLAGS.finditer(window) if b"sm_" in match[0]]
            if lists:
                return max(lists, key=len).decode()
            kept = window[-_OVERLAP:]
    return ""


def _parsed(flags: str, prefix: str) -> tuple[ComputeCapability, ...]:
    """Return the capabilities with a prefix; ``sm_90a`` runs on no other chip, so it isn't a kernel for 9.0."""
    numbers = re.findall(rf"\b{prefix}_(\d+)(?= |$)", flags)
    return tuple(sorted({ComputeCapability(int(number[:-1]), int(number[-1])) for number in numbers}))


def _unstated(file: IndexFile, what: str) -> EnvforgeError:
    return EnvforgeError(f"the wheel `{show_url(file.url)}` has no {what}", code="no-wheel-facts")
