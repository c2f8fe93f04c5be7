"""Generate environment files of the whole grammar, with what each of them requests."""

from __future__ import annotations

import json

from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from packaging.markers import Marker

PLATFORMS = ("linux-64", "osx-arm64")
CONDA = ("apple", "birch", "cedar", "daisy")
WHEELS = ("red", "green", "blue")
# the names of selectors, and on which of the two platforms they are true, written down a second time
TRUTH = {
    "linux": (True, False),
    "osx": (False, True),
    "win": (False, False),
    "unix": (True, True),
    "linux64": (True, False),
    "arm64": (False, True),
    "x86_64": (True, False),
    "aarch64": (False, False),
    "linux-64": (True, False),
    "osx-arm64": (False, True),
}
MARKERS = {
    "": (True, True),
    "sys_platform == 'linux'": (True, False),
    "sys_platform != 'win32' and platform_machine == 'arm64'": (False, True),
    "python_version >= '3.9'": (True, True),
    "python_full_version < '3.9' or os_name == 'nt'": (False, False),
    "extra == 'x'": (False, False),
}
NOTES = ("", "see [12]", "[TODO] drop", "not red[fast], yet", "because of [foo]", "it's (needed)", "50% [of it]")
BOUNDS = {"": "", ">=1": " >=1", "<3": " <3", ">=1,<3": " >=1,<3", "=2": " =2"}


class Item(Struct, frozen=True, kw_only=True):
    """One requested package. ``selector`` is an expression, or empty; ``note`` is the rest of the comment."""

    name: str
    is_wheel: bool
    bound: str
    selector: str
    marker: str
    note: str
    is_mapping: bool

    @property
    def text(self) -> str:
        if not self.is_wheel:
            return self.name + BOUNDS[self.bound]
        bound = self.bound.replace("=2", "==2") if self.bound == "=2" else self.bound
        return f"{self.name}{bound}" + (f"; {self.marker}" if self.marker else "")

    @property
    def comment(self) -> str:
        selector = f"[{self.selector}]" if self.selector and not self.is_mapping else ""
        words = " ".join(filter(None, (self.note, selector)))
        return f"  # {words}" if words else ""

    def applies(self, number: int) -> bool:
        """Return whether the item applies to a platform of ``PLATFORMS``."""
        names = {name.replace("-", "_"): truth[number] for name, truth in TRUTH.items()}
        selector = self.selector.replace("linux-64", "linux_64").replace("osx-arm64", "osx_arm64") or "True"
        return MARKERS[self.marker][number] and bool(eval(selector, {}, names))

    def lines(self, indent: str) -> list[str]:
        text = json.dumps(self.text)
        if self.is_mapping:
            return [f"{indent}- sel({self.selector}): {text}{self.comment}"]
        return [f"{indent}- {text}{self.comment}"]


_NAMES = st.sampled_from(sorted(TRUTH))
SELECTORS = st.recursive(
    _NAMES,
    lambda inner: st.one_of(
        inner.map(lambda one: f"not ({one})"),
        _NAMES.map(lambda one: f"not {one}"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda each: f"({each[0]}) {each[1]} {each[2]}"),
    ),
    max_leaves=4,
)


@st.composite
def items(draw: st.DrawFn) -> Item:
    is_wheel = draw(st.booleans())
    selector = draw(st.one_of(st.just(""), SELECTORS))
    return Item(
        name=draw(st.sampled_from(WHEELS if is_wheel else CONDA)),
        is_wheel=is_wheel,
        bound=draw(st.sampled_from(sorted(BOUNDS))),
        selector=selector,
        marker=draw(st.sampled_from(sorted(MARKERS))) if is_wheel else "",
        note=draw(st.sampled_from(NOTES)),
        is_mapping=bool(selector) and not is_wheel and draw(st.booleans()),
    )


def render(found: list[Item], *, head: str = "", end: str = "\n") -> str:
    """Return the environment file that lists these items, wheels in one section for every two of them."""
    lines = [*head.splitlines(), "channels: [conda-forge]", "platforms: [linux-64, osx-arm64]", "dependencies:"]
    lines += ['  - "python 3.10.*"', "  # wheels are below"]
    for item in (item for item in found if not item.is_wheel):
        lines += item.lines("  ")
    wheels = [item for item in found if item.is_wheel]
    for start in range(0, len(wheels), 2):
        lines.append("  - pip:")
        for item in wheels[start : start + 2]:
            lines += item.lines("      ")
    return "\n".join(lines) + end


def render_flow(found: list[Item], *, is_json: bool) -> str:
    """Return the same on one line or as JSON; without comments, so selectors are mappings."""
    conda: list[object] = ["python 3.10.*"]
    conda += [
        {f"sel({item.selector})": item.text} if item.selector else item.text for item in found if not item.is_wheel
    ]
    wheels = [item.text for item in found if item.is_wheel]
    document = {"channels": ["conda-forge"], "platforms": list(PLATFORMS), "dependencies": [*conda, {"pip": wheels}]}
    return json.dumps(document, indent=1) + "\n" if is_json else json.dumps(document) + "\n"


def without_comments(found: list[Item]) -> list[Item]:
    """Return the items as a file without comments can contain them."""
    return [replace(item, note="", selector="" if item.is_wheel else item.selector) for item in found]


def expected(found: list[Item], platform: str) -> dict[tuple[bool, str], set[str]]:
    """Return the bounds of each package that the items request on a platform."""
    number = PLATFORMS.index(platform)
    names: dict[tuple[bool, str], set[str]] = {}
    for item in (item for item in found if item.applies(number)):
        names.setdefault((item.is_wheel, item.name), set()).update(filter(None, item.bound.split(",")))
    return names


assert all(Marker(marker) for marker in MARKERS if marker)
