"""The fast parser finds the same members as ``tarfile``, and leaves unusual archives to it."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envforge.prefix.archive import plain_members

_NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=120)
_KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
_FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, size
    return member


def _tar(members: list[tarfile.TarInfo], form: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.TarFile(fileobj=stream, mode="w", format=form) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    return stream.getvalue()


@given(st.lists(st.tuples(_NAMES, _KINDS, _NAMES, st.integers(0, 1500)), max_size=5), _FORMATS)
def test_plain_members_are_those_that_tarfile_finds(rows: list[tuple[str, bytes, str, int]], form: int) -> None:
    members = [
        _member(
            name, kind, target if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE} else "", size * (kind == tarfile.REGTYPE)
        )
        for name, kind, target, size in rows
    ]
    try:
        data = _tar(members, form)
    except ValueError:  # a name that the form does not hold
        return
    found = plain_members(data)
    if found is None:
        return
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        wanted = [(m.name.rstrip("/"), m.linkname if m.issym() or m.islnk() else None, m.size) for m in archive]
    assert wanted == [(m.name.rstrip("/"), m.target, m.size) for m in found]


def test_a_tar_as_packages_have_it_is_plain() -> None:
    members = [
        _member("bin/a", size=700),
        _member("bin/b", tarfile.SYMTYPE, "a"),
        _member("bin/c", tarfile.LNKTYPE, "x"),
    ]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        data = _tar(members, form)
        found = plain_members(data)
        assert found is not None
        assert [m.name for m in found] == ["bin/a", "bin/b", "bin/c"]
        assert [m.target for m in found] == [None, "a", "x"]
        assert data[found[0].start : found[0].start + found[0].size] == b"x" * 700


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_tar([_member("a" * 120)]), id="long name of GNU"),
        pytest.param(_tar([_member("é" * 120)], tarfile.PAX_FORMAT), id="pax header"),
        pytest.param(_tar([_member("device", tarfile.CHRTYPE)]), id="device"),
        pytest.param(_tar([_member("a")])[:512], id="no end"),
        pytest.param(_tar([_member("a")]) + _tar([_member("../b")]), id="a second tar behind the end"),
        pytest.param(_tar([_member("a", size=600)])[:1024], id="cut"),
        pytest.param(_tar([_member("a")]).replace(b"a\0", b"b\0", 1), id="wrong checksum"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_is_not_plain_is_left_to_tarfile(data: bytes) -> None:
    assert plain_members(data) is None
