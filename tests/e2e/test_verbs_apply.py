"""plan and apply: what they print, how they end, and what they leave alone."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest

from tests.e2e.applying import applying
from tests.e2e.verbs import HOST, asked, on_a_terminal, web
from tests.lab import (
    SECONDS,
    Document,
    Lab,
    image,
    pool,
    server,
    to_yaml,
    version,
)
from tests.leaks import mounts_of_host

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def test_plan_tells_by_its_exit_code_whether_there_are_changes(lab: Lab) -> None:
    text = to_yaml(HOST, web())
    assert lab.vsprov("plan", "-", input=text).returncode == 0
    assert lab.vsprov("plan", "--detailed-exitcode", "-", input=text, check=False).returncode == 2
    assert lab.vsprov("apply", "-y", "--detailed-exitcode", "-", input=text, check=False).returncode == 2
    assert lab.vsprov("plan", "--detailed-exitcode", "-", input=text).returncode == 0
    assert lab.vsprov("apply", "--detailed-exitcode", "-", input=text).returncode == 0
    broken = text.replace("infinity", "").replace('"command"', '"comand"')
    assert lab.vsprov("plan", "--detailed-exitcode", "-", input=broken, check=False).returncode == 65


def test_plan_diff_and_get_write_nothing(lab: Lab) -> None:
    text, before = to_yaml(HOST, web()), mounts_of_host()
    lab.vsprov("plan", "-", input=text)
    lab.vsprov("diff", "-", input=text, check=False)
    lab.vsprov("get")
    lab.vsprov("ps")
    lab.vsprov("doctor")
    assert lab.vsprov.left() == [] and not lab.vsprov.root.exists()
    assert mounts_of_host() == before


def test_a_plan_as_json_is_as_its_schema_says(lab: Lab) -> None:
    schema = json.loads((CHECKOUT / "schemas/plan.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    documents = (HOST, pool("all", memory={"max": "1Gi"}), web(quota="all"))
    plan = lab.plan(*documents)
    check.validate(plan)
    assert plan["summary"] == {"add": 3, "change": 0, "replace": 0, "destroy": 0, "restart": 0}
    done = lab.apply(*documents, flags=("-o", "json"))
    applied = json.loads(done.stdout)
    check.validate(applied)
    assert applied["outcome"]["done"] == ["Image/host", "Quota/all", "Server/web1"]
    assert "Server/web1: created" in done.stderr
    check.validate(lab.plan(*documents))
    gone = json.loads(lab.vsprov("destroy", "--all", "-y", "-o", "json").stdout)
    check.validate(gone)
    assert gone["summary"]["destroy"] == 3


@pytest.mark.vm_subset
def test_a_second_apply_has_nothing_to_do_and_does_not_ask(lab: Lab) -> None:
    lab.apply(HOST, web())
    done = lab.vsprov("apply", "-", input=to_yaml(HOST, web()))
    assert (done.stdout, done.stderr) == ("Nothing to do: 1 server, 1 image match the manifest.\n", "")


def test_without_a_terminal_apply_and_destroy_want_to_be_told_yes(lab: Lab) -> None:
    refused = lab.vsprov("apply", "-", input=to_yaml(HOST, web()), check=False)
    assert refused.returncode == 64
    assert "use --yes (-y)" in refused.stderr
    assert not lab.vsprov.root.exists()
    lab.apply(HOST, web())
    assert lab.vsprov("destroy", "--all", check=False).returncode == 64
    assert lab.init("web1")


def test_no_at_the_question_changes_nothing_and_yes_goes_ahead(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    code, shown = on_a_terminal(lab, "apply", str(tmp_path / "m.yaml"), typed="n\n", when="[y/N]")
    assert (code, lab.vsprov.root.exists()) == (130, False)
    assert "Apply this plan? [y/N]" in shown and "Nothing was changed." in shown
    code, shown = on_a_terminal(lab, "apply", str(tmp_path / "m.yaml"), typed="yes\n", when="[y/N]")
    assert code == 0
    assert "\x1b[" in shown and "Done: 2 added" in shown
    assert lab.init("web1")


def test_an_interrupt_at_the_question_ends_with_130_and_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    code, shown = on_a_terminal(lab, "apply", str(tmp_path / "m.yaml"), typed="\x03", when="[y/N]")
    assert code == 130
    assert "interrupted" in shown
    assert not lab.vsprov.root.exists()


def test_a_lock_that_is_held_ends_with_75_and_names_its_holder(lab: Lab) -> None:
    lab.apply(HOST, web())
    with open(lab.vsprov.run / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"pid {os.getpid()}: the holder\n")
        lock.flush()
        refused = lab.vsprov("apply", "-y", "-", input=to_yaml(HOST, web()), check=False)
        assert (refused.returncode, refused.stdout) == (75, ""), refused.stderr
        assert f"pid {os.getpid()}: the holder" in refused.stderr and "--lock-timeout" in refused.stderr
        lock.seek(0)
        lock.write("pid 1: the holder before, which was killed\n")
        lock.flush()
        waiting = lab.vsprov("stop", "--all", "--lock-timeout", "50ms", check=False)
        assert waiting.returncode == 75 and "an unknown process" in waiting.stderr
        assert lab.plan(HOST, web())["resource_changes"] == []
    assert lab.vsprov("apply", "-", "--lock-timeout", "1s", input=to_yaml(HOST, web())).returncode == 0


def test_a_command_that_ends_while_the_apply_goes_on_is_told_with_its_last_words(lab: Lab) -> None:
    def slow(command: str) -> Document:
        return server("slow", "/bin/sh", "-c", command, init={"stopTimeout": "1h"})

    lab.apply(HOST, slow("trap : TERM; while :; do sleep 0.1; done"))
    web1 = server("web1", "/bin/sh", "-c", "echo first; echo last words; exit 3")
    with applying(lab, slow("sleep 9999"), web1) as it:
        lab.wait_until(lambda: "Exited (3)" in lab.vsprov("get", "servers").stdout)
        os.kill(lab.init("slow").pid, signal.SIGKILL)  # which is asked to stop, and would take an hour
        code, said = it.ended()
    assert code == 1
    assert "Server/web1: started, but its command exited with code 3" in said
    assert "1 of 2 failed" in said
    assert "web1: first\n  web1: last words" in said
    found = json.loads(lab.vsprov("get", "server", "web1", "-o", "json").stdout)["status"]
    assert (found["state"], found["lastExit"]["code"]) == ("Exited (3)", 3)


def test_an_apply_whose_words_nobody_reads_any_more_is_finished(lab: Lab) -> None:
    documents = (HOST, web(), web("web2"), web("web3"))
    command = subprocess.Popen(
        ["sh", "-c", '"$@" 2>&1 | { read line; }', "sh", *lab.vsprov.command("apply", "-y", "-")],
        stdin=subprocess.PIPE,
        env=lab.vsprov.environment,
    )
    command.communicate(to_yaml(*documents).encode(), timeout=SECONDS)
    lab.wait_until(lambda: lab.vsprov("get", "servers", "-o", "name").stdout.count("Server/web") == 3)
    lab.wait_until(lambda: not (lab.vsprov.run / "intent").exists())
    assert lab.is_settled(*documents)


def test_where_one_server_fails_the_others_are_made_and_the_exit_code_is_1(lab: Lab) -> None:
    done = lab.apply(HOST, server("bad", "/no/such/program"), web(), check=False)
    assert done.returncode == 1
    assert "Server/bad: " in done.stderr and "No such file or directory" in done.stderr
    assert "1 of 3 failed: 2 added" in done.stderr
    assert lab.init("web1")


def test_a_selector_applies_only_its_servers_and_what_they_use(lab: Lab) -> None:
    documents = (HOST, image("unused"), web(), server("db1", labels={"tier": "db"}))
    lab.apply(*documents, flags=("-l", "tier=web"))
    assert lab.vsprov("get", "-o", "name").stdout == "Image/host\nServer/web1\n"
    lab.apply(*documents)
    assert lab.vsprov("get", "servers", "-l", "tier!=web", "-o", "name").stdout == "Server/db1\n"
    lab.vsprov("destroy", "-y", "-l", "tier=db", "-", input=to_yaml(*documents))
    assert lab.vsprov("get", "servers", "-o", "name").stdout == "Server/web1\n"


def test_prune_removes_what_the_set_had_and_never_more_than_was_meant(lab: Lab) -> None:
    lab.apply(HOST, web(), web("web2"))
    lab.apply(image("other"), flags=("--set-name", "other"))
    assert lab.refused(HOST, web(), flags=("--prune", "-l", "tier=web"), code=64)
    refused = lab.vsprov("apply", "-y", "--prune", "-", input="", check=False)
    assert refused.returncode == 64 and "--allow-empty" in refused.stderr
    lab.apply(HOST, web(), flags=("--prune",))
    assert lab.vsprov("get", "-o", "name").stdout == "Image/host\nImage/other\nServer/web1\n"
    lab.vsprov("apply", "-y", "--prune", "--allow-empty", "-", input="")
    assert lab.vsprov("get", "-o", "name").stdout == "Image/other\n"


def test_the_set_is_the_one_the_project_file_names(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "servers").mkdir()
    (tmp_path / "vsprov.yaml").write_text("set: shop\n")
    (tmp_path / "servers/web.yaml").write_text(to_yaml(HOST, web()))
    lab.vsprov("apply", "-y", tmp_path / "servers")
    assert json.loads(lab.vsprov("get", "server", "web1", "-o", "json").stdout)["status"]["set"] == "shop"
    refused = lab.vsprov("apply", "-y", "-", input=to_yaml(HOST, web()), cwd=Path("/"), check=False)
    assert refused.returncode == 1
    assert "belongs to" in refused.stderr and "shop" in refused.stderr


def test_a_plan_that_cannot_be_applied_names_the_place_in_the_manifest(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web(resources={"cpu": {"reservation": "900000m"}})))
    refused = lab.vsprov("apply", "-y", tmp_path / "m.yaml", check=False)
    assert refused.returncode == 1
    assert "CPU reservations add up to" in refused.stderr
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web(quota="nowhere")))
    assert lab.vsprov("plan", tmp_path / "m.yaml", check=False).returncode == 65
    assert not lab.vsprov.root.exists()


def test_images_and_devices_that_cannot_be_used_are_told_all_at_once_with_their_places(
    lab: Lab, tmp_path: Path
) -> None:
    lab.apply(image("kept"))
    limits = {"devices": [{"device": f"/dev/{name}", "readBps": "1Mi"} for name in ("null", "nowhere")]}
    text = to_yaml(
        image("gone", tar={"path": "gone.tar"}),
        image("flat", directory="m.yaml"),
        image("kept"),
        server("web1", image="gone", resources={"io": limits, "cpu": {"cpus": "9000"}}),
        server("web2", image="kept"),
    )
    (tmp_path / "m.yaml").write_text(text)
    for verb in (["plan"], ["apply", "-y"]):
        refused = lab.vsprov(*verb, tmp_path / "m.yaml", check=False)
        assert refused.returncode == 1
        told = [line for line in refused.stderr.splitlines() if not line.startswith("  hint: ")]
        keys = [("Image/gone", "source", 2), ("Image/flat", "source", 4)]
        keys += [("Server/web1", key, 8) for key in ("resources.io.devices",) * 2 + ("resources.cpu.cpus",)]
        for line, (address, key, number) in zip(told, keys, strict=True):
            column = text.splitlines()[number - 1].index(f'"{key.rpartition(".")[2]}"') + 1
            place = f"{tmp_path}/m.yaml:{number}:{column}"
            assert line.startswith(f"vsprov: {place}: {address}: spec.{key}: ")
        assert "No such file" in told[0] and "Not a directory" in told[1]
        assert "/dev/nowhere: No such file" in told[2] and "/dev/null is not a block device" in told[3]
    assert lab.vsprov("get", "-o", "name").stdout == "Image/kept\n"


def test_a_knob_that_must_be_there_and_is_not_ends_with_69(lab: Lab) -> None:
    if version("memory") == 2:
        resources = {"hugepages": {"32Mi": "32Mi"}}
    else:
        resources = {"memory": {"high": "64Mi"}}
    text = to_yaml(HOST, web(resources=resources, annotations={"vsprov/require": "hard"}))
    for verb in (["plan"], ["apply", "-y"]):
        refused = lab.vsprov(*verb, "-", input=text, check=False)
        assert refused.returncode == 69
        assert "cannot be applied: " in refused.stderr


def test_what_a_selection_leaves_out_is_not_called_missing(lab: Lab, tmp_path: Path) -> None:
    lab.apply(HOST, web(), server("db1"))
    text = to_yaml(HOST, web(), server("db1"))
    done = lab.vsprov("plan", "-l", "tier=web", "--out", tmp_path / "p.plan", "-", input=text)
    assert done.stdout == "Nothing to do: 1 server, 1 image match the manifest.\n"
    assert lab.vsprov("apply", tmp_path / "p.plan").stdout == done.stdout
    whole = lab.vsprov("plan", "-", input=to_yaml(HOST, web()))
    assert (
        "\nKept, not in the manifest: Server/db1 (--prune removes what no given file declares)\n"
        in whole.stdout
    )


def test_a_plan_is_not_saved_to_standard_output(lab: Lab) -> None:
    refused = lab.vsprov("plan", "--out", "-", "-", input=to_yaml(HOST), check=False)
    assert (refused.returncode, refused.stdout) == (64, "")
    assert "use -o json to print the plan" in refused.stderr


def test_a_new_mount_is_shown_with_the_keys_its_type_has(lab: Lab) -> None:
    lab.apply(HOST, web())
    mounts = [
        {"type": "bind", "source": "/srv", "target": "/srv", "readOnly": True},
        {"type": "tmpfs", "target": "/tmp"},
    ]
    mounts[1]["size"] = "64Mi"
    shown = lab.vsprov("plan", "-", input=to_yaml(HOST, web(mounts=mounts))).stdout
    assert "spec.mounts[/tmp].size: — → 64Mi (restart)" in shown
    assert "spec.mounts[/srv].source: — → /srv (restart)" in shown
    assert "[/srv].mode" not in shown and "[/tmp].recursive" not in shown
    compared = lab.vsprov("diff", "-", input=to_yaml(HOST, web(mounts=mounts)), check=False).stdout
    assert "+    size: 64Mi\n" in compared and compared.count("mode:") == 1


def test_while_a_question_waits_others_may_change_things_and_then_it_is_asked_anew(
    lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))

    def meanwhile() -> str:
        assert "Done: 2 added" in lab.apply(HOST, server("web2")).stdout  # it gets the lock
        return "y\n"

    code, shown = asked(lab, ("apply", str(tmp_path / "m.yaml")), meanwhile, lambda: "y\n")
    assert code == 0, shown
    before, _, after = shown.partition("The plan has changed since it was shown.")
    assert before.count("Apply this plan? [y/N]") == after.count("Apply this plan? [y/N]") == 1
    assert "Plan: 2 to add" in before and "Plan: 1 to add" in after
    assert "Done: 1 added" in after
    assert lab.vsprov("get", "servers", "-o", "name").stdout == "Server/web1\nServer/web2\n"

    def nothing() -> str:
        return "y\n"

    code, shown = asked(lab, ("destroy", "--all"), nothing)
    assert code == 0 and "Done: 0 added, 0 changed, 3 destroyed" in shown, shown


def test_the_time_for_an_answer_is_not_part_of_the_time_that_is_shown(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST))

    def late() -> str:
        time.sleep(0.3)
        return "y\n"

    began = time.monotonic()
    _, shown = asked(lab, ("apply", str(tmp_path / "m.yaml")), late)
    (seconds,) = re.findall(r"Done: .* \((.*)s\)", shown)
    assert float(seconds) < time.monotonic() - began - 0.2
