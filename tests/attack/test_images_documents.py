"""The JSON documents of an image, used as a weapon: of any size, with keys of any type (C16, C17)."""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import registry, shop
from tests.archives import member, packed
from tests.attack.layouts import edit, layout_of, oci_config, point_to, read, write
from tests.attack.trap import Trap
from tests.lab import image, to_yaml

MIB = 1 << 20
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e400,
    "",
    "x",
    "../../x",
    [],
    {},
    [None],
    {"a": None},
    "\x1b[31m",
    "9" * 5000,
)


@pytest.mark.parametrize("which", ["index", "manifest", "config", "saved"])
def test_c16_a_huge_document_is_refused_without_being_held_in_memory(trap: Trap, which: str) -> None:
    """200 MiB of JSON that could be parsed."""
    huge = b'{"schemaVersion": 2, "x": "' + b"x" * (200 * MIB) + b'"}'
    layout = layout_of(trap)
    source: dict[str, Any] = {"oci": {"layout": str(layout)}}
    if which == "index":
        (layout / "index.json").write_bytes(huge)
    elif which == "saved":
        info, data = member("manifest.json", huge)
        (trap.folder / "saved").write_bytes(packed((info, data)))
        source = {"oci": {"archive": str(trap.folder / "saved")}}
    elif which == "manifest":
        point_to(layout, huge)
    else:
        descriptor = registry.blob(layout, huge, oci_config())
        edit(layout, "manifest", lambda manifest: manifest.update(config=descriptor))
    done = subprocess.run(
        ["prlimit", f"--data={180 * MIB}", *trap.lab.vsprov.command("apply", "-y", "-")],
        env=trap.lab.vsprov.environment, input=to_yaml(image("bad", **source)), text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 1 and "Image/bad: " in done.stderr, done.stderr
    assert "MiB" in done.stderr or "bytes" in done.stderr
    trap.nothing_left()


@pytest.mark.parametrize("which", ["index", "manifest", "config"])
def test_c17_whatever_a_key_of_a_document_is_it_ends_in_one_line(trap: Trap, which: str) -> None:
    """Each key removed, and given another type, in an image of its own; all of them in one apply."""
    images: dict[str, Path] = {}
    good = layout_of(trap, packed(member("x", b"x")), config={**shop.CONFIG, "Labels": {"a": "b"}})
    for number, changed in enumerate(_variants(read(good, which))):
        layout = trap.folder / f"odd{number}"
        subprocess.run(["cp", "-r", good, layout], check=True)
        write(layout, which, changed)
        images[f"odd-{number}"] = layout
    done = trap.lab.apply(
        *(image(name, oci={"layout": str(path)}) for name, path in images.items()), check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr.replace("\n", "").isprintable()
    lines = [line for line in done.stderr.splitlines() if not line.startswith("  hint: ")]
    for line in lines:
        assert re.match(r"vsprov: (-:\d+:\d+: )?Image/odd-|Image/odd-|vsprov: \d+ of \d+ failed", line), line
    assert sum("internal" in line for line in lines) == 0
    trap.lab.vsprov("image", "prune", "--all", "-y")
    assert shop.layers(trap.lab) == []


def _variants(document: Any) -> Iterator[Any]:
    """The document with each key in turn removed, and replaced by each of ODD."""
    for path in _paths(document):
        for odd in ("removed", *ODD):
            changed = copy.deepcopy(document)
            here = changed
            for key in path[:-1]:
                here = here[key]
            if odd == "removed":
                del here[path[-1]]
            else:
                here[path[-1]] = odd
            yield changed
    yield from ODD


def _paths(document: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*here, key)
        if isinstance(value, dict | list):
            yield from _paths(value, (*here, key))
