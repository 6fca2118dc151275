"""Keepers are killed, or the disk is full, while files of logs become full."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path

from tests.fault.faults import fill
from tests.lab import Lab, busybox_image, image, server, wait_for, wait_until
from vsprov.engine.logs import files
from vsprov.store.instance import Instance

# Its FIFO is open for writing too: a reader would meet the end of the file when a writer closes it late.
TALKS = "mkfifo /tmp/go; exec 3<>/tmp/go; while read count <&3; do seq $count; echo end of $count; done"
KILLS = 4
SMALL = {"maxSize": "64Ki", "maxFiles": 100}


def test_lines_stay_in_order_and_have_their_times_whenever_a_keeper_is_killed(lab: Lab) -> None:
    # The last line comes after the kills: what a keeper has read and not yet written is lost with it.
    script = "mkfifo /tmp/go; seq 400000; read go < /tmp/go; echo; echo 400001; exec sleep infinity"
    documents = image(), server("a", "sh", "-c", script, console=SMALL)
    lab.apply(*documents, flags=("--settle", "0"))
    for _ in range(KILLS):
        keeper = os.pidfd_open(lab.keeper())
        signal.pidfd_send_signal(keeper, signal.SIGKILL)
        wait_for(keeper)
        lab.apply(*documents)
    (lab.root("a") / "tmp/go").write_text("\n")
    wait_until(lambda: lab.vsprov("logs", "-n", "1", "a").stdout == "400001\n")
    with files.open_log(Instance(lab.vsprov.name, str(lab.vsprov.root)), "a") as log:
        log.read_times()
        assert [file.number for file in log.files] == list(range(1, len(log.files) + 1))
        assert all(0 < file.size < 64 << 10 for file in log.files)
        times = [(file.times.at(0), file.times.at(file.size)) for file in log.files]
        text = b"".join(block.data for block in log.read())
    assert times == sorted(times) and all(0 < first <= last for first, last in times)
    numbers = [int(line) for line in text.split()]
    # Each kill tears a line or two.
    torn = [number for number, following in pairwise(numbers) if following != number + 1]
    assert len(torn) <= 2 * KILLS and len(numbers) > 400_000 - KILLS * (1 << 18) / 7


def test_a_full_disk_loses_no_more_than_the_log_says_while_files_become_full(
    small_lab: Lab, small_disk: Path, tmp_path: Path
) -> None:
    top = busybox_image(tmp_path / "busybox")
    busybox = image("busybox", directory=str(top))
    documents = busybox, server("a", "sh", "-c", TALKS, image="busybox", console=SMALL)
    small_lab.apply(*documents)

    def seq(count: int) -> None:
        go = small_lab.root("a") / "tmp/go"
        wait_until(go.exists)
        go.write_text(f"{count}\n")

    seq(20_000)
    wait_until(lambda: "end of 20000" in small_lab.vsprov("logs", "-n", "1", "a").stdout)
    ballast = fill(small_disk, 0)
    seq(100_000)
    wait_until(lambda: "No space left on device" in small_lab.vsprov("logs", "-n", "1", "a").stderr)
    ballast.unlink()
    seq(3)
    wait_until(lambda: "end of 3" in small_lab.vsprov("logs", "-n", "1", "a").stdout)
    lines = small_lab.vsprov("logs", "a").stdout.splitlines()
    assert lines[:20_001] == [*map(str, range(1, 20_001)), "end of 20000"]
    assert lines[-4:] == ["1", "2", "3", "end of 3"]
    assert [line for line in lines if line.startswith("[vsprov: ")]
    small_lab.vsprov("destroy", "--all", "-y")
