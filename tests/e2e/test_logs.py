"""`vsprov logs`: of several servers, by time and by run, and what is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.lab import Lab, image, server, wait_for, wait_until
from vsprov.keeper.subjects.log import next_number, numbers


def say(lab: Lab, name: str, text: str) -> None:
    """Have a server write to its console, and wait until the log has it."""
    lab.run(name, "sh", "-c", 'printf "$1" > /proc/1/fd/1', "-", text)
    assert lab.vsprov("logs", name).returncode == 0


def entries(lab: Lab, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lab.vsprov("logs", "-o", "json", *words).stdout.splitlines()]


def test_lines_of_several_servers_are_in_the_order_in_which_they_were_written(lab: Lab) -> None:
    lab.apply(image(), server("web", labels={"tier": "web"}), server("database"), server("quiet"))
    say(lab, "web", "one\n")
    say(lab, "database", "two\n")
    say(lab, "web", "three\nfour\n")
    assert lab.vsprov("logs", "--all").stdout == (
        "web      | one\ndatabase | two\nweb      | three\nweb      | four\n"
    )
    assert lab.vsprov("logs", "database", "web", "-n", "1").stdout == "database | two\nweb      | four\n"
    assert lab.vsprov("logs", "-l", "tier=web").stdout == "one\nthree\nfour\n"
    found = entries(lab, "web", "database")
    assert [(one["server"], one["text"]) for one in found] == [
        ("web", "one"), ("database", "two"), ("web", "three"), ("web", "four")
    ]  # fmt: skip
    times = [datetime.fromisoformat(one["time"]) for one in found]
    assert times == sorted(times) and abs(datetime.now(UTC) - times[-1]) < timedelta(hours=1)
    stamped = lab.vsprov("logs", "-t", "web").stdout.splitlines()
    assert stamped == [f"{one['time']} {one['text']}" for one in found if one["server"] == "web"]


def test_lines_are_chosen_by_the_time_at_which_they_were_written(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    say(lab, "a", "one\n")
    say(lab, "a", "two\n")
    say(lab, "a", "three\n")
    first, second, third = (one["time"] for one in entries(lab, "a"))
    assert first < second < third
    assert lab.vsprov("logs", "a", "--since", second).stdout == "two\nthree\n"
    assert lab.vsprov("logs", "a", "--since", first, "--until", second, "-n", "1").stdout == "two\n"
    assert lab.vsprov("logs", "a", "--since", "1h").stdout == "one\ntwo\nthree\n"
    assert lab.vsprov("logs", "a", "--until", "1h").stdout == ""


def test_the_output_of_the_previous_run_is_found_whoever_keeps_the_server(lab: Lab) -> None:
    lab.apply(image(), server("a"), server("b"))
    said = lab.vsprov("logs", "--previous", "a", check=False)
    assert (said.returncode, said.stdout) == (1, "")
    assert "Server/a: the log has no output of an earlier run" in said.stderr
    say(lab, "a", "one\n")
    keeper = os.pidfd_open(lab.keeper())
    signal.pidfd_send_signal(keeper, signal.SIGKILL)
    wait_for(keeper)
    lab.apply(image(), server("a"), server("b"))
    say(lab, "a", "two\nunfinished")
    lab.vsprov("restart", "a")
    say(lab, "a", "three\n")
    assert lab.vsprov("logs", "--previous", "a").stdout == "one\ntwo\nunfinished"
    assert lab.vsprov("logs", "-p", "-n", "1", "a").stdout == "unfinished"
    lab.vsprov("restart", "a")
    assert lab.vsprov("logs", "--previous", "a").stdout == "three\n"
    several = lab.vsprov("logs", "--previous", "a", "b", check=False)
    assert (several.returncode, several.stdout) == (1, "three\n")
    assert "Server/b: the log has no output of an earlier run" in several.stderr


def sizes(lab: Lab, name: str) -> list[int]:
    """The sizes of the files of a log, each with its times."""
    names = os.listdir(lab.directory(name))
    full = [f".{number}" for number in numbers(names, "console.log")]
    found = [(f"console.log{each}", f"console.times{each}") for each in full]
    found.append(("console.log", f"console.times.{next_number(names)}"))
    return [sum((lab.directory(name) / part).stat().st_size for part in pair) for pair in found]


def test_the_size_of_a_log_is_limited_and_the_limit_changes_while_the_server_runs(lab: Lab) -> None:
    script = "seq 100000; echo end; exec sleep infinity"
    lab.apply(image(), server("a", "sh", "-c", script, console={"maxSize": "64Ki", "maxFiles": 4}))
    init = lab.init("a")
    wait_until(lambda: lab.vsprov("logs", "-n", "1", "a").stdout == "end\n")
    assert len(sizes(lab, "a")) == 4 and max(sizes(lab, "a")) <= 64 << 10
    kept = lab.vsprov("logs", "a").stdout.split()
    assert kept == [str(number) for number in range(100001 - len(kept) + 1, 100001)] + ["end"]
    assert len(kept) > 3 * (64 << 10) / 7
    document = server("a", "sh", "-c", script, console={"maxSize": "max", "maxFiles": 2})
    assert lab.differences(image(), document) == {
        "Server/a /spec/console/maxSize": (64 << 10, "max", "live"),
        "Server/a /spec/console/maxFiles": (4, 2, "live"),
    }
    lab.converge(image(), document)
    assert len(sizes(lab, "a")) == 2
    lab.run("a", "sh", "-c", "seq 100000 > /proc/1/fd/1")
    assert lab.vsprov("logs", "-n", "100000", "a").stdout.split() == [*map(str, range(1, 100001))]
    assert len(sizes(lab, "a")) == 2 and lab.init("a") == init


def test_limits_of_logs_are_checked(lab: Lab) -> None:
    for console, said in (
        ({"maxSize": "1Ki"}, "1Ki is below 64Ki"),
        ({"maxFiles": 0}, "0 is not between 1 and 100"),
        ({"maxFiles": 101}, "101 is not between 1 and 100"),
    ):
        assert said in lab.refused(image(), server("a", console=console), code=65)


def test_following_shows_lines_of_all_servers_as_they_come(lab: Lab) -> None:
    lab.apply(image(), server("web"), server("database"))
    say(lab, "web", "before\n")
    command = lab.vsprov.command("logs", "--all", "-f")
    following = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=lab.vsprov.environment)
    assert following.stdout
    assert following.stdout.readline() == "web      | before\n"
    say(lab, "web", "question? ")
    assert following.stdout.read(len("web      | question? ")) == "web      | question? "
    say(lab, "database", "up\n")
    assert following.stdout.readline() == "\n"
    assert following.stdout.readline() == "database | up\n"
    lab.vsprov("restart", "web")
    say(lab, "web", "again\n")
    assert following.stdout.readline() == "web      | again\n"
    lab.vsprov("destroy", "--all", "-y")
    assert following.wait(60) == 0
    following.stdout.close()


def test_which_servers_and_times_is_checked(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    for words, said in (
        ([], "specify exactly one of: names of servers, -l, --all"),
        (["a", "--all"], "specify exactly one of"),
        (["a", "--since", "yesterday"], "--since yesterday: not a time"),
        (["a", "--until", "1h", "-f"], "-f cannot be combined with --until"),
        (["a", "--previous", "-f"], "-f cannot be combined with --previous"),
        (["a", "-n", "-1"], "--tail -1: not a number of lines"),
    ):
        done = lab.vsprov("logs", *words, check=False)
        assert done.returncode == 64 and said in done.stderr, done.stderr
    assert "Server/b: not found" in lab.vsprov("logs", "a", "b", check=False).stderr
    assert lab.vsprov("logs", "-l", "tier=none").stderr == "No server is selected.\n"


def test_a_log_of_an_earlier_version_is_shown_without_times(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    say(lab, "a", "one\n")
    (lab.directory("a") / "console.times.1").unlink()
    assert lab.vsprov("logs", "-t", "a").stdout.split() == ["-", "one"]
    recent = lab.vsprov("logs", "--since", "1h", "a")
    assert (recent.stdout, recent.stderr) == (
        "", "vsprov: Server/a: 4 bytes without a known time are left out\n"
    )  # fmt: skip
    say(lab, "a", "two\n")
    assert lab.vsprov("logs", "--since", "1h", "a").stdout == "two\n"
    wait_until(lambda: lab.console("a") == "one\ntwo\n")
