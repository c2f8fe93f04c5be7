"""Define selections literally, so that changes of the matrix don't change what the tests expect."""

from __future__ import annotations

from packaging.version import Version

from envforge.base.terms import WheelTag
from envforge.lock.environment_spec import TemplateNeeds
from envforge.pytorch.matrix import PYTORCH_INDEX, Build, Grade, Request, Selection

NEEDS = TemplateNeeds(
    torch_family=("torch", "torchvision"), conda=("matplotlib-base", "numpy >=1.23", "scikit-learn", "tqdm")
)


def selection(
    *,
    torch: str = "2.7.1",
    torchvision: str = "0.22.1",
    tag: str = "cu118",
    platform: str = "linux-64",
    glibc: str | None = "2.28",
    python: str = "3.10",
    local_version: bool = True,
    index: str = PYTORCH_INDEX,
) -> Selection:
    build = Build(
        torch=Version(torch),
        torchvision=Version(torchvision),
        torchaudio=Version(torch),
        tag=WheelTag.parse(tag),
        platform=platform,
        pythons=(Version(python),),
        glibc=Version(glibc) if glibc else None,
        capabilities=(),
        ptx=(),
        local_version=local_version,
    )
    return Selection(
        request=Request(),
        build=build,
        python=Version(python),
        grade=Grade.DIRECT,
        index_url=f"{index}/{tag}",
        reason="written down in a test",
    )


CU118 = selection()
CPU_LINUX = selection(tag="cpu")
CPU_MAC = selection(tag="cpu", platform="osx-arm64", glibc=None, local_version=False)
CPU_WINDOWS = selection(tag="cpu", platform="win-64", glibc=None)
CU118_WINDOWS = selection(platform="win-64", glibc=None)
OLD = selection(torch="2.0.1", torchvision="0.15.2", glibc="2.17")
NEW_ARM = selection(torch="2.13.0", torchvision="0.28.0", tag="cu130", platform="linux-aarch64", python="3.12")
CPU_ARM = selection(tag="cpu", platform="linux-aarch64")
