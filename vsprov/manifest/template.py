"""Manifest templates: Jinja2 without access to files, the environment or random numbers.

Templates are untrusted. They run in Jinja's sandbox, which denies attributes that lead to code, in a separate
process with limits on memory, time and output, because the sandbox allows `"a" * 10**9` and `9**(9**9)`.
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
from vsprov.manifest.syntax.scalar import Scalar
from vsprov.manifest.syntax.text import MAX_TEXT, Document, parse
from vsprov.model.suggest import closest

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

MAX_SECONDS = 5
MAX_MEMORY = 512 * 1024 * 1024
"""Address space for rendering in bytes, in addition to that of the process."""

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_CONSTANTS = {"true": True, "false": False, "null": None}
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


def render(text: str, file: str, values: Mapping[str, Any]) -> str:
    """The output of a template.

    None, booleans, lists and maps are printed as YAML. Raises ManifestError with the line in the template for
    syntax errors, undefined names, and templates that exceed MAX_TEXT, MAX_SECONDS or MAX_MEMORY.
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
    """The values from YAML files and from settings `a.b=scalar`. Later ones override earlier ones; maps are
    merged.

    Raises ManifestError for an invalid file and UsageError for an invalid setting.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for path in paths:
        documents, found = parse(files.read(path, "the values"), path)
        problems += found
        for document in documents[:1]:
            if isinstance(document.value, dict):
                problems += _changed_numbers(document)
                values = _merge(values, document.value)
            else:
                problems.append(Problem("values must be a map", document.positions[()]))
        for document in documents[1:]:
            problems.append(Problem("values must be a single document", document.positions[()]))
    if problems:
        raise ManifestError(problems)
    for setting in sets:
        _set(values, setting)
    return values


def _changed_numbers(document: Document) -> Iterator[Problem]:
    """Numbers that a template would print differently than they are written, such as the version 1.10."""
    for path, position in document.positions.items():
        source = document.source(path)
        if source and source[0] in "+-.0123456789":
            yield Problem(
                f"a template prints the number {source} differently", position, hint=f'quote it: "{source}"'
            )


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
        raise UsageError(f"--set {name}: expected a.b=value", hint="set lists in a --values file")
    value = _setting(name, text)
    *parents, last = keys
    at = values
    for key in parents:
        inner = {} if at.get(key) is None else at[key]
        if not isinstance(inner, dict):
            raise UsageError(f"--set {name}: {key} is not a map")
        at[key] = inner
        at = inner
    at[last] = value


def _setting(name: str, text: str) -> Scalar:
    """The value of a setting: true, false, null, a whole number that is printed as it was given, or a string.

    So the template prints 1.10, 00215e6 and 0755 as they were given. In quotes, everything is a string.
    """
    if text.startswith(("[", "{")):
        raise UsageError(f"--set {name}: expected a scalar", hint="set lists and maps in a --values file")
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if not text.startswith(("'", '"')):
        return int(text) if _INTEGER.fullmatch(text) else text
    documents, problems = parse(text, "--set")
    if problems or len(documents) != 1 or not isinstance(documents[0].value, str):
        raise UsageError(f"--set {name}: invalid quoted string", hint="escape quotes inside the string")
    return documents[0].value


def _environment(values: Mapping[str, Any]) -> SandboxedEnvironment:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import missing

    class Unknown(jinja2.StrictUndefined):
        """An undefined name, with a message that lists the defined ones."""

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
            return f"{name!r} is undefined; " + (f"did you mean {near!r}?" if near else f"defined: {listed}")

    environment = ImmutableSandboxedEnvironment(
        undefined=Unknown, autoescape=False, keep_trailing_newline=True, finalize=_finalize
    )
    # With random output, a second plan would not be empty.
    del environment.filters["random"], environment.globals["lipsum"]
    environment.filters |= {"to_yaml": _to_yaml, "quote": lambda value: _to_yaml(str(value))}
    return environment


def _to_yaml(value: object) -> str:
    """The value as YAML on one line: JSON with escapes for characters that YAML does not allow."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def _finalize(value: object) -> object:
    """The output of `{{ value }}`: YAML for values that Python prints differently."""
    return _to_yaml(value) if value is None or isinstance(value, bool | list | tuple | dict) else value


def _answer(
    writable: int, environment: SandboxedEnvironment, text: str, values: Mapping[str, Any]
) -> NoReturn:
    """In the child process: write "=" and the text, or "!" and the error, then exit."""
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
    """Limit the memory and CPU time of this process (setrlimit(2))."""
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
        raise TemplateSyntaxError("templates cannot use other files (include, extends, import)", node.lineno)
    size = 0
    for piece in environment.from_string(text).generate(values):
        data = piece.encode("utf-8", "surrogatepass")
        size += len(data)
        if size > MAX_TEXT:
            raise ValueError(f"output is larger than {MAX_TEXT >> 20} MiB")
        yield data


def _describe(error: Exception) -> tuple[str, int]:
    """The message, and the line in the template."""
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
    """All data until the other end is closed, or None after MAX_SECONDS."""
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
        message = f"the rendering process ended with {signal.Signals(-code).name if code < 0 else code}"
    elif answer[:1] == b"=":
        return answer[1:].decode("utf-8", "surrogatepass")
    else:
        message, line = json.loads(answer[1:])
    raise ManifestError([Problem(f"template: {message}", Position(file, line, 1))])
