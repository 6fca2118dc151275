"""Servers of the tests' own on loopback, and proxies to a registry."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def answering(answer: Callable[[Request], Answer], tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """An http server on loopback whose answers are those of a function; its 127.0.0.1:port.

    `tls`: certificate and key, for https.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given = answer(Request(self.command, self.path, dict(self.headers), body))
            self.send_response(given.status)
            for name, value in {"Content-Length": str(len(given.body)), **given.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who asked may have heard enough
                self.wfile.write(given.body)

        do_POST = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: Any) -> None:
            """A client that speaks TLS, or leaves in the middle, is none of the tests' business."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(slots=True)
class Proxy:
    """Passes bytes on to a registry; after `limit` bytes of answers ends a connection, or falls silent."""

    host: str
    limit: int
    ranges: list[str] = field(default_factory=list)  # of the blobs asked for; "" for all of one


@contextlib.contextmanager
def cutting(upstream: str, limit: int, *, silent: bool = False, port: int = 0) -> Iterator[Proxy]:
    listener = socket.create_server(("127.0.0.1", port))
    proxy = Proxy(f"127.0.0.1:{listener.getsockname()[1]}", limit)
    threads = []
    streams: list[socket.socket] = []
    over = threading.Event()

    def serve(client: socket.socket) -> None:
        address, _, port = upstream.partition(":")
        server = socket.create_connection((address, int(port)))
        streams.extend((client, server))
        back = threading.Thread(target=answers, args=(server, client))
        back.start()
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                for blob_request in re.findall(rb"GET \S+/blobs/.*?\r\n\r\n", data, re.DOTALL):
                    wanted = re.search(rb"Range: bytes=(\S+)", blob_request)
                    proxy.ranges.append(wanted[1].decode() if wanted else "")
                server.sendall(data)
        _end(server)
        back.join()
        server.close()
        client.close()

    def answers(server: socket.socket, client: socket.socket) -> None:
        left = proxy.limit
        with contextlib.suppress(OSError):
            while left and (data := server.recv(min(left, 1 << 16))):
                client.sendall(data)
                left -= len(data)
        if silent and not left:
            over.wait()
        _end(client)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(client,), daemon=True))
                threads[-1].start()

    main = threading.Thread(target=accept, daemon=True)
    main.start()
    try:
        yield proxy
    finally:
        over.set()
        _end(listener)
        listener.close()
        main.join()
        for stream in streams:  # a client that was cancelled may not have read all
            _end(stream)
        for thread in threads:
            thread.join()


def _end(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)
