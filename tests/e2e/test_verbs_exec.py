"""exec, shell, logs and ps: what goes on in a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.e2e.verbs import HOST, on_a_terminal, web
from tests.lab import (
    Lab,
    server,
    wait_until,
)

# -- exec, shell


@pytest.mark.vm_subset
def test_exec_passes_input_output_and_exit_code_on(shop: Lab) -> None:
    done = shop.vsprov("exec", "web1", "--", "sh", "-c", "cat; echo err >&2; exit 7", input="in", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "in", "err\n")
    assert shop.vsprov("exec", "web1", "--", "sh", "-c", "kill -9 $$", check=False).returncode == 137
    assert shop.vsprov("exec", "web1", "--", "/no/such", check=False).returncode == 127
    assert shop.vsprov("exec", "web1", "--", "/etc/passwd", check=False).returncode == 126


def test_exec_takes_user_folder_and_environment(shop: Lab) -> None:
    said = shop.vsprov(
        "exec",
        "-u",
        "1:2",
        "-w",
        "/tmp",
        "-e",
        "A=b c",
        "web1",
        "--",
        "sh",
        "-c",
        'id -u; id -g; pwd; echo "$A"',
    )
    assert said.stdout == "1\n2\n/tmp\nb c\n"
    after = shop.vsprov("exec", "web1", "-u", "1", "--", "id", "-u")
    assert after.stdout == "1\n"
    bare = shop.vsprov("exec", "web1", "ls", "-d", "/root")
    assert bare.stdout == "/root\n"


def test_names_of_variables_may_hold_dots_and_dashes(shop: Lab) -> None:
    said = shop.vsprov("exec", "-e", "cluster.name=a", "-e", "1-b=c=d", "web1", "--", "env").stdout
    assert {"cluster.name=a", "1-b=c=d"} <= set(said.splitlines())


def test_exec_is_in_the_servers_groups_while_it_runs_and_leaves_no_process_behind(shop: Lab) -> None:
    group = shop.group("all/web2") / "exec/cgroup.procs"
    command = shop.vsprov.command("exec", "web2", "--", "cat")
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=shop.vsprov.environment) as running:
        wait_until(lambda: group.exists() and len(group.read_text().split()) == 1)
        running.communicate()
    assert running.returncode == 0 and group.read_text() == ""


def test_exec_in_a_server_that_does_not_run_says_so(shop: Lab) -> None:
    refused = shop.vsprov("exec", "old", "--", "true", check=False)
    assert (refused.returncode, refused.stderr) == (
        1,
        "vsprov: Server/old: is not running\n  hint: vsprov start old\n",
    )
    unknown = shop.vsprov("exec", "wb1", "--", "true", check=False)
    assert unknown.returncode == 1 and "did you mean web1?" in unknown.stderr


def test_exec_on_a_terminal_gives_the_command_one(shop: Lab) -> None:
    code, shown = on_a_terminal(shop, "exec", "web1", "--", "sh", "-c", "tty; echo $TERM; exit 5")
    assert (code, shown) == (5, "/dev/pts/0\nxterm\n")
    code, shown = on_a_terminal(shop, "exec", "-T", "web1", "--", "sh", "-c", "tty; exit 0")
    assert (code, shown) == (0, "not a tty\n")


def test_shell_is_a_login_shell_with_a_terminal(shop: Lab) -> None:
    code, shown = on_a_terminal(shop, "shell", "web1", typed='echo "is $0"; tty; exit 3\n', when="# ")
    assert code == 3
    assert "is /bin/" in shown and "/dev/pts/0" in shown


# -- logs, ps


def test_logs_shows_all_or_the_last_lines(lab: Lab) -> None:
    lab.apply(HOST, server("web1", "/bin/sh", "-c", "seq 1 20000; printf last; exec sleep infinity"))
    lab.wait_until(lambda: lab.console("web1").endswith("last"))
    everything = lab.vsprov("logs", "web1").stdout.splitlines()
    assert (len(everything), everything[0], everything[-1]) == (20001, "1", "last")
    assert lab.vsprov("logs", "web1", "-n", "3").stdout == "19999\n20000\nlast"
    assert lab.vsprov("logs", "web1", "--tail", "0").stdout == ""
    assert lab.vsprov("logs", "web1", "-n", "99999").stdout.splitlines() == everything


def test_logs_follows_across_a_restart(lab: Lab) -> None:
    lab.apply(HOST, server("web1", "/bin/sh", "-c", "echo started; exec sleep infinity"))
    following = subprocess.Popen(
        lab.vsprov.command("logs", "-f", "web1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=lab.vsprov.environment,
    )
    try:
        assert following.stdout and following.stderr
        assert following.stdout.readline() == b"started\n"
        lab.vsprov("restart", "web1")
        assert following.stdout.readline() == b"started\n"
        following.send_signal(signal.SIGINT)
        assert (following.wait(60), following.stderr.read()) == (130, b"")
    finally:
        following.kill()
        following.communicate()


def test_logs_ends_when_the_server_is_destroyed(lab: Lab) -> None:
    lab.apply(HOST, server("web1", "/bin/sh", "-c", "echo started; exec sleep infinity"))
    following = subprocess.Popen(
        lab.vsprov.command("logs", "-f", "web1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=lab.vsprov.environment,
    )
    try:
        assert following.stdout
        assert following.stdout.readline() == b"started\n"
        lab.vsprov("destroy", "--all", "-y")
        assert following.wait(60) == 0
    finally:
        following.kill()
        following.communicate()


def test_logs_on_a_terminal_control_nothing(lab: Lab) -> None:
    lab.apply(HOST, server("web1", "/bin/sh", "-c", r"printf '\033]0;owned\007\n'; exec sleep infinity"))
    lab.wait_until(lambda: lab.console("web1").endswith("\n"))
    assert on_a_terminal(lab, "logs", "web1") == (0, "\\e]0;owned\\x07\n")
    assert lab.vsprov("logs", "web1").stdout == "\x1b]0;owned\x07\n"


def test_logs_reads_nothing_but_a_regular_file_of_the_server(lab: Lab) -> None:
    lab.apply(HOST, web(state="Stopped"))
    assert lab.vsprov("logs", "web1").stdout == ""
    log = lab.directory("web1") / "console.log"
    log.symlink_to("/etc/passwd")
    refused = lab.vsprov("logs", "web1", check=False)
    assert (refused.returncode, refused.stdout) == (1, "") and "symbolic link" in refused.stderr
    log.unlink()
    os.mkfifo(log)
    assert lab.vsprov("logs", "web1", check=False).returncode == 1
    log.unlink()
    for name in ("../web1", "web2", ".", ""):
        assert lab.vsprov("logs", name, check=False).returncode == 1


@pytest.mark.vm_subset
def test_ps_shows_the_processes_of_all_servers_with_both_their_pids(shop: Lab) -> None:
    items = json.loads(shop.vsprov("ps", "-o", "json").stdout)["items"]
    (one,) = [item for item in items if item["server"] == "web1"]
    assert (one["pid"], one["inner"], one["user"], one["command"]) == (
        shop.init("all/web1").pid,
        1,
        0,
        "sleep infinity",
    )
    assert one["resident"] > 0 and one["state"] == "S"
    assert {item["server"] for item in items} == {"web1", "web2", "db1"}
    lines = shop.vsprov("ps", "db1").stdout.splitlines()
    assert lines[0].split() == ["SERVER", "PID", "NSPID", "USER", "STATE", "RSS", "TIME", "COMMAND"]
    assert [line.split()[0] for line in lines[1:]] == ["db1"]


def test_ps_escapes_what_a_command_line_hides(lab: Lab) -> None:
    lab.apply(HOST, server("web2", "/bin/sh", "-c", "sleep infinity; : '\x1b[2J'"))
    assert "\x1b" not in lab.vsprov("ps", "web2").stdout
    assert "\\e[2J" in lab.vsprov("ps", "web2").stdout
