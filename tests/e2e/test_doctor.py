"""What doctor says of hosts on which servers, or system servers, miss something."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, image, server, to_yaml, version


def prepared(lab: Lab, script: str, *words: str, documents: str = "") -> subprocess.CompletedProcess[str]:
    """A command line of vsprov in a mount namespace that a script has changed."""
    script = f'{script}\nexec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh"]
    return subprocess.run(
        [*command, *map(str, lab.vsprov.command(*words))],
        env=lab.vsprov.environment,
        input=documents,
        capture_output=True,
        text=True,
        timeout=120,
    )


def findings(lab: Lab, script: str = ":") -> dict[str, Any]:
    """The rows of doctor, by feature."""
    said = prepared(lab, script, "doctor", "-o", "json").stdout
    return {row["feature"]: row for row in json.loads(said)["findings"]}


@pytest.mark.parametrize("covered", ["/proc/irq", "/sys/kernel"])
def test_a_host_that_hides_a_part_of_proc_or_sys_runs_no_servers_and_doctor_says_so(
    lab: Lab, covered: str
) -> None:
    cover, point = f"mount -t tmpfs none {covered}", covered[: covered.index("/", 1)]
    row = findings(lab, cover)[f"{point} in servers"]
    assert (row["state"], row["found"]) == ("missing", "Operation not permitted")
    assert findings(lab)[f"{point} in servers"]["state"] == "ok"
    done = prepared(lab, cover, "apply", "-y", "-", documents=to_yaml(image(), server("a")))
    assert done.returncode == 1
    assert f"mount {point}: .: Operation not permitted" in done.stderr


def test_a_host_that_hides_its_sysctls_gets_errors_that_say_so(lab: Lab) -> None:
    """As in a container that covers parts of /proc."""
    random = "/proc/sys/kernel/random/boot_id"
    covers = {
        "mount -t tmpfs none /proc/sys": f"{random}: read the ID of this boot: No such file or directory",
        f"mount --bind /dev/null {random}": f"{random}: read the ID of this boot: it is empty",
        "mount --bind /dev/null /proc/sys/kernel/cap_last_cap": "",
    }
    for cover in covers:
        assert findings(lab, cover)["/proc in servers"]["state"] == "missing"
        done = prepared(lab, cover, "apply", "-y", "-", documents=to_yaml(image(), server("a")))
        assert done.returncode == 1 and "mount /proc: .: Operation not permitted" in done.stderr
    assert findings(lab, next(iter(covers)))["system: terminals"]["found"] == "not known"
    lab.apply(image(), server("a"))
    for cover, error in covers.items():
        for words in (("get", "servers"), ("exec", "a", "--", "true"), ("stop", "a")):
            done = prepared(lab, cover, *words)
            assert done.returncode == (69 if error else 0), done.stderr
            assert error in done.stderr and "Traceback" not in done.stderr


@pytest.mark.vm_subset
def test_doctor_says_what_system_servers_lack(lab: Lab, tmp_path: Path) -> None:
    rows = findings(lab)
    assert rows["cgroup2 in servers"]["state"] == "ok"
    assert rows["system: user namespaces"]["state"] == "ok"
    assert rows["system: terminals"]["state"] == "ok"
    split = [name for name in ("cpu", "memory", "pids") if version(name) != 2]
    limits = rows["system: limits of units"]
    assert limits["state"] == ("degraded" if split else "ok")
    assert limits["found"].startswith(", ".join(split) or "cgroup v2")
    for name, number in (("max", 1100), ("reserve", 1024), ("nr", 70)):
        (tmp_path / name).write_text(f"{number}\n")
    row = findings(lab, f"mount --bind {tmp_path} /proc/sys/kernel/pty")["system: terminals"]
    assert (row["state"], row["found"]) == ("degraded", "70 of 76 in use")
