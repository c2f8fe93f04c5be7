"""Read METADATA of a large wheel on a server with HTTP range requests, without downloading the wheel."""

from __future__ import annotations

import io
import urllib.request
import zipfile

_STEP = 1 << 18


class RangeFile(io.RawIOBase):
    """A read-only, seekable view of a remote file, which is downloaded in blocks of 256 KiB."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._at = 0
        self._blocks: dict[int, bytes] = {}
        self.size = remote_size(url)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, or all that remain if it is negative."""
        end = self.size if size < 0 else min(self.size, self._at + size)
        parts = []
        while self._at < end:
            number, start = divmod(self._at, _STEP)
            part = self._block(number)[start : start + end - self._at]
            parts.append(part)
            self._at += len(part)
        return b"".join(parts)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            first = number * _STEP
            last = min(first + _STEP, self.size) - 1
            request = urllib.request.Request(self._url, headers={"Range": f"bytes={first}-{last}"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                self._blocks[number] = answer.read()
        return self._blocks[number]


def remote_size(url: str) -> int:
    """Return the size of a remote file in bytes."""
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
        return int(answer.headers["Content-Length"])


def wheel_metadata(url: str) -> str:
    """Return the text of METADATA in a remote wheel."""
    with zipfile.ZipFile(RangeFile(url)) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        return wheel.read(name).decode()
