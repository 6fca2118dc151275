"""What the kernel counts or keeps for each user of the host: a server has a user of its own for all of it."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.attack.conftest import Field
from tests.kernel.guests import Workshop, bind, open_workshop
from tests.kernel.houses import House
from tests.kernel.layers import disk
from tests.lab import Lab, image, server, wait_until

both = pytest.mark.parametrize("name", ["weak", "strong"])
libc = ctypes.CDLL(None, use_errno=True)

KEYCTL, ADD_KEY = {"x86_64": (250, 248), "aarch64": (219, 217)}[os.uname().machine]
GET_KEYRING_ID, UNLINK, SEARCH, SESSION = 0, 9, 10, -3
# Says which session keyring it has, and whether a key can be found in it; then adds one of that name.
SEEK = f"""
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    got = libc.syscall(*words)
    return got if got >= 0 else errno.errorcode[ctypes.get_errno()]
print(call({KEYCTL}, {GET_KEYRING_ID}, {SESSION}, 0), call({KEYCTL}, {SEARCH}, {SESSION}, b"user", NAME, 0))
print(call({ADD_KEY}, b"user", NAME, b"planted", 7, {SESSION}) != 0)
"""


@contextmanager
def key_of_host() -> Iterator[str]:
    """A key in the session keyring of this process, which every command that it starts has, too."""
    name = f"vt-{secrets.token_hex(8)}"
    key = libc.syscall(ADD_KEY, b"user", name.encode(), b"secret", 6, SESSION)
    assert key > 0, os.strerror(ctypes.get_errno())
    try:
        yield name
    finally:
        libc.syscall(KEYCTL, UNLINK, key, SESSION)


def find_key(name: str) -> int:
    """The key of this name in our session keyring; minus the errno if there is none."""
    found = libc.syscall(KEYCTL, SEARCH, SESSION, b"user", name.encode(), 0)
    return int(found) if found >= 0 else -ctypes.get_errno()


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    with open_workshop() as made:
        yield made


PYTHON = shutil.which("python3", path="/usr/bin")
SYSTEM = [
    bind(Path(path), path, read_only=True) for path in ("/usr", "/lib", "/lib64") if os.path.exists(path)
]


def test_no_server_and_no_command_has_the_session_keyring_of_the_caller(workshop: Workshop) -> None:
    """The filter is left out here: it hides the keys from most programs, but keyrings must be apart too."""
    assert PYTHON
    ours = libc.syscall(KEYCTL, GET_KEYRING_ID, SESSION, 0)
    with key_of_host() as name:
        key = find_key(name)
        assert key > 0
        script = SEEK.replace("NAME", repr(name.encode()))
        found = []
        for _ in range(2):
            event = workshop.end(workshop.request(PYTHON, "-c", script, mounts=SYSTEM))
            assert event.get("code") == 0, workshop.output()
            found.append(workshop.output().split())
        request = workshop.request("sleep", "1000", mounts=SYSTEM)
        house = House(workshop, workshop.run(request), request)
        for _ in range(2):
            done = house.run(PYTHON, "-c", script)
            assert (done.returncode, done.stderr) == (0, "")
            found.append(done.stdout.split())
        assert [answer for _, answer, _ in found] == ["ENOKEY"] * 4
        assert [added for _, _, added in found] == ["True"] * 4  # nor does one find what another added
        assert len({keyring for keyring, _, _ in found} | {str(ours)}) == 5
        assert find_key(name) == key
        assert find_key(name + "x") == -errno.ENOKEY


HOARD = """
import ctypes, json, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
count, flags = {}, 0
def take(name, make):
    count[name] = 0
    while make() >= 0:
        count[name] += 1
# 0x200: FAN_REPORT_FID, which an unprivileged user needs.
take("inotify", lambda: libc.inotify_init1(0))
take("fanotify", lambda: libc.syscall(300 if os.uname().machine == "x86_64" else 262, 0x200, 0))
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
take("signals", lambda: libc.sigqueue(os.getpid(), 40, None))
attributes = (ctypes.c_long * 8)(0, 10, 8192)
number = iter(range(1000))
take("queues", lambda: libc.mq_open(b"/q%d" % next(number), os.O_CREAT | os.O_RDWR, 0o600, attributes))
print(json.dumps(count), flush=True)
time.sleep(1e6)
"""


def counts(lab: Lab, name: str) -> dict[str, int]:
    wait_until(lambda: lab.console(name).endswith("\n"))
    found: dict[str, int] = json.loads(lab.console(name))
    return found


def test_what_is_counted_for_each_user_is_not_counted_for_root_of_the_host(lab: Lab) -> None:
    """Three servers take all they can get, each as much as the first; the host has what it had."""
    limit = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    before = int(next(line.split()[1] for line in status_of_queued("self")))
    limits = {"rlimits": {"sigpending": 100, "nofile": 4096}}
    hoard = ("/usr/bin/env", "python3", "-c", HOARD)
    lab.apply(image(), *(server(name, *hoard, resources=limits) for name in ("a", "b", "c")))
    first = counts(lab, "a")
    assert first["inotify"] == limit
    assert first["signals"] == 100
    assert first["queues"] > 0
    assert counts(lab, "b") == counts(lab, "c") == first
    made = [libc.inotify_init1(os.O_CLOEXEC) for _ in range(8)]
    try:
        assert min(made) >= 0
    finally:
        for fd in made:
            os.close(fd)
    assert int(next(line.split()[1] for line in status_of_queued("self"))) - before < 100
    # A command in a full server finds what belongs to its own user used up.
    script = "import ctypes; print(ctypes.CDLL(None).inotify_init1(0))"
    assert lab.run("a", "python3", "-c", script).stdout == "-1\n"


def status_of_queued(process: str) -> list[str]:
    """The line of /proc/PID/status with the signals queued for the user: "SigQ: QUEUED/LIMIT"."""
    lines = Path(f"/proc/{process}/status").read_text().replace("/", " ").splitlines()
    return [line for line in lines if line.startswith("SigQ:")]


@pytest.mark.requires("ext4", "loop", "mkfs_ext4")
def test_the_blocks_that_ext4_reserves_for_root_are_not_a_servers(workshop: Workshop) -> None:
    size = 32 << 20
    with disk("ext4", workshop.folder / "disk", size, "-m", "20", "-b", "4096") as point:
        request = workshop.request(
            "sh", "-c", "rm /etc/group; dd if=/dev/zero of=/fill bs=64k; stat -c %s /fill"
        )
        for part in ("upper", "work"):
            (point / part).mkdir()
            base = request["id_map"]["base"]
            os.chown(point / part, base, base)
            request["root"][part] = str(point / part)
        assert workshop.end(request) == {"event": "exited", "id": 1, "code": 0}
        assert "No space left on device" in workshop.output()
        status = os.statvfs(point)
        assert status.f_bavail < 16  # fewer blocks than one write of dd takes
        assert status.f_bfree * status.f_frsize >= size // 5
        (point / "of root").write_bytes(bytes(1 << 20))  # the host can still write
        assert (point / "of root").stat().st_blocks == 2048
        assert os.stat(point / "upper/etc/group").st_rdev == 0  # a whiteout
        assert (point / "upper/fill").stat().st_uid == base


CALL = """
import ctypes, errno, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    got = libc.syscall(*words)
    print(got if got >= 0 else errno.errorcode[ctypes.get_errno()])
"""


@both
@pytest.mark.parametrize("lease", [0, 1])  # F_RDLCK, F_WRLCK
def test_no_lease_is_taken_on_a_file_of_the_host(field: Field, name: str, lease: int) -> None:
    """Whoever opens a file with a lease waits up to 45 s for the holder; fcntl(2)."""
    script = "import fcntl, os\nfor path in ('/usr/bin/env', '/etc/passwd', '/own'):\n"
    script += " fd = os.open(path, os.O_RDONLY | os.O_CREAT * (path == '/own'))\n"
    script += f" try: fcntl.fcntl(fd, fcntl.F_SETLEASE, {lease}); print('BAD', path)\n"
    script += " except OSError as e: print(e.errno)\n"
    assert field.python(name, script).split() == [str(errno.EACCES)] * 3


@both
def test_calls_that_reach_the_host_are_denied(field: Field, name: str) -> None:
    generic = os.uname().machine != "x86_64"
    calls = {
        f"call({217 if generic else 248}, b'user', b'k', b'x', 1, -3)": "ENOSYS",  # add_key
        f"call({219 if generic else 250}, 0, -3, 0)": "ENOSYS",  # keyctl
        "call(425, 8, ctypes.create_string_buffer(120))": "ENOSYS",  # io_uring_setup
        f"call({282 if generic else 323}, 1)": "EPERM",  # userfaultfd
        f"call({241 if generic else 298}, bytes(128), 0, -1, -1, 0)": "EPERM",  # perf_event_open
        f"call({198 if generic else 41}, 40, 1, 0)": "EAFNOSUPPORT",  # AF_VSOCK
        f"call({198 if generic else 41}, 38, 5, 0)": "EAFNOSUPPORT",  # AF_ALG
    }
    assert field.python(name, CALL + "\n".join(calls)).split() == list(calls.values())
    for user in ("0", "65534"):
        done = field.lab.vsprov(
            "exec", "-u", user, name, "--", "grep", "-E", "^Seccomp:", "/proc/self/status"
        )
        assert done.stdout.split() == ["Seccomp:", "2"]


def test_core_dumps_run_no_program_of_the_host_by_default(field: Field) -> None:
    """A limit of 1 is the only one that a core_pattern which is a pipe heeds; core(5)."""
    said = field.python("weak", "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert said == "(1, 1)"
