"""A registry of a stranger: where it leads to, what it never ends, and what it says of itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import registry, shop
from tests.attack.trap import Trap
from tests.http_servers import Answer, Request, answering
from tests.lab import image, to_yaml, wait_until
from tests.shop import busybox_layer
from vsprov.errors import ImageError
from vsprov.model.values.image_reference import parse_reference
from vsprov.store.registry import session
from vsprov.store.registry.parts import RegistryParts

MIB = 1 << 20


def answers(layout: Path, top: str, **others: Answer) -> dict[str, Answer]:
    """{the last part of a path: the answer} of an honest registry with one image, but for `others`."""
    blobs = {
        f"sha256:{path.name}": Answer(200, path.read_bytes()) for path in (layout / "blobs/sha256").iterdir()
    }
    return {**blobs, "latest": blobs[top], "v2": Answer(200, b"{}"), **others}


@contextlib.contextmanager
def serving(given: dict[str, Answer]) -> Iterator[str]:
    def answer(request: Request) -> Answer:
        return given.get(request.path.rstrip("/").rpartition("/")[2], Answer(404))

    with answering(answer) as host:
        yield host


def made(trap: Trap) -> tuple[Path, str, str]:
    """(layout, digest of the image, digest of its only layer)."""
    layout = trap.folder / "layout"
    found = registry.image(layout, busybox_layer())
    layer = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    return layout, found["digest"], f"sha256:{layer.name}"


def refused(trap: Trap, host: str) -> str:
    return trap.refused({"oci": {"ref": f"{host}/app:latest"}})


@pytest.mark.parametrize("which", ["latest", "layer"])
@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:1/x", "http://[::1", "//", "\\x"],
)
def test_a_redirect_leads_to_nothing_but_http(trap: Trap, which: str, target: str) -> None:
    layout, top, layer = made(trap)
    given = answers(layout, top)
    given[layer if which == "layer" else which] = Answer(307, headers={"Location": target})
    with serving(given) as host:
        assert f"{host}/app:latest" in refused(trap, host)


def test_what_a_redirect_leads_to_is_shown_to_nobody(trap: Trap) -> None:
    """As where a cloud keeps the credentials of a machine: what answers is not the blob that is wanted."""
    layout, top, layer = made(trap)
    secret = "AKIA-the-secret-of-this-machine"
    with answering(lambda request: Answer(200, secret.encode())) as inside:
        given = answers(layout, top)
        for which in ("latest", layer):
            elsewhere = Answer(302, headers={"Location": f"http://{inside}/latest/meta-data"})
            with serving({**given, which: elsewhere}) as host:
                assert secret not in refused(trap, host)
    trap.lab.vsprov("image", "prune")
    assert shop.downloads(trap.lab) == {}


def test_a_redirect_in_circles_ends(trap: Trap) -> None:
    layout, top, _ = made(trap)
    with serving({**answers(layout, top), "latest": Answer(302, headers={"Location": "latest"})}) as host:
        assert host in refused(trap, host)


def test_a_document_without_end_is_not_read_to_it(trap: Trap) -> None:
    layout, top, _ = made(trap)
    with serving({**answers(layout, top), "latest": Answer(200, b"[" * (64 * MIB))}) as host:
        assert f"{host}/app:latest" in refused(trap, host)


def test_indexes_that_lead_to_each_other_or_to_nothing_end(trap: Trap) -> None:
    layout = trap.folder / "layout"
    inner = registry.image(layout, busybox_layer())
    for _ in range(10):
        inner = registry.index(layout, inner)
    with serving(answers(layout, inner["digest"])) as host:
        assert "indexes are nested too deep" in refused(trap, host)


@pytest.mark.parametrize("size", [0, 1, 10**9, 1 << 62])
def test_a_layer_of_another_size_than_it_says_is_refused(trap: Trap, size: int) -> None:
    layout, top, _ = made(trap)
    manifest = json.loads((layout / "blobs/sha256" / top.removeprefix("sha256:")).read_text())
    manifest["layers"][0]["size"] = size
    data = json.dumps(manifest).encode()
    given = {**answers(layout, top), "latest": Answer(200, data)}
    given[f"sha256:{hashlib.sha256(data).hexdigest()}"] = Answer(200, data)
    with serving(given) as host:
        refused_with = trap.lab.apply(image("bad", oci={"ref": f"{host}/app:latest"}), check=False)
    assert refused_with.returncode == 1 and "Image/bad" in refused_with.stderr
    assert shop.layers(trap.lab) == []
    assert sum(shop.downloads(trap.lab).values()) <= 4 * MIB


@pytest.mark.parametrize(
    "challenge",
    [
        "Bearer",
        'Bearer realm="file:///etc/passwd"',
        'Bearer realm="http://127.0.0.1:1/x"',
        "Basic",
        "\x07",
        "Negotiate",
        f'Bearer realm="{"x" * 60_000}"',
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_a_registry_that_asks_for_a_login_of_its_own_kind_gets_none(trap: Trap, challenge: str) -> None:
    with answering(lambda request: Answer(401, headers={"Www-Authenticate": challenge})) as host:
        assert len(refused(trap, host)) < 1000


def test_what_a_registry_says_of_its_tags_is_shown_as_text(trap: Trap) -> None:
    layout, top, _ = made(trap)
    tags = json.dumps({"name": "app", "tags": ["\x1b[2J", "a\nvsprov: all is well", "x" * 100_000]}).encode()
    given = {**answers(layout, top, list=Answer(200, tags)), "latest": Answer(404)}
    with serving(given) as host:
        said = refused(trap, host)
    assert "has no tag latest" in said and len(said) < 2000


# -- who gives a byte now and then


@contextlib.contextmanager
def dripping(head: bytes) -> Iterator[str]:
    """A server that answers everything with `head`, and then a byte ten times a second for ever."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def drip(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(65536)
            client.sendall(head)
            while not over.wait(0.1):
                client.sendall(b" ")

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=drip, args=(listener.accept()[0],)))
                threads[-1].start()

    listener = socket.create_server(("127.0.0.1", 0))
    threads.append(threading.Thread(target=accept, args=(listener,)))
    threads[0].start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 99990\r\nConnection: close\r\n\r\n"


def test_a_document_that_drips_has_a_limit_of_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    registry.nobody(monkeypatch, tmp_path)
    monkeypatch.setattr(session, "DOCUMENT_TIMEOUT", 0.5)
    with dripping(HEAD) as host, pytest.raises(ImageError) as refusal:
        RegistryParts(parse_reference(f"{host}/app:latest"), str(tmp_path)).find()
    assert "for one document" in str(refusal.value)


def test_the_body_of_a_redirect_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    registry.nobody(monkeypatch, tmp_path)
    with answering(lambda request: Answer(200, b"{}")) as elsewhere:
        head = f"HTTP/1.1 307 X\r\nLocation: http://{elsewhere}/v2/\r\nContent-Length: 9999\r\n\r\n".encode()
        with dripping(head) as host, pytest.raises(ImageError, match="schemaVersion"):
            RegistryParts(parse_reference(f"{host}/app:latest"), str(tmp_path)).find()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_plan_that_waits_for_a_document_can_be_ended(trap: Trap, number: int) -> None:
    with dripping(HEAD) as host:
        running = subprocess.Popen(
            trap.lab.vsprov.command("plan", "-"), env=trap.lab.vsprov.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert running.stdin is not None
        running.stdin.write(to_yaml(image("bad", oci={"ref": f"{host}/app:latest"})))
        running.stdin.flush()
        running.stdin.close()
        port = int(host.partition(":")[2])
        wait_until(lambda: f":{port:04X}" in _established(running.pid))
        running.send_signal(number)
        assert running.wait(15) == 128 + number
        assert running.stdout is not None
        assert "Traceback" not in running.stdout.read()
        running.stdout.close()


def _established(pid: int) -> str:
    """The remote addresses of connections; proc_net(5), state 01."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return " ".join(line.split()[2] for line in lines if line.split()[3] == "01")
