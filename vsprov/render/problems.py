"""Problems and errors as text, JSON, SARIF and JUnit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vsprov.errors import Problem, VsprovError
from vsprov.model.objects import listed
from vsprov.render.screen import clean

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def lines(problems: Iterable[Problem]) -> list[str]:
    """ "file:line:col: subject: path: message", followed by the hint on a line of its own."""
    out = []
    for problem in problems:
        mark = "warning: " if problem.severity == "warning" else ""
        out.append(f"{mark}{clean(problem)}")
        if problem.hint:
            out.append(f"  hint: {clean(problem.hint)}")
    return out


def error_lines(error: VsprovError) -> list[str]:
    """ "vsprov: message", followed by the hint on a line of its own; one message per problem."""
    problems: Sequence[Problem] = getattr(error, "problems", ())
    if problems:
        return [f"vsprov: {line}" if not line.startswith("  hint: ") else line for line in lines(problems)]
    out = [f"vsprov: {clean(line)}" for line in str(error).splitlines() or ["failed"]]
    return out + ([f"  hint: {clean(error.hint)}"] if error.hint else [])


def summary(problems: Sequence[Problem], objects: Sequence[str] = ()) -> str:
    """ "2 errors, 1 warning", or "Valid: " and the numbers of objects."""
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    counts = [counted(count, word) for count, word in ((errors, "error"), (warnings, "warning")) if count]
    if errors:
        return ", ".join(counts)
    return f"Valid: {', '.join(objects) or 'no objects'}" + (f"; {', '.join(counts)}" if counts else "") + "."


def counted(count: int, word: str) -> str:
    """ "1 error", "2 errors"."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def count_kinds(addresses: Iterable[str]) -> list[str]:
    """The numbers of objects by kind, servers first: ["3 servers", "1 image"]."""
    kinds = [address.partition("/")[0] for address in addresses]
    return [
        f"{count} {kind.word if count == 1 else kind.plural}"
        for kind in listed()
        if (count := kinds.count(kind.name))
    ]


def to_json(problems: Sequence[Problem]) -> dict[str, Any]:
    """Every problem with its position; file, line and column are null if it has none."""
    errors = sum(problem.severity == "error" for problem in problems)
    return {
        "valid": errors == 0,
        "errorCount": errors,
        "warningCount": len(problems) - errors,
        "problems": [
            {
                "severity": problem.severity,
                "file": problem.position.file if problem.position else None,
                "line": problem.position.line if problem.position else None,
                "column": problem.position.column if problem.position else None,
                "subject": problem.subject,
                "path": problem.path,
                "message": problem.message,
                "hint": problem.hint,
            }
            for problem in problems
        ],
    }


def errors_as_json(errors: Mapping[str, VsprovError]) -> list[dict[str, str]]:
    """The errors of an apply by the key of the change: an object's address, perhaps with "#" and a phase."""
    return [
        {"address": key.partition("#")[0], "message": str(error), "hint": error.hint}
        for key, error in errors.items()
    ]


def to_sarif(problems: Sequence[Problem], version: str) -> dict[str, Any]:
    """SARIF 2.1.0, the format of code scanning services."""
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "vsprov", "version": version, "rules": [{"id": "manifest"}]}},
                "results": [_result(problem) for problem in problems],
            }
        ],
    }


def _result(problem: Problem) -> dict[str, Any]:
    subject = ": ".join(part for part in (problem.subject, problem.path) if part)
    text = f"{subject}: {problem.message}" if subject else problem.message
    result: dict[str, Any] = {
        "ruleId": "manifest",
        "level": problem.severity,
        "message": {"text": f"{text} ({problem.hint})" if problem.hint else text},
    }
    if problem.position:
        result["locations"] = [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(problem.position.file)},
                    "region": {"startLine": problem.position.line, "startColumn": problem.position.column},
                }
            }
        ]
    return result


def _uri(path: str) -> str:
    from urllib.parse import quote

    name = path.removesuffix(" (rendered)")
    return f"file://{quote(name)}" if name.startswith("/") else quote(name.removeprefix("./"))


def to_junit(problems: Sequence[Problem], files: Sequence[str]) -> str:
    """A JUnit report with a test case per file; problems without a file are in the case "manifest"."""
    from xml.sax.saxutils import escape, quoteattr

    cases: dict[str, list[Problem]] = {name: [] for name in files}
    for problem in problems:
        if problem.severity == "error":
            name = problem.position.file.removesuffix(" (rendered)") if problem.position else "manifest"
            cases.setdefault(name, []).append(problem)
    cases = cases or {"manifest": []}
    failures = sum(bool(found) for found in cases.values())
    out = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites tests="{len(cases)}" failures="{failures}">',
        f'  <testsuite name="vsprov validate" tests="{len(cases)}" failures="{failures}">',
    ]
    for name, found in cases.items():
        if not found:
            out.append(f'    <testcase classname="manifest" name={quoteattr(clean(name))}/>')
            continue
        text = "\n".join(lines(found))
        out.append(f'    <testcase classname="manifest" name={quoteattr(clean(name))}>')
        out.append(f"      <failure message={quoteattr(clean(found[0].message))}>{escape(text)}</failure>")
        out.append("    </testcase>")
    return "\n".join([*out, "  </testsuite>", "</testsuites>"])


def dump(value: Any) -> str:
    """The JSON text of a value: indented, keys in the given order."""
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else dict(value)
