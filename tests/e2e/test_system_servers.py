"""Servers that boot the systemd of a Debian, with usual services in it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import effort
from tests.lab import Document, Lab, image, members, server, to_yaml, version, wait_until
from tests.systems import booted, debian, installed

pytestmark = pytest.mark.slow
STRICT = (
    "DynamicUser=yes", "ProtectSystem=strict", "ProtectHome=yes", "ProtectProc=invisible", "ProcSubset=pid",
    "ProtectKernelTunables=yes", "ProtectKernelModules=yes", "ProtectControlGroups=yes", "PrivateTmp=yes",
    "PrivateDevices=yes", "NoNewPrivileges=yes", "SystemCallFilter=@system-service", "StateDirectory=strict",
    "SetCredential=secret:sesame",
)  # fmt: skip


def script(path: str, text: str) -> Document:
    """A step of a build that writes a program."""
    return {"write": {"path": path, "mode": "0755", "content": f"#!/bin/sh\n{text}\n"}}


@dataclass(frozen=True, slots=True)
class Other:
    """An init beside systemd: its key of manifests, the packages that it needs, the steps of a build, what
    the log says at the end of a shutdown, and the command that reboots.
    """

    init: dict[str, Any]
    packages: tuple[str, ...]
    steps: list[Document]
    last: str
    reboot: tuple[str, ...] = ("reboot",)


INITTAB = """\
::respawn:/usr/sbin/cron -f
::ctrlaltdel:/bin/busybox poweroff
::shutdown:/bin/echo all services have ended
"""
OTHERS = {
    "sysv": Other({"style": "sysv"}, ("sysvinit-core", "cron", "procps"), [], "Will now restart"),
    "busybox": Other(
        {"style": "sysv"},
        ("busybox", "cron", "procps"),
        [
            {"run": "ln -s /bin/busybox /sbin/init"},
            {"write": {"path": "/etc/inittab", "content": INITTAB}},
        ],
        "Requesting system poweroff",
        ("busybox", "reboot"),
    ),
    "openrc": Other(
        {"style": "openrc"}, ("openrc", "sysvinit-core", "cron", "procps"), [], "Will now restart"
    ),
    "openrc-init": Other(
        {"style": "openrc", "command": ["/sbin/openrc-init"]},
        ("openrc", "sysvinit-core", "cron", "procps"),
        [],
        "Sending the final kill signal",
        ("openrc-shutdown", "--reboot", "now"),
    ),
    "runit": Other(
        {"style": "runit"},
        ("runit-init", "cron", "procps"),
        [script("/etc/runit/ctrlaltdel", "exec /sbin/init 0")],  # Debian's waits
        "enter stage: /etc/runit/3",
    ),
    # As s6-overlay: /init has to be pid 1, copies the services to /run, and executes them there.
    "s6": Other(
        {"style": "s6"},
        ("s6", "cron", "procps"),
        [
            script(
                "/init",
                "[ $$ = 1 ] && cp -a /etc/services.d /run/service && mkdir /run/service/.s6-svscan || exit\n"
                "cp /etc/finish /run/service/.s6-svscan/finish; exec s6-svscan /run/service",
            ),
            script("/etc/services.d/cron/run", "exec cron -f"),
            script("/etc/finish", "echo all services have ended"),
        ],
        "all services have ended",
        (),
    ),
}


def systemd(name: str, init: Any = None, **spec: Any) -> Document:
    document = server(name, image="debian", **spec)
    document["spec"]["init"] = {"style": "systemd", **(init or {})}
    return document


@pytest.fixture(scope="module")
def documents(debian_archive: Path) -> tuple[Document, ...]:
    return debian(debian_archive), systemd("system")


@pytest.fixture(scope="module")
def system(shared_lab: Lab, documents: tuple[Document, ...]) -> Lab:
    """A lab with the running server `system`."""
    shared_lab.apply(*documents)
    booted(shared_lab, "system")
    return shared_lab


def holders(lab: Lab) -> list[int]:
    """The processes that hold the terminals of system servers."""
    return members(lab.group(".terminals"))


def test_all_units_start_and_a_second_plan_is_empty(system: Lab, documents: tuple[Document, ...]) -> None:
    assert system.is_settled(*documents)
    for unit in ("ssh", "cron", "rsyslog", "dbus", "systemd-logind", "systemd-journald", "console-getty"):
        assert system.shell("system", f"systemctl is-active {unit}") == "active\n", unit
    assert system.shell("system", "systemd-detect-virt; hostname") == "container-other\nsystem\n"


def test_an_init_that_boots_sees_the_groups_that_it_may_make_and_nothing_above(system: Lab) -> None:
    place = "/sys/fs/cgroup" + ("/unified" if version("memory") == 1 else "")
    assert system.shell("system", f"stat -fc %T {place}; ls -d {place}/*.slice") == (
        f"cgroup2fs\n{place}/system.slice\n{place}/user.slice\n"
    )
    assert system.shell("system", "cat /proc/1/cgroup").splitlines()[-1] == "0::/init.scope"
    made = system.group("system") / "payload/system.slice/ssh.service"
    assert members(made)


def test_units_that_are_confined_by_all_that_systemd_knows_run(system: Lab) -> None:
    script = "cat $CREDENTIALS_DIRECTORY/secret; echo; ls -d /proc/[0-9]* | wc -l; touch /usr/x 2>&1"
    words = [word for each in STRICT for word in ("-p", each)]
    done = system.run(
        "system", "systemd-run", "--quiet", "--wait", "--pipe", *words, "sh", "-c", script, check=False
    )
    secret, seen, refusal = done.stdout.splitlines()
    assert secret == "sesame"
    assert int(seen) < 6  # of its own user only
    assert refusal.endswith("Read-only file system")


def test_a_unit_may_have_a_user_namespace_and_mounts_of_its_own(system: Lab) -> None:
    script = "mount -t tmpfs none /mnt && mount -t proc proc /mnt && id -u"
    words = ("-p", "PrivateUsers=yes", "-p", "PrivateMounts=yes")
    done = system.run("system", "systemd-run", "--quiet", "--wait", "--pipe", *words, "id", "-u")
    assert done.stdout == "0\n"
    assert system.run("system", "unshare", "-rmpf", "sh", "-c", script).stdout == "0\n"


def test_a_timer_runs_and_the_journal_and_syslog_keep_what_is_said(system: Lab) -> None:
    exactly = "--timer-property=AccuracySec=1ms"
    system.shell("system", f"systemd-run --quiet --on-active=100ms {exactly} logger -t timed it is time")
    wait_until(lambda: "it is time" in system.shell("system", "journalctl -q -t timed -o cat"))
    wait_until(lambda: "timed: it is time" in system.shell("system", "cat /var/log/syslog"))


def test_a_shell_is_a_login_with_the_services_of_its_user(system: Lab) -> None:
    script = """
    echo $XDG_RUNTIME_DIR; tail -1 /proc/self/cgroup; systemctl --user is-system-running --wait
    systemd-run --quiet --user --wait --pipe echo from a unit
    exit 7
    """
    done = system.vsprov("shell", "system", input=script, check=False)
    where, group, state, said = done.stdout.splitlines()
    assert (where, state, said, done.returncode) == ("/run/user/0", "running", "from a unit", 7)
    assert re.fullmatch(r"0::/user.slice/user-0.slice/session-c\d+.scope", group)


def test_an_ordinary_user_logs_in_and_becomes_root_with_sudo(system: Lab) -> None:
    system.shell("system", "useradd -ms /bin/bash ann; echo 'ann ALL=NOPASSWD: ALL' > /etc/sudoers.d/ann")
    done = system.vsprov("shell", "system", "--user", "ann", input="id -un; pwd; sudo id -un\n")
    assert done.stdout == "ann\n/home/ann\nroot\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_shell_opens_without_a_session_where_pam_lets_nobody_log_in(system: Lab, terminal: bool) -> None:
    system.shell(
        "system", "cp /etc/pam.d/su-l /root/su-l; echo 'session required pam_deny.so' >> /etc/pam.d/su-l"
    )
    try:
        code, said = shell_of(system, "id -u; tail -1 /proc/self/cgroup; exit 7\n", terminal)
    finally:
        system.shell("system", "mv /root/su-l /etc/pam.d/su-l")
    assert code == 7
    assert "0::/.exec" in said
    warning = "vsprov: Server/system: root cannot log in: su: cannot open session: "
    assert warning in said and "; this shell has no session" in said


def test_a_shell_that_ends_as_a_failed_login_does_is_not_followed_by_another(system: Lab) -> None:
    for terminal in (False, True):
        code, said = shell_of(system, "exit 1\n", terminal)
        assert code == 1 and "cannot log in" not in said


def shell_of(lab: Lab, typed: str, terminal: bool) -> tuple[int, str]:
    """The exit code of `vsprov shell system`, its output and messages; on a terminal the input is typed after
    the prompt.
    """
    words, environment = lab.vsprov.command("shell", "system"), lab.vsprov.environment
    if not terminal:
        done = subprocess.run(
            words,
            env=environment,
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout
    pid, master = pty.fork()
    if pid == 0:
        os.execve(words[0], words, environment)
    said, prompted = b"", False
    with os.fdopen(master, "r+b", 0) as file, suppress(OSError):  # EIO: the end
        while part := file.read(1 << 16):
            said += part
            if not prompted and b"# " in said:
                prompted = True
                file.write(typed.encode())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode()


def test_the_log_is_what_the_console_shows_in_plain_lines(system: Lab) -> None:
    wait_until(lambda: "system login: " in system.console("system"))
    log = system.console("system")
    assert "Welcome to Debian GNU/Linux" in log and "Reached target" in log
    assert "\r" not in log and "\x1b" not in log
    assert system.shell("system", "tty < /dev/console; stat -c %t:%T /dev/console") == "/dev/console\n88:0\n"


def test_the_kernel_lets_the_root_of_a_system_set_what_is_its_own_and_not_what_is_the_hosts(
    system: Lab,
) -> None:
    own = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    system.shell("system", "echo 1 > /proc/sys/net/ipv4/ip_forward; ip link add dum type veth; hostname same")
    system.shell("system", "hostname system")
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == own
    for command in (
        "echo 1 > /proc/sys/kernel/sysrq",
        "echo b > /dev/.vsprov/kernel/proc/sysrq-trigger",
        "head -c1 /dev/.vsprov/kernel/proc/kcore",
        "mknod /root/disk b 254 0",
        "mount -o remount,rw /dev/.vsprov/kernel/sys && echo 1 > /dev/.vsprov/kernel/sys/power/disk",
    ):
        assert system.run("system", "sh", "-c", command, check=False).returncode != 0, command


def test_killing_the_keeper_or_the_holder_of_terminals_hangs_nothing_up(system: Lab) -> None:
    restarts = "systemctl show -p NRestarts,ActiveEnterTimestampMonotonic console-getty"
    wait_until(lambda: len(holders(system)) == 2)
    before = system.shell("system", restarts)
    os.kill(system.keeper(), signal.SIGKILL)
    for place in (0, 1, 0):
        victim = holders(system)[place]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda victim=victim: len({*holders(system), victim}) == 3)
    system.shell("system", "echo the console is there > /dev/console")
    system.vsprov("logs", "system")
    system.vsprov("apply", "-y", "-", input="", check=False)
    system.vsprov("restart", "nobody", check=False)
    assert system.shell("system", restarts) == before


def test_a_server_that_boots_shuts_down_by_itself_and_boots_again(system: Lab) -> None:
    system.apply(systemd("a"))
    booted(system, "a")
    first = system.shell("a", "cat /proc/sys/kernel/random/boot_id")
    system.shell("a", "touch /run/left /root/kept")
    system.vsprov("stop", "a")
    wait_until(lambda: "Halting system." in system.console("a"))
    assert "Sending SIGTERM to remaining processes..." in system.console("a")
    system.vsprov("start", "a")
    booted(system, "a")
    assert system.shell("a", "test ! -e /run/left && test -e /root/kept && echo kept") == "kept\n"
    second = system.shell("a", "cat /proc/sys/kernel/random/boot_id")
    boots = system.shell("a", "journalctl --list-boots --quiet --no-pager").splitlines()
    assert [boot.split()[1] for boot in boots] == [each.strip().replace("-", "") for each in (first, second)]
    system.vsprov("delete", "server", "a", "-y")


def test_a_server_that_boots_reports_when_all_its_units_have_started_also_after_a_reboot(system: Lab) -> None:
    document = systemd("a", readiness={"notify": True})
    system.vsprov("apply", "-y", "-", "--wait", input=to_yaml(document))
    assert system.run("a", "systemctl", "is-system-running").stdout == "running\n"
    first = system.init("a")
    system.run("a", "reboot", check=False)
    system.wait_for_restart("a", first)
    system.vsprov("wait", "--for", "ready", "a")
    assert system.run("a", "systemctl", "is-system-running").stdout == "running\n"
    system.vsprov("delete", "server", "a", "-y")


def test_to_boot_instead_of_running_a_command_takes_a_restart(system: Lab) -> None:
    system.apply(server("b", image="debian"))
    booting = systemd("b")
    changes = system.differences(booting)
    assert changes["Server/b /spec/init/style"] == ("exec", "systemd", "restart")
    assert changes["Server/b /spec/init/stopTimeout"] == ("10s", "1m30s", "live")
    assert changes["Server/b /spec/security/noNewPrivileges"] == (True, False, "restart")
    other = "upper/etc/hostname"  # as of an image that was made on another machine
    (system.directory("b") / "upper/etc").mkdir(exist_ok=True)
    (system.directory("b") / other).write_text("elsewhere\n")
    system.converge(booting)
    booted(system, "b")
    assert system.shell("b", "hostname") == "b\n" and system.is_settled(booting)
    system.vsprov("delete", "server", "b", "-y")


def test_the_holder_of_terminals_ends_with_the_last_server_that_boots(system: Lab) -> None:
    assert holders(system)
    system.vsprov("stop", "system")
    wait_until(lambda: not holders(system))
    system.vsprov("start", "system")
    wait_until(lambda: len(holders(system)) == 2)


@pytest.mark.parametrize("name", OTHERS if effort.LONG else ["sysv", "busybox"])
@pytest.mark.usefixtures("packages")
def test_another_init_boots_starts_its_services_reboots_and_shuts_down(
    lab: Lab, shared_folder: Path, name: str
) -> None:
    other = OTHERS[name]

    def starts_its_services() -> None:
        wait_until(lambda: lab.run("a", "pgrep", "-x", "cron", check=False).returncode == 0)

    document = server("a", image="own" if other.steps else "debian")
    document["spec"]["init"] = other.init
    images = [debian(installed(shared_folder, "-".join(other.packages), other.packages))]
    images += [image("own", build={"from": "debian", "steps": other.steps})] if other.steps else []
    lab.converge(*images, document)
    starts_its_services()
    assert lab.shell("a", "cat /proc/sys/kernel/hostname; cat /etc/hostname") == "a\na\n"
    if other.reboot:
        first = lab.init("a")
        lab.run("a", *other.reboot, check=False)
        lab.wait_for_restart("a", first)
        starts_its_services()
    done = lab.vsprov("stop", "a")
    assert "killed" not in done.stderr
    wait_until(lambda: other.last in lab.console("a"))
