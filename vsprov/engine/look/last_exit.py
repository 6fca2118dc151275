"""The exit of a server's init, kept as a mark on its home group until the next start.

Written by whoever sees the exit: the keeper, or a command that runs meanwhile. The mark never refers to an
earlier run.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import asdict, replace

from vsprov.kernel import proc
from vsprov.kernel.process import ExitInfo
from vsprov.plan.observed import LastExit, Process
from vsprov.store.disk import marks

MARK, STOPPED, EARLIER, MOST_EARLIER = "exit", "stopped-by", "exits", 5


def record(home: str, how: ExitInfo, *, oom: bool = False) -> None:
    """Write the mark of a home group whose init has just exited, unless there is one with a code or signal.

    `oom`: the kernel has killed a process of the server for lack of memory.
    """
    known = read(home)
    if known and (known.code, known.signal) != (None, None):
        return
    oom = (oom and how.code != 0) or (known is not None and known.oom)
    exit_ = {"code": how.code, "signal": how.signal, "oom": oom, "at": time.time()}
    marks.write_mark(home, MARK, json.dumps(exit_))


def record_stop(home: str, how: ExitInfo | None, by: str, killed: str, failed: str) -> None:
    """Record that a command has stopped the server; `by`, `killed` and `failed` as in `LastExit`.

    That is a mark of its own, because the keeper may write the other one at the same time.
    """
    marks.write_mark(home, STOPPED, json.dumps({"by": by, "killed": killed, "failed": failed}))
    record(home, how or ExitInfo(None, None))


def forget(home: str) -> None:
    """Make it an earlier exit, because the server starts again."""
    if last := read(home):
        kept = [asdict(each) for each in (last, *earlier(home)[: MOST_EARLIER - 1])]
        marks.write_mark(home, EARLIER, json.dumps(kept))
    marks.remove_mark(home, MARK)
    marks.remove_mark(home, STOPPED)


def read(home: str) -> LastExit | None:
    """The exit of the last run; None if it has not ended, or nobody saw it."""
    try:
        last = _exit_of(json.loads(marks.find_mark(home, MARK) or "null"))
        stopped = json.loads(marks.find_mark(home, STOPPED) or "null")
        if stopped is None:
            return last
        failed = str(stopped.get("failed", ""))
        return replace(last, stopped_by=str(stopped["by"]), killed=str(stopped["killed"]), failed=failed)
    except (ValueError, TypeError, KeyError):  # no group, no mark, or edited by hand
        return None


def earlier(home: str) -> list[LastExit]:
    """The exits of earlier runs, the newest first, at most MOST_EARLIER; those of runs that a command stopped
    as well.
    """
    try:
        return [_exit_of(each) for each in json.loads(marks.find_mark(home, EARLIER) or "[]")]
    except (ValueError, TypeError, KeyError):
        return []


def history(home: str) -> list[dict[str, Any]]:
    """The exits that are known of a server, the newest first, as `document` returns them."""
    last = read(home)
    found = [*((last,) if last else ()), *earlier(home)]
    return [shown for each in found if (shown := document(each))]


def _exit_of(found: Any) -> LastExit:
    code, number = found["code"], found["signal"]
    by, killed, failed = (found.get(key, "") for key in ("stopped_by", "killed", "failed"))
    return LastExit(code, number, bool(found["oom"]), float(found["at"]), by, killed, failed)


def wait_status(home: str) -> int | None:
    """The exit of the last run as waitpid(2) would tell it; None if it is not known."""
    seen = read(home)
    if seen is None or seen.signal is None:
        return None if seen is None or seen.code is None else seen.code << 8
    return seen.signal


def marked_init(home: str) -> Process | None:
    """The init of the last run, if that was not stopped by a command; None before a reboot of the host."""
    words = (marks.find_mark(home, "init") or "").split()
    if len(words) != 3 or words[2] != proc.boot_id() or not (words[0].isdigit() and words[1].isdigit()):
        return None
    return Process(int(words[0]), int(words[1]))


def document(seen: LastExit | None) -> dict[str, Any] | None:
    """{"code", "signal", "oom", "at", "reason", "stoppedBy", "killed"} for `get`."""
    if seen is None:
        return None
    return {
        "code": seen.code,
        "signal": seen.signal,
        "oom": seen.oom,
        "at": timestamp(seen.at),
        "reason": seen.reason,
        "stoppedBy": seen.stopped_by or None,
        "killed": seen.killed,
    }


def timestamp(seconds: float) -> str:
    """A Unix time as in JSON documents."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
