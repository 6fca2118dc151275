"""A proxy on loopback that fetches a package or an index once, however many installations a run makes.

`python -m tests.apt_cache FOLDER` says its port and serves until its standard input ends. All such processes
of a run share the folder. What a mirror refuses is passed on and not kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECONDS = 60.0  # without a byte from the mirror


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = Path()

    def do_GET(self) -> None:
        kept = self.folder / hashlib.sha256(self.path.encode()).hexdigest()
        try:
            with open(f"{kept}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not kept.exists():
                    self.fetch(kept)
        except urllib.error.HTTPError as error:
            with error:
                return self.answer(error.code, error.read())
        except OSError as error:
            return self.answer(502, str(error).encode())
        self.answer(200, kept.read_bytes())

    def fetch(self, kept: Path) -> None:
        part = kept.with_suffix(".part")
        with urllib.request.urlopen(self.path, timeout=SECONDS) as found, open(part, "wb") as file:
            shutil.copyfileobj(found, file)
        part.rename(kept)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # an installation that was ended
            self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which apt and debootstrap fetch through the cache in `folder`."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.apt_cache", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    ) as process:
        assert process.stdin and process.stdout
        with process.stdin:
            address = f"http://127.0.0.1:{int(process.stdout.readline())}/"
            yield {"http_proxy": address, "no_proxy": "127.0.0.1"}


def main(folder: str) -> None:
    Proxy.folder = Path(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
