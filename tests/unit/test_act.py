"""What `keeper act` says of how long it takes."""

from __future__ import annotations

from typing import Any

from vsprov.engine.act import seconds_for
from vsprov.plan.observed import ObservedServer, Process

HOOKS = {
    "preStart": [{"exec": ["a"], "timeout": "1s"}],
    "postStart": [{"exec": ["a"], "timeout": "2s"}],
    "preStop": [{"exec": ["a"], "timeout": "4s"}],
    "postStop": [{"exec": ["a"], "timeout": "8s"}],
}


def seen(name: str, *, runs: bool, **spec: Any) -> ObservedServer:
    whole = {"image": "host", "hostname": name, **spec}
    applied = {"spec": whole, "labels": {}, "annotations": {}, "image": "sha256:0"}
    return ObservedServer(name, applied=applied, init=Process(2, 3) if runs else None)


def test_the_stop_timeouts_of_those_that_run_and_all_hooks_are_counted() -> None:
    slow = {"init": {"command": ["x"], "stopTimeout": "1h"}}
    assert seconds_for([seen("a", runs=True, **slow), seen("b", runs=True, **slow)], []) == 7200
    assert seconds_for([seen("a", runs=False, **slow)], []) == 0
    assert seconds_for([seen("a", runs=False, hooks=HOOKS)], []) == 15
    assert seconds_for([], [seen("a", runs=False, hooks=HOOKS, **slow)]) == 8


def test_a_server_whose_record_is_lost_counts_nothing() -> None:
    assert seconds_for([ObservedServer("a", init=Process(2, 3))], [ObservedServer("b")]) == 0
