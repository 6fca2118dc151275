"""What a server could do to the kernel it shares, with the usual capabilities and with all of them."""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.conftest import Field
from tests.lab import Lab, image, server

both = pytest.mark.parametrize("name", ["weak", "strong"])

# Says what a system call answers: its result, and the error by name.
CALL = """
import ctypes, errno, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    got = libc.syscall(*words)
    print(got if got >= 0 else errno.errorcode[ctypes.get_errno()])
"""


@pytest.mark.parametrize("hierarchy", ["freezer", "memory", "none,name=systemd"])
def test_no_cgroup_v1_can_be_mounted_by_the_usual_server(field: Field, hierarchy: str) -> None:
    """B01, CVE-2022-0492: release_agent runs as root of the host."""
    said = field.shell("weak", f"mkdir -p /m; mount -t cgroup -o {hierarchy} x /m && echo MOUNTED; ls -A /m")
    assert "MOUNTED" not in said and ("denied" in said or "not permitted" in said)


@both
def test_no_release_agent_can_be_written(field: Field, name: str) -> None:
    """B01: who may mount sees no more of a hierarchy than its own group, and writes to none of its files."""
    script = "mkdir -p /m; mount -t cgroup -o memory x /m 2>/dev/null; find / -xdev -name release_agent"
    script += "; find /m /sys/fs/cgroup -name release_agent; "
    script += "find /m -type f -writable; umount /m 2>/dev/null; rmdir /m"
    assert field.shell(name, script) == ""


@both
@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",  # B02
        "/proc/sys/kernel/modprobe",  # B04
        "/proc/sys/kernel/hotplug",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sysrq-trigger",  # B03
        "/sys/kernel/uevent_helper",  # B04
        "/sys/power/state",
        "/proc/irq/default_smp_affinity",
    ],
)
def test_a_switch_of_the_host_cannot_be_turned(field: Field, name: str, path: str) -> None:
    """B02, B03, B04: core_pattern, sysrq, modprobe, uevent_helper. Writes what it has read: no harm."""
    text = "h" if path.endswith("trigger") else ""
    said = field.shell(
        name,
        f'[ -e {path} ] || exit; t=$(cat {path} 2>/dev/null); echo "${{t:-{text}}}" > {path} && echo BAD',
    )
    assert "BAD" not in said


@both
def test_nothing_in_proc_sys_can_be_written(field: Field, name: str) -> None:
    """B20: settings that are not per namespace."""
    script = "import os\nfor top, _, names in os.walk('/proc/sys'):\n for n in names:\n"
    script += (
        "  try: os.close(os.open(f'{top}/{n}', os.O_WRONLY)); print(f'{top}/{n}')\n  except OSError: pass"
    )
    assert field.python(name, script) == ""


@both
def test_no_binary_format_can_be_registered(field: Field, name: str) -> None:
    """B05: binfmt_misc of the host."""
    said = field.shell(
        name, "ls -A /proc/sys/fs/binfmt_misc; echo x > /proc/sys/fs/binfmt_misc/register && echo BAD"
    )
    assert "BAD" not in said


@both
def test_no_file_is_opened_by_handle(field: Field, name: str) -> None:
    """B06, "shocker": open_by_handle_at reaches every file of a file system."""
    handle = "struct.pack('IiII', 8, 1, 2, 0)"
    assert field.python(name, CALL + f"call(304, os.open('/', 0), {handle}, 0)") == "EPERM"
    assert field.python(name, CALL + f"call(304, os.open('/usr', 0), {handle}, 0)") == "EPERM"


@pytest.fixture
def host_key() -> Iterator[str]:
    """A key in root's keyring of the host."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = f"vt-{secrets.token_hex(8)}"
    key = libc.syscall(248, b"user", name.encode(), b"secret", 6, -4)
    if key < 0:
        assert os.strerror(ctypes.get_errno()) in ("Function not implemented", "Disk quota exceeded")
    yield name
    if key >= 0:
        libc.syscall(250, 9, key, -4)  # unlink


@both
def test_keys_of_the_host_are_not_found(field: Field, name: str, host_key: str) -> None:
    """B07: keyrings are not namespaced but by the user namespace."""
    found = field.python(name, CALL + f"call(250, 10, -4, b'user', b'{host_key}', 0)")
    assert found in ("ENOKEY", "EPERM", "ENOSYS", "EACCES")


@both
@pytest.mark.parametrize(
    "path", ["/proc/kcore", "/dev/mem", "/dev/kmem", "/dev/kmsg", "/proc/kmsg", "/dev/port"]
)
def test_the_kernels_memory_cannot_be_read(field: Field, name: str, path: str) -> None:
    """B08."""
    assert (
        field.python(name, f"try: print(open('{path}', 'rb').read(1))\nexcept OSError: print(b'')") == "b''"
    )


@both
@pytest.mark.parametrize("device", [(8, 0, "b"), (254, 0, "b"), (1, 1, "c"), (10, 229, "c"), (7, 0, "b")])
def test_no_device_can_be_made(field: Field, name: str, device: tuple[int, int, str]) -> None:
    """B09: and were one there, it could not be opened, for every mount is nodev."""
    major, minor, kind = device
    for folder in ("/", "/dev", "/dev/shm", "/tmp"):
        assert "not permitted" in field.shell(name, f"mknod {folder}/made {kind} {major} {minor}")
    options = field.shell(name, "cut -d' ' -f5,6 /proc/self/mountinfo").splitlines()
    for line in options:
        point, _, words = line.partition(" ")
        if not point.startswith(("/dev", "/proc/")):  # the nodes of /dev were made by the host, by number
            assert "nodev" in words.split(","), line


def test_the_log_of_the_kernel_and_its_tables_are_closed_to_the_usual_server(field: Field) -> None:
    """B08: dmesg."""
    assert field.python("weak", CALL + "b = ctypes.create_string_buffer(16)\ncall(103, 3, b, 16)") == "EPERM"


@both
def test_the_clock_cannot_be_set(field: Field, name: str) -> None:
    """B18."""
    assert (
        field.python(
            name,
            "import time\ntry: time.clock_settime(0, 1.0); print('BAD')\nexcept PermissionError: print('no')",
        )
        == "no"
    )
    assert time.time() > 1_600_000_000


def test_the_usual_server_cannot_reboot(field: Field) -> None:
    """B19: reboot(2), asked for by a magic number that does nothing (CAD_OFF)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    assert field.python("weak", CALL + "call(169, 0xfee1dead, 672274793, 0, 0)") == "EPERM"
    assert Path("/proc/sys/kernel/random/boot_id").read_text() == boot


@pytest.mark.parametrize("what", ["mount", "fsopen", "bpf", "kexec_load", "init_module", "swapon", "acct"])
def test_calls_that_are_the_administrators_are_refused(field: Field, what: str) -> None:
    """B12, B13: each in a form that would change nothing."""
    calls = {
        "mount": "call(165, b'x', b'/tmp', b'tmpfs', 0, 0)",
        "fsopen": "call(430, b'ext4', 0)",
        "bpf": "call(321, 0, struct.pack('IIII', 2, 4, 4, 1) + bytes(112), 128)",
        "kexec_load": "call(246, 0, 0, 0, 0)",
        "init_module": "call(175, 0, 0, b'')",
        "swapon": "call(167, b'/no', 0)",
        "acct": "call(163, b'/no')",
    }
    assert field.python("weak", CALL + calls[what]) in ("EPERM", "ENOSYS")


@both
@pytest.mark.parametrize(
    "kind", ["ext4", "overlay", "btrfs", "binfmt_misc", "debugfs", "tracefs", "securityfs"]
)
def test_no_file_system_of_the_hosts_can_be_mounted(field: Field, name: str, kind: str) -> None:
    """B14, B23, CVE-2022-0185, CVE-2023-0386: from a device, or one that shows the host's inside."""
    device = next(
        (f"/dev/{each}" for each in os.listdir("/sys/block") if each.startswith(("vd", "sd", "nvme"))), "none"
    )
    script = "mkdir -p /m; "
    script += (
        f"mount -t {kind} {device if kind in ('ext4', 'btrfs') else 'none'} /m && umount /m && echo MOUNTED"
    )
    if name == "strong" and kind in ("overlay", "binfmt_misc"):
        return  # file systems that are the user namespace's own
    assert "MOUNTED" not in field.shell(name, script)


def test_no_raw_packet_socket_in_the_usual_server(field: Field) -> None:
    """B16, CVE-2020-14386: AF_PACKET; raw ICMP too."""
    script = "import socket\nfor words in ((17, 3, 3), (2, 3, 1)):\n"
    script += " try: socket.socket(*words); print('BAD')\n except PermissionError: pass"
    assert field.python("weak", script) == ""


@both
def test_processes_of_the_host_cannot_be_seen_or_traced(field: Field, name: str) -> None:
    """B17, A21: only the server's own are in /proc, and pid 1 is its own."""
    seen = field.shell(name, "cd /proc; ls -d [0-9]* | wc -l")
    assert int(seen) <= 6
    answer = field.python(name, CALL + f"call(101, 16, {os.getpid()}, 0, 0)")  # PTRACE_ATTACH to our pid
    assert answer in ("ESRCH", "EPERM")
    said = field.shell(name, "nsenter -t 1 -m cat /proc/1/comm")
    assert said in ("sleep",) or "denied" in said or "not permitted" in said
    assert "BAD" not in field.shell(name, f"kill -0 {os.getpid()} && echo BAD")


@pytest.mark.parametrize("user", ["0", "65534"])
def test_the_usual_server_makes_no_user_namespaces(field: Field, user: str) -> None:
    """B15, CVE-2024-1086: in one of its own any user has every capability; commands that join included."""
    host = Path("/proc/sys/user/max_user_namespaces").read_text()
    script = CALL + "print(open('/proc/sys/user/max_user_namespaces').read().strip())\n"
    script += "call(272, 0x10000000)\ncall(56, 0x10000000 | 17, 0, 0, 0, 0)"
    done = field.lab.vsprov("exec", "-u", user, "weak", "--", "python3", "-c", script)
    assert done.stdout.split() == ["0", "ENOSPC", "ENOSPC"]
    said = field.shell("weak", "echo 9 > /proc/sys/user/max_user_namespaces; unshare -Ur true; echo $?")
    assert said.splitlines()[-1] == "1" and "No space left on device" in said
    assert Path("/proc/sys/user/max_user_namespaces").read_text() == host != "0\n"


def test_a_server_that_may_administer_makes_user_namespaces(field: Field) -> None:
    """SYS_ADMIN gives nothing more to a namespace of one's own than one has already."""
    assert field.shell("strong", "unshare -Ur id -u") == "0"


def test_a_server_that_boots_and_may_not_administer_makes_no_user_namespaces(lab: Lab) -> None:
    """Its root may set the limits of its own namespaces, but not this one, wherever /proc is mounted."""
    init = {"style": "sysv"}
    security = {"capabilities": {"drop": ["SYS_ADMIN"]}}
    lab.apply(image(), server("a", init=init, security=security))
    mounts = lab.shell("a", "grep ' proc ' /proc/mounts").splitlines()
    assert all(line.split()[1].startswith("/proc") for line in mounts)
    path = "/proc/sys/user/max_user_namespaces"
    assert lab.shell("a", f"(echo 9 > {path}) || cat {path}").strip() == "0"
    assert lab.shell("a", "unshare -Ur true || echo refused").strip() == "refused"
    lab.shell("a", "echo 1 > /proc/sys/net/ipv4/ip_forward")


@both
def test_abstract_sockets_of_the_host_are_out_of_reach(field: Field, name: str) -> None:
    """B21, CVE-2020-15257: they belong to the network namespace."""
    address = f"\0vt-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        script = "import socket\ns = socket.socket(socket.AF_UNIX)\n"
        script += f"try: s.connect({address!r}); print('BAD')\nexcept OSError as e: print(e.errno)"
        assert field.python(name, script) == "111"


@both
@pytest.mark.parametrize(
    "path", ["/sys/kernel/debug", "/sys/kernel/tracing", "/sys/fs/bpf", "/sys/firmware", "/proc/acpi"]
)
def test_windows_into_the_kernel_are_empty(field: Field, name: str, path: str) -> None:
    """B22, B23."""
    assert field.shell(name, f"ls -A {path} 2>/dev/null") == ""


def test_threads_start(field: Field) -> None:
    """B25: clone3 works, or falls back."""
    script = "import threading\nt = threading.Thread(target=lambda: print('runs'))\nt.start(); t.join()"
    assert field.python("weak", script) == "runs"


def test_masks_cannot_be_taken_off_by_the_usual_server(field: Field) -> None:
    """It takes SYS_ADMIN, which only a server has whose manifest adds it."""
    name = "weak"
    field.shell(
        name, "umount /proc/kcore /proc/keys /proc/timer_list /sys/firmware /proc/sys /proc/irq /proc/bus"
    )
    assert field.shell(name, "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | head -c1") == ""
    field.shell(
        name, "mount -o remount,rw,bind /proc/sys; mount -o remount,rw /sys; mount -o remount,rw,bind /usr"
    )
    assert "BAD" not in field.shell(
        name, "echo x > /proc/sys/kernel/core_pattern && echo BAD; touch /usr/bad && echo BAD"
    )
    assert not Path("/usr/bad").exists()


@both
def test_limits_cannot_be_raised_from_inside(field: Field, name: str) -> None:
    """The limits lie on the home, above what is delegated; the cgroup namespace shows nothing of it."""
    found = field.shell(
        name,
        "find /sys/fs/cgroup -type f -writable | "
        "grep -E '/(memory|cpu|pids|io|blkio)[.](max|limit|high|weight|shares|cfs)'; "
        "cat /proc/self/cgroup | grep vt-",
    )
    assert found == ""
    said = field.shell(
        name,
        "cd /sys/fs/cgroup/unified || cd /sys/fs/cgroup; mkdir own && rmdir own; echo 0 > ../cgroup.procs",
    )
    assert "vt-" not in said
    inits = field.lab.init(name)
    assert f"/{field.lab.vsprov.name}/{name}/payload" in Path(f"/proc/{inits.pid}/cgroup").read_text()
