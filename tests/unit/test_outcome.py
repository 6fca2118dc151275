"""What vsprov says of a guest that failed or ended."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from vsprov.engine.guests.commands.foreground import EnterError
from vsprov.engine.run import outcome


def failed(step: str, number: int = 0, path: str | None = None, message: str | None = None) -> Any:
    return {"event": "failed", "id": 1, "step": step, "errno": number, "path": path, "message": message}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (failed("mount root", errno.ENOENT, "/images/a"), "mount root: /images/a: No such file or directory"),
        (failed("exec sh", errno.ENOENT, "sh"), "exec sh: No such file or directory"),
        (failed("gate", message="killed by signal 9"), "gate: killed by signal 9"),
        (failed("user app", errno.ENOENT, "app", "no such user"), "user app: no such user"),
    ],
)
def test_a_failure_names_the_step_and_the_path_once_and_what_was_said(event: Any, text: str) -> None:
    assert outcome.explain(event) == text
    assert str(EnterError(event, "web")) == f"Server/web: {text}"


def test_only_steps_with_a_likely_cause_have_a_hint() -> None:
    assert "interpreter" in outcome.hint(failed("exec sh"))
    assert "workingDir" in outcome.hint(failed("working directory /srv"))
    assert outcome.hint(failed("mount /exec ")) == ""


@pytest.mark.parametrize(("end", "code"), [({"code": 0}, 0), ({"code": 7}, 7), ({"signal": 9}, 137)])
def test_an_exit_code_is_that_of_a_shell(end: dict[str, int], code: int) -> None:
    event: Any = {"event": "exited", "id": 1, **end}
    assert outcome.exit_code(event) == code


@pytest.mark.parametrize(
    ("step", "number", "code"),
    [("exec sh", errno.ENOENT, 127), ("exec sh", errno.EACCES, 126), ("exec sh", errno.ENOEXEC, 126)],
)
def test_a_command_that_cannot_be_executed_has_the_exit_code_of_a_shell(
    step: str, number: int, code: int
) -> None:
    assert EnterError(failed(step, number)).exit_code == code
    assert EnterError(failed("join", number)).exit_code == 1
