"""Archives that no vsprov has exported: each is refused as a whole, and leaves nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.archives import folder, hard, link, member
from tests.e2e.verbs import HOST
from tests.features import requires
from tests.instance import own_instance
from tests.lab import Document, Lab, image, mounted, server, to_yaml, volume
from vsprov.engine.apply.report import Silent
from vsprov.engine.transfer import importing
from vsprov.engine.transfer.package import Choice
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError, ManifestError
from vsprov.store.instance import Instance

Member = tuple[tarfile.TarInfo, bytes]
DIGEST = "sha256:" + "5" * 64
HEADER, MANIFEST, SUMS = "vsprov-export.json", "manifest.yaml", "SHA256SUMS"


@pytest.fixture(scope="module")
def place() -> Iterator[Lab]:
    """An instance with an image and a server, which must stay as they are."""
    with own_instance() as instance:
        lab = Lab(instance)
        lab.apply(HOST, server("web1"))
        yield lab


def tar_of(*members: Member) -> bytes:
    """The members as a part of a tar archive, without its end."""
    out = io.BytesIO()
    for info, data in members:
        out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        out.write(data + bytes(-len(data) % 512))
    return out.getvalue()


def archive(
    *parts: tuple[str, list[Member]],
    header: dict[str, Any] | None = None,
    documents: str | None = None,
    sums: str | None = None,
    end: bytes = bytes(1024),
) -> bytes:
    """An export whose checksums are right, unless others are given."""
    sizes = [
        {
            "path": name,
            "files": len(members),
            "bytes": sum(len(data) for _, data in members),
            "diskBytes": 0,
        }
        for name, members in parts
    ]
    head = {
        "format": 1, "server": "evil", "createdAt": 1, "image": DIGEST, "machineId": "", "parts": sizes,
        "snapshots": [], **(header or {}),
    }  # fmt: skip
    if documents is None:
        mounts = [mounted(name.partition("/")[2]) for name, _ in parts if name.startswith("volumes/")]
        volumes = [volume(one["source"]) for one in mounts]
        documents = to_yaml(HOST, *volumes, server("evil", mounts=mounts))
    texts = [
        (HEADER, tar_of(member(HEADER, json.dumps(head).encode()))),
        (MANIFEST, tar_of(member(MANIFEST, documents.encode()))),
        *((name, tar_of(*members)) for name, members in parts),
    ]
    found = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in texts)
    last = tar_of(member(SUMS, (found if sums is None else sums).encode()))
    return zstandard.compress(b"".join(data for _, data in texts) + last + end)


def upper(*members: Member) -> tuple[str, list[Member]]:
    return "upper", [folder("upper"), *members]


def data(*members: Member) -> tuple[str, list[Member]]:
    return "volumes/data", [folder("volumes/data"), *members]


def announced(files: int, size: int, on_disk: int) -> dict[str, Any]:
    return {"parts": [{"path": "upper", "files": files, "bytes": size, "diskBytes": on_disk}]}


def device(name: str, kind: bytes, major: int, minor: int) -> Member:
    return member(name, type=kind, devmajor=major, devminor=minor)


def attribute(name: str, key: str, value: str) -> Member:
    return folder(name, pax_headers={f"SCHILY.xattr.{key}": value})


HOSTILE: dict[str, tuple[bytes, str]] = {
    "up": (archive(upper(member("upper/../../../escaped"))), "leads out of the archive"),
    "absolute": (archive(upper(member("/escaped"))), "in the place of SHA256SUMS"),
    "other part": (archive(upper(member("elsewhere/file"))), "in the place of SHA256SUMS"),
    "behind a link": (
        archive(upper(link("upper/way", "/"), member("upper/way/escaped"))),
        "lies behind a symbolic link",
    ),
    "behind a link to another part": (
        archive(upper(link("upper/way", "../volumes/data")), data(member("upper/way/x"))),
        "in the place of",
    ),
    "hard link to another part": (
        archive(upper(member("upper/a", b"x")), data(hard("volumes/data/a", "upper/a"))),
        "which is in another part",
    ),
    "hard link out": (archive(upper(hard("upper/a", "../../etc/shadow"))), "leads out of the archive"),
    "hard link behind a link": (
        archive(upper(link("upper/way", "/"), hard("upper/a", "upper/way/b"))),
        "lies behind a symbolic link",
    ),
    "block device": (archive(upper(device("upper/sda", tarfile.BLKTYPE, 8, 0))), "is a block device"),
    "character device": (archive(upper(device("upper/mem", tarfile.CHRTYPE, 1, 1))), "is a character device"),
    "owner": (archive(upper(member("upper/a", uid=65536))), "belongs to 65536:0"),
    "owner of a FIFO": (
        archive(upper(member("upper/a", type=tarfile.FIFOTYPE, gid=70000))),
        "belongs to 0:70000",
    ),
    "attribute of overlay": (
        archive(upper(attribute("upper/a", "trusted.overlay.redirect", "/etc"))),
        "no server can set",
    ),
    "mark": (archive(upper(attribute("upper/a", "trusted.vsprov.owner", "x/y"))), "no server can set"),
    "opaque": (archive(upper(attribute("upper/a", "trusted.overlay.opaque", "x"))), "is not allowed here"),
    "more files": (
        archive(upper(member("upper/a")), header=announced(1, 0, 0)),
        "more than the 1 files that it announces",
    ),
    "more bytes": (
        archive(upper(member("upper/a", b"12")), header=announced(9, 1, 0)),
        "exceeds the 1 bytes that it announces",
    ),
    "bomb": (archive(upper(), header=announced(1, 1 << 40, 0)), "at most 64.0Gi are allowed"),
    "no room": (archive(upper(), header=announced(1, 0, 1 << 60)), "are free in"),
    "deep": (archive(upper(member("upper/" + "d/" * 400 + "a"))), "lies too deep"),
    "part twice": (archive(upper(), upper()), "parts are not those of a server"),
    "part of a path": (
        archive(("volumes/../x", [folder("volumes/../x")])),
        "parts are not those of a server",
    ),
    "no upper": (archive(), "parts are not those of a server"),
    "newer": (archive(upper(), header={"format": 2}), "was written by a newer vsprov"),
    "name": (archive(upper(), header={"server": "../x"}), "server is not a name"),
    "digest": (archive(upper(), header={"image": "sha256:../../x"}), "expected a digest"),
    "machine ID": (archive(upper(), header={"machineId": "x\ny"}), "machineId is not one"),
    "number": (archive(upper(), header={"createdAt": -1}), "createdAt is not a number"),
    "time": (archive(upper(), header={"createdAt": 1 << 40}), "createdAt is not a number"),
    "time of a snapshot": (
        archive(
            upper(),
            ("snapshots/s/upper", [folder("snapshots/s/upper")]),
            header={"snapshots": [{"name": "s", "createdAt": 1 << 62, "image": DIGEST, "volumes": []}]},
        ),
        "createdAt is not a number",
    ),
    "header": (archive(upper(), header={"parts": "x"}), "not an exported server"),
    "no checksums": (archive(upper(), sums=""), "wrong checksum"),
    "wrong checksum": (archive(upper(), sums="0" * 64 + "  upper\n"), "wrong checksum of"),
    "more after the end": (
        archive(upper(), end=tar_of(member("upper/late")) + bytes(1024)),
        "continues after SHA256SUMS",
    ),
    "no end": (archive(upper(), end=b""), "the end of the archive is missing"),
    "no server": (archive(upper(), documents=to_yaml(HOST)), "manifest.yaml has no Server/evil"),
    "more objects": (
        archive(upper(), documents=to_yaml(HOST, server("evil"), server("more"))),
        "Server/more: the server does not refer to it",
    ),
    "other volumes": (
        archive(upper(), data(), documents=to_yaml(HOST, server("evil"))),
        "its volumes are not those of the server",
    ),
    "manifest": (archive(upper(), documents="kind: [\n"), "manifest.yaml"),
    "unknown key": (archive(upper(), documents=to_yaml(HOST, server("evil", rootkit=True))), "unknown key"),
    "files of the host": (
        archive(
            upper(), documents=to_yaml(image("rooted", directory="/root"), server("evil", image="rooted"))
        ),
        "spec.source.directory: is read",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(place: Lab, tmp_path: Path, name: str) -> None:
    data, message = HOSTILE[name]
    (tmp_path / "evil").write_bytes(data)
    before = tree(place)
    words = () if name == "files of the host" else ("--image", "host")
    done = place.vsprov("import", tmp_path / "evil", *words, check=False)
    assert done.returncode in (1, 65) and message in done.stderr, done.stderr
    assert tree(place) == before and os.listdir(tmp_path) == ["evil"]
    assert not os.path.lexists("/escaped")


def test_what_is_right_in_the_same_way_is_imported(place: Lab, tmp_path: Path) -> None:
    """So that the others are refused for what they say, and for nothing else."""
    digest = json.loads(place.vsprov("get", "image", "host", "-o", "json").stdout)["status"]["digest"]
    members = [folder("upper/d"), member("upper/d/a", b"x", uid=65535), hard("upper/b", "upper/d/a")]
    members += [device("upper/gone", tarfile.CHRTYPE, 0, 0), member("upper/pipe", type=tarfile.FIFOTYPE)]
    members += [link("upper/way", "/etc"), attribute("upper/hides", "trusted.overlay.opaque", "y")]
    (tmp_path / "good").write_bytes(archive(upper(*members), header={"image": digest}))
    place.vsprov("import", tmp_path / "good")
    found = place.directory("evil") / "upper"
    assert sorted(os.listdir(found)) == ["b", "d", "gone", "hides", "pipe", "way"]
    assert os.getxattr(found / "hides", "trusted.overlay.opaque") == b"y"
    gone = (found / "gone").lstat()
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    place.vsprov("delete", "server", "evil", "-y")


def network(name: str, **spec: Any) -> Document:
    return {"apiVersion": "vsprov/v1", "kind": "Network", "metadata": {"name": name}, "spec": spec}


OPEN = {"type": "bridge", "subnets": ["10.213.7.0/24"], "hostAccess": True}


def test_volumes_and_networks_of_the_host_need_trust_whether_the_archive_mentions_them_or_not(
    lab: Lab, tmp_path: Path
) -> None:
    requires("nft", "bridge")
    lab.apply(HOST, volume("secret"), network("shared", type="host"), network("open", **OPEN))
    digest = json.loads(lab.vsprov("get", "image", "host", "-o", "json").stdout)["status"]["digest"]
    closed = network("shared", type="bridge", subnets=["10.213.8.0/24"])
    new = network("new", **{**OPEN, "subnets": ["10.213.9.0/24"]})

    def refused(spec: dict[str, Any], *documents: Document) -> str:
        text = to_yaml(HOST, server("evil", **spec), *documents)
        (tmp_path / "evil").write_bytes(archive(upper(), header={"image": digest}, documents=text))
        before = tree(lab)
        done = lab.vsprov("import", tmp_path / "evil", check=False)
        assert done.returncode == 1 and "--trust" in done.stderr and tree(lab) == before, done.stderr
        return done.stderr

    mounts = [mounted("secret", readOnly=True)]
    assert "spec.mounts[0]: volume secret of the host (read-only)" in refused({"mounts": mounts})
    assert "of the host (read-only)" in refused({"mounts": mounts}, volume("secret"))
    for found in ((), (closed,)):
        said = refused({"interfaces": [{"name": "eth0", "network": "shared"}]}, *found)
        assert "Network/shared: spec.type: host: a link of the host" in said
    for name, found in (("open", ()), ("new", (new,))):
        said = refused({"interfaces": [{"name": "eth0", "network": name}]}, *found)
        assert f"Network/{name}: spec.hostAccess: all services of the host" in said


@pytest.mark.parametrize("old", [["data", "logs"], ["data"]], ids=["of the server", "of a snapshot"])
def test_two_volumes_of_an_archive_do_not_become_one(place: Lab, tmp_path: Path, old: list[str]) -> None:
    parts = [(f"volumes/{name}", [folder(f"volumes/{name}"), member(f"volumes/{name}/f")]) for name in old]
    paths = ["upper", "volumes/data", "volumes/logs"]
    kept = [(f"snapshots/s/{path}", [folder(f"snapshots/s/{path}")]) for path in paths]
    snapshot = {"name": "s", "createdAt": 1, "image": DIGEST, "volumes": ["data", "logs"]}
    mounts = [mounted(name, f"/{name}") for name in old]
    text = to_yaml(HOST, *map(volume, old), server("evil", mounts=mounts))
    made = archive(upper(), *parts, *kept, header={"snapshots": [snapshot]}, documents=text)
    (tmp_path / "evil").write_bytes(made)
    before = tree(place)
    done = place.vsprov("import", tmp_path / "evil", "--volume", "data=logs", check=False)
    assert done.returncode == 64 and "two volumes would have the same name" in done.stderr, done.stderr
    assert tree(place) == before


@pytest.mark.parametrize("bits", [range(0, 400, 7), range(400, 100_000, 997)], ids=["start", "rest"])
def test_an_archive_with_a_flipped_bit_or_without_its_end_is_refused(
    place: Lab, tmp_path: Path, bits: range
) -> None:
    """Few bits of a zstd frame mean nothing, or nothing for these data."""
    digest = json.loads(place.vsprov("get", "image", "host", "-o", "json").stdout)["status"]["digest"]
    noise = random.Random(3).randbytes(3000)
    whole = archive(upper(member("upper/a", noise)), header={"image": digest})
    same = 0
    with own_instance() as instance:
        for bit in (each for each in bits if each < len(whole) * 8):
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << bit % 8
            if is_imported(instance, tmp_path, bytes(broken)):
                same += 1
                assert (instance.root / "servers/evil/upper/a").read_bytes() == noise
                instance("destroy", "--all", "-y")
        for end in range(0, len(whole), 61):
            assert not is_imported(instance, tmp_path, whole[:end])
        assert not instance.root.exists() and same <= 3


def is_imported(instance: Any, folder_: Path, text: bytes) -> bool:
    (folder_ / "broken").write_bytes(text)
    with open(folder_ / "broken", "rb") as file:
        where = Instance(instance.name, str(instance.root))
        try:
            importing.import_server(where, file.fileno(), "it", "default", Choice(), Silent(), WorkOptions())
        except (FailedError, ManifestError):
            return False
        return True


def tree(lab: Lab) -> list[str]:
    found: list[str] = []
    for folder_, names, files in os.walk(lab.vsprov.root):
        found += [f"{folder_}/{name}" for name in (*names, *files) if not name.startswith("console")]
    return sorted(found)
