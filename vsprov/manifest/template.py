"""Templates of manifests: Jinja2 without files, environment, randomness or long waits.

A template comes from whoever wrote the manifest and is run where it can do no harm: in Jinja's sandbox (no
attributes that lead to code), and that in a process of its own with limits on memory, time and output: the
sandbox forbids neither `"a" * 10**9` nor `9**(9**9)`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from vsprov.errors import ManifestError, Position, Problem, UsageError
from vsprov.manifest import files
from vsprov.manifest.scalar import Scalar, ScalarError, plain
from vsprov.manifest.text import MAX_TEXT, parse
from vsprov.model.suggest import closest

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

MAX_SECONDS = 5
MAX_MEMORY = 512 * 1024 * 1024
"""Bytes of address space for rendering, above what the process has already."""

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def render(text: str, file: str, values: Mapping[str, Any]) -> str:
    """The text that a template makes of the values.

    None, booleans, lists and mappings come out as YAML, not as Python. Raises ManifestError with the line of
    the template for what is wrong in it: undefined names, more than MAX_TEXT bytes, MAX_SECONDS, MAX_MEMORY.
    """
    environment = _environment(values)
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        _answer(writable, environment, text, values)
    os.close(writable)
    ended = False
    try:
        answer = _receive(readable)
        ended = answer is not None
    finally:
        os.close(readable)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return _read_answer(answer, os.waitstatus_to_exitcode(status), file)


def load_values(paths: Sequence[str], sets: Sequence[str]) -> dict[str, Any]:
    """The values of YAML files, then of settings `a.b=scalar`: the last wins, mappings merge.

    Raises ManifestError for a bad file and UsageError for a bad setting.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for path in paths:
        documents, found = parse(files.read(path, "the values"), path)
        problems += found
        for document in documents[:1]:
            if isinstance(document.value, dict):
                values = _merge(values, document.value)
            else:
                problems.append(Problem("values are one mapping", document.positions[()]))
        for document in documents[1:]:
            problems.append(Problem("a second document; values are one mapping", document.positions[()]))
    if problems:
        raise ManifestError(problems)
    for setting in sets:
        _set(values, setting)
    return values


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old if isinstance(old, dict) else {}, value) if isinstance(value, dict) else value
        )
    return merged


def _set(values: dict[str, Any], setting: str) -> None:
    name, equals, text = setting.partition("=")
    keys = name.split(".")
    if not equals or not all(_KEY.fullmatch(key) for key in keys):
        raise UsageError(f"--set {name}: not of the form a.b=value", hint="lists go into a --values file")
    value = _setting(name, text)
    *parents, last = keys
    at = values
    for key in parents:
        inner = {} if at.get(key) is None else at[key]
        if not isinstance(inner, dict):
            raise UsageError(f"--set {name}: {key} is not a mapping")
        at[key] = inner
        at = inner
    at[last] = value


def _setting(name: str, text: str) -> Scalar:
    """The scalar of a setting: as in YAML, but that no character except a quote at the start is special."""
    if text.startswith(("[", "{")):
        raise UsageError(f"--set {name}: not a scalar", hint="lists and mappings go into a --values file")
    try:
        if not text.startswith(("'", '"')):
            return plain(text)
    except ScalarError as error:
        raise UsageError(f"--set {name}: {error}", hint=error.hint) from None
    documents, problems = parse(text, "--set")
    if problems or len(documents) != 1 or not isinstance(documents[0].value, str):
        raise UsageError(f"--set {name}: not one quoted text", hint="quotes within need quotes around them")
    return documents[0].value


def _environment(values: Mapping[str, Any]) -> SandboxedEnvironment:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import missing

    class Unknown(jinja2.StrictUndefined):
        """Says what there is instead."""

        __slots__ = ()
        __index__ = jinja2.StrictUndefined._fail_with_undefined_error  # of range(n)

        @property
        def _undefined_message(self) -> str:
            if self._undefined_hint:
                return self._undefined_hint
            name, within = str(self._undefined_name), self._undefined_obj
            if within is not missing and not isinstance(within, Mapping):
                return f"a {type(within).__name__} has no {name!r}"
            known = values if within is missing else within
            near = closest(name, [str(key) for key in known])
            listed = ", ".join(str(key) for key in list(known)[:20]) or "nothing"
            return f"{name!r} is undefined; " + (f"did you mean {near!r}?" if near else f"there is: {listed}")

    environment = ImmutableSandboxedEnvironment(
        undefined=Unknown, autoescape=False, keep_trailing_newline=True, finalize=_finalize
    )
    # A plan that depended on chance would never be empty.
    del environment.filters["random"], environment.globals["lipsum"]
    environment.filters |= {"to_yaml": _to_yaml, "quote": lambda value: _to_yaml(str(value))}
    return environment


def _to_yaml(value: object) -> str:
    """The value as YAML on one line: JSON, with the characters escaped that YAML does not allow."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def _finalize(value: object) -> object:
    """What `{{ value }}` prints: YAML where Python's own spelling would mean something else."""
    return _to_yaml(value) if value is None or isinstance(value, bool | list | tuple | dict) else value


def _answer(
    writable: int, environment: SandboxedEnvironment, text: str, values: Mapping[str, Any]
) -> NoReturn:
    """In the child: writes "=" and the text, or "!" and what is wrong, and ends the process."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _confine()
        try:
            answer = b"=" + b"".join(_generate(environment, text, values))
        except Exception as error:
            answer = b"!" + json.dumps(_describe(error)).encode()
        while answer:
            answer = answer[os.write(writable, answer[: 1 << 20]) :]
    finally:
        os._exit(0)


def _confine() -> None:
    """Limits this process in memory and CPU time (setrlimit(2))."""
    with open("/proc/self/statm", encoding="ascii") as file:
        present = int(file.read().split()[0]) * resource.getpagesize()
    for limit, value in (
        (resource.RLIMIT_AS, present + MAX_MEMORY),
        (resource.RLIMIT_CPU, MAX_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        highest = resource.getrlimit(limit)[1]
        bound = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(limit, (bound, bound))


def _generate(environment: SandboxedEnvironment, text: str, values: Mapping[str, Any]) -> Iterator[bytes]:
    from jinja2 import TemplateSyntaxError, nodes

    for node in environment.parse(text).find_all(
        (nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)
    ):
        raise TemplateSyntaxError("a template cannot use other files (include, extends, import)", node.lineno)
    size = 0
    for piece in environment.from_string(text).generate(values):
        data = piece.encode("utf-8", "surrogatepass")
        size += len(data)
        if size > MAX_TEXT:
            raise ValueError(f"the text grows beyond {MAX_TEXT >> 20} MiB")
        yield data


def _describe(error: Exception) -> tuple[str, int]:
    """Message and line of the template."""
    from jinja2 import TemplateSyntaxError

    if isinstance(error, TemplateSyntaxError):
        return error.message or "not a valid template", error.lineno
    lines = [
        line
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == "<template>"
    ]
    line = lines[-1] if lines else 1
    if isinstance(error, MemoryError):
        return f"needs more than {MAX_MEMORY >> 20} MiB of memory", line
    if isinstance(error, RecursionError):
        return "nested too deeply", line
    return str(error) or type(error).__name__, line


def _receive(readable: int) -> bytes | None:
    """All that comes until the other end is closed, or None after MAX_SECONDS."""
    deadline = time.monotonic() + MAX_SECONDS
    poll = select.poll()
    poll.register(readable, select.POLLIN)
    pieces: list[bytes] = []
    while poll.poll(max(0, deadline - time.monotonic()) * 1000):
        if not (piece := os.read(readable, 1 << 20)):
            return b"".join(pieces)
        pieces.append(piece)
    return None


def _read_answer(answer: bytes | None, code: int, file: str) -> str:
    line = 1
    if answer is None or code in (-signal.SIGXCPU, -signal.SIGKILL):
        message = f"takes longer than {MAX_SECONDS} s"
    elif code < 0 or not answer:
        message = f"ends the process that renders it ({signal.Signals(-code).name if code < 0 else code})"
    elif answer[:1] == b"=":
        return answer[1:].decode("utf-8", "surrogatepass")
    else:
        message, line = json.loads(answer[1:])
    raise ManifestError([Problem(f"template: {message}", Position(file, line, 1))])
