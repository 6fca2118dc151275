"""Documents to objects: defaults, quotas, paths, and where each value comes from."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from vsprov.errors import Position, Problem
from vsprov.manifest.resolve import Item, resolve
from vsprov.manifest.syntax.text import parse
from vsprov.model.kinds.image import Image
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.sections.init import Init
from vsprov.model.kinds.server import Server


def items(text: str, file: str = "m.yaml") -> tuple[list[Item], list[Problem]]:
    documents, problems = parse(text, file)
    assert problems == []
    return resolve(documents)


def spec(item: Item) -> Any:
    assert item.object is not None
    return item.object.spec


def server(text: str, quota: str = "{}") -> tuple[Item, list[Problem]]:
    found, problems = items(f"""\
apiVersion: vsprov/v1
kind: Quota
metadata: {{name: q}}
spec: {quota}
---
apiVersion: vsprov/v1
kind: Server
metadata: {{name: web1}}
spec: {text}
""")
    return found[1], problems


COMMAND = "image: i, init: {command: [/bin/true]}"


def test_a_server_has_every_default() -> None:
    item, problems = server(f"{{{COMMAND}}}")
    assert problems == []
    assert spec(item) == Server(image="i", hostname="web1", resources={}, init=Init(command=("/bin/true",)))
    assert item.address == "Server/web1"


def test_a_quota_is_merged_knob_by_knob_and_the_server_wins() -> None:
    item, problems = server(
        f"{{{COMMAND}, quota: q, resources: {{memory: {{max: 2Mi}}, rlimits: {{nofile: {{soft: 5}}}}}}}}",
        "{memory: {max: 1Mi, high: 512Ki}, cpu: {weight: 7}, rlimits: {nofile: {soft: 1, hard: 9}}}",
    )
    assert problems == []
    assert spec(item).quota is None
    assert spec(item).resources == {
        "cpu.weight": 7,
        "memory.high": 512 * 1024,
        "memory.max": 2 * 1024**2,
        "rlimits.nofile": (5, 5),
    }


def test_a_pool_is_named_and_not_merged() -> None:
    item, problems = server(
        f"{{{COMMAND}, quota: q, resources: {{pids: {{max: 5}}}}}}", "{scope: pool, pids: {max: 9}}"
    )
    assert problems == []
    assert spec(item).quota == "q"
    assert spec(item).resources == {"pids.max": 5}


def test_resources_are_in_the_order_of_the_knobs_however_they_are_written() -> None:
    item, _ = server(
        f"{{{COMMAND}, quota: q, resources: {{pids: {{max: 1}}, cpu: {{weight: 1}}}}}}",
        "{memory: {max: 1Mi}}",
    )
    assert list(spec(item).resources) == ["cpu.weight", "memory.max", "pids.max"]


def test_mounts_are_sorted_so_that_parents_come_first() -> None:
    mounts = ", ".join(f"{{type: tmpfs, target: {path}}}" for path in ("/b/c", "/a-x", "/b", "/a/y", "/a"))
    item, _ = server(f"{{{COMMAND}, mounts: [{mounts}]}}")
    assert [mount.target for mount in spec(item).mounts] == ["/a", "/a-x", "/a/y", "/b", "/b/c"]


def test_a_mount_is_found_in_the_text_although_it_moved() -> None:
    item, _ = server(f"{{{COMMAND}, mounts: [{{type: tmpfs, target: /b}}, {{type: tmpfs, target: /a}}]}}")
    assert item.raw_path(("spec", "mounts", 0, "target")) == ("spec", "mounts", 1, "target")
    assert item.raw_path(("spec", "mounts", 7)) == ("spec", "mounts", 7)
    assert item.raw_path(("spec", "mounts")) == ("spec", "mounts")


def test_every_value_that_cannot_be_read_is_reported_with_its_place() -> None:
    text = """\
apiVersion: vsprov/v1
kind: Server
metadata: {name: a}
spec:
  image: i
  init: {command: [/bin/true], user: 70000, stopSignal: NO}
  resources:
    rlimits: {nofile: {soft: 9, hard: 1}}
    io: {devices: [{device: /dev/vda, readIops: 9999999999}]}
"""
    found, problems = items(text)
    assert [str(problem) for problem in problems] == [
        "m.yaml:8:15: Server/a: spec.resources.rlimits.nofile: soft 9 is above hard 1",
        "m.yaml:9:10: Server/a: spec.resources.io.devices: 9999999999 is not between 1 and 4294967294",
        "m.yaml:6:32: Server/a: spec.init.user: 70000: 70000 is above 65535, the highest ID of a server",
        "m.yaml:6:45: Server/a: spec.init.stopSignal: 'NO' is not a signal",
    ]
    assert found[0].object is not None
    assert not found[0].sound


@pytest.mark.parametrize(
    ("path", "text", "line"),
    [
        ("spec.image", "manifest", 9),
        ("spec.hostname", "default", None),
        ("spec.init.user", "default", None),
        ("spec.init.env.A", "manifest", 9),
        ("spec.resources.memory.max", "Quota/q", 4),
        ("spec.resources.memory.high", "default", None),
        ("spec.resources.pids.max", "manifest", 9),
        ("spec.resources.rlimits.nofile.soft", "manifest", 9),
        ("spec.resources.rlimits.nofile.hard", "manifest", 9),
        ("spec.resources.rlimits.core.soft", "Quota/q", 4),
    ],
)
def test_each_value_knows_where_it_comes_from(path: str, text: str, line: int | None) -> None:
    item, problems = server(
        "{image: i, quota: q, init: {command: [a], env: {A: b}}, "
        "resources: {pids: {max: 1}, rlimits: {nofile: {soft: 1}}}}",
        "{memory: {max: 1Mi}, pids: {max: 2}, rlimits: {nofile: {soft: 2, hard: 3}, core: 0}}",
    )
    assert problems == []
    origin = item.origin(tuple(path.split(".")))
    assert (origin.text, origin.position.line if origin.position else None) == (text, line)


def test_a_value_that_is_not_written_is_placed_at_what_is_around_it() -> None:
    item, _ = server(f"{{{COMMAND}}}")
    assert item.position(("spec", "init", "user")) == Position("m.yaml", 9, 18)
    assert item.position(("spec", "hostname")) == Position("m.yaml", 9, 1)


def test_paths_of_an_image_start_at_the_real_folder_of_its_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    text = """\
apiVersion: vsprov/v1
kind: Image
metadata: {name: a}
spec: {source: {tar: {path: ../x.tar}}}
---
apiVersion: vsprov/v1
kind: Image
metadata: {name: b}
spec: {source: {directory: /abs/./root}}
"""
    found, problems = items(text, str(tmp_path / "link" / "m.yaml"))
    assert problems == []
    first, second = (spec(item).source for item in found)
    assert first.tar.path == str(tmp_path / "real" / "x.tar")
    assert second.directory == "/abs/root"


def test_a_decimal_size_is_warned_about_with_its_bytes() -> None:
    item, problems = server(
        f"{{{COMMAND}, quota: q, resources: {{memory: {{high: 9k}}}}}}", "{memory: {max: 10M}}"
    )
    assert [(problem.severity, str(problem), problem.hint) for problem in problems] == [
        (
            "warning",
            "m.yaml:4:17: Quota/q: spec.memory.max: 10M is 10000000 bytes: M is a power of 1000",
            "write 10Mi for powers of 1024",
        )
    ]
    assert item.sound


@pytest.mark.parametrize(
    ("part", "sound"),
    [
        ("colour: red", False),  # it may be a misspelt `resources`
        ("resources: {memory: {max: no}}", False),
        ("resources: {memory: {mx: 1}}", False),
        ("mounts: [{type: tmpfs}]", True),
        ("security: {a: b}", True),
    ],
)
def test_after_a_problem_near_the_resources_an_item_is_not_sound(part: str, sound: bool) -> None:
    item, problems = server(f"{{{COMMAND}, {part}}}")
    assert len(problems) == 1
    assert item.sound is sound


def test_an_item_is_not_sound_when_its_quota_is_not() -> None:
    item, problems = server(f"{{{COMMAND}, quota: q}}", "{memory: {mx: 1}}")
    assert len(problems) == 1
    assert not item.sound


def test_documents_that_cannot_be_read_keep_their_place_and_their_name() -> None:
    found, problems = items("""\
- 1
---
apiVersion: vsprov/v1
kind: Server
metadata: {name: a}
---
apiVersion: vsprov/v1
kind: Quota
metadata: {name: a}
spec: {}
---
apiVersion: vsprov/v1
kind: Quota
metadata: {name: a}
spec: {}
""")
    assert [(item.address, item.object is None) for item in found] == [
        ("", True),
        ("Server/a", True),
        ("Quota/a", False),
        ("Quota/a", False),
    ]
    assert len(problems) == 2


def test_kinds_have_specs_of_their_own() -> None:
    found, _ = items("""\
apiVersion: vsprov/v1
kind: Image
metadata: {name: a, labels: {x: y}, annotations: {note: z}}
spec: {source: {host: {}}}
---
apiVersion: vsprov/v1
kind: Quota
metadata: {name: a}
spec: {scope: pool, cpu: {limit: 2}}
""")
    image, quota = found
    assert isinstance(spec(image), Image)
    assert (
        image.object is not None
        and image.object.labels == {"x": "y"}
        and image.object.annotations == {"note": "z"}
    )
    assert spec(quota) == Quota(scope="pool", resources={"cpu.limit": 2000})
